"""Says in a sentence what is wrong with a run: a rule a fault, over the metrics so far.

Reinforcement learning goes wrong quietly: everything is cut off, no group has a gradient, and the
loss reads 0. A rule looks at the last few steps, and gives None or a sentence with the numbers,
the likely cause and what to try. train.py prints each sentence once, when it first holds.

    rule(run) -> sentence | None             run.metrics ends with the step in question

A new rule is a function and a line in RULES. docs/my-reward-is-flat.md shows a broken run for each.
Left out on purpose: statistical tests, and thresholds that depend on the model.
"""

import math
from collections import Counter
from statistics import mean, median
from typing import NamedTuple

from infra.terminal import quote

FLAT = 0.02  # a gain below this is none: the noise of 512 answers


class Run(NamedTuple):
    """A run so far. All of it comes from files, so a metric may be missing or None."""

    options: dict        # config.json
    metrics: list[dict]  # lines of metrics.jsonl
    groups: list[dict]   # lines of samples.jsonl that hold a group

    def steps(self, last: int = 3) -> str:
        """The last few steps in words."""
        return f"steps {self.metrics[-last:][0]['step']} to {self.metrics[-1]['step']}"

    def values(self, name: str, last: int = 0) -> list[float]:
        """The finite values of a metric. `last`: of the last few steps, [] if one has no value."""
        rows = self.metrics[-last:]
        found = [row[name] for row in rows if is_number(row.get(name))]
        return found if len(found) >= last else []

    def mean(self, name: str, last: int = 3) -> float:
        """The mean of the last few steps, or NaN, which fails every comparison."""
        values = self.values(name, last)
        return mean(values) if values else math.nan

    def start(self, name: str, first: int = 3) -> float:
        """The mean of the first steps."""
        return Run(self.options, self.metrics[:first], []).mean(name, first)

    def gain(self, name: str, last: int = 3) -> float:
        """The mean of the last few steps minus that of the first ones. NaN where they overlap."""
        enough = len(self.metrics) >= last + 3
        return self.mean(name, last) - self.start(name) if enough else math.nan

    def option(self, name: str) -> float:
        """A setting that is a number, or NaN."""
        return self.options[name] if is_number(self.options.get(name)) else math.nan

    def evaluated(self, name: str) -> list[dict]:
        """The lines of the steps that have a held-out accuracy and this metric."""
        return [row for row in self.metrics if is_number(row.get("eval_accuracy"))
                and is_number(row.get(name))]

    def responses(self, steps: int = 3) -> list[dict]:
        """The recorded responses of the last few steps that have a reward and its parts."""
        first = self.metrics[-1]["step"] - steps
        return [response for group in self.groups[-200:] if group["step"] > first
                for response in group["responses"]
                if is_number(response.get("reward")) and isinstance(response.get("parts"), dict)]


def is_number(value) -> bool:
    """Whether it is a number, and finite."""
    return type(value) in (int, float) and abs(value) < 1e300


# --- the code is wrong: sampler, mask, sign

def prompt_in_loss(run):
    tokens, sampled = run.mean("loss_tokens", 1), run.mean("tokens", 1)
    if tokens > sampled > 0:
        more = (tokens / sampled - 1) * run.mean("length", 1)
        return (f"The loss counts {tokens:,.0f} tokens, but the policy sampled {sampled:,.0f}: "
                f"{more:.1f} too many per response. The mask covers tokens that the policy did not "
                "choose (the prompt, a tool's output or padding), so the update changes their "
                "probabilities too. Set mask to 1 at sampled tokens alone.")


def sampler_differs(run):
    difference = run.mean("logp_diff", 1)
    coarse = "bfloat16" in (run.options.get("dtype"), run.options.get("sampler_dtype"))
    limit = 0.1 if coarse else 0.001
    if difference > limit and not run.options.get("sampler_lag"):
        return (f"Sampler and trainer disagree: logp_diff is {difference:.3f} nats per token before"
                f" the first update, where at most {limit} is healthy. Likely cause: the old "
                "log-probs have another temperature than the loss, another precision, dropout, or "
                "an older policy. "
                "Run python -m pytest tests/test_sample.py.")


