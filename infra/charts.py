"""What is shown of a run's metrics, and in which order (report.py: the page and the terminal).

A metric that stands in no chart gets one of its own, so a new metric is shown without an edit.
"""

SHARE, NUMBER, TOKENS, SECONDS = "share", "number", "tokens", "seconds"  # units

# (title, unit, {metric: label}); the first metric of a chart is the one shown for several runs
CHARTS = [
    ("Accuracy", SHARE, {"accuracy": "sampled, training problems",
                         "eval_accuracy": "greedy, held-out, at evaluations"}),
    ("Reward", NUMBER, {"reward": "reward"}),  # and its parts
    ("Length", TOKENS, {"length": "all", "length_correct": "right", "length_wrong": "wrong"}),
    ("Cut off", SHARE, {"truncated": "truncated"}),
    ("Entropy", NUMBER, {"entropy": "nats per token"}),
    ("KL to the reference", NUMBER, {"kl": "nats per token"}),
    ("Groups with a gradient", SHARE, {"groups_with_gradient": "in the batch",
                                       "zero_std_groups": "equal rewards, of all"}),
    ("Explained variance of the critic", NUMBER, {"explained_variance": "explained variance"}),
    ("Gradient norm before the clip", NUMBER, {"grad_norm": "policy",
                                               "grad_norm_critic": "critic"}),
    ("Clipped tokens", SHARE, {"clipfrac_high": "above", "clipfrac_low": "below"}),
    ("KL of one update", NUMBER, {"approx_kl": "nats per token"}),
    ("Sampler and trainer differ", NUMBER, {"logp_diff": "log-prob, mean"}),
    ("Loss", NUMBER, {"loss": "all", "value_loss": "critic"}),
    ("Implicit rewards", NUMBER, {"rewards/margins": "margin", "rewards/chosen": "chosen",
                                  "rewards/rejected": "rejected"}),
    ("Sameness", SHARE, {"most_common_answer": "commonest answer", "repetition": "repeats itself",
                         "no_verdict": "no verdict"}),
    ("Goes on after </answer>", SHARE, {"runs_on": "responses"}),
    ("Reward and advantage", NUMBER, {"reward_advantage": "correlation within groups"}),
    ("Style", SHARE, {"working": "shows working", "self_check": "checks itself"}),
    ("Seconds by part", SECONDS, {"seconds_update": "update", "seconds_sample": "sample",
                                  "seconds_score": "score", "seconds_verify": "verify"}),
    ("Tokens", TOKENS, {"tokens": "sampled per step", "loss_tokens": "in the loss"}),
    ("Prompts", NUMBER, {"prompts_sampled": "sampled", "groups": "groups in the batch"}),
    ("Responses that the next step continues", NUMBER, {"open_responses": "open"}),
    ("Tokens of earlier steps", SHARE, {"old_tokens": "old, of the step's groups"}),
    ("Calls of a tool", NUMBER, {"calls": "per response"}),
    ("Calls that give an error", SHARE, {"call_errors": "of all calls"}),
    ("Spread of the reward", NUMBER, {"reward_std": "standard deviation"}),
]

MEASURES = [  # (name in summary.json, label, unit): each before and after training
    ("accuracy", "accuracy, greedy", SHARE),
    ("accuracy_sampled", "accuracy at temperature 1", SHARE),
    ("working_share", "shows working", SHARE),
    ("accuracy_given_working", "accuracy with working", SHARE),
    ("accuracy_given_no_working", "accuracy without working", SHARE),
    ("self_check_share", "checks itself", SHARE),
    ("truncated", "cut off", SHARE),
    ("length", "length", TOKENS),
]


def is_number(value) -> bool:
    """Whether a value from a run's files is a number; True and False are none."""
    return type(value) in (int, float)


def charts_of(runs) -> list[dict]:
    """The charts of the metrics that some run has: {"title", "unit", "series": [{"name",
    "label"}]}. runs: RunFiles. The parts of the reward are those of the recorded groups."""
    there = {name for run in runs for line in run.metrics for name, value in line.items()
             if is_number(value) and name != "step"}
    parts = {name for run in runs for group in run.groups for response in group["responses"]
             for name in response.get("parts") or ()} | {"correct", "format"}
    charts, shown = [], set()
    for title, unit, labels in CHARTS:
        if title == "Reward":
            labels = labels | {name: name for name in sorted(parts - labels.keys())}
        series = [{"name": name, "label": label} for name, label in labels.items() if name in there]
        shown |= labels.keys()
        if series:
            charts.append({"title": title, "unit": unit, "series": series})
    return charts + [{"title": name, "unit": NUMBER, "series": [{"name": name, "label": name}]}
                     for name in sorted(there - shown)]


def measures_of(summary: dict) -> list[dict]:
    """The measurements of a summary.json: {"label", "unit", "before", "after", "ci_before",
    "ci_after"}. A share of nothing, such as an accuracy with working where none works, is None.
    Its interval is all of [0, 1]."""
    rows = []
    for name, label, unit in MEASURES:
        row = {"label": label, "unit": unit}
        for when in ("before", "after"):
            row |= {when: summary.get(f"{name}_{when}"),
                    f"ci_{when}": summary.get(f"{name}_ci_{when}")}
        rows.append(row)
        if name == "accuracy_sampled":
            passes = [summary.get(f"pass_at_k_{when}") or {} for when in ("before", "after")]
            rows += [{"label": f"pass@{k}", "unit": SHARE, "before": passes[0].get(k),
                      "after": passes[1].get(k)} for k in passes[1] if k != "1"]
    rows = [row for row in rows if is_number(row["before"]) and row["after"] is not None]
    for row in rows:
        for when in ("before", "after"):
            if row.get(f"ci_{when}") == [0, 1]:
                row |= {when: None, f"ci_{when}": None}
    return [row for row in rows if (row["before"], row["after"]) != (None, None)]
