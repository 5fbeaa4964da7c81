"""Evaluation of a policy on held-out problems: accuracy with an interval, pass@k, response style.

Greedy decoding gives the accuracy. One sample per problem at temperature 1 gives the proportions
and the lengths, so each of them is a mean over independent problems and has a Wilson interval.
Many samples per problem give pass@k (Codex, 2107.03374):

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)        c of n samples are correct

Left out on purpose: voting and search, which spend more compute per problem (search.py).
"""

import functools
import re
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F

import model as gpt
import tasks
import verify
from engine import sampler, turns
from engine.request import concat_rollouts
from engine.rng import row_seeds
from infra import distributed, run_dir
from infra.terminal import quote
from tokenizer import Tokenizer

MAX_RESPONSES = 4096  # sampled at once for pass@k, to bound the memory
MAX_PHRASE = 32       # tokens of a phrase whose repetition is counted
EXAMPLES = 4          # greedy responses that are kept, to the first problems
SELF_CHECK = re.compile(r"\b(?:check|wait)\b")


def checks_itself(text: str) -> bool:
    """Whether a self-check word of the corpus ("check" or "wait") stands before the answer."""
    return bool(SELF_CHECK.search(text.partition("<answer>")[0]))


def sample_responses(policy, tokenizer, problems, group_size=1, temperature=1.0, seed=0,
                     max_new_tokens=96, generate=None, **sampling):
    """Samples group_size responses to each of P problems.

    Returns the Rollout of N = P * group_size rows, and N texts without their end token. With
    several processes, each process samples a slice of the problems, and all get the full result.
    `generate` is one of config.SAMPLERS, by default the fast one. `sampling` goes to it, such as
    top_k=40. Problems with a tool are sampled by turns.generate; their texts leave out the results
    of the tool, so that a verifier reads the policy alone."""
    prompts = [tokenizer.encode_problem(p) for p in problems]
    generate, ends = generate or sampler.generate, ()
    if any(p.tool for p in problems):
        generate, ends = functools.partial(turns.generate, tokenizer=tokenizer), (turns.END_CALL,)
        sampling["tools"] = [p.tool for p in problems]
    if distributed.world_size() > 1:
        generate = functools.partial(generate_distributed, generate)
    rollout = generate(policy, prompts, group_size, max_new_tokens, temperature, seed,
                       **stop_conditions(policy, tokenizer, *ends), **sampling)
    return rollout, [tokenizer.decode_response(ids) for ids in rollout.responses()]


def generate_distributed(generate, policy, prompts, group_size, max_new_tokens, temperature, seed,
                         *, pad, **more):
    """`generate`, split over the processes. Each row has the same seed as in a single process, so
    the result is the same."""
    part, rollout = distributed.local_slice(prompts), None
    if prompts[part]:
        if isinstance(seed, int):
            seed = row_seeds(torch.arange(len(prompts) * group_size), seed).tolist()
        for name in ("prefixes", "tools"):
            if more.get(name):
                more[name] = more[name][part]
        rollout = generate(policy, prompts[part], group_size, max_new_tokens, temperature,
                           seed[part.start * group_size:part.stop * group_size], pad=pad,
                           **more).to("cpu")
    return concat_rollouts(distributed.all_gather(rollout), pad).to(policy.embedding.weight.device)


def stop_conditions(policy, tokenizer, *more: str) -> dict:
    """The arguments of engine.sampler.generate that end a response. `more` are further stop
    strings."""
    weight = policy.embedding.weight
    return dict(stop=tokenizer.stop_ids, pad=tokenizer.pad_id,
                stop_table=tokenizer.stop_table(len(weight), weight.device, *more))


