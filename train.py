"""Reinforcement learning with verifiable rewards, from random weights to a model that reasons.

    python train.py --algo grpo          everything: base model, RL, evaluations, runs/NAME/

Each step samples a group of answers to each of a few problems, lets the verifier score them, and
moves the policy towards what scored above its group. RL sees problems and verdicts, never a
solution. The loop is `reinforce`; all else is what stands around it. Random numbers are functions
of the seed and the step, so a run can stop anywhere and go on to the last bit.
"""

import argparse
import copy
import ctypes
import hashlib
import math
import random
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from tqdm import tqdm

import evaluate
import grpo
import model as gpt
import ppo
import runs
import sft
import tasks
import tokenizer
import verify
from runs import UserError

ALGORITHMS = {"grpo": grpo}


def flag(default, help, **more):
    return field(default=default, metadata={"help": help} | more)


@dataclass
class Options:
    algo: str = flag("grpo", "the algorithm", choices=sorted(ALGORITHMS))
    task: str = flag("arithmetic", "what to learn; try countdown", choices=sorted(tasks.TASKS))
    level: int = flag(2, "difficulty of the problems, 1 to 5")
    size: str = flag("tiny", "of the model; small is for a GPU", choices=sorted(gpt.SIZES))
    seed: int = flag(0, "of everything random; try three before you believe a result")
    steps: int = flag(40, "of reinforcement learning; 0 makes and measures the base alone")
    out: str = flag("", "the run's folder (default runs/ALGO-TASK-SEED)")
    data: str = flag("", "problems of --task file: JSONL with question and answer a line")
    eval_data: str = flag("", "its held-out problems (default: a tenth of --data)")
    device: str = flag("", "cpu, cuda, cuda:1 (default: cuda where there is one)")
    reward: str = flag("correct", "correct, or a lesson: format pays for tags, random for nothing, "
                       "claim for saying that all is checked",
                       choices=["correct", "format", "random", "claim"])
    prompts: int = flag(32, "problems a step")
    group_size: int = flag(16, "answers to each problem, compared with each other")
    temperature: float = flag(1.0, "of sampling, and of the log-probs trained on")
    max_new_tokens: int = flag(0, "longest answer (default: the task's)")
    lr: float = flag(4e-4, "learning rate; try 1e-4 and 2e-3")
    minibatches: int = flag(4, "optimizer steps per epoch over a step's answers")
    epochs: int = flag(1, "passes over a step's answers; the clip matters from the second on")
    clip_low: float = flag(0.2, "how far below 1 the ratio is trusted")
    clip_high: float = flag(0.2, "how far above 1; try 0.28 (DAPO)")
    kl_coef: float = flag(0.0, "weight of the KL to the base in the loss; try 0.02")
    kl: str = flag("k3", "estimator of that KL", choices=["k1", "k2", "k3"])
    scale_by_std: bool = flag(True, "divide advantages by the group's std; off in Dr. GRPO")
    aggregate: str = flag("sequence", "average of tokens: per response first, over all, or by a "
                          "constant", choices=["sequence", "token", "constant"])
    eval_every: int = flag(10, "steps between evaluations and checkpoints")
    eval_problems: int = flag(1000, "held-out problems of the first and the last evaluation")
    base_steps: int = flag(0, "steps of the base's training (default: the task's, and more "
                           "until what it generates is good enough)")
    micro_tokens: int = flag(2048, "tokens of a micro-batch: memory only, the gradient is the same")


