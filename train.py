"""Reinforcement learning with verifiable rewards, from random weights to a model that reasons.

    python train.py --algo grpo                     base model, training, evaluation: runs/NAME/
    python train.py --algo grpo --init DIR          starts from a pretrained model
    torchrun --nproc-per-node 4 train.py ...        trains on several GPUs

Each step samples a group of responses to each of 32 problems (--prompts). A verifier scores them,
and the policy moves towards the responses that did better than expected. `reinforce` is the loop:

    rollout -> reward -> advantage -> loss -> step

During reinforcement learning the policy sees problems and verdicts, never a solution. Random
numbers depend only on the seed and the step, so no random state is saved, and a resumed run gives
bit-identical results. Left out on purpose: sampling during an update (--sampler-lag simulates it).
"""

import infra.openmp  # noqa: F401  (before torch)

import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import dapo
import entropy
import evaluate
import grpo
import model as gpt
import ppo
import tasks
import verify
from config import ALGORITHMS, SAMPLERS, Options
from engine import dedup, turns
from infra import distributed, memory, partial
from infra import metrics as log
from infra import run_dir as runs
from infra.base_model import base_model
from infra.cli import config_of, notes, parse, validate
from infra.exit_code import exit_code
from infra.forward import autocast, critic_values, micro_batches, policy_logp
from infra.models import Models, make_models, refuse_divergence, refuse_infinite, restore

MAX_GRAD_NORM = 1.0


class Attempt(NamedTuple):
    """One rollout of a step, scored. DAPO's dynamic sampling may need several attempts per step."""

    prompts: int        # number of problems
    rollout: object     # sample.Rollout
    samples: list       # (problem, text, verify.Reward) of each response
    batch: ppo.Batch    # the responses that the algorithm keeps, with advantages


# --- the loop

def reinforce(task, models: Models, optimizer, options: Options, state: dict | None = None,
              run_dir: Path | None = None, on_step=lambda metrics: None) -> list[dict]:
    """Trains models.policy in place. Returns the metrics of each step, and passes each to on_step.
    state: of a checkpoint, or None. run_dir: for metrics, samples and checkpoints; None: no files.
    Raises KeyboardInterrupt after the step of a Ctrl-C, FloatingPointError for a loss of NaN."""
    state, history = state or new_state(options), []
    train_task = tasks.mix_levels(task, options.train_levels)
    with log.progress_bar(options, state, run_dir) as bar, runs.GracefulStop() as stop:
        while progress(state, options) < 1:
            timer, rng = log.Timer(), random.Random(f"{options.seed} {state['step']}")
            now = options_at(state, options)  # the options of this step
            attempts, prompts_wanted = [], now.prompts
            while prompts_wanted:  # once; with dynamic sampling, until the batch is full
                # 1. Rollout: a group of responses to each problem.
                problems = tasks.sample_problems(train_task, rng, prompts_wanted, state, now,
                                                 progress(state, now))
                problems, rollout, texts = sample_groups(
                    models, problems, rng.getrandbits(62), state, now)
                timer.lap("seconds_sample")
                # 2. Reward: the verifier scores each response.
                samples = score(train_task, problems, rollout, texts, rng, now)
                tasks.record_success(state, samples, now)
                timer.lap("seconds_verify")
                # 3. Advantage: how much better than expected each response was.
                batch = prepare(build_batch(rollout, samples, models, now), now)
                timer.lap("seconds_score")
                attempts.append(Attempt(len(problems), rollout, samples, batch))
                prompts_wanted = dapo.prompts_missing(attempts, now)
            batch = dapo.full_batch(attempts, now.prompts)
            metrics = log.step_metrics(state, attempts, batch, models, now, train_task)
            timer.lap("seconds_score")
            # 4. Loss, and 5. optimizer step, for each mini-batch.
            set_learning_rates(optimizer, state, now)
            metrics |= update(models, optimizer, batch, now, rng)
            finish_step(state, metrics, models, now)
            timer.lap("seconds_update")
            # 6. Evaluate, log and save.
            due = state["step"] % now.eval_every == 0 or progress(state, now) >= 1
            evaluation = log.evaluate_held_out(metrics, models, task, now) if due else None
            state["seconds_rl"] += timer.total()
            history.append({**metrics, **timer})
            log.show_progress(bar, history[-1])
            on_step(history[-1])
            stopping = any(distributed.all_gather(stop.requested))  # Ctrl-C in any process
            if run_dir:
                log.save_step(run_dir, history[-1], attempts, evaluation, models, optimizer, state,
                              stopping, now, bar)
            if stopping:
                raise KeyboardInterrupt
    return history