def sign_flipped(run):
    values = run.values("reward_advantage")  # of all steps
    agreement = mean(values) if len(values) >= 3 else 1.0
    if agreement < -0.3:
        return (f"Responses with more reward have less advantage (correlation {agreement:.2f}). "
                "The sign of the advantage is flipped. An advantage is reward minus baseline.")


def no_stop(run):
    runs_on, truncated = run.mean("runs_on"), run.mean("truncated")
    if runs_on > 0.3 and truncated > 0.5:
        return (f"{truncated:.0%} of the responses in {run.steps()} hit the token limit, and "
                f"{runs_on:.0%} go on after </answer>. Likely cause: no stop token ends them. The "
                "sampler must stop at the token that the model writes after an answer "
                "(eos_token_id). See evaluate.stop_conditions.")


# --- the step is too large

def step_too_large(run):
    rows = [row for row in run.metrics if is_number(row.get("approx_kl"))]
    worst = max(rows, key=lambda row: row["approx_kl"], default={"approx_kl": 0})
    if worst["approx_kl"] > 1 and run.mean("reward", 1) <= worst.get("reward", 0):
        return (f"One step moved the policy by {worst['approx_kl']:.1f} nats per token (approx_kl;"
                f" below 0.05 is healthy). Likely cause: --lr {run.option('lr'):g} is too large. "
                "Try a tenth of it.")


def gradient_jumps(run):
    norms = run.values("grad_norm")[-11:]
    if len(norms) == 11 and norms[-1] > 20 * median(norms[:-1]) and norms[-1] > 5:
        return (f"The gradient norm jumped to {norms[-1]:.1f} from {median(norms[:-1]):.2f}. It is "
                "clipped to 1, so one jump does no harm. If more follow, try a lower --lr.")


def kl_explodes(run):
    kl = run.values("kl", 3)
    if kl and min(kl) > 1:
        return (f"The KL to the base model is {kl[-1]:.1f} nats per token, so the policy has "
                "left the base's language. Try a lower --lr or --kl-coef 0.02.")


# --- the answers

def cut_off(run):
    truncated, limit = run.mean("truncated"), run.option("max_new_tokens")
    if truncated > 0.5:
        return (f"{truncated:.0%} of the responses in {run.steps()} are cut off at --max-new-tokens"
                f" {limit:.0f}, so they lack room for working or for an answer. Try a larger "
                "--max-new-tokens.")


def never_formed(run):
    well_formed = run.mean("format")
    if well_formed < 0.05:
        texts = Counter(response["text"] for response in run.responses())
        common = ", ".join(quote(text, 60) for text, _ in texts.most_common(3))
        return (f"Only {well_formed:.1%} of the responses in {run.steps()} have the form <think>…"
                "</think><answer>…</answer>. Try --few-shot 4, or --prompt chat for a chat model."
                + f" The commonest: {common}." * bool(common))


def never_right(run):
    right, well_formed = run.values("accuracy", 5), run.mean("format", 5)
    cause = ("Likely cause: the verifier refuses right answers. The base of a built-in task gives "
             "some at its default --level. Run python -m pytest tests/test_tasks.py.")
    if run.options.get("task") in (None, "file") or run.options.get("init"):
        cause = ("The verifier refuses right answers, the reference answers are wrong, or the "
                 "problems are too hard. Check with python verify.py FILE. Each line of FILE is "
                 '{"gold": reference answer, "pred": right answer}.')
    if right and max(right) == 0 and well_formed > 0.3:
        return (f"No response in {run.steps(5)} is right, though {well_formed:.0%} have the right "
                f"form. {cause}")


def same_answer(run):
    share, right = run.mean("most_common_answer"), run.mean("accuracy")
    cause = ("The policy has collapsed to a guess. Try a lower --lr, --kl-coef 0.02, and look "
             "whether the reward pays for that answer.")
    if right > 0.5:
        cause = ("The reference answers of the data are almost all the same. Count them in the "
                 "file of --data.")
    if share > 0.5:
        return (f"{share:.0%} of the responses in {run.steps()} give the same answer to different "
                f"problems, and {right:.0%} are right. {cause}")