def parse(argv) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for f in fields(Options):
        how = dict(f.metadata)
        if isinstance(f.default, bool):
            how["action"] = argparse.BooleanOptionalAction
        else:
            how["type"] = type(f.default)
        parser.add_argument("--" + f.name.replace("_", "-"), default=f.default, **how)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    for name in ("--top-p", "--top-k"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = vars(parser.parse_args(argv))
    if any([args.pop("top_p"), args.pop("top_k")]):
        parser.error("--top-p and --top-k are for evaluation: training scores the whole "
                     "distribution, so it has to sample from the whole")
    resume = args.pop("resume")
    options = Options(**args)
    options.out = options.out or f"runs/{options.algo}-{options.task}-{options.seed}"
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return options, resume


def validate(options: Options) -> tasks.Task:
    """Checks everything that can be wrong before any work; returns the task."""
    if options.group_size < 2:
        raise UserError(f"--group-size {options.group_size}: a group needs at least 2 answers, "
                        "since each is compared with the others")
    for name in ("prompts", "minibatches", "epochs", "eval_every", "eval_problems", "micro_tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    for name in ("steps", "clip_low", "clip_high", "kl_coef", "base_steps", "max_new_tokens"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name.replace('_', '-')} cannot be negative")
    if not (0 < options.temperature < math.inf and 0 < options.lr < math.inf):
        raise UserError("--temperature and --lr must be numbers above 0")
    if abs(options.seed) >= 2**62:
        raise UserError(f"--seed {options.seed} is too large")
    if (options.data or options.eval_data) and options.task != "file":
        raise UserError("--data and --eval-data belong to --task file")
    if options.minibatches > options.prompts * options.group_size:
        raise UserError("--minibatches is more than the answers of a step")
    try:
        torch.zeros(1, device=options.device)
        task = tasks.TASKS[options.task](options.level, options.data, options.eval_data)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {options.device} is not to be had here; try cpu") from None
    options.max_new_tokens = options.max_new_tokens or task.max_new_tokens
    options.base_steps = options.base_steps or task.base_steps
    if options.max_new_tokens + 64 > gpt.Config.context:
        raise UserError(f"--max-new-tokens {options.max_new_tokens} does not fit the context of "
                        f"{gpt.Config.context}")
    for problem in task.all():
        prompt = len(tokenizer.encode_prompt(problem.question))
        answer = max(options.max_new_tokens, len(tokenizer.encode(problem.solution)) + 64)
        if prompt + answer > gpt.Config.context:
            raise UserError(f"a prompt of {prompt} tokens with an answer of {answer} is longer "
                            f"than the context of {gpt.Config.context}: {problem.question[:40]!r}")
    return task


def update(algo, policy, reference, optimizer, batch, options, rng) -> dict:
    """All optimizer steps on one rollout. Returns the metrics of the updates, averaged."""
    if options.kl_coef:
        batch.ref_logp = torch.zeros_like(batch.old_logp)
        with torch.no_grad():
            for rows in gpt.micro_batches(batch.lengths(), options.micro_tokens):
                part = batch.rows(torch.tensor(rows, device=batch.mask.device))
                logp = reference.logp(part.tokens, part.mask, options.temperature)
                batch.ref_logp[rows, : logp.shape[1]] = logp
    updates = []
    for part in ppo.minibatches(batch, options, rng):
        stats = dict.fromkeys(("loss", *ppo.METRICS), 0.0)
        lengths = part.lengths()
        if not options.kl_coef:  # a row without advantage has no gradient: do not compute it
            useful = part.advantages.abs().amax(1).nonzero().squeeze(1).tolist()
        else:
            useful = list(range(len(lengths)))
        for rows in gpt.micro_batches([lengths[i] for i in useful], options.micro_tokens):
            micro = part.rows(torch.tensor([useful[i] for i in rows], device=part.mask.device))
            loss, sums = algo.loss(policy, micro, options)
            loss.backward()
            for name, value in {"loss": loss.detach(), **sums}.items():
                stats[name] += float(value)
        norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0))
        if not math.isfinite(stats["loss"]) or not math.isfinite(norm):
            raise FloatingPointError("the loss is no longer a number; the last checkpoint is kept. "
                                     "Try a lower --lr")
        optimizer.step()
        optimizer.zero_grad()
        tokens = stats.pop("tokens") or 1.0
        updates.append({"grad_norm": norm, "loss": stats.pop("loss")}
                       | {name: value / tokens for name, value in stats.items()})
    mean = {k: sum(u[k] for u in updates) / len(updates) for k in updates[0]}
    # before the first update the trainer's log-probs must be the sampler's
    return mean | {"logp_diff": updates[0]["logp_diff"]}


