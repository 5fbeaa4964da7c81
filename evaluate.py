"""Measuring a policy on held-out problems: accuracy with an interval, pass@k, and how it answers.

Greedy decoding gives the accuracy; one sample a problem at temperature 1 gives the shares and
lengths, so that each is a mean over independent problems and has a Wilson interval; many samples a
problem give pass@k. Left out on purpose: voting and search, which spend more compute per problem.
"""

import functools
import json
import re
from pathlib import Path

import torch

import model as gpt
import tasks
import tokenizer
import verify
from engine import sampler
from engine.rng import row_seeds
from infra import distributed, tensors

ROWS = 4096  # of answers for pass@k that are in memory at a time
EQUATION = re.compile(r"[0-9]\s*[-+*/]\s*[0-9][^\n]*=\s*-?[0-9]")
SELF_CHECK = re.compile(r"\b(?:check|wait)\b")


def before_answer(text: str) -> str:
    return text.partition("<answer>")[0]


def shows_working(text: str) -> bool:
    """At least one equation stands before the answer."""
    return bool(EQUATION.search(before_answer(text)))


def checks_itself(text: str) -> bool:
    """One of the corpus's words of doubt (check, wait) stands before the answer."""
    return bool(SELF_CHECK.search(before_answer(text)))


def respond(policy, problems, group_size=1, temperature=1.0, seed=0, max_new_tokens=96,
            generate=None, **more):
    """Samples group_size responses to each problem: the Rollout, and its texts without the end
    mark. Of several processes each samples its share, and all get the whole. `generate` is one of
    config.SAMPLERS, by default the fast one; `more` goes to it."""
    prompts = [tokenizer.encode_prompt(p.question) for p in problems]
    generate = generate or sampler.generate
    if distributed.world() > 1:
        generate = functools.partial(generate_shared, generate)
    rollout = generate(policy, prompts, group_size, max_new_tokens, temperature, seed,
                       **ending(policy), **more)
    return rollout, [tokenizer.text_of(ids) for ids in rollout.responses()]


def generate_shared(generate, policy, prompts, group_size, max_new_tokens, temperature, seed, *,
                    pad, **more):
    """sample.generate by several processes: each row has the seed that it has in one process."""
    part, rollout = distributed.mine(prompts), None
    if prompts[part]:
        rows = torch.arange(part.start * group_size, part.stop * group_size)
        rollout = generate(policy, prompts[part], group_size, max_new_tokens, temperature,
                           row_seeds(rows, seed).tolist(), pad=pad, **more).to("cpu")
    return sampler.join(distributed.everyone(rollout), pad).to(policy.embedding.weight.device)


def ending(policy, *more: str) -> dict:
    """What ends a response, for sample.generate; and `more` texts that do."""
    weight = policy.embedding.weight
    return dict(stop=tokenizer.STOPS, pad=tokenizer.PAD,
                strings=tokenizer.stop_strings(len(weight), weight.device, *more))


def share(flags) -> dict:
    """A share of independent trials with its count and 95% interval."""
    flags = list(flags)
    low, high = verify.wilson(sum(flags), len(flags))
    return {"value": sum(flags) / max(1, len(flags)), "ci": [low, high], "n": len(flags)}


def greedy_accuracy(policy, task, problems, max_new_tokens: int, generate=None) -> dict:
    """Accuracy of greedy answers, also by kind of problem where the task has several, and the first
    three answers to look at."""
    _, texts = respond(policy, problems, temperature=0, max_new_tokens=max_new_tokens,
                       generate=generate)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    kinds = sorted({p.kind for p in problems} - {""})
    return share(right) | {"examples": texts[:3], "by_kind": {
        kind: share(r for r, p in zip(right, problems, strict=True) if p.kind == kind)
        for kind in kinds}}