def repeats(run):
    share = run.mean("repetition")
    if share > 0.3:
        return (f"{share:.0%} of the responses in {run.steps()} repeat the same words often. A "
                "larger --max-new-tokens does not help. Likely cause: a --lr that is too large, or "
                "a base that never ends a text. Try a lower --lr, or the penalty of --algo dapo.")


def cannot_tell(run):
    share = run.mean("no_verdict")
    if share > 0.1:
        return (f"The verifier cannot decide {share:.0%} of the responses in {run.steps()}. Likely "
                "cause: answers in a form that its grammar lacks. See them in samples.jsonl.")


# --- nothing to learn from

def no_gradient(run):
    without, right = 1 - run.mean("groups_with_gradient"), run.mean("accuracy")
    temperature, size = run.option("temperature"), run.option("group_size")
    # with these, few groups can hold different rewards
    if not without > (0.4 if temperature < 0.6 or size <= 4 else 0.9):
        return None
    cause = "the reward gives the same to all responses to a problem; see verify.REWARDS"
    if temperature < 0.6:
        cause = (f"training samples at --temperature {temperature:g}, so a group's responses are "
                 f"alike (entropy {run.mean('entropy'):.3f} nats per token); try --temperature 1")
    elif size <= 4:
        cause = (f"--group-size {size:.0f} rarely holds both right and wrong responses; try "
                 "--group-size 16")
    elif right > 0.9:
        cause = "the problems are too easy; try a harder --level"
    elif right < 0.02:
        cause = ("the problems are too hard; try an easier --level, --few-shot 4, a larger "
                 "--group-size or a better base")
    return (f"{without:.0%} of the groups in {run.steps()} have equal rewards and so no gradient; "
            f"{right:.0%} of the responses are right. Likely cause: {cause}.")


def part_is_constant(run):
    for name in reward_parts(run):
        values = run.values(name, 10)
        if name != "correct" and values and min(values) == max(values) < 1:
            return (f"The reward part {name} has been {values[0]:g} for 10 steps in all responses, "
                    "so it teaches nothing. Look at its function in verify.py.")


def parts_cancel(run):
    gains = {name: run.gain(name) for name in reward_parts(run)}
    up, down = (pick(gains, key=gains.get, default=None) for pick in (max, min))
    if up and gains[up] > 0.1 and gains[down] < -0.1 and abs(run.gain("reward")) < FLAT:
        return (f"The reward is flat because its parts cancel: {up} rose by {gains[up]:.2f} and "
                f"{down} fell by {-gains[down]:.2f}. Change their weights in verify.REWARDS.")


def reward_parts(run) -> list[str]:
    """The names of the parts of the reward."""
    return next((list(r["parts"]) for r in run.responses()), ["correct", "format"])


# --- the policy goes astray

def reward_falls(run):
    before, now = run.start("reward"), run.mean("reward")
    if len(run.metrics) >= 6 and before > 0.02 and now < before / 2:
        return (f"The reward fell from {before:.2f} to {now:.2f} (means of 3 steps). Try a tenth "
                "of the --lr. If the reward still falls, look at the sign of the advantage.")


def entropy_collapses(run):
    before, now, right = run.start("entropy"), run.mean("entropy"), run.mean("accuracy", 10)
    if now < before / 10 and right < 0.5 and run.mean("zero_std_groups") > 0.4:
        return (f"Entropy fell from {before:.3f} to {now:.3f} nats per token, with {right:.0%} "
                "right responses: the policy no longer tries anything else. Try --clip-high 0.28, "
                "--entropy-coef 0.01, a lower --lr or a higher --temperature.")


def entropy_grows(run):
    before, now = run.start("entropy"), run.mean("entropy")
    if now > 2 * before and now > 0.5 and run.gain("accuracy") < FLAT:
        return (f"Entropy grew from {before:.2f} to {now:.2f} nats per token without more "
                "accuracy: noise. Try a lower --lr, --entropy-coef 0 or --kl-coef 0.02.")


