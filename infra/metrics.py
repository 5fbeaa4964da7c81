"""The bookkeeping of training: seconds per stage, metrics, progress, log files, summary.

Nothing here changes a weight. evaluate.response_metrics computes the metrics of the responses.
"""

import os
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

import diagnose
import evaluate
import grpo
import model as gpt
import ppo
import report
import verify
from config import SAMPLERS
from engine import turns
from infra import checkpoint, distributed, load, partial, recorder, run_dir, tensors
from infra.forward import policy_logp
from infra.progress import Progress
from infra.read_run import read_lines
from infra.terminal import echo

CURVE_PROBLEMS = 200  # held-out problems of an evaluation during training
GROUPS_DIAGNOSED = 200  # of the last steps, which diagnose.py looks at
PAGE_SHARE = 0.01     # of a run's time: what the pages during training may take


class Timer(Counter):
    """Seconds by name. Each lap adds the seconds since the lap before it."""

    def __init__(self):
        super().__init__()
        self.began = self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self[name] += now - self.last
        self.last = now

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began


def step_metrics(state: dict, attempts, batch, models, options, task) -> dict:
    """The metrics of a step before its update: of all its samples, and of the batch. Prints a hint
    at the first step of a pretrained model, where no response has an answer."""
    problems, texts, rewards = zip(*(s for a in attempts for s in a.samples), strict=True)
    metrics = evaluate.response_metrics(state["step"] + 1, [a.rollout for a in attempts], rewards,
                                        texts, options.group_size, task)
    metrics |= means(task.measures, problems, texts)
    if options.init and not state["step"] and not any(map(verify.extract, texts)):
        distributed.print_rank0(no_answer_hint(options))
    metrics["prompts_sampled"] = sum(a.prompts for a in attempts)
    metrics["kl"] = kl_to_reference(models.reference, batch, options)
    if options.partial_rollouts:
        metrics |= partial.metrics(state, attempts[0].rollout)
    if any(problem.tool for problem in problems):
        metrics |= turns.metrics([a.rollout for a in attempts])
    return metrics | batch_metrics(batch)


def means(measures: dict, problems, texts) -> dict:
    """The mean of each of a task's measures over the responses for which it is not None."""
    found = {name: [value for value in map(measure, problems, texts) if value is not None]
             for name, measure in measures.items()}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def no_answer_hint(options) -> str:
    """What to try where a pretrained model does not know the form of an answer."""
    hint = "--few-shot 4 shows the form to the model"
    if options.few_shot:
        hint = "try more examples (--few-shot), a longer --max-new-tokens or a larger model"
    return ("no response of the first step has an answer between <answer> and </answer>, so none "
            f"is right; {hint}")


def kl_to_reference(reference, batch, options, rows: int = 64) -> float:
    """The KL of the sampling policy to the reference: k3, in nats, mean over tokens.

    It is measured on the first rows of the batch, or on all of them if ref_logp is there already.
    """
    if batch.ref_logp is None:
        batch = batch.rows(torch.arange(min(rows, len(batch.tokens)), device=batch.tokens.device))
        batch.ref_logp = policy_logp(reference, batch, options)
    return float((ppo.kl(batch.old_logp, batch.ref_logp) * batch.mask).sum()
                 / batch.mask.sum().clamp(min=1))


def batch_metrics(batch) -> dict:
    """Metrics of a batch after the algorithm's `prepare`: the critic's explained variance, or, for
    algorithms without a critic, the proportion of groups with a gradient. Only the groups that
    `prepare` has kept count, so it is close to 1 with dynamic sampling. `zero_std_groups`
    (evaluate.response_metrics) counts groups of equal rewards among all sampled groups."""
    mask = batch.mask if batch.loss_mask is None else batch.loss_mask
    metrics = {"loss_tokens": int(mask.sum())}
    if batch.advantages is not None:  # the critic's warm-up has none
        metrics["reward_advantage"] = reward_advantage(batch)
    if batch.step_rewards is not None:
        returns = batch.step_rewards.flip(1).cumsum(1).flip(1)
        return metrics | {
            "reward": float(batch.rewards.mean()),
            "explained_variance": ppo.explained_variance(batch.values, returns, batch.mask)}
    if batch.values is not None:
        returns = batch.rewards[:, None] * batch.mask
        return metrics | {
            "explained_variance": ppo.explained_variance(batch.values, returns, batch.mask)}
    with_gradient = batch.group[batch.advantages.abs().amax(1) > 0].unique()
    groups = len(batch.group.unique())
    return metrics | {"groups": groups,
                      "groups_with_gradient": len(with_gradient) / max(1, groups)}


