"""dpo.py: which responses are a pair, the loss of a pair, and micro-batches of whole pairs."""

import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import TINY
from test_train import logged, run

import config
import dpo
import model as gpt
import ppo
import tasks
import train
from engine import dedup
from infra import forward
from infra.models import Models


def options(**changes):
    return config.Options(**dict(algo="dpo", kl_coef=0.1, minibatches=1, device="cpu",
                                 dtype="float32", max_new_tokens=6) | changes)


def pair_tensors(seed=0, t=7):
    """Three pairs of responses alone: logp with gradient, ref_logp and mask, (6, 7)."""
    g = torch.Generator().manual_seed(seed)
    mask = (torch.arange(t) < torch.tensor([7, 1, 4, 6, 2, 5])[:, None]).float()
    ref = -torch.rand(6, t, generator=g) * mask
    logp = (ref + 0.4 * torch.randn(6, t, generator=g) * mask).requires_grad_()
    return logp, ref, mask


def loss_of_pairs(logp, ref, mask, **changes):
    old_logp = 0.7 * logp.detach()  # the loss must not read it
    batch = ppo.Batch(mask, mask, old_logp, None, None, ref_logp=ref, pair=torch.arange(6) // 2,
                      weights=2 * ppo.token_weights(mask, "sequence"))
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, metrics = dpo.loss(policy, None, batch, options(**changes))
    return float(loss.detach()), torch.autograd.grad(loss, logp)[0], metrics


# --- the loss

