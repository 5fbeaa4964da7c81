"""dapo.py: each trick alone, and with all of them off, GRPO."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import dapo
import grpo
import ppo


def options(**changes):
    return SimpleNamespace(**dict(
        overlong="none", overlong_buffer=4, max_new_tokens=10, dynamic_sampling=False, kl_coef=0.0,
        kl_in="loss", scale_by_std=True, baseline="mean", divisor="std",
        decouple_rewards=False) | changes)


def batch(correct=(1, 0, 1, 1, 0, 0, 0, 1), lengths=(1, 2, 3, 4, 5, 6, 8, 10)):
    """Four groups of two: mixed, all right, all wrong, mixed."""
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None] + 1).float()
    mask[:, 0] = 0
    right = torch.tensor(correct, dtype=torch.float)
    return ppo.Batch(torch.arange(96).view(8, 12), mask, -mask, torch.arange(8) // 2,
                     2 * right - 1, right, torch.tensor(lengths) == 10)


def test_with_everything_off_it_is_grpo():
    mine, plain = dapo.prepare(batch(), options()), grpo.prepare(batch(), options())
    assert torch.equal(mine.advantages, plain.advantages) and torch.equal(mine.tokens, plain.tokens)
    assert dapo.loss is grpo.loss


def test_rewards_of_one_and_minus_one_give_the_same_advantages_as_of_one_and_zero():
    other = replace(batch(), rewards=batch().correct)
    found = [grpo.prepare(b, options()).advantages for b in (batch(), other)]
    assert torch.allclose(*found, atol=1e-5)


def test_informative_groups_are_mixed():
    found = dapo.informative(batch().correct, batch().group)
    assert found.tolist() == [True, True, False, False, False, False, True, True]


def test_informative_groups_may_lie_in_any_order_and_have_any_size():
    group = torch.tensor([3, 0, 1, 3, 1, 0, 3, 1, 5] + [6] * 16)
    correct = torch.tensor([1.0, 0, 1, 1, 1, 0, 0, 1, 1] + [0.0] * 15 + [1.0])  # 3 and 6 are mixed
    assert dapo.informative(correct, group).tolist() == [g in (3, 6) for g in group.tolist()]


def test_dynamic_sampling_keeps_what_has_a_gradient():
    made = dapo.prepare(batch(), options(dynamic_sampling=True))
    assert made.group.tolist() == [0, 0, 3, 3] and made.advantages.abs().amax(1).gt(0).all()


def test_the_filter_looks_at_correctness_and_not_at_the_shaped_reward():
    """The last two are both wrong and of unlike length, so their shaped rewards differ."""
    one = batch(correct=(1, 0, 1, 1, 0, 0, 0, 0))
    shaped = dapo.prepare(one, options(overlong="soft"))
    assert shaped.advantages[6:].abs().amax(1).gt(0).all()
    kept = dapo.prepare(one, options(overlong="soft", dynamic_sampling=True))
    assert kept.group.tolist() == [0, 0]


def test_right_answers_that_are_punished_for_their_length_are_still_all_right():
    """The last group is right twice, and the second is as long as the limit: 1 - 1 = 0."""
    kept = dapo.prepare(batch(correct=(1, 0, 1, 1, 0, 0, 1, 1)),
                        options(overlong="soft", dynamic_sampling=True))
    assert kept.group.tolist() == [0, 0]


def test_nothing_to_learn_from_is_an_empty_batch():
    made = dapo.prepare(batch(correct=(1,) * 8), options(dynamic_sampling=True))
    assert len(made.tokens) == 0 == len(made.advantages)


@pytest.mark.parametrize("length", range(14))
def test_the_penalty_at_its_corners_is_the_paper_s(length):
    """Equation 13: 0 to 6 of 10 tokens, then down to -1."""
    found = float(dapo.overlong_penalty(torch.tensor([float(length)]), 10, 4))
    want = 0 if length <= 6 else (6 - length) / 4 if length <= 10 else -1
    assert found == pytest.approx(want)


@pytest.mark.parametrize("prompts, sampled, kept, want", [
    (8, 8, 8, 0), (8, 8, 9, 0), (8, 8, 4, 8), (8, 8, 6, 3), (8, 8, 0, 8), (8, 16, 7, 3)])
def test_as_many_prompts_are_sampled_next_as_will_fill_the_batch(prompts, sampled, kept, want):
    """If they are mixed as often as those so far; never more than a whole batch."""
    assert dapo.prompts_to_sample(prompts, sampled, kept) == want


def test_the_penalty_at_the_lengths_of_the_paper():
    """16,384 tokens expected, and 4,096 more in which the penalty grows."""
    lengths = torch.tensor([100.0, 16_384, 18_432, 20_480, 30_000])
    assert dapo.overlong_penalty(lengths, 20_480, 4_096).tolist() == [0, 0, -0.5, -1, -1]


def test_soft_punishment_is_added_to_the_reward():
    made = dapo.prepare(batch(), options(overlong="soft", scale_by_std=False))
    penalty = torch.tensor([0, 0, 0, 0, 0, 0, -0.5, -1.0])
    want = grpo.group_advantages(batch().rewards + penalty, batch().group, False)
    assert torch.allclose(made.advantages.amax(1) + made.advantages.amin(1), want, atol=1e-6)


def test_masked_answers_count_in_the_mean_but_not_in_the_loss():
    made = dapo.prepare(batch(), options(overlong="mask"))
    plain = grpo.prepare(batch(), options())
    assert len(made.tokens) == 7 and not made.truncated.any()
    width = made.mask.shape[1]
    assert torch.equal(made.advantages, plain.advantages[:7, :width])


def test_token_level_weighs_every_token_of_the_update_the_same():
    """Over all rows, not within a row or a micro-batch; a long answer weighs more."""
    weights = ppo.token_weights(batch().mask, "token")
    assert weights[batch().mask > 0].unique().tolist() == [pytest.approx(1 / 39)]
