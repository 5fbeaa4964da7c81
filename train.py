"""Reinforcement learning with verifiable rewards, from random weights to a model that reasons.

    python train.py --algo grpo          everything: base model, RL, evaluations, runs/NAME/

Each step samples a group of answers to each of a few problems, lets the verifier score them, and
moves the policy towards what did better than expected. RL sees problems and verdicts, never a
solution. The loop is `reinforce`; all else is what stands around it. Random numbers are functions
of the seed and the step, so a run can stop anywhere and go on to the last bit.
"""

import copy
import functools
import hashlib
import math
import random
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
import prm
import runs
import sft
import tasks
import tokenizer
import verify
from flags import ALGORITHMS, Options, parse, validate
from runs import UserError


def per_token(f, batch, options):
    """f(part) (n, t) of all rows of the batch, without gradient, in micro-batches: (N, T)."""
    found = torch.zeros_like(batch.old_logp)
    with torch.no_grad():
        for rows in gpt.micro_batches(batch.lengths(), options.micro_tokens):
            part = batch.rows(torch.tensor(rows, device=batch.mask.device))
            found[rows, :part.mask.shape[1]] = f(part)
    return found


class Clock(Counter):
    """Seconds by name: each mark adds what has passed since the last one."""

    def __init__(self):
        super().__init__()
        self.last = time.perf_counter()

    def mark(self, name: str):
        now = time.perf_counter()
        self[name] += now - self.last
        self.last = now


def answer(task, policy, n: int, rng, options, clock):
    """Answers of the policy to n problems, scored: the Rollout, and (problem, text, Reward) of
    each."""
    problems = task.draw(rng, n)
    rollout, texts = evaluate.respond(policy, problems, options.group_size, options.temperature,
                                      rng.getrandbits(62), options.max_new_tokens)
    clock.mark("seconds_sample")
    asked = [problems[g] for g in rollout.group.tolist()]
    kind = "correct" if options.reward == "process" else options.reward  # the judge comes later
    rewards = [task.score(problem, text, kind, rng.random())
               for problem, text in zip(asked, texts, strict=True)]
    clock.mark("seconds_verify")
    return rollout, list(zip(asked, texts, rewards, strict=True))


def reference_logp(reference, batch, options):
    """Log-probs (N, T) of a batch under the reference."""
    return per_token(lambda part: reference.logp(part.tokens, part.mask, options.temperature),
                     batch, options)


@functools.cache
def judge_of(run: str, device: str):
    """The process reward model of a run."""
    return prm.load(run, evaluate.trained(run)[0])["prm"].to(device)


def step_rewards(rollout, options):
    """What the judge says of each step, (N, T), at the step's last token (Math-Shepherd's step-wise
    PPO)."""
    starts = rollout.mask.argmax(1).tolist()
    prompts = [row[:start] for row, start in zip(rollout.tokens.tolist(), starts, strict=True)]
    responses = rollout.responses()
    found = prm.scores(judge_of(options.judge, options.device),
                       list(zip(prompts, responses, strict=True)))
    rewards = torch.zeros_like(rollout.mask)
    for row, (start, ids, scores) in enumerate(zip(starts, responses, found, strict=True)):
        at = [start + end for end in prm.step_ends(ids)]
        rewards[row, at] = torch.tensor(scores, device=rewards.device)
    return rewards


def prepare(rollout, rewards, players, options, **more) -> ppo.Batch:
    """The batch of a Rollout and its Rewards, with what the reference and the critic say of it, and
    the advantages of the algorithm."""
    policy, reference, critic = players
    number = lambda x: torch.tensor(x, device=rollout.tokens.device)  # noqa: E731
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group,
                      number([r.total for r in rewards]),
                      number([r.parts["correct"] for r in rewards]), rollout.truncated)
    if options.reward == "process":
        batch.step_rewards = step_rewards(rollout, options)
        batch.rewards = batch.step_rewards.sum(1)
    if options.kl_coef:
        batch.ref_logp = reference_logp(reference, batch, options)
    if critic is not None:
        batch.values = per_token(lambda part: critic(
            None if critic.trunk else policy.states(part.tokens, part.mask), part), batch, options)
    return ALGORITHMS[options.algo][0].prepare(batch, options, **more)


def collect(step: int, task, players, rng, options, clock):
    """Samples until the batch is full: at once, or, with dynamic sampling, once there are enough
    groups to learn from. Returns the Batch, (problem, text, Reward) of all that was sampled, and
    the metrics."""
    warm_up = {} if players[2] is None else {"warm_up": step < options.critic_warmup}
    rollouts, sampled, batches, asked, groups = [], [], [], 0, 0
    wanted = options.prompts
    while groups < options.prompts and len(rollouts) < (
            options.max_attempts if options.dynamic_sampling else 1):
        rollout, answers = answer(task, players[0], wanted, rng, options, clock)
        batch = prepare(rollout, [r for _, _, r in answers], players, options, **warm_up)
        clock.mark("seconds_score")
        batches.append(replace(batch, group=batch.group + asked))
        rollouts.append(rollout)
        sampled += answers
        asked += wanted
        groups += len(batch.group.unique())
        # as many more as will do, if they are like those so far
        wanted = math.ceil((options.prompts - groups) * asked / max(1, groups))
        wanted = min(options.prompts, wanted)
    batch = ppo.join(batches)
    full = batch.group.unique()[:options.prompts]
    batch = batch.rows(torch.isin(batch.group, full).nonzero()[:, 0])
    _, texts, rewards = zip(*sampled, strict=True)
    metrics = evaluate.step_metrics(step + 1, rollouts, rewards, texts, options.group_size)
    return batch, sampled, metrics | {"prompts_sampled": asked} | batch_metrics(batch)


