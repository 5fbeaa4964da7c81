"""passk.py: sums over all subsets, the paper's listing, and an exact expectation."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

import passk
import ppo

REWARDS = [0.3, 1.1, 0.0, 0.1, 1.0, 0.1]
# Listing 1 of 2505.15201 (sloo_minus_one) with these rewards, for each k. For k = 6 it is also
# verl's grpo_passk without division by std: 1.1 - 1.0 for the best, 0 for the others.
PAPER = {2: [0.0466666667, 0.2666666667, 0.0, 0.0066666667, 0.2333333333, 0.0066666667],
         3: [0.03, 0.29, 0.0, 0.0, 0.24, 0.0], 4: [0.0133333333, 0.2666666667, 0.0, 0.0, 0.2, 0.0],
         6: [0.0, 0.1, 0.0, 0.0, 0.0, 0.0]}


@pytest.mark.parametrize("k", PAPER)
def test_gains_are_the_paper_s_times_the_size_of_the_group(k):
    found = passk.gains(torch.tensor(REWARDS, dtype=torch.float64), k) / 6
    assert found.tolist() == pytest.approx(PAPER[k], abs=1e-9)


def gains_loop(rewards, k):
    """Over all sets of k responses: the best of the set less the best of the others in it."""
    n, gains = len(rewards), [0.0] * len(rewards)
    for chosen in itertools.combinations(range(n), k):
        for i in chosen:
            others = [rewards[j] for j in chosen if j != i]
            gains[i] += max(rewards[j] for j in chosen) - (max(others) if others else 0.0)
    return [gain * n / math.comb(n, k) for gain in gains]


@pytest.mark.parametrize("rewards", [REWARDS, [1.0, 0, 0, 1, 0, 0, 0], [-1.0, 1, -1], [0.5] * 4])
def test_gains_are_sums_over_subsets_with_ties_in_any_order(rewards):
    for k in range(1, len(rewards) + 1):
        for order in (range(len(rewards)), reversed(range(len(rewards)))):
            given = [rewards[i] for i in order]
            assert passk.gains(torch.tensor(given), k).tolist() == pytest.approx(
                gains_loop(given, k), abs=1e-5)


def test_a_right_answer_is_paid_where_the_k_minus_1_others_may_all_be_wrong():
    """3 of 5 are wrong. A right one earns k C(3, k - 1) / C(4, k - 1); from k = 5 on, nothing."""
    rewards = torch.tensor([1.0, 0, 1, 0, 0])
    for k in range(2, 6):
        want = k * math.comb(3, k - 1) / math.comb(4, k - 1)
        assert passk.gains(rewards, k).tolist() == pytest.approx([want, 0, want, 0, 0], abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_gradient_is_that_of_pass_at_k(k):
    """A policy that is right with probability p: the exact mean of A * d log p over all outcomes of
    a group of 4 is the derivative of 1 - (1 - p)^k."""
    p, total = 0.3, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=4):
        advantages = passk.gains(torch.tensor(outcome, dtype=torch.float64), k).tolist()
        score = [1 / p if right else -1 / (1 - p) for right in outcome]
        chance = math.prod(p if right else 1 - p for right in outcome)
        total += chance * sum(a * s for a, s in zip(advantages, score, strict=True)) / 4
    assert total == pytest.approx(k * (1 - p) ** (k - 1), abs=1e-9)


@pytest.mark.parametrize("k", [0, 7])
def test_a_k_beyond_the_group_is_refused(k):
    with pytest.raises(ValueError, match=f"pass@{k} needs a group"):
        passk.gains(torch.tensor(REWARDS), k)


def test_each_token_has_the_advantage_of_its_response_and_groups_do_not_mix():
    mask = torch.tensor([[0.0, 1, 1]] * 6)
    group = torch.tensor([2, 0, 2, 0, 2, 0])
    batch = ppo.Batch(mask, mask, -mask, group, torch.tensor(REWARDS))
    options = SimpleNamespace(pass_at=2, kl_coef=0.0, kl_in="loss")
    made = passk.prepare(batch, options).advantages
    for g in (0, 2):
        want = passk.gains(torch.tensor(REWARDS)[group == g], 2)
        assert torch.equal(made[group == g, 1], want)
    assert torch.equal(made, made[:, 2:] * mask)