def measure(policy, task, problems, seed: int, max_new_tokens: int, n_pass: int = 200,
            samples: int = 64, generate=None) -> dict:
    """The whole measurement of a policy on held-out problems; n_pass of them for pass@k."""
    result = {"greedy": greedy_accuracy(policy, task, problems, max_new_tokens, generate)}
    rollout, texts = respond(policy, problems, seed=seed, max_new_tokens=max_new_tokens,
                             generate=generate)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    works = [shows_working(t) for t in texts]
    result |= {
        "sampled": share(right),
        "length": float(rollout.mask.sum(1).mean()),
        "truncated": share(rollout.truncated.tolist()),
        "working": share(works),
        "self_check": share(checks_itself(t) for t in texts),
        "accuracy_given_working": share(r for r, w in zip(right, works, strict=True) if w),
        "accuracy_given_no_working": share(r for r, w in zip(right, works, strict=True) if not w),
    }
    counts, at_once = [], max(1, ROWS // samples)
    for first in range(0, len(problems[:n_pass]), at_once):
        some = problems[:n_pass][first:first + at_once]
        _, texts = respond(policy, some, samples, seed=seed + 1 + first,
                           max_new_tokens=max_new_tokens, generate=generate)
        counts += [sum(task.correct(p, t) for t in texts[i * samples:(i + 1) * samples])
                   for i, p in enumerate(some)]
    result["pass_at_k"] = {
        str(k): sum(verify.pass_at_k(samples, c, k) for c in counts) / len(counts)
        for k in (1, 4, 16, 64) if k <= samples}
    return result


def report(policy, task, options, when: str, generate=None) -> dict:
    """The whole evaluation on the task's held-out problems, printed."""
    problems = task.held_out(options.eval_problems)
    result = measure(policy, task, problems, options.seed, options.max_new_tokens,
                     max(1, len(problems) // 5), options.eval_samples, generate)
    (low, high), greedy = result["greedy"]["ci"], result["greedy"]["value"]
    say = distributed.say
    say(f"{when}: greedy accuracy {greedy:.1%} [{low:.1%}, {high:.1%}] on {len(problems)} "
        "held-out problems")
    say(f"{when}: " + ", ".join(f"pass@{k} {v:.1%}" for k, v in result["pass_at_k"].items()))
    say(f"{when}: length {result['length']:.1f}, truncated {result['truncated']['value']:.1%}, "
        f"working {result['working']['value']:.1%}, right given working "
        f"{result['accuracy_given_working']['value']:.1%}, without "
        f"{result['accuracy_given_no_working']['value']:.1%}, self-check "
        f"{result['self_check']['value']:.1%}")
    for kind, part in result["greedy"]["by_kind"].items():
        say(f"{when}: {kind}: {part['value']:.1%} of {part['n']}")
    return result


def summarize(options, state) -> dict:
    summary = {name: getattr(options, name) for name in ("algo", "task", "level", "size", "seed",
                                                         "steps", "reward", "device")}
    shares = {"accuracy": "greedy", "accuracy_sampled": "sampled",
              "accuracy_given_working": "accuracy_given_working",
              "accuracy_given_no_working": "accuracy_given_no_working",
              "working_share": "working", "self_check_share": "self_check",
              "truncated": "truncated"}
    for when in ("before", "after"):
        result = state[when]
        for name, source in shares.items():
            summary |= {f"{name}_{when}": result[source]["value"],
                        f"{name}_ci_{when}": result[source]["ci"]}
        summary |= {f"{name}_{when}": result[name] for name in ("pass_at_k", "length")}
        summary[f"accuracy_by_kind_{when}"] = result["greedy"]["by_kind"]
    seconds = {k: state[k] for k in ("seconds_base", "seconds_rl", "seconds_eval")}
    return summary | seconds | {"seconds_total": sum(seconds.values()),
                                "tokens_sampled": state["tokens_sampled"]}


def step_metrics(step, rollouts, rewards, texts, group_size) -> dict:
    """What a step's answers, of one or several Rollouts, look like; the names are those of
    metrics.jsonl."""
    total = torch.tensor([r.total for r in rewards])
    right = torch.tensor([r.parts["correct"] for r in rewards])
    length = torch.cat([rollout.mask.sum(1) for rollout in rollouts]).cpu()
    groups = total.view(-1, group_size)
    mean_where = lambda x, where: float(x[where].mean()) if where.any() else None  # noqa: E731
    return {
        "step": step, "reward": float(total.mean()), "reward_std": float(total.std()),
        **{name: sum(r.parts[name] for r in rewards) / len(rewards) for name in rewards[0].parts},
        "accuracy": float(right.mean()), "length": float(length.mean()),
        "length_correct": mean_where(length, right == 1),
        "length_wrong": mean_where(length, right == 0),
        "truncated": float(torch.cat([rollout.truncated for rollout in rollouts]).float().mean()),
        "zero_std_groups": float((groups.amax(1) == groups.amin(1)).float().mean()),
        "entropy": float(sum(rollout.entropy.sum() for rollout in rollouts) / length.sum()),
        "working": sum(map(shows_working, texts)) / len(texts),
        "self_check": sum(map(checks_itself, texts)) / len(texts),
        "tokens": int(length.sum()),
    }


def trained(run: str, device: str = "") -> tuple[gpt.GPT, dict]:
    """The policy of a run's folder, on the GPU where there is one unless a device is given, and the
    settings it was trained with; from then on the process speaks its tokens. Raises ValueError
    where there is none, OSError where it cannot be read."""
    if not (Path(run) / "checkpoint.pt").exists():
        raise ValueError(f"{run} has no checkpoint.pt; train.py makes one")
    try:
        settings = json.loads((Path(run) / "config.json").read_text())
    except ValueError as error:
        raise ValueError(f"{Path(run) / 'config.json'} is no JSON: {error}") from None
    tokenizer.use_of(run)
    return policy_of(run, device or ("cuda" if torch.cuda.is_available() else "cpu")), settings


def policy_of(run: str, device: str) -> gpt.GPT:
    """The policy of a run's folder alone; the process speaks on as before."""
    return gpt.from_state(tensors.load(Path(run) / "checkpoint.pt"), device)


def task_of(settings: dict) -> tasks.Task:
    """The task that a run was trained on."""
    return tasks.TASKS[settings["task"]](settings["level"], settings["data"], settings["eval_data"])


def problems_of(path: str, settings: dict) -> list[tasks.Problem]:
    """The problems of a JSONL file, for a policy with these settings. Raises ValueError where its
    answers have a verdict of their own, as expressions and programs do."""
    if tasks.TASKS[settings["task"]].correct is not verify.written_correct:
        raise ValueError(f"--problems scores written answers, and a run of --task "
                         f"{settings['task']} answers with something else")
    return tasks.read_jsonl(path)