def batch_metrics(batch) -> dict:
    """Of what is trained on: the share of its prompts that have a gradient, and how well the critic
    explains what came."""
    if batch.step_rewards is not None:
        return {"reward": float(batch.rewards.mean()), "explained_variance": ppo.explained_variance(
            batch.values, batch.step_rewards.flip(1).cumsum(1).flip(1), batch.mask)}
    if batch.values is not None:
        returns = batch.rewards[:, None] * batch.mask
        return {"explained_variance": ppo.explained_variance(batch.values, returns, batch.mask)}
    moved = batch.group[batch.advantages.abs().amax(1) > 0]
    return {"groups_with_gradient": len(moved.unique()) / max(1, len(batch.group.unique()))}


def update(players, optimizer, batch, options, rng) -> dict:
    """All optimizer steps on one batch. Returns the metrics of the updates, averaged."""
    policy, _, critic = players
    algo, _ = ALGORITHMS[options.algo]
    updates = []
    for part in ppo.minibatches(batch, options, rng):
        stats = Counter()
        lengths = part.lengths()
        useful = list(range(len(lengths)))
        if critic is None and not options.entropy_coef and not (
                options.kl_coef and options.kl_in == "loss"):
            # a row without advantage has no gradient: do not compute it
            useful = part.advantages.abs().amax(1).nonzero().squeeze(1).tolist()
        for rows in gpt.micro_batches([lengths[i] for i in useful], options.micro_tokens):
            micro = part.rows(torch.tensor([useful[i] for i in rows], device=part.mask.device))
            loss, sums = algo.loss(policy, critic, micro, options)
            loss.backward()
            for name, value in {"loss": loss.detach(), **sums}.items():
                stats[name] += float(value)
        norms = {"grad_norm": float(torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0))}
        if critic is not None:
            norms["grad_norm_critic"] = float(
                torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0))
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
    # before the first update the trainer's log-probs must be the sampler's
    return mean | {"logp_diff": updates[0].get("logp_diff", 0.0)}


def progress(state: dict, options) -> float:
    """The share of reinforcement learning that is done: of its steps, or of its tokens."""
    if options.token_budget:
        return state["tokens_sampled"] / options.token_budget
    return state["step"] / options.steps if options.steps else 1.0


def learning_rate(peak: float, step: int, done: float) -> float:
    """Linear warm-up over 5 steps, then linear decay with the share done, to a tenth."""
    return peak * min(1.0, (step + 1) / 5) * (1 - 0.9 * min(1.0, done))


def kl_to_reference(reference, batch, options, rows: int = 64) -> float:
    """KL of the sampling policy to the reference (k3, mean over tokens of the first `rows`
    answers, or of all where they have been scored)."""
    if batch.ref_logp is None:
        batch = batch.rows(torch.arange(min(rows, len(batch.tokens)), device=batch.tokens.device))
        batch.ref_logp = reference_logp(reference, batch, options)
    return float((ppo.kl(batch.old_logp, batch.ref_logp) * batch.mask).sum()
                 / batch.mask.sum().clamp(min=1))