def learning_rate(options, step: int) -> float:
    """Linear warm-up over 5 steps, then linear decay to a tenth at the last step."""
    return options.lr * min(1.0, (step + 1) / 5) * (1 - 0.9 * step / max(1, options.steps))


def kl_to_reference(reference, rollout, options, rows: int = 64) -> float:
    """KL of the sampling policy to the reference (k3, mean over tokens of the first `rows`
    answers)."""
    part = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.mask, rollout.mask)
    part = part.rows(torch.arange(min(rows, len(part.tokens)), device=part.tokens.device))
    with torch.no_grad():
        ref_logp = reference.logp(part.tokens, part.mask, options.temperature)
    return float((ppo.kl(part.old_logp, ref_logp) * part.mask).sum() / part.mask.sum())


def reinforce(run: Path, task, policy, reference, optimizer, state: dict, options) -> None:
    """The loop: sample, verify, advantage, loss, step, measure. `state` is what a checkpoint holds
    beside the weights; state["step"] steps are done."""
    algo = ALGORITHMS[options.algo]
    held_out = task.held_out(min(200, options.eval_problems))
    bar = tqdm(total=options.steps, initial=state["step"], desc=options.algo, unit="step")
    with bar, runs.Stop() as stop:
        for step in range(state["step"], options.steps):
            began = time.perf_counter()
            rng = random.Random(f"{options.seed} {step}")
            problems = task.draw(rng, options.prompts)
            rollout, texts = evaluate.respond(policy, problems, options.group_size,
                                              options.temperature, rng.getrandbits(62),
                                              options.max_new_tokens)
            sampled = time.perf_counter()
            rewards = [task.score(problems[g], text, options.reward, rng.random())
                       for g, text in zip(rollout.group.tolist(), texts, strict=True)]
            verified = time.perf_counter()
            totals = torch.tensor([r.total for r in rewards], device=options.device)
            batch = algo.prepare(rollout, totals, options)
            metrics = evaluate.step_metrics(step + 1, rollout, rewards, texts, options)
            metrics["kl"] = kl_to_reference(reference, rollout, options)
            optimizer.param_groups[0]["lr"] = learning_rate(options, step)
            metrics |= update(algo, policy, reference, optimizer, batch, options, rng)
            metrics |= {"seconds_sample": sampled - began, "seconds_verify": verified - sampled,
                        "seconds_update": time.perf_counter() - verified}
            if (step + 1) % options.eval_every == 0 or step + 1 == options.steps:
                metrics["eval_accuracy"] = evaluate.greedy_accuracy(
                    policy, task, held_out, options.max_new_tokens)["value"]
            state["step"] = step + 1
            state["tokens_sampled"] += metrics["tokens"]
            state["seconds_rl"] += time.perf_counter() - began
            runs.append(run / "metrics.jsonl", [metrics])
            bar.update()
            bar.set_postfix(show(metrics))
            if "eval_accuracy" in metrics:
                runs.append(run / "samples.jsonl", [
                    {"step": step + 1, "question": problems[rollout.group[i]].question,
                     "text": texts[i], "reward": rewards[i].total, **rewards[i].parts}
                    for i in range(0, len(texts), max(1, len(texts) // 16))])
            if "eval_accuracy" in metrics or stop.requested:
                runs.save_run(run, policy, reference, optimizer, state)
            if stop.requested:
                raise KeyboardInterrupt


def show(metrics: dict) -> dict:
    rate = metrics["tokens"] / (metrics["seconds_sample"] + metrics["seconds_update"])
    return {"reward": f"{metrics['reward']:.2f}", "acc": f"{metrics['accuracy']:.0%}",
            "len": f"{metrics['length']:.0f}", "ent": f"{metrics['entropy']:.2f}",
            "kl": f"{metrics['kl']:.2f}", "tok/s": f"{rate:.0f}"}


def config_of(options: Options) -> gpt.Config:
    return gpt.Config(tokenizer.encoding.n_vocab, **gpt.SIZES[options.size])


def base_model(options: Options, task, folder: Path) -> gpt.GPT:
    """The base of these settings: from `folder`, or made and kept there. Its name holds a digest of
    the code and data that make it, so that a changed corpus makes a new base."""
    sources = [Path(m.__file__) for m in (tokenizer, tokenizer.gsm, verify, tasks, gpt, sft)]
    sources += [Path(path) for path in (options.data, options.eval_data) if path]
    made_by = hashlib.blake2b(b"".join(p.read_bytes() for p in sources), digest_size=4)
    made_by.update(f"{options.base_steps}".encode())
    path = folder / (f"base-{options.task}-{options.level}-{options.size}-{options.seed}-"
                     f"{made_by.hexdigest()}.pt")
    if path.exists():
        print(f"base model: {path}")
        return gpt.from_state(gpt.load(path), options.device)
    torch.manual_seed(options.seed)
    policy = gpt.GPT(config_of(options))
    policy.to(options.device)
    with tqdm(total=options.base_steps, desc="base model", unit="step") as bar:
        def progress(loss):
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
        for round in range(3):  # gated on what it generates, not on its loss
            sft.train(policy, task, options.base_steps, options.seed + 1000 * round, progress)
            if options.base_steps != task.base_steps:  # the user wants so many and no more
                break
            solved = sft.solved_in_16(policy, task)
            if solved >= task.gate:
                break
            bar.total += options.base_steps
            bar.write(f"the base solves {solved:.0%} of its problems in 16 samples, not yet "
                      f"{task.gate:.0%}: training goes on")
    gpt.save(path, gpt.to_state(policy))
    return policy


def start(run: Path, task, options):
    """Policy, reference, optimizer and state: of the run's checkpoint, or of a base and its
    measurement."""
    adam = dict(lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    if (run / "checkpoint.pt").exists():
        saved = gpt.load(run / "checkpoint.pt", options.device)
        policy = gpt.from_state(saved, options.device)
        reference = gpt.from_state(saved | {"model": saved["reference"]}, options.device)
        optimizer = torch.optim.AdamW(policy.parameters(), **adam)
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
        print(f"resuming after step {state['step']}")
    else:
        began = time.perf_counter()
        policy = base_model(options, task, run.parent)
        reference = copy.deepcopy(policy)
        optimizer = torch.optim.AdamW(policy.parameters(), **adam)
        state = {"step": 0, "tokens_sampled": 0, "seconds_rl": 0.0,
                 "seconds_base": time.perf_counter() - began}
        began = time.perf_counter()
        state["before"] = evaluate.report(policy, task, options, "before")
        state["seconds_eval"] = time.perf_counter() - began
        runs.save_run(run, policy, reference, optimizer, state)
    for log in ("metrics.jsonl", "samples.jsonl"):
        runs.forget_after(run / log, state["step"])
    return policy, reference, optimizer, state


def keep_freed_memory() -> None:
    """Tells glibc to reuse large freed blocks rather than hand them back: fresh pages cost a fault
    each, which is a large share of a small model's time on a CPU. Elsewhere it does nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)   # M_MMAP_THRESHOLD
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError, TypeError):
        pass


def main(argv=None) -> int:
    options, resume = parse(argv)
    keep_freed_memory()
    try:
        task = validate(options)
        run = runs.open_run(options, config_of(options), resume)
        if options.task == "file" and options.size == "tiny":
            print("a tiny model scores near nothing on problems in free text such as GSM8K's")
        policy, reference, optimizer, state = start(run, task, options)
        reinforce(run, task, policy, reference, optimizer, state, options)
        began = time.perf_counter()
        state["after"] = evaluate.report(policy, task, options, "after")
        state["seconds_eval"] += time.perf_counter() - began
        summary = evaluate.summarize(options, state) | {"peak_rss_mb": runs.peak_rss_mb()}
        runs.write_json(run / "summary.json", summary)
        shown = task.held_out(min(3, options.eval_problems))
        old_texts, new_texts = (state[when]["greedy"]["examples"] for when in ("before", "after"))
        for problem, old, new in zip(shown, old_texts, new_texts, strict=True):
            print(f"\n{problem.question}   (answer {problem.answer})\n  before: {old!r}\n"
                  f"  after:  {new!r}")
        print(f"\n{summary['seconds_total']:.0f} s in all; see {run}/summary.json")
        return 0
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; go on with the same command and --resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