def new_state(options: Options) -> dict:
    """The state of the loop before step 1: counters, and the adaptive coefficients."""
    return {"step": 0, "tokens_sampled": 0, "seconds_rl": 0.0, "kl_coef": options.kl_coef,
            "entropy_coef": options.entropy_coef}


def progress(state: dict, options: Options) -> float:
    """The proportion of the training that is done: of its steps, or of its token budget."""
    if options.token_budget:
        return state["tokens_sampled"] / options.token_budget
    return state["step"] / options.steps if options.steps else 1.0


def options_at(state: dict, options: Options) -> Options:
    """The options of the next step. Coefficients that change with the step are set here; a schedule
    may use `progress`. set_learning_rates sets the learning rate."""
    return replace(options, kl_coef=state["kl_coef"],
                   entropy_coef=entropy.coefficient(state, options, progress(state, options)),
                   length_warmup=max(0, options.length_warmup - state["step"]),
                   critic_warmup=max(0, options.critic_warmup - state["step"]))


def learning_rate(peak: float, step: int, done: float) -> float:
    """Linear warm-up over 5 steps, times a linear decay from 1 to 0.1. done: see `progress`."""
    return peak * min(1.0, (step + 1) / 5) * (1 - 0.9 * min(1.0, done))


def set_learning_rates(optimizer, state: dict, options: Options) -> None:
    """Sets the learning rates. Parameter group 0 is the policy. Group 1, if any, is the critic."""
    for group, peak in zip(optimizer.param_groups, (options.lr, options.critic_lr), strict=False):
        group["lr"] = learning_rate(peak, state["step"], progress(state, options))


def finish_step(state: dict, metrics: dict, models: Models, options: Options) -> None:
    """Gives the sampler the new weights and counts the step. --kl-target and --entropy-target adapt
    their coefficients. --ref-update-interval makes the policy the new reference."""
    models.sync_sampler()
    state["step"] += 1
    state["tokens_sampled"] += metrics["tokens"]
    if options.kl_target:
        state["kl_coef"] = ppo.adaptive_kl_coef(state["kl_coef"], metrics["kl"], options.kl_target)
    if options.entropy_target:
        state |= entropy.adapted(state["entropy_coef"], metrics["entropy"], options.entropy_target)
    if options.ref_update_interval and state["step"] % options.ref_update_interval == 0:
        # the sampler holds the policy's weights: unsharded, and in the precision of the reference
        models.reference.load_state_dict(models.sampler.state_dict())


# --- 1. rollout, 2. reward and 3. advantage

def sample_groups(models: Models, problems, seed: int, state: dict, options: Options):
    """(problems, Rollout, texts): a group of responses to each problem. With --partial-rollouts,
    the groups that become this step's batch; their problems may be those of earlier steps."""
    if options.partial_rollouts:
        return partial.sample_groups(models, problems, seed, state, options)
    return problems, *evaluate.sample_responses(
        models.behavior, models.tokenizer, problems, options.group_size, options.temperature, seed,
        options.max_new_tokens, generate=SAMPLERS[options.sampler])


