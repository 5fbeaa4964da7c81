"""What a step of reinforcement learning learns from: answers, what they are worth, a full batch.

    problems -> Rollout -> Rewards -> ppo.Batch with the advantages of the algorithm

Dynamic sampling comes back for more until enough groups are mixed. Of several processes each
answers, scores and values its share, and all have the same batch in the end. Left out on purpose:
sampling beside the update, by a policy that is a step behind.
"""

import functools
import math
import time
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import torch

import evaluate
import ppo
import prm
from config import ALGORITHMS
from engine import packing
from infra import distributed
from model import GPT


class Players(NamedTuple):
    """The models of a run. The sampler is the policy itself, or a copy of its weights, whole and in
    the precision of the computation."""

    policy: GPT
    reference: GPT | None = None
    critic: ppo.Critic | None = None
    sampler: GPT | None = None

    def catch_up(self) -> None:
        """Gives the sampler the policy's present weights, in the same memory (its CUDA graphs
        point there)."""
        if self.sampler is not self.policy:
            with torch.no_grad():
                for copy, weight in zip(self.sampler.parameters(), self.policy.parameters(),
                                        strict=True):
                    copy.copy_(distributed.full_tensor(weight.detach()))


def computing(options):
    """Within it products are made in bfloat16, if so asked; the weights stay in fp32."""
    return torch.autocast(options.device.partition(":")[0] or "cpu", torch.bfloat16,
                          enabled=options.dtype == "bfloat16")


def per_token(f, batch, options):
    """f(part) (n, t) of all rows of the batch, without gradient, in micro-batches, once for equal
    rows: (N, T)."""
    found = torch.zeros_like(batch.old_logp)
    first, kind = batch.kinds()
    one = batch.rows(first)
    with torch.no_grad(), computing(options):
        lengths = one.lengths()
        for rows, counts in distributed.local_batches(packing.micro_batches(
                lengths, distributed.local_token_budget(options.micro_tokens, lengths))):
            part = one.rows(torch.tensor(rows, device=first.device))
            values = f(part)
            if counts:
                found[first[rows], :part.mask.shape[1]] = values.float()
    distributed.all_reduce(found)
    return found[first[kind]]


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
    rollout, texts = evaluate.sample_responses(
        policy, problems, options.group_size, options.temperature, rng.getrandbits(62),
        options.max_new_tokens)
    clock.mark("seconds_sample")
    asked = [problems[g] for g in rollout.group.tolist()]
    kind = "correct" if options.reward == "process" else options.reward  # the judge comes later
    rewards = distributed.parallel_map(
        lambda answer: task.score(answer[0], answer[1], kind, answer[2]),
        [(problem, text, rng.random()) for problem, text in zip(asked, texts, strict=True)])
    clock.mark("seconds_verify")
    return rollout, list(zip(asked, texts, rewards, strict=True))


def policy_logp(policy, batch, options):
    """Log-probs (N, T) of a batch under a policy or the reference, computed as in training."""
    return per_token(lambda part: policy.logp(part.tokens, part.mask, options.temperature),
                     batch, options)


@functools.cache
def judge_of(run: str, device: str):
    """The process reward model of a run."""
    return prm.load(run, evaluate.load_policy(run, device))["prm"]


def step_rewards(rollout, options):
    """What the judge says of each step, (N, T), at the step's last token (Math-Shepherd's step-wise
    PPO)."""
    return prm.step_rewards(judge_of(options.judge, options.device), rollout)


def prepare(rollout, rewards, players, options, **more) -> ppo.Batch:
    """The batch of a Rollout and its Rewards, with what the reference and the critic say of it, and
    the advantages of the algorithm."""
    policy, reference, critic, _ = players
    number = lambda x: torch.tensor(x, device=rollout.tokens.device)  # noqa: E731
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group,
                      number([r.total for r in rewards]),
                      number([r.parts["correct"] for r in rewards]), rollout.truncated)
    if options.reward == "process":
        batch.step_rewards = step_rewards(rollout, options)
        batch.rewards = batch.step_rewards.sum(1)
    if options.ratio == "sequence" and options.dtype == "bfloat16":
        # the ratio of a response is clipped at 1 +- 0.0003, and two ways to round differ by more
        batch.sampler_logp = batch.old_logp
        batch.old_logp = policy_logp(policy, batch, options)
    if options.kl_coef:
        batch.ref_logp = policy_logp(reference, batch, options)
    if critic is not None:
        batch.others = ppo.mean_of_others(batch.rewards, batch.group)
        batch.values = per_token(lambda part: critic(
            None if critic.trunk else policy.hidden_states(part.tokens, part.mask), part),
            batch, options)
    return ALGORITHMS[options.algo][0].prepare(batch, options, **more)


def collect(step: int, task, players, rng, options, clock):
    """Samples until the batch is full: at once, or, with dynamic sampling, once there are enough
    groups to learn from. Returns the Batch, (problem, text, Reward) of all that was sampled, and
    the metrics."""
    warm_up = {} if players.critic is None else {"warm_up": step < options.critic_warmup}
    rollouts, sampled, batches, asked, groups = [], [], [], 0, 0
    wanted = options.prompts
    while groups < options.prompts and len(rollouts) < (
            options.max_attempts if options.dynamic_sampling else 1):
        rollout, answers = answer(task, players.sampler, wanted, rng, options, clock)
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
    moved, groups = batch.group[batch.advantages.abs().amax(1) > 0], len(batch.group.unique())
    return {"groups": groups, "groups_with_gradient": len(moved.unique()) / max(1, groups)}


def kl_to_reference(reference, batch, options, rows: int = 64) -> float:
    """KL of the sampling policy to the reference (k3, mean over tokens of the first `rows`
    answers, or of all where they have been scored)."""
    if batch.ref_logp is None:
        batch = batch.rows(torch.arange(min(rows, len(batch.tokens)), device=batch.tokens.device))
        batch.ref_logp = policy_logp(reference, batch, options)
    return float((ppo.kl(batch.old_logp, batch.ref_logp) * batch.mask).sum()
                 / batch.mask.sum().clamp(min=1))
