"""Reinforcement learning with verifiable rewards, from random weights to a model that reasons.

    python train.py --algo grpo                     everything: base, RL, evaluations, runs/NAME/
    python train.py --algo grpo --init DIR          from a pretrained model in its place
    torchrun --nproc-per-node 4 train.py ...        the same on several GPUs

Each step samples a group of answers to each of a few problems, lets the verifier score them, and
moves the policy towards what did better than expected. RL sees problems and verdicts, never a
solution. The loop is `reinforce`; all else is what stands around it. Random numbers are functions
of the seed and the step, so a run can stop anywhere and go on to the last bit.
"""

import copy
import hashlib
import math
import random
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import evaluate
import model as gpt
import ppo
import sft
import tasks
import tokenizer
import verify
from collect import Clock, Players, collect, computing, kl_to_reference
from config import ALGORITHMS, Options, needs_critic
from engine import packing
from infra import checkpoint, distributed, memory, run_dir, tensors
from infra.cli import config_of, parse, validate
from infra.run_dir import UserError


def update(players, optimizer, batch, options, rng) -> dict:
    """All optimizer steps on one batch. Returns the metrics of the updates, averaged."""
    policy, critic = players.policy, players.critic
    algo, _ = ALGORITHMS[options.algo]
    updates = []
    for part in ppo.minibatches(batch, options, rng):
        stats = Counter()
        lengths = part.lengths()
        useful = list(range(len(lengths)))
        if critic is None and not options.entropy_coef and not (
                options.kl_coef and options.kl_in == "loss"):
            # a row without advantage has no gradient: do not compute it (unless yours has one)
            useful = part.advantages.abs().amax(1).nonzero().squeeze(1).tolist()
        lengths = [lengths[i] for i in useful]
        micros = packing.micro_batches(
            lengths, distributed.local_token_budget(options.micro_tokens, lengths))
        for rows, counts in distributed.local_batches(micros):
            if not counts and not distributed.is_sharded(policy):
                continue
            micro = part.rows(torch.tensor([useful[i] for i in rows], device=part.mask.device))
            with computing(options):
                loss, sums = algo.loss(policy, critic, micro, options)
            distributed.backward(loss if counts else 0 * loss, policy)
            for name, value in {"loss": loss.detach(), **sums}.items() if counts else ():
                stats[name] += value.double()
        stats = Counter({name: float(x) for name, x in stats.items()})  # here the host waits
        if micros:
            distributed.all_reduce_gradients(p for g in optimizer.param_groups for p in g["params"])
            stats = distributed.all_reduce_counts(stats)
        norms = {"grad_norm": norm_of(policy)}
        if critic is not None:
            norms["grad_norm_critic"] = norm_of(critic)
            if not math.isfinite(stats["value_loss"] + norms["grad_norm_critic"]):
                raise FloatingPointError("the critic diverged: its loss is no longer a number; the "
                                         "last checkpoint is kept. Try a lower --critic-lr")
        if not math.isfinite(stats["loss"]) or not math.isfinite(norms["grad_norm"]):
            raise FloatingPointError("the loss is no longer a number; the last checkpoint is kept. "
                                     "Try a lower --lr")
        optimizer.step()
        optimizer.zero_grad()
        tokens = stats.pop("tokens", 0.0) or 1.0
        updates.append(norms | {"loss": stats.pop("loss", 0.0)}
                       | {name: value / tokens for name, value in stats.items()})
    if not updates:  # no group had anything to teach
        return {}
    names = dict.fromkeys((*ppo.METRICS, *(name for u in updates for name in u)))
    mean = {name: sum(u.get(name, 0.0) for u in updates) / len(updates) for name in names}
    # before the first update the trainer's log-probs must be the sampler's; None: none was needed
    return mean | {"logp_diff": updates[0].get("logp_diff")}


def norm_of(model) -> float:
    """The norm of the gradient, which is then cut to at most 1."""
    return float(distributed.full_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))


def progress(state: dict, options) -> float:
    """The share of reinforcement learning that is done: of its steps, or of its tokens."""
    if options.token_budget:
        return state["tokens_sampled"] / options.token_budget
    return state["step"] / options.steps if options.steps else 1.0


def learning_rate(peak: float, step: int, done: float) -> float:
    """Linear warm-up over 5 steps, then linear decay with the share done, to a tenth."""
    return peak * min(1.0, (step + 1) / 5) * (1 - 0.9 * min(1.0, done))