def score(task, problems, rollout, texts, rng, options) -> list[tuple]:
    """(problem, text, verify.Reward) of each response. A reward function also gets the response's
    tokens, and (text, tokens) of all responses to the same problem. Each process scores a share."""
    answers = list(zip(texts, rollout.responses(), strict=True))
    rows, size = [], options.group_size
    for i, (text, tokens) in enumerate(answers):
        first = i // size * size  # the first response to the same problem
        uniform = rng.random()    # for --reward random
        rows.append((problems[i // size], text, options.reward, uniform, tokens,
                     answers[first:first + size]))

    def scored(row):  # a process that raised here would leave the others waiting for its share
        try:
            return task.score(*row)
        except verify.RewardError as error:
            return error
    rewards = distributed.parallel_map(scored, rows)
    if errors := [reward for reward in rewards if isinstance(reward, Exception)]:
        raise errors[0]
    return [(row[0], row[1], reward) for row, reward in zip(rows, rewards, strict=True)]


def build_batch(rollout, samples, models: Models, options: Options) -> ppo.Batch:
    """The Batch of a rollout: rewards, reference log-probs, values of the critic, and scores of a
    reward model. Networks that are not in use are skipped."""
    device = rollout.tokens.device
    rewards = torch.tensor([reward.total for *_, reward in samples], device=device)
    correct = torch.tensor([reward.parts["correct"] if problem.answer else 0.0  # open: no verdict
                            for problem, _, reward in samples], device=device)
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group, rewards, correct,
                      rollout.truncated, entropy=rollout.entropy,
                      loss_mask=getattr(rollout, "loss_mask", None),
                      failed=getattr(rollout, "failed", None))
    if options.reward in runs.JUDGES:  # a reward model scores steps, or open requests
        models.reward_model.set_rewards(batch, samples, rollout, models.tokenizer)
    refuse_infinite(batch.rewards, samples, options)
    if (options.sampler_correction != "none"  # needs the log-probs of sampler and of trainer
            or options.ratio != "token" and "bfloat16" in (options.dtype, options.sampler_dtype)):
        # GSPO clips at 1 - 0.0003 and 1 + 0.0004. In bfloat16, sampler and trainer differ by more.
        batch.sampler_logp = batch.old_logp
        batch.old_logp = policy_logp(models.policy, batch, options)
    if options.kl_coef:  # the reference policy
        batch.ref_logp = policy_logp(models.reference, batch, options)
    if models.critic is not None:
        if options.critic_hints:
            batch.group_mean_others = grpo.group_mean_others(batch.rewards, batch.group)
        batch.values = critic_values(models, batch, options)
    return batch


def prepare(batch: ppo.Batch, options: Options) -> ppo.Batch:
    """The batch with the advantages of the algorithm, and with --turn-penalty those of turns."""
    batch = ALGORITHMS[options.algo][0].prepare(batch, options)
    return turns.add_turn_credit(batch, options.turn_penalty) if options.turn_penalty else batch


# --- 4. loss and 5. step

def update(models: Models, optimizer, batch: ppo.Batch, options: Options, rng) -> dict:
    """Makes one optimizer step per mini-batch of the batch. Returns the mean of their metrics."""
    algo, updates = ALGORITHMS[options.algo][0], []
    for minibatch in getattr(algo, "minibatches", entropy.minibatches)(batch, options, rng):
        # equal rows are computed once; copies (K,): how many rows each unique row stands for
        minibatch, copies = dedup.merge_duplicates(minibatch)
        parts, sums = micro_batches(minibatch, models, options), Counter()
        for rows, is_own in distributed.local_batches(parts):
            if not is_own and not distributed.is_sharded(models.policy):
                continue  # a repeat of the last micro-batch, which only sharded layers need
            rows = torch.tensor(rows, device=copies.device)
            micro = minibatch.rows(rows)
            with autocast(options):  # 4. loss; the gradients of the micro-batches add up
                loss, stats = algo.loss(models.policy, models.critic, micro, options)
            distributed.backward(loss if is_own else 0 * loss, models.policy)
            if is_own:
                sums["loss"] += loss.detach().double()
                for name, total in dedup.sum_over_tokens(stats, micro.mask, copies[rows]).items():
                    sums[name] += total.double()
        sums = Counter({name: float(total) for name, total in sums.items()})
        if parts:  # some row has a gradient: add gradients and metrics of the other processes
            distributed.all_reduce_gradients(p for g in optimizer.param_groups for p in g["params"])
            sums = distributed.all_reduce_counts(sums)
        updates.append(optimizer_step(models, optimizer, sums))  # 5. step
    return log.average_updates(updates)