def length_grows(run):
    before, now = run.start("length"), run.mean("length", 5)
    if now > 1.5 * before and run.gain("accuracy", 5) < FLAT and len(run.metrics) >= 10:
        return (f"Length grew from {before:.0f} to {now:.0f} tokens, but accuracy did not rise. "
                "The loss or the reward may favour long responses. Try --algo drgrpo or dapo.")


def hacked(run):
    evaluated = run.evaluated("reward")
    if not evaluated or evaluated[-1] is not run.metrics[-1]:
        return None
    best, now = max(evaluated, key=lambda row: row["eval_accuracy"]), evaluated[-1]
    fall, rise = best["eval_accuracy"] - now["eval_accuracy"], now["reward"] - best["reward"]
    if fall > 0.1 and rise > FLAT:
        paid = [r for r in run.responses() if r["reward"] > 0.5 and not r["parts"].get("correct")]
        shown = "".join(f" Paid and wrong: {quote(r['text'], 120)}." for r in paid[:2])
        return (f"The reward rises ({best['reward']:.2f} to {now['reward']:.2f}) while held-out "
                f"accuracy falls ({best['eval_accuracy']:.1%} to {now['eval_accuracy']:.1%}). The "
                "policy exploits the reward: find what it pays for, and mend it." + shown)


def held_out_gap(run):
    evaluated, trained = run.evaluated("accuracy")[-2:], run.mean("accuracy", 5)
    if len(evaluated) == 2 and trained > 0.2 and all(
            row["eval_accuracy"] < trained / 2 for row in evaluated):
        return (f"Held-out accuracy is {evaluated[-1]['eval_accuracy']:.1%}, and {trained:.1%} in "
                "training. Likely cause: too few training problems, or held-out problems of "
                "another kind. Try more problems, and compare the two files.")


def critic_knows_nothing(run):
    explained, warmup = run.values("explained_variance", 10), run.option("critic_warmup")
    if explained and max(explained) < 0.02 and len(run.metrics) > 10 + warmup:
        return (f"The critic explains {mean(explained):.0%} of the variance of the returns, so its "
                "baseline is no better than a constant. Try a longer --critic-warmup, another "
                "--critic-lr or --critic-hints; --algo grpo needs no critic.")


def loss_is_normal(run):
    loss, norm = run.mean("loss"), run.mean("grad_norm")
    moved = abs(run.mean("reward", 5) - run.start("reward", 5))
    if len(run.metrics) >= 10 and abs(loss) < 0.01 and norm > 0.01 and moved < FLAT:
        return (f"The loss is {loss:.4f}, which is normal on policy: the advantages add up to 0. "
                f"Its gradient is not 0 (grad_norm {norm:.2f}), but the reward has not moved in "
                f"{len(run.metrics)} steps. Watch reward and accuracy in place of the loss.")


CAUSES = (prompt_in_loss, sampler_differs, sign_flipped, no_stop, step_too_large, repeats, cut_off,
          never_formed, never_right, same_answer)
RULES = {rule.__name__: rule for rule in (
    *CAUSES, kl_explodes, gradient_jumps, cannot_tell,
    no_gradient, part_is_constant, parts_cancel, reward_falls, entropy_collapses, entropy_grows,
    length_grows, hacked, held_out_gap, critic_knows_nothing, loss_is_normal)}


def new_diagnoses(run: Run, said) -> dict[str, str]:
    """{name: sentence} of the rules that hold at the last step and are not in `said`, the names so
    far. While one of CAUSES holds, the rules after it are silent: it explains what they see."""
    found = {}
    for name, rule in RULES.items():
        if (name not in said or rule in CAUSES) and (sentence := rule(run)):
            if name not in said:
                found[name] = sentence
            if rule in CAUSES:
                break
    return found


def diagnoses(run: Run) -> dict[str, tuple[int, str]]:
    """{name: (step, sentence)}: the first step at which each rule held, in this order."""
    found = {}
    for n in range(1, len(run.metrics) + 1):
        step = run.metrics[n - 1]["step"]
        groups = [group for group in run.groups if group["step"] <= step]
        new = new_diagnoses(Run(run.options, run.metrics[:n], groups), found)
        found |= {name: (step, sentence) for name, sentence in new.items()}
    return found