def reward_advantage(batch) -> float:
    """The correlation, within groups, of a response's reward with its mean advantage; 0.0 where one
    of them is constant. Below 0, the sign of the advantage is wrong."""
    advantages = (batch.advantages * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)
    x, y = (values.double() - grpo.group_mean(values.double(), batch.group)
            for values in (batch.rewards, advantages))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return float((x * y).sum() / scale) if scale else 0.0


def average_updates(updates: list[dict]) -> dict:
    """The mean of each metric over the optimizer steps of one batch; {} for no steps.

    logp_diff is that of the first step, where the trainer's log-probs must be the sampler's. It is
    None if that step needed no log-probs.
    """
    if not updates:
        return {}
    names = dict.fromkeys((*ppo.POLICY_METRICS, *(name for u in updates for name in u)))
    mean = {name: sum(u.get(name, 0.0) for u in updates) / len(updates) for name in names}
    return mean | {"logp_diff": updates[0].get("logp_diff")}


def progress_bar(options, state: dict, folder: Path | None) -> Progress:
    """The bar of the training loop, on the first process only. It has what speaks up above it: a
    note about a busy machine, and the diagnoses of a run, whose folder is given."""
    bar = Progress("step", None if options.token_budget else options.steps, state["step"])
    bar.machine = load.BusyMachine()
    bar.run = diagnose.Run(asdict(options), read_lines(folder / "metrics.jsonl", []), []) if (
        folder) else None
    bar.said = set()
    return bar


def show_progress(bar: Progress, metrics: dict) -> None:
    """Moves the bar by one step, and shows the most important metrics. Notes a busy machine."""
    seconds = sum(v for k, v in metrics.items() if k.startswith("seconds"))
    rate = metrics["tokens"] / seconds
    bar.step(shown(metrics, rate))
    if note := bar.machine.note(1 / rate, load.system_load(), os.cpu_count() or 1):
        bar.write(note)


def shown(metrics: dict, rate: float) -> dict:
    """The metrics beside the bar, as texts: `grad` is the share of groups with a gradient, which an
    algorithm with a critic has not, and `cut` the share of responses at the token limit."""
    grad = metrics.get("groups_with_gradient")
    return {"reward": f"{metrics['reward']:.2f}", "acc": f"{metrics['accuracy']:.0%}",
            **({} if grad is None else {"grad": f"{grad:.0%}"}),
            "cut": f"{metrics['truncated']:.0%}", "len": f"{metrics['length']:.0f}",
            "ent": f"{metrics['entropy']:.2f}", "kl": f"{metrics['kl']:.2g}",
            "tok/s": f"{rate:.0f}"}


def save_step(folder: Path, metrics: dict, attempts, evaluation: dict | None, models, optimizer,
              state: dict, stopping: bool, options, bar: Progress) -> None:
    """Logs a step to metrics.jsonl, records its responses in samples.jsonl and says what is wrong.
    After an evaluation, as before stopping, writes a checkpoint unless the run has none, and after
    it the page, if the pages so far took little time. evaluation: the result of
    `evaluate_held_out`, None for a step without one."""
    run_dir.append(folder / "metrics.jsonl", [metrics])
    groups = []
    if options.report and distributed.rank() == 0:
        if evaluation:
            recorder.record_held_out(folder, evaluation, evaluation["problems"], state)
        groups = recorder.record_step(folder, attempts, bool(evaluation), models, state, options)
    if distributed.rank() == 0:
        say_diagnoses(bar, metrics, groups)
    if options.checkpoints and (evaluation or stopping):
        run_dir.save_run(folder, models, optimizer, state)
    seconds = sum(state.get(f"seconds_{stage}", 0.0) for stage in ("base", "rl", "eval"))
    if evaluation and state.get("seconds_report", 0.0) <= PAGE_SHARE * seconds:
        write_report(folder, state, options)