@pytest.mark.parametrize("beta, nll_coef", [(0.1, 0.0), (2.0, 0.0), (0.5, 1.0), (0.1, 0.3)])
def test_loss_gradient_and_metrics_are_the_definition_s(beta, nll_coef):
    logp, ref, mask = pair_tensors()
    rows = [[(x, y) for x, y, m in zip(*row, strict=True) if m] for row in
            zip(logp.tolist(), ref.tolist(), mask.tolist(), strict=True)]
    total, want, rewards = 0.0, torch.zeros_like(logp), []
    for i in range(3):
        right, wrong = rows[2 * i], rows[2 * i + 1]
        pair = [beta * sum(x - y for x, y in row) for row in (right, wrong)]
        probability = 1 / (1 + math.exp(pair[1] - pair[0]))
        total -= math.log(probability) + nll_coef * sum(x for x, _ in right) / len(right)
        push = beta * (1 - probability)
        want[2 * i, :len(right)] = -(push + nll_coef / len(right)) / 3
        want[2 * i + 1, :len(wrong)] = push / 3
        rewards.append(pair)
    loss, gradient, metrics = loss_of_pairs(logp, ref, mask, kl_coef=beta, nll_coef=nll_coef)
    assert loss == pytest.approx(total / 3, abs=1e-6)
    assert torch.allclose(gradient, want, atol=1e-6) and want.abs().max() > 0.01
    chosen, rejected = (sum(column) / 3 for column in zip(*rewards, strict=True))
    found = {name: float(x) for name, x in metrics.items() if "/" in name}
    assert found == pytest.approx({
        "rewards/chosen": chosen, "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sum(a > b for a, b in rewards) / 3}, abs=1e-6)


# Loss, and sum of the squared gradient, of DPOTrainer of TRL 1.16 for pair_tensors and beta 0.5:
# loss_type ["sigmoid"], and ["sigmoid", "sft"] of each pair alone, then the mean. (TRL's sft is a
# mean over the tokens of all pairs.) tests/test_trl.py calls TRL itself.
TRL = {0.0: (0.63040930, 0.16029432), 1.0: (0.97563857, 0.41283229)}


@pytest.mark.parametrize("nll_coef", TRL)
def test_loss_and_gradient_are_trl_s(nll_coef):
    loss, gradient, _ = loss_of_pairs(*pair_tensors(), kl_coef=0.5, nll_coef=nll_coef)
    assert (loss, float((gradient**2).sum())) == pytest.approx(TRL[nll_coef], abs=1e-6)


def test_at_the_reference_the_loss_is_log_2_and_the_gradient_half_of_beta():
    _, ref, mask = pair_tensors()
    loss, gradient, metrics = loss_of_pairs(ref.clone().requires_grad_(), ref, mask, kl_coef=0.2)
    assert loss == pytest.approx(math.log(2), abs=1e-6) and not metrics["rewards/chosen"]
    sign = torch.tensor([-1.0, 1.0]).repeat(3)[:, None]
    assert torch.allclose(gradient, sign * mask * 0.2 / 2 / 3, atol=1e-7)


def test_the_loss_is_finite_for_far_policies():
    _, ref, mask = pair_tensors()
    for sign in (1, -1):
        far = ref + 1e4 * sign * torch.tensor([1.0, -1.0]).repeat(3)[:, None] * mask
        loss, gradient, _ = loss_of_pairs(far.requires_grad_(), ref, mask, nll_coef=1.0)
        assert math.isfinite(loss) and gradient.isfinite().all()


# --- the pairs

@pytest.mark.parametrize("seed", range(10))
def test_pairs_are_those_of_a_loop(seed):
    g = torch.Generator().manual_seed(seed)
    correct, group = torch.randint(0, 2, (24,), generator=g).float(), torch.arange(24) % 6
    want = []
    for prompt in range(6):
        right = [i for i in range(24) if group[i] == prompt and correct[i] == 1]
        wrong = [i for i in range(24) if group[i] == prompt and correct[i] == 0]
        while right and wrong:
            want.append([right.pop(0), wrong.pop(0)])
    assert torch.stack(dpo.pairs(correct, group), 1).tolist() == want and want


def sampled(n=24, width=9, seed=0):
    """Six groups of four: random tokens, of which some rows are equal, and right answers. The last
    group is all right, the one before it all wrong."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 20, (n, width), generator=g)
    group = torch.arange(n) // 4
    tokens[:, :3] = torch.arange(n)[:, None] // 4
    lengths = torch.randint(1, width - 2, (n,), generator=g)
    tokens[1], lengths[1] = tokens[0], lengths[0]
    column = torch.arange(width)
    mask = ((column >= 3) & (column < 3 + lengths[:, None])).float()
    correct = torch.tensor([1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1] + 4 * [0] + 4 * [1.0])
    old = -torch.rand(n, width, generator=g) * mask
    ref = -torch.rand(n, width, generator=g) * mask
    old[1], ref[1] = old[0], ref[0]
    return ppo.Batch(tokens, mask, old, group, correct.clone(), correct,
                     torch.zeros(n, dtype=torch.bool), ref)


def test_responses_that_are_in_no_pair_are_dropped():
    made = dpo.prepare(sampled(), options())
    rows = [0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 14, 15]
    assert torch.equal(made.tokens, sampled().rows(torch.tensor(rows)).tokens)
    assert torch.equal(made.advantages, (2 * made.correct - 1)[:, None] * made.mask)
    nothing = dpo.prepare(replace(sampled(), correct=torch.zeros(24)), options())
    assert len(nothing.tokens) == 0
    assert list(dpo.minibatches(nothing, options(minibatches=4), random.Random(0))) == []


@pytest.mark.parametrize("parts, epochs", [(1, 1), (3, 2), (4, 1)])
def test_minibatches_hold_each_pair_once_an_epoch(parts, epochs):
    batch = dpo.prepare(sampled(), options())
    made = list(dpo.minibatches(batch, options(minibatches=parts, epochs=epochs),
                                random.Random(0)))
    assert len(made) == parts * epochs
    for part in made:
        assert part.correct.tolist() == [1.0, 0.0] * (len(part.tokens) // 2)
        assert torch.equal(part.group[0::2], part.group[1::2])
        assert torch.equal(part.pair[0::2], part.pair[1::2])
        assert torch.allclose(part.weights.sum(1), torch.full((len(part.pair),),
                                                              2 / len(part.pair)))
    numbers = sorted(i for part in made[:parts] for i in part.pair[0::2].tolist())
    assert numbers == list(range(2 + 1 + 1 + 2)), "groups of 2:2, 1:3, 3:1 and 2:2"


# --- whole pairs in a micro-batch

def tiny():
    torch.manual_seed(0)
    return gpt.GPT(gpt.Config(20, context=32, **TINY))


def test_an_update_and_its_metrics_do_not_depend_on_micro_batches(monkeypatch):
    found = []
    for size in (1, 40, 10_000):
        policy, now, cut = tiny(), options(micro_tokens=size, nll_coef=0.5), []
        monkeypatch.setattr(train, "micro_batches", lambda *given, cut=cut: cut.append(
            forward.micro_batches(*given)) or cut[0])
        metrics = train.update(Models(policy), torch.optim.SGD(policy.parameters(), lr=1.0),
                               dpo.prepare(sampled(), now), now, random.Random(0))
        found.append((len(cut[0]), list(policy.parameters()), metrics))
    assert [n for n, *_ in found][::2] == [6, 1] and 1 < found[1][0] < 6
    _, want, metrics = found[2]
    assert not torch.equal(want[0], tiny().embedding.weight)
    [part] = dpo.minibatches(dpo.prepare(sampled(), now), now, random.Random(0))
    gaps = (tiny().logp(part.tokens, part.mask).detach() - part.ref_logp) * part.mask
    chosen, rejected = (0.1 * float(gaps[first::2].sum()) / 6 for first in (0, 1))
    assert metrics["rewards/margins"] == pytest.approx(chosen - rejected, abs=1e-5)
    for _, weights, others in found[:2]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, want, strict=True))
        assert others == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize("size", [1, 30, 60, 10_000])
def test_micro_batches_of_whole_pairs_are_within_the_budget(size):
    [part] = dpo.minibatches(dpo.prepare(sampled(), options()), options(), random.Random(0))
    cut = forward.micro_batches(part, Models(None), options(micro_tokens=size))
    assert sorted(row for rows in cut for row in rows) == list(range(12))
    lengths = part.lengths()
    for rows in cut:
        assert [row // 2 for row in rows[0::2]] == [row // 2 for row in rows[1::2]]
        assert all(row % 2 == i % 2 for i, row in enumerate(rows))
        assert len(rows) == 2 or len(rows) * max(lengths[row] for row in rows) <= size


def test_equal_responses_of_two_pairs_are_not_merged():
    [part] = dpo.minibatches(dpo.prepare(sampled(), options()), options(), random.Random(0))
    assert len(part.tokens.unique(dim=0)) == 11 and len(part.tokens) == 12
    unique, copies = dedup.merge_duplicates(part)
    assert torch.equal(unique.tokens, part.tokens) and copies.tolist() == [1] * 12


# --- whole runs

def test_the_reference_samples_for_a_round(tmp_path, monkeypatch):
    """Rounds of three steps: the reference samples, and the policy moves away from it until it is
    the next reference."""
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(
        lambda problem, text: sum(text.encode()) % 2 == 0))
    assert run(tmp_path / "rounds", "--algo", "dpo", "--reward", "correct", "--lr", "0.01",
               "--ref-update-interval", "3", "--sample-from", "reference") == 0
    lines = logged(tmp_path / "rounds")
    assert all(line["kl"] < 1e-6 and line["logp_diff"] is None for line in lines), "of the sampler"
    drift = [line["approx_kl"] for line in lines]
    assert drift[0] < drift[1] < drift[2] > drift[3] > 0