def sample_each(policy, tokenizer, problems, n: int, seed: int, max_new_tokens: int, generate=None):
    """Yields each problem with the texts of n responses to it. A few problems are sampled at once,
    so that memory holds at most MAX_RESPONSES responses, or those to one problem."""
    at_once = max(1, MAX_RESPONSES // n)
    for first in range(0, len(problems), at_once):
        some = problems[first:first + at_once]
        _, texts = sample_responses(policy, tokenizer, some, n, seed=seed + first,
                                    max_new_tokens=max_new_tokens, generate=generate)
        yield from ((problem, texts[i * n:(i + 1) * n]) for i, problem in enumerate(some))


def proportion(flags) -> dict:
    """The proportion of true flags, which are independent trials: its value, its 95% Wilson
    interval and the number of trials."""
    flags = [bool(flag) for flag in flags]  # a verifier may return None: it cannot tell
    low, high = verify.wilson(sum(flags), len(flags))
    return {"value": sum(flags) / max(1, len(flags)), "ci": [low, high], "n": len(flags)}


def greedy_accuracy(policy, tokenizer, task, problems, max_new_tokens: int,
                    generate=None) -> dict:
    """The accuracy of greedy responses: over all problems, and for each kind of problem where the
    task has several. "examples" holds the first responses, and "examples_correct" their verdicts.
    """
    _, texts = sample_responses(policy, tokenizer, problems, temperature=0,
                                max_new_tokens=max_new_tokens, generate=generate)
    correct = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    kinds = sorted({p.category for p in problems} - {""})
    by_kind = {kind: proportion(c for c, p in zip(correct, problems, strict=True)
                                if p.category == kind) for kind in kinds}
    return proportion(correct) | {
        "examples": texts[:EXAMPLES], "examples_correct": [bool(c) for c in correct[:EXAMPLES]],
        "by_kind": by_kind}


def measure(policy, tokenizer, task, problems, seed: int, max_new_tokens: int, n_pass: int = 200,
            samples: int = 64, generate=None) -> dict:
    """All measurements of a policy on held-out problems. pass@k uses the first n_pass problems with
    `samples` responses each. Each proportion is a dict as `proportion` returns it; the length is a
    mean in tokens."""
    # greedy decoding: the accuracy
    result = {"greedy": greedy_accuracy(policy, tokenizer, task, problems, max_new_tokens,
                                        generate)}

    # one sample per problem at temperature 1: how the policy responds
    rollout, texts = sample_responses(policy, tokenizer, problems, seed=seed,
                                      max_new_tokens=max_new_tokens, generate=generate)
    correct = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    result |= {
        "sampled": proportion(correct),
        "length": float(rollout.mask.sum(1).mean()),
        "truncated": proportion(rollout.truncated.tolist()),
        "self_check": proportion(checks_itself(t) for t in texts),
    }
    if task.working:
        works = [task.shows_working(t) for t in texts]
        result |= {
            "working": proportion(works),
            "accuracy_given_working": proportion(
                c for c, w in zip(correct, works, strict=True) if w),
            "accuracy_given_no_working": proportion(
                c for c, w in zip(correct, works, strict=True) if not w),
        }

    # many samples per problem: pass@k
    counts = [sum(bool(task.correct(p, t)) for t in texts) for p, texts in sample_each(
        policy, tokenizer, problems[:n_pass], samples, seed + 1, max_new_tokens, generate)]
    result["pass_at_k"] = {
        str(k): sum(verify.pass_at_k(samples, c, k) for c in counts) / len(counts)
        for k in (1, 4, 16, 64) if k <= samples}
    return result


def evaluate_and_print(policy, tokenizer, task, options, when: str, generate=None) -> dict:
    """Measures a policy on the task's held-out problems and prints the result. `when` begins each
    printed line: "before" or "after" reinforcement learning."""
    problems = task.held_out(options.eval_problems)
    n_pass = max(1, len(problems) // 5)
    result = measure(policy, tokenizer, task, problems, options.seed, options.max_new_tokens,
                     n_pass, options.eval_samples, generate)
    (low, high), greedy = result["greedy"]["ci"], result["greedy"]["value"]
    say = distributed.print_rank0
    say(f"{when}: greedy accuracy {greedy:.1%} [{low:.1%}, {high:.1%}] on {len(problems)} "
        "held-out problems")
    say(f"{when}: " + ", ".join(f"pass@{k} {v:.1%}" for k, v in result["pass_at_k"].items())
        + f" on {n_pass} of them, with {options.eval_samples} samples each")
    names = {"truncated": "truncated", "self_check": "self-check", "working": "with working",
             "accuracy_given_working": "accuracy with working",
             "accuracy_given_no_working": "accuracy without working"}
    say(f"{when}: length {result['length']:.1f} tokens, " + ", ".join(
        f"{words} {result[name]['value']:.1%}" for name, words in names.items()
        if result.get(name, {"n": 0})["n"]))
    for kind, part in result["greedy"]["by_kind"].items():
        say(f"{when}: {kind}: {part['value']:.1%} of {part['n']}")
    return result


def summarize(options, state) -> dict:
    """The content of a run's summary.json: the settings, each measurement before and after
    reinforcement learning, and the seconds of each stage."""
    summary = {name: getattr(options, name) for name in ("algo", "task", "level", "size", "seed",
                                                         "steps", "reward", "device")}
    # name in summary.json -> name in the result of `measure`
    proportions = {"accuracy": "greedy", "accuracy_sampled": "sampled",
                   "accuracy_given_working": "accuracy_given_working",
                   "accuracy_given_no_working": "accuracy_given_no_working",
                   "working_share": "working", "self_check_share": "self_check",
                   "truncated": "truncated"}
    for when in ("before", "after"):
        result = state[when]
        for name, source in proportions.items():
            if source in result:  # not every task says what working is
                summary |= {f"{name}_{when}": result[source]["value"],
                            f"{name}_ci_{when}": result[source]["ci"]}
        summary |= {f"{name}_{when}": result[name] for name in ("pass_at_k", "length")}
        summary[f"accuracy_by_kind_{when}"] = result["greedy"]["by_kind"]
    seconds = {k: state[k] for k in ("seconds_base", "seconds_rl", "seconds_eval")}
    return summary | seconds | {"seconds_total": sum(seconds.values()),
                                "tokens_sampled": state["tokens_sampled"]}


def response_metrics(step, rollouts, rewards, texts, group_size, task) -> dict:
    """Metrics of the N responses of one training step, under their names in metrics.jsonl.
    rollouts: one Rollout, or several with dynamic sampling; rewards, texts: N of each. The standard
    deviation of one reward is 0."""
    total = torch.tensor([r.total for r in rewards])
    correct = torch.tensor([r.parts["correct"] for r in rewards])
    length = torch.cat([rollout.mask.sum(1) for rollout in rollouts]).cpu()      # (N,) in tokens
    groups = total.view(-1, group_size)
    mean_where = lambda x, where: float(x[where].mean()) if where.any() else None  # noqa: E731
    return {
        "step": step, "reward": float(total.mean()),
        "reward_std": float(total.std()) if len(total) > 1 else 0.0,
        **{name: mean_part(rewards, name)
           for name in dict.fromkeys(name for r in rewards for name in r.parts)},
        "accuracy": float(correct.mean()), "length": float(length.mean()),
        "length_correct": mean_where(length, correct == 1),
        "length_wrong": mean_where(length, correct == 0),
        "truncated": float(torch.cat([rollout.truncated for rollout in rollouts]).float().mean()),
        "zero_std_groups": float((groups.amax(1) == groups.amin(1)).float().mean()),
        "entropy": float(sum(rollout.entropy.sum() for rollout in rollouts) / length.sum()),
        **({"working": sum(map(task.shows_working, texts)) / len(texts)} if task.working else {}),
        "self_check": sum(map(checks_itself, texts)) / len(texts),
        "most_common_answer": most_common_answer(texts),
        "runs_on": sum(bool(t.partition("</answer>")[2].strip()) for t in texts) / len(texts),
        "repetition": sum(int(repeats(r.tokens, r.mask).sum()) for r in rollouts) / len(texts),
        "no_verdict": sum(r.no_verdict for r in rewards) / len(rewards),
        "tokens": int(length.sum()),
    }


def mean_part(rewards, name: str) -> float:
    """The mean of a part over the rewards that have it."""
    values = [r.parts[name] for r in rewards if name in r.parts]
    return sum(values) / len(values)


def most_common_answer(texts) -> float:
    """The share of all responses that give the most common answer of these; 0.0 if none has one."""
    answers = Counter(filter(None, map(verify.extract, texts)))
    return max(answers.values(), default=0) / len(texts)


def repeats(tokens, mask):
    """Which responses repeat a phrase, bool (N,), of tokens and mask (N, T): somewhere, a phrase of
    1 to MAX_PHRASE tokens stands at least 4 times in a row, and fills at least 16 tokens."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    tokens = torch.where(mask > 0, tokens, -1 - columns)  # no two tokens outside a response match
    found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for phrase in range(1, min(MAX_PHRASE, tokens.shape[1] // 4) + 1):
        # a stretch of n tokens repeats a phrase if n - phrase tokens equal the one a phrase before
        wanted = max(4 * phrase, 16) - phrase
        equal = (tokens[:, phrase:] == tokens[:, :-phrase]).cumsum(1, dtype=torch.int32)
        equal = F.pad(equal, (1, 0))
        found |= (equal[:, wanted:] - equal[:, :-wanted] == wanted).any(1)
    return found


def load_run(run: str, device: str = "") -> tuple[gpt.GPT, Tokenizer, dict]:
    """The policy, the tokenizer and the settings of a run's folder. The policy is on the given
    device, by default on a GPU if there is one. Raises ValueError for a folder without a run,
    OSError for an unreadable file."""
    if not (Path(run) / "checkpoint.pt").exists():
        raise ValueError(f"{run} has no checkpoint.pt; train.py makes one")
    settings = run_dir.read_settings(run)
    tokenizer = Tokenizer.of_run(run)
    policy = load_policy(run, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if tokenizer.n_vocab > policy.config.vocab_size:
        raise ValueError(f"{run}: its tokenizer has {tokenizer.n_vocab} tokens, but its policy has "
                         f"{policy.config.vocab_size}")
    return policy, tokenizer, settings


def load_policy(run: str, device: str) -> gpt.GPT:
    """The policy of a run's folder."""
    return gpt.from_state(run_dir.load_checkpoint(run), device)


def load_task(settings: dict, tokenizer=None, context: int = 0) -> tasks.Task:
    """The task that a run was trained on, without the problems of a file that do not fit the
    context of a model with this tokenizer, if given. Raises ValueError for settings that no task
    has, and for a file that has changed since: its held-out problems may be others."""
    try:
        task = tasks.TASKS[settings["task"]](settings["level"], settings["data"],
                                             settings["eval_data"])
    except ValueError as error:
        raise ValueError(f"the run's config.json: {error}") from None
    run_dir.check_digests(settings, [settings["data"], settings["eval_data"]])
    if tokenizer:
        task.leave_out(lambda p: misfit(p, tokenizer, context, settings["max_new_tokens"]))
    return task


def misfit(problem, tokenizer, context: int, max_new_tokens: int, solutions: bool = False) -> str:
    """Why a prompt and its response do not fit the context; "" where they do. solutions: the
    problem's solution, from which a base learns, must fit too."""
    name = quote(problem.question, 40)
    try:
        prompt = len(tokenizer.encode_problem(problem))
        solution = len(tokenizer.encode(problem.solution)) + 64 if solutions else 0
    except ValueError as error:  # a pretrained tokenizer may lack a byte
        return f"{name}: {error}"
    response = max(max_new_tokens, solution)
    if prompt + response <= context:
        return ""
    return (f"{name}: a prompt of {prompt} tokens with a response of {response} is longer than the "
            f"context of {context}")


def read_problems(path: str, settings: dict) -> list[tasks.Problem]:
    """The problems of a JSONL file, for a policy trained with these settings. Raises ValueError for
    a task whose answers are expressions or programs, since a file holds written answers."""
    task, correct = settings["task"], tasks.TASKS[settings["task"]].correct
    if correct not in (verify.written_correct, tasks.File.correct):
        raise ValueError(f"--problems needs a run whose answers are numbers or mathematics, but "
                         f"this run was trained with --task {task}")
    problems = tasks.read_jsonl(path)
    if correct is verify.written_correct and any(problem.numbers for problem in problems):
        raise ValueError(f"--problems {path} has rows of Countdown, but this run was trained with "
                         f"--task {task}; rows with question and answer fit it")
    return problems
