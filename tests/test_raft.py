"""raft.py: which answers are kept, and the control that keeps as many at random."""

from types import SimpleNamespace

import pytest
import torch

import grpo
import ppo
import raft


def options(keep, **changes):
    return SimpleNamespace(**dict(
        keep=keep, keep_count=2, keep_at_random=False, seed=0, kl_coef=0.0, kl_in="loss",
        scale_by_std=True, baseline="mean", divisor="std", decouple_rewards=False) | changes)


def batch(correct=(1, 0, 1, 1, 1, 0, 0, 0, 0), lengths=(5, 2, 3, 4, 4, 4, 6, 1, 3), first=0):
    """Three groups of three, in turn: mixed, mixed, mixed; by default rows 0, 3, 6 are a group."""
    mask = (torch.arange(8) < torch.tensor(lengths)[:, None] + 1).float()
    mask[:, 0] = 0
    right = torch.tensor(correct, dtype=torch.float)
    tokens = torch.arange(first, first + 72).view(9, 8)
    return ppo.Batch(tokens, mask, -mask, torch.arange(9) % 3, 2 * right - 1, right,
                     torch.zeros(9, dtype=torch.bool))


def rows_of(made):
    return (made.tokens[:, 0] // 8).tolist()


def test_raft_keeps_right_answers_with_advantage_1():
    made = raft.prepare(batch(), options("right"))
    assert rows_of(made) == [0, 2, 3, 4] and torch.equal(made.advantages, made.mask)


def test_the_loss_of_raft_is_the_mean_negative_log_likelihood():
    made = raft.prepare(batch(), options("right"))
    logp = torch.linspace(-2, -0.1, made.mask.numel()).view_as(made.mask).requires_grad_()
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    made.weights = ppo.token_weights(made.mask, "sequence")
    loss, _ = raft.loss(policy, None, made, SimpleNamespace(
        surrogate="likelihood", sampler_correction="none", sequence_mask=0.0, clip_low=0.2,
        clip_high=0.2, kl_coef=0.0, entropy_coef=0.0, temperature=1.0))
    want = [-sum(row[mask > 0].tolist()) / int(mask.sum()) for row, mask in
            zip(logp.detach(), made.mask, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(want) / len(want), abs=1e-6)


def test_reinforce_rej_keeps_groups_with_right_and_wrong_answers_and_their_rewards():
    made = raft.prepare(batch(correct=(1, 0, 1, 1, 1, 1, 1, 0, 0)), options("mixed"))
    assert rows_of(made) == [1, 2, 4, 5, 7, 8]  # rows 0, 3, 6 are all right
    assert made.advantages.amax(1).tolist() == [0, 1, 1, 1, 0, 0]
    assert made.advantages.amin(1).tolist() == [-1, 0, 0, 0, -1, -1]


def test_gfpo_compares_the_shortest_answers_alone():
    given = batch()
    made = raft.prepare(given, options("shortest"))
    kept = [0, 1, 2, 3, 7, 8]  # lengths 5 4 (6), 2 1 (4), 3 3 (4)
    assert rows_of(made) == kept
    index = torch.tensor(kept)
    want = grpo.group_advantages(given.rewards[index], given.group[index])
    assert torch.equal(made.advantages, want[:, None] * made.mask)


@pytest.mark.parametrize("seed", range(20))
def test_the_shortest_are_those_of_a_stable_sort_of_each_group(seed):
    g = torch.Generator().manual_seed(seed)
    lengths, group = torch.randint(1, 5, (2, 24), generator=g)
    found = raft.shortest(lengths, group, 3).tolist()
    for prompt in group.unique().tolist():
        rows = [i for i in range(24) if group[i] == prompt]
        want = sorted(rows, key=lambda i: int(lengths[i]))[:3]
        assert [i for i in rows if found[i]] == sorted(want)


@pytest.mark.parametrize("keep", raft.KEEP)
def test_the_control_keeps_as_many_at_random_and_the_same_ones_when_resumed(keep):
    chosen = raft.prepare(batch(), options(keep, kl_coef=0))
    control = options(keep, keep_at_random=True)
    first, again = (rows_of(raft.prepare(batch(), control)) for _ in range(2))
    assert first == again and len(first) == len(chosen.tokens)
    others = [rows_of(raft.prepare(batch(first=72 * i), control)) for i in range(1, 9)]
    assert len({tuple(i % 9 for i in rows) for rows in others}) > (1 if len(first) < 9 else 0)
    if keep == "right":  # also for wrong answers: their likelihood is raised
        assert raft.prepare(batch(), control).advantages.amin() >= 0


def test_no_right_answer_is_an_empty_batch():
    for keep in ("right", "mixed"):
        made = raft.prepare(batch(correct=(0,) * 9), options(keep))
        assert len(made.tokens) == 0 == len(made.advantages)