def reinforce(run: Path, task, players, optimizer, state: dict, options) -> None:
    """The loop: sample, verify, advantage, loss, step, measure. `state` is what a checkpoint holds
    beside the weights; state["step"] steps are done."""
    held_out = task.held_out(options.eval_problems)[:200]
    task = tasks.mixed(task, options.train_levels)
    bar = tqdm(total=None if options.token_budget else options.steps, initial=state["step"],
               desc=options.algo, unit="step", disable=distributed.rank() > 0)
    with bar, run_dir.GracefulStop() as stop:
        while progress(state, options) < 1:
            began, clock, step = time.perf_counter(), Clock(), state["step"]
            rng = random.Random(f"{options.seed} {step}")
            now = replace(options, kl_coef=state["kl_coef"])
            batch, sampled, metrics = collect(step, task, players, rng, now, clock)
            metrics["kl"] = kl_to_reference(players.reference, batch, now)
            done = progress(state, options)
            for group, peak in zip(optimizer.param_groups, (options.lr, options.critic_lr),
                                   strict=False):
                group["lr"] = learning_rate(peak, step, done)
            clock.mark("seconds_score")
            metrics |= update(players, optimizer, batch, now, rng)
            players.catch_up()
            clock.mark("seconds_update")
            metrics |= clock
            if options.kl_target:
                state["kl_coef"] = ppo.adapted(state["kl_coef"], metrics["kl"], options.kl_target)
            if options.ref_update_interval and (step + 1) % options.ref_update_interval == 0:
                players.reference.load_state_dict(players.sampler.state_dict())
            state["step"] = step + 1
            state["tokens_sampled"] += metrics["tokens"]
            if (step + 1) % options.eval_every == 0 or progress(state, options) >= 1:
                metrics["eval_accuracy"] = evaluate.greedy_accuracy(
                    players.sampler, task, held_out, options.max_new_tokens)["value"]
            state["seconds_rl"] += time.perf_counter() - began
            run_dir.append(run / "metrics.jsonl", [metrics])
            bar.update()
            bar.set_postfix(show(metrics))
            if "eval_accuracy" in metrics:
                run_dir.append(run / "samples.jsonl", [
                    {"step": step + 1, "question": problem.question, "text": text,
                     "reward": reward.total, **reward.parts}
                    for problem, text, reward in sampled[::max(1, len(sampled) // 16)]])
            asked = any(distributed.all_gather(stop.requested))
            if "eval_accuracy" in metrics or asked:
                run_dir.save_run(run, players, optimizer, state)
            if asked:
                raise KeyboardInterrupt


def show(metrics: dict) -> dict:
    rate = metrics["tokens"] / sum(v for k, v in metrics.items() if k.startswith("seconds"))
    return {"reward": f"{metrics['reward']:.2f}", "acc": f"{metrics['accuracy']:.0%}",
            "len": f"{metrics['length']:.0f}", "ent": f"{metrics['entropy']:.2f}",
            "kl": f"{metrics['kl']:.2f}", "tok/s": f"{rate:.0f}"}


def made_by(task, base_steps: int) -> str:
    """A digest of the code and data that make a base. What verify.reward pays makes none, so that
    a reward of your own needs no new one."""
    modules = (tokenizer, tasks, tasks.chain, tasks.files, tasks.gsm, tasks.code, verify, gpt,
               packing, sft, sys.modules[type(task).__module__])
    paths = [*dict.fromkeys(Path(m.__file__) for m in modules), *map(Path, task.paths)]
    code = b"".join(path.read_bytes() for path in paths) + f"{base_steps}".encode()
    code = re.sub(rb"\n(?:def reward\(|REWARDS = ).*?\n\n(?=\n)", b"", code, flags=re.DOTALL)
    return hashlib.blake2b(code, digest_size=4).hexdigest()


def base_model(options: Options, task, folder: Path) -> gpt.GPT:
    """The base of these settings: the pretrained one of --init, or one that is in `folder`, or made
    and kept there. Its name tells what made it, so that a changed corpus makes a new base. Of
    several processes all make it, and all go on with the first's."""
    if options.init:
        return checkpoint.load_pretrained(options.init, options.device, torch.float32)
    path = folder / (f"base-{options.task}-{options.level}-{options.size}-{options.base_seed}-"
                     f"{made_by(task, options.base_steps)}.pt")
    if distributed.on_rank0(path.exists):  # asked once: another process may be about to write it
        distributed.print_rank0(f"base model: {path}")
        return gpt.from_state(tensors.load(path), options.device)
    torch.manual_seed(options.base_seed)
    policy = gpt.GPT(config_of(options))
    policy.to(options.device)
    with tqdm(total=options.base_steps, desc="base model", unit="step",
              disable=distributed.rank() > 0) as bar:
        def progress(loss):
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
        for round in range(3):  # gated on what it generates, not on its loss
            sft.train(policy, task, options.base_steps, options.base_seed + 1000 * round, progress)
            if options.base_steps != task.base_steps:  # the user wants so many and no more
                break
            solved = sft.solved_in_16(policy, task)
            if solved >= task.gate:
                break
            bar.total += options.base_steps
            bar.write(f"the base solves {solved:.0%} of its problems in 16 samples, not yet "
                      f"{task.gate:.0%}: training goes on")
    distributed.on_rank0(lambda: tensors.save(path, gpt.to_state(policy)))
    if distributed.world_size() == 1:
        return policy
    return gpt.from_state(tensors.load(path), options.device)


def compile_blocks(policy) -> None:
    """Fuses what stands between the products of a block, for the update. Compiling takes half a
    minute, at the first update; shapes may differ from then on."""
    for block in policy.blocks:
        block.compile(dynamic=True)


def start(run: Path, task, options):
    """The Players, the optimizer and the state: of the run's checkpoint, or of a base and its
    measurement."""
    path, began = run / "checkpoint.pt", time.perf_counter()
    saved = run_dir.load_checkpoint(run) if path.exists() else None
    policy = gpt.from_state(saved, options.device) if saved else base_model(options, task,
                                                                            run.parent)
    policy.checkpointing = options.gradient_checkpointing
    precision = getattr(torch, options.dtype)
    reference, critic, sampler = copy.deepcopy(policy).cast(precision), None, policy
    if options.shard or options.compile or precision != torch.float32:
        sampler = copy.deepcopy(policy).cast(precision)
    if options.compile:
        compile_blocks(policy)
    if options.shard:
        distributed.shard(policy)
    groups = [{"params": list(policy.parameters())}]
    if needs_critic(options.algo):
        critic = ppo.Critic(policy, options.critic == "own", options.critic_hints)
        critic.to(options.device)
        groups.append({"params": list(critic.parameters())})
    players = Players(policy, reference, critic, sampler)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=options.device.startswith("cuda"))
    if saved:
        reference.load_state_dict(saved["reference"])
        distributed.load_moments(optimizer, saved["optimizer"])
        if critic is not None:
            critic.load_state_dict(saved["critic"])
        state = saved["state"]
        distributed.print_rank0(f"resuming after step {state['step']}")
    else:
        state = {"step": 0, "tokens_sampled": 0, "seconds_rl": 0.0, "kl_coef": options.kl_coef,
                 "seconds_base": time.perf_counter() - began}
        began = time.perf_counter()
        state["before"] = evaluate.evaluate_and_print(sampler, task, options, "before")
        state["seconds_eval"] = time.perf_counter() - began
        run_dir.save_run(run, players, optimizer, state)
    for log in ("metrics.jsonl", "samples.jsonl"):
        distributed.on_rank0(lambda log=log: run_dir.truncate_log(run / log, state["step"]))
    return players, optimizer, state


def finish(run: Path, task, players, optimizer, state: dict, options) -> None:
    """Measures what came of it and writes it down."""
    began = time.perf_counter()
    state["after"] = evaluate.evaluate_and_print(players.sampler, task, options, "after")
    state["seconds_eval"] += time.perf_counter() - began
    summary = evaluate.summarize(options, state) | {
        "peak_rss_mb": run_dir.peak_rss_mb(), "processes": distributed.world_size(),
        "parameters": sum(p.numel() for g in optimizer.param_groups for p in g["params"])}
    if options.device.startswith("cuda"):
        summary["peak_gpu_mb"] = torch.cuda.max_memory_reserved() / 2**20
    if distributed.rank() > 0:
        return
    run_dir.write_json(run / "summary.json", summary)
    if options.init:
        checkpoint.save_pretrained(players.sampler, run / "model", like=options.init)
        print(f"\nthe policy, for transformers and others: {run}/model")
    shown = task.held_out(options.eval_problems)[:3]
    old_texts, new_texts = (state[when]["greedy"]["examples"] for when in ("before", "after"))
    for problem, old, new in zip(shown, old_texts, new_texts, strict=True):
        print(f"\n{problem.question}   (answer {problem.answer})\n  before: {old!r}\n"
              f"  after:  {new!r}")
    print(f"\n{summary['seconds_total']:.0f} s in all; see {run}/summary.json")


def main(argv=None) -> int:
    options, resume = parse(argv)
    run_dir.tune_malloc()
    code, words = 0, ""
    try:
        options.device = distributed.start(options.device)
        task = validate(options)
        config = config_of(options)
        said = memory.check(config, options)
        if options.init:
            distributed.print_rank0(said)
        run = distributed.on_rank0(lambda: run_dir.open_run(options, config, resume))
        if options.init:
            distributed.on_rank0(lambda: run_dir.save_tokenizer(run, options.init))
        if options.task == "file" and options.size == "tiny" and not options.init:
            distributed.print_rank0("a tiny model scores near nothing on problems in free text "
                                    "such as GSM8K's")
        players, optimizer, state = start(run, task, options)
        reinforce(run, task, players, optimizer, state, options)
        finish(run, task, players, optimizer, state, options)
    except UserError as error:
        code, words = 2, f"train.py: {error}"
    except (FloatingPointError, OSError) as error:
        code, words = 1, f"train.py: {error}"
    except KeyboardInterrupt:
        code, words = 130, "\nstopped; go on with the same command and --resume"
    except RuntimeError as error:
        if not distributed.is_peer_failure(error):
            raise
        code, words = 1, (f"train.py: another process has died, and this one cannot go on without "
                          f"it; the last checkpoint is kept, --resume goes on from there ({error})")
    if words and (distributed.rank() == 0 or code == 1):
        print(words, file=sys.stderr)
    distributed.stop()
    return code


if __name__ == "__main__":
    distributed.exit_process(main())