def say_diagnoses(bar: Progress, metrics: dict, groups: list[dict]) -> None:
    """Prints each sentence of diagnose.py once: when it first holds. A rule that fails is said once
    too, and ends no run."""
    bar.run.metrics.append(metrics)
    slim = [group | {"responses": [{k: r[k] for k in ("text", "reward", "parts")}
                                   for r in group["responses"]]} for group in groups]
    bar.run.groups[:] = [*bar.run.groups, *slim][-GROUPS_DIAGNOSED:]
    try:
        found = diagnose.new_diagnoses(bar.run, bar.said)
    except Exception as error:
        failed = {"": f"a rule of diagnose.py failed: {type(error).__name__}: {error}"}
        found = {} if "" in bar.said else failed
    for name, sentence in found.items():
        bar.said.add(name)
        bar.write(f"step {metrics['step']}: {sentence}")


def write_report(folder: Path, state: dict, options) -> Path | None:
    """Writes the page of a run, and adds its time to state["seconds_report"]. Says in one line why
    it could not; a run never ends by it."""
    if not options.report or distributed.rank() > 0:
        return None
    began = time.perf_counter()
    try:
        return report.write_report([folder])
    except Exception as error:  # whatever it is: the page can be made again from the files
        echo(f"the page of the run is not written: {type(error).__name__}: {error}")
        return None
    finally:
        spent = time.perf_counter() - began
        state["seconds_report"] = state.get("seconds_report", 0.0) + spent


def measure(state: dict, when: str, models, task, options, folder: Path | None = None) -> None:
    """Evaluates the policy, prints the result and keeps it as state[when]. `when` is "before" or
    "after" training. Records the first answers in the folder of a run, if given."""
    began = time.perf_counter()
    state[when] = evaluate.evaluate_and_print(models.sampler, models.tokenizer, task, options, when,
                                              SAMPLERS[options.sampler])
    if folder and options.report and distributed.rank() == 0:
        problems = task.held_out(options.eval_problems)
        recorder.record_held_out(folder, state[when]["greedy"], problems, state)
    state["seconds_eval"] = state.get("seconds_eval", 0.0) + time.perf_counter() - began


def evaluate_held_out(metrics: dict, models, task, options) -> dict:
    """Answers the first held-out problems greedily. Adds the accuracy to a step's metrics, for the
    curve during training, and the task's measures of responses at temperature 1. Returns the result
    of evaluate.greedy_accuracy, and the problems."""
    problems = task.held_out(options.eval_problems)[:CURVE_PROBLEMS]
    result = evaluate.greedy_accuracy(models.sampler, models.tokenizer, task, problems,
                                      options.max_new_tokens, SAMPLERS[options.sampler])
    metrics["eval_accuracy"] = result["value"]
    if task.measures:
        _, texts = evaluate.sample_responses(models.sampler, models.tokenizer, problems,
                                             seed=options.seed, generate=SAMPLERS[options.sampler],
                                             max_new_tokens=options.max_new_tokens)
        metrics |= {f"eval_{name}": value
                    for name, value in means(task.measures, problems, texts).items()}
    return result | {"problems": problems}


def write_summary(folder: Path, task, policy, optimizer, state: dict, options) -> None:
    """Writes summary.json, with --init the policy for transformers, and for a run without
    checkpoints the policy alone. Prints three answers as they were before training and as they are
    now."""
    summary = evaluate.summarize(options, state) | {
        "peak_rss_mb": run_dir.peak_rss_mb(), "processes": distributed.world_size(),
        "parameters": sum(p.numel() for g in optimizer.param_groups for p in g["params"])}
    if options.device.startswith("cuda"):
        summary["peak_gpu_mb"] = torch.cuda.max_memory_reserved() / 2**20
    if distributed.rank() > 0:
        return
    run_dir.write_json(folder / "summary.json", summary)
    if not options.checkpoints:
        tensors.save(folder / "checkpoint.pt", gpt.to_state(policy) | {"format": run_dir.FORMAT})
    if options.init:
        checkpoint.save_pretrained(policy, folder / "model", like=options.init)
        echo(f"\nthe policy, in the format of transformers: {folder}/model")
    problems = task.held_out(options.eval_problems)[:3]
    before, after = (state[when]["greedy"]["examples"][:3] for when in ("before", "after"))
    for problem, old, new in zip(problems, before, after, strict=True):
        echo(f"\n{problem.question}   (answer {problem.answer})\n  before: {old!r}\n"
             f"  after:  {new!r}")
    echo(f"\n{summary['seconds_total']:.0f} s in all; see {folder}/summary.json")
    if page := write_report(folder, state, options):
        echo(f"the run as a page: {page}")