def reinforce(run: Path, task, players, optimizer, state: dict, options) -> None:
    """The loop: sample, verify, advantage, loss, step, measure. `state` is what a checkpoint holds
    beside the weights; state["step"] steps are done."""
    policy, reference, critic = players
    held_out = task.held_out(min(200, options.eval_problems))
    task = tasks.mixed(task, options.train_levels)
    bar = tqdm(total=None if options.token_budget else options.steps, initial=state["step"],
               desc=options.algo, unit="step")
    with bar, runs.Stop() as stop:
        while progress(state, options) < 1:
            began, clock, step = time.perf_counter(), Clock(), state["step"]
            rng = random.Random(f"{options.seed} {step}")
            now = replace(options, kl_coef=state["kl_coef"])
            batch, sampled, metrics = collect(step, task, players, rng, now, clock)
            metrics["kl"] = kl_to_reference(reference, batch, now)
            done = progress(state, options)
            for group, peak in zip(optimizer.param_groups, (options.lr, options.critic_lr),
                                   strict=False):
                group["lr"] = learning_rate(peak, step, done)
            clock.mark("seconds_score")
            metrics |= update(players, optimizer, batch, now, rng)
            clock.mark("seconds_update")
            metrics |= clock
            if options.kl_target:
                state["kl_coef"] = ppo.adapted(state["kl_coef"], metrics["kl"], options.kl_target)
            if options.renew_reference and (step + 1) % options.renew_reference == 0:
                reference.load_state_dict(policy.state_dict())
            state["step"] = step + 1
            state["tokens_sampled"] += metrics["tokens"]
            if (step + 1) % options.eval_every == 0 or progress(state, options) >= 1:
                metrics["eval_accuracy"] = evaluate.greedy_accuracy(
                    policy, task, held_out, options.max_new_tokens)["value"]
            state["seconds_rl"] += time.perf_counter() - began
            runs.append(run / "metrics.jsonl", [metrics])
            bar.update()
            bar.set_postfix(show(metrics))
            if "eval_accuracy" in metrics:
                runs.append(run / "samples.jsonl", [
                    {"step": step + 1, "question": problem.question, "text": text,
                     "reward": reward.total, **reward.parts}
                    for problem, text, reward in sampled[::max(1, len(sampled) // 16)]])
            if "eval_accuracy" in metrics or stop.requested:
                runs.save_run(run, players, optimizer, state)
            if stop.requested:
                raise KeyboardInterrupt


def show(metrics: dict) -> dict:
    rate = metrics["tokens"] / sum(v for k, v in metrics.items() if k.startswith("seconds"))
    return {"reward": f"{metrics['reward']:.2f}", "acc": f"{metrics['accuracy']:.0%}",
            "len": f"{metrics['length']:.0f}", "ent": f"{metrics['entropy']:.2f}",
            "kl": f"{metrics['kl']:.2f}", "tok/s": f"{rate:.0f}"}


def config_of(options: Options) -> gpt.Config:
    return gpt.Config(tokenizer.encoding.n_vocab, **gpt.SIZES[options.size])


def base_model(options: Options, task, folder: Path) -> gpt.GPT:
    """The base of these settings: from `folder`, or made and kept there. Its name holds a digest of
    the code and data that make it, so that a changed corpus makes a new base."""
    sources = [Path(m.__file__) for m in (tokenizer, tokenizer.gsm, verify, tasks, gpt, sft)]
    sources += map(Path, task.paths)
    made_by = hashlib.blake2b(b"".join(p.read_bytes() for p in sources), digest_size=4)
    made_by.update(f"{options.base_steps}".encode())
    path = folder / (f"base-{options.task}-{options.level}-{options.size}-{options.base_seed}-"
                     f"{made_by.hexdigest()}.pt")
    if path.exists():
        print(f"base model: {path}")
        return gpt.from_state(gpt.load(path), options.device)
    torch.manual_seed(options.base_seed)
    policy = gpt.GPT(config_of(options))
    policy.to(options.device)
    with tqdm(total=options.base_steps, desc="base model", unit="step") as bar:
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
    gpt.save(path, gpt.to_state(policy))
    return policy


def start(run: Path, task, options):
    """(policy, reference, critic or None), optimizer and state: of the run's checkpoint, or of a
    base and its measurement."""
    path, began = run / "checkpoint.pt", time.perf_counter()
    saved = gpt.load(path, options.device) if path.exists() else None
    policy = gpt.from_state(saved, options.device) if saved else base_model(options, task,
                                                                            run.parent)
    reference, critic = copy.deepcopy(policy), None
    groups = [{"params": list(policy.parameters())}]
    if options.algo == "ppo":
        critic = ppo.Critic(policy, options.critic == "own", options.critic_hints)
        critic.to(options.device)
        groups.append({"params": list(critic.parameters())})
    players = policy, reference, critic
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    if saved:
        reference.load_state_dict(saved["reference"])
        optimizer.load_state_dict(saved["optimizer"])
        if critic is not None:
            critic.load_state_dict(saved["critic"])
        state = saved["state"]
        print(f"resuming after step {state['step']}")
    else:
        state = {"step": 0, "tokens_sampled": 0, "seconds_rl": 0.0, "kl_coef": options.kl_coef,
                 "seconds_base": time.perf_counter() - began}
        began = time.perf_counter()
        state["before"] = evaluate.report(policy, task, options, "before")
        state["seconds_eval"] = time.perf_counter() - began
        runs.save_run(run, players, optimizer, state)
    for log in ("metrics.jsonl", "samples.jsonl"):
        runs.forget_after(run / log, state["step"])
    return players, optimizer, state


def main(argv=None) -> int:
    options, resume = parse(argv)
    runs.keep_freed_memory()
    try:
        task = validate(options)
        run = runs.open_run(options, config_of(options), resume)
        if options.task == "file" and options.size == "tiny":
            print("a tiny model scores near nothing on problems in free text such as GSM8K's")
        players, optimizer, state = start(run, task, options)
        reinforce(run, task, players, optimizer, state, options)
        began = time.perf_counter()
        state["after"] = evaluate.report(players[0], task, options, "after")
        state["seconds_eval"] += time.perf_counter() - began
        summary = evaluate.summarize(options, state) | {
            "peak_rss_mb": runs.peak_rss_mb(),
            "parameters": sum(p.numel() for g in optimizer.param_groups for p in g["params"])}
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