def optimizer_step(models: Models, optimizer, sums: Counter) -> dict:
    """Clips the gradients and makes one step. Returns the gradient norms, the loss, and the metrics
    as means over tokens. Raises FloatingPointError before the step if a loss or a gradient is not
    finite."""
    # 1. clip the gradients
    norms = {"grad_norm": clip_gradients(models.policy)}
    if models.critic is not None:
        norms["grad_norm_critic"] = clip_gradients(models.critic)
    # 2. step, unless it would spoil the weights
    refuse_divergence(sums, norms)
    optimizer.step()
    optimizer.zero_grad()
    # 3. metrics: weighted sums (the loss, and names with a slash) or means over tokens
    loss, tokens = sums.pop("loss", 0.0), sums.pop("tokens", 0.0) or 1.0
    return norms | {"loss": loss} | {name: total if "/" in name else total / tokens
                                     for name, total in sums.items()}


def clip_gradients(model) -> float:
    """Clips the gradient to the norm MAX_GRAD_NORM. Returns the norm before the clip."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    return float(distributed.full_tensor(norm))


# --- the run around the loop

def start(run_dir: Path, task, tokenizer, options: Options, policy: gpt.GPT | None = None):
    """Makes models, optimizer and state, from the run's checkpoint, or from the policy of a recipe,
    or from a base model. Evaluates the policy of a new run."""
    # 1. the policy, and the networks around it
    path, began = run_dir / "checkpoint.pt", time.perf_counter()
    saved = runs.load_checkpoint(run_dir) if path.exists() else None
    if saved:
        policy = gpt.from_state(saved, options.device)
    elif policy is None:
        policy = base_model(options, task, tokenizer, run_dir.parent)
    models, optimizer = make_models(policy, tokenizer, options)
    # 2. drop the log lines after the checkpoint: these steps will run again
    state = restore(models, optimizer, saved) if saved else new_state(options)
    distributed.on_rank0(lambda: runs.truncate_logs(run_dir, state["step"] if saved else -1))
    # 3. continue from the checkpoint, or measure the base model
    if saved:
        distributed.print_rank0(f"resuming after step {state['step']}")
    else:
        state["seconds_base"] = time.perf_counter() - began
        log.measure(state, "before", models, task, options, run_dir)
        if options.checkpoints:
            runs.save_run(run_dir, models, optimizer, state)
    return models, optimizer, state


def train(options: Options, resume: bool) -> None:
    """A whole run: base model, evaluation, training, evaluation, summary."""
    # 1. join the other processes, check the options and the memory
    options.device = distributed.start(options.device)
    task, tokenizer = validate(options)
    for note in notes(task, options):
        distributed.print_rank0(note)
    config = config_of(options)
    memory_plan = memory.check(config, options)
    if options.init:
        distributed.print_rank0(memory_plan)
    # 2. make or open the run's folder
    run_dir = distributed.on_rank0(lambda: runs.open_run(
        options, memory.checkpoint_bytes(config, options), resume))
    if options.init:
        distributed.on_rank0(lambda: runs.save_tokenizer(run_dir, options.init, tokenizer))
    # 3. base model, training, evaluation
    models, optimizer, state = start(run_dir, task, tokenizer, options)
    reinforce(task, models, optimizer, options, state, run_dir)
    log.measure(state, "after", models, task, options)
    log.write_summary(run_dir, task, models.sampler, optimizer, state, options)


def main(argv=None) -> int:
    """The command line. Returns the exit code; see infra/exit_code.py."""
    options, resume = parse(argv)
    runs.tune_malloc()
    return exit_code(lambda: train(options, resume))


if __name__ == "__main__":
    distributed.exit_process(main())
