"""entropy.py against loops over floats and the numbers of verl's and TRL's functions."""

import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import response_tensors

import entropy
import grpo
import ppo
from config import Options
from infra import forward


def options(**changes):
    return Options(**dict(aggregate="token", minibatches=1, temperature=1.0) | changes)


def batch(seed=0):
    """logp and the batch of small.response_tensors. Rows 2k and 2k + 1 are a group."""
    logp, old, _, mask, advantages, entropies = response_tensors(seed)
    return logp, ppo.Batch(mask, mask, old, torch.arange(len(mask)) // 2, advantages,
                           advantages=advantages[:, None] * mask,
                           weights=ppo.token_weights(mask, "token"), entropy=entropies)


def filtered(given, o, seed=0):
    return entropy.TOKEN_FILTERS[o.token_filter](given, o, random.Random(seed))


def loss_and_gradient(logp, given, o):
    policy = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    loss, _ = grpo.loss(policy, None, given, o)
    return float(loss.detach()), torch.autograd.grad(loss, logp)[0]


def covariance_loop(given):
    """{(row, column): covariance} of the tokens."""
    tokens = [(int(i), int(t)) for i, t in given.mask.nonzero()]
    means = [sum(float(x[at]) for at in tokens) / len(tokens)
             for x in (given.advantages, given.old_logp)]
    return {at: (float(given.advantages[at]) - means[0]) * (float(given.old_logp[at]) - means[1])
            for at in tokens}


# --- filters

def test_the_covariance_of_a_token_is_the_loop_s_and_its_mean_is_that_of_the_step():
    _, given = batch()
    found, want = entropy.covariance(given.advantages, given.old_logp, given.mask), \
        covariance_loop(given)
    assert all(float(found[at]) == pytest.approx(x, abs=1e-6) for at, x in want.items())
    assert (found == -math.inf).sum() == (given.mask == 0).sum()
    inside = given.mask > 0
    pairs = torch.stack([given.advantages[inside], given.old_logp[inside]])
    assert float(found[inside].mean()) == pytest.approx(float(pairs.cov(correction=0)[0, 1]),
                                                        abs=1e-6)


def test_clip_cov_silences_so_many_tokens_between_the_bounds_at_random(monkeypatch):
    monkeypatch.setattr(entropy, "COV_LOW", 0.02)
    monkeypatch.setattr(entropy, "COV_HIGH", 0.3)
    _, given = batch()
    high = {at for at, x in covariance_loop(given).items() if 0.02 < x < 0.3}
    assert 5 <= len(high) < int(given.mask.sum()) - 2  # of 25 tokens
    seen = set()
    for seed in range(30):
        made = filtered(given, options(token_filter="clip-cov", cov_ratio=0.13), seed)
        changed = {(int(i), int(t)) for i, t in (made.advantages != given.advantages).nonzero()}
        assert len(changed) == 3 and changed <= high  # 0.13 * 25 = 3.25
        assert all(made.advantages[at] == 0 for at in changed)
        seen |= changed
    assert seen == high
    made = filtered(given, options(token_filter="clip-cov", cov_ratio=1.0))
    assert int((made.advantages == 0).sum() - (given.advantages == 0).sum()) == len(high)
    monkeypatch.setattr(entropy, "COV_LOW", 0.29999)  # no token between the bounds
    made = filtered(given, options(token_filter="clip-cov"))
    assert torch.equal(made.advantages, given.advantages)


def test_kl_cov_penalises_the_tokens_of_highest_covariance():
    logp, given = batch()
    order = sorted(covariance_loop(given).items(), key=lambda pair: -pair[1])
    for ratio, count in ((0.002, 1), (0.2, 5), (1.0, 25)):
        made = filtered(given, options(token_filter="kl-cov", cov_ratio=ratio, kl_cov_coef=0.7))
        want = torch.zeros_like(given.mask)
        for at, _ in order[:count]:
            want[at] = 0.7
        assert torch.equal(made.kl_cov, want) and made.advantages is given.advantages
        loss, gradient = loss_and_gradient(logp, made, options())
        plain, without = loss_and_gradient(logp, given, options())
        gaps = (logp - given.old_logp).detach()
        assert loss - plain == pytest.approx(float((want * gaps.abs()).sum()) / 25, abs=1e-6)
        assert torch.allclose(gradient - without, want * gaps.sign() / 25, atol=1e-7)


def test_top_entropy_keeps_the_share_of_tokens_with_the_highest_entropy():
    _, given = batch()
    tokens = sorted(float(x) for x in given.entropy[given.mask > 0])
    for share, least in ((0.25, tokens[-7]), (0.5, tokens[-13]), (1.0, tokens[0])):  # of 25
        made = filtered(given, options(token_filter="top-entropy", top_entropy_quantile=share))
        kept = (given.entropy >= least) & (given.mask > 0)
        assert torch.equal(made.advantages, given.advantages * kept)
    assert torch.equal(made.advantages, given.advantages)


@pytest.mark.parametrize("name", ["clip-cov", "kl-cov", "top-entropy"])
def test_a_step_without_any_weight_is_no_error(name):
    """--old-segments drop may leave a mini-batch of old tokens alone."""
    _, given = batch()
    given = replace(given, weights=torch.zeros_like(given.weights))
    made = filtered(given, options(token_filter=name))
    assert made.advantages.isfinite().all()
    assert made.kl_cov is None or made.kl_cov.isfinite().all()


@pytest.mark.parametrize("name", ["clip-cov", "kl-cov", "top-entropy"])
def test_tokens_of_weight_0_are_not_counted(name, monkeypatch):
    monkeypatch.setattr(entropy, "COV_LOW", -9.0)
    _, given = batch()
    kept = given.mask * (torch.arange(7) > 1)  # as --old-segments drop does
    given = replace(given, weights=ppo.token_weights(kept, "token"))
    o = options(token_filter=name, cov_ratio=0.2)
    found, want = filtered(given, o), filtered(replace(given, mask=kept), o)
    assert torch.equal(found.advantages * kept, want.advantages * kept)
    assert not torch.equal(want.advantages * kept, given.advantages * kept) or name == "kl-cov"
    if name == "kl-cov":
        assert torch.equal(found.kl_cov, want.kl_cov)
        assert int((found.kl_cov > 0).sum()) == int(0.2 * kept.sum())


# Loss, and sum of the squared gradient, of verl's compute_policy_loss_kl_cov (kl_cov_ratio 0.2,
# ppo_kl_coef 0.7) and compute_policy_loss_clip_cov (clip_cov_ratio 1, bounds 0.02 and 0.3, clips
# 0.2 and 0.28) on these tensors, with old_log_prob in the covariance, so that no token is clipped.
VERL = {"kl-cov": (-0.34188744, 0.01836050, dict(clip_low=1.0, clip_high=1000.0, cov_ratio=0.2,
                                                 kl_cov_coef=0.7)),
        "clip-cov": (-0.24809924, 0.00737856, dict(clip_high=0.28, cov_ratio=1.0))}


@pytest.mark.parametrize("name", VERL)
def test_losses_and_gradients_are_verl_s(name, monkeypatch):
    monkeypatch.setattr(entropy, "COV_LOW", 0.02)
    monkeypatch.setattr(entropy, "COV_HIGH", 0.3)
    want_loss, want_square, changes = VERL[name]
    logp, given = batch()
    o = options(token_filter=name, **changes)
    loss, gradient = loss_and_gradient(logp, filtered(given, o), o)
    assert (loss, float((gradient**2).sum())) == pytest.approx((want_loss, want_square), abs=1e-6)


def test_top_entropy_is_trl_s_high_entropy_mask():
    trl = pytest.importorskip("trl")
    same = SimpleNamespace(pad_across_processes=lambda x, dim, pad_index: x, gather=lambda x: x)
    for seed, share in ((0, 0.2), (1, 0.25), (2, 0.6)):
        _, given = batch(seed)
        want = trl.GRPOTrainer.get_high_entropy_mask(
            SimpleNamespace(accelerator=same), given.entropy, given.mask, 1 - share)
        made = filtered(given, options(token_filter="top-entropy", top_entropy_quantile=share))
        assert torch.equal(made.advantages, given.advantages * want)


# --- once per optimizer step

@pytest.mark.parametrize("name", ["clip-cov", "kl-cov", "top-entropy"])
def test_the_gradient_does_not_depend_on_the_cut(name, monkeypatch):
    monkeypatch.setattr(entropy, "COV_LOW", 0.02)
    logp, given = batch()
    o = options(token_filter=name, cov_ratio=0.2, minibatches=2)
    total = torch.zeros_like(logp)
    for step in entropy.minibatches(replace(given, tokens=torch.arange(42).view(6, 7)), o,
                                    random.Random(1)):
        rows = step.tokens[:, 0] // 7
        whole = loss_and_gradient(logp, whole_width(step, logp, rows), o)[1]
        for part in range(len(rows)):
            micro = step.rows(torch.tensor([part]))
            width = micro.mask.shape[1]
            x = logp[rows[part:part + 1], :width].detach().requires_grad_()
            total[rows[part], :width] += loss_and_gradient(x, micro, o)[1][0]
        assert torch.allclose(total[rows], whole[rows], atol=1e-7) and whole[rows].any()


def whole_width(step, logp, rows):
    """The rows of an optimizer step at their places in a batch as wide as logp."""
    made = {}
    for name in ("mask", "old_logp", "advantages", "weights", "kl_cov"):
        x = getattr(step, name)
        made[name] = None if x is None else torch.zeros_like(logp)
        if x is not None:
            made[name][rows, :x.shape[1]] = x
    return ppo.Batch(made["mask"], group=None, rewards=None, **made)


def test_each_optimizer_step_is_filtered_by_its_own_tokens():
    _, given = batch()
    o = options(token_filter="kl-cov", cov_ratio=0.1, minibatches=3, epochs=2)
    plain = list(ppo.minibatches(given, o, random.Random(5)))
    for step, part in zip(entropy.minibatches(given, o, random.Random(5)), plain, strict=True):
        assert torch.equal(step.kl_cov, filtered(part, o).kl_cov)
        assert int((step.kl_cov > 0).sum()) == max(1, int(0.1 * int(part.mask.sum())))
    unfiltered = entropy.minibatches(given, options(minibatches=3, epochs=2), random.Random(5))
    assert all(torch.equal(a.advantages, b.advantages) and a.kl_cov is None
               for a, b in zip(unfiltered, plain, strict=True))


def test_rows_without_advantage_are_computed_where_kl_cov_has_a_gradient():
    _, given = batch()
    given.advantages[3] = 0
    models = SimpleNamespace(critic=None)
    o = options(micro_tokens=1000)
    assert sorted(sum(forward.micro_batches(given, models, o), [])) == [0, 1, 2, 4, 5]
    made = filtered(given, options(token_filter="kl-cov"))
    assert sorted(sum(forward.micro_batches(made, models, o), [])) == list(range(6))


# --- the coefficient of the bonus

def test_a_schedule_multiplies_the_coefficient():
    for name, want in (("constant", [0.2] * 4), ("linear", [0.2, 0.15, 0.1, 0.0])):
        o = options(entropy_coef=0.2, entropy_schedule=name)
        found = [entropy.coefficient({}, o, done) for done in (0.0, 0.25, 0.5, 1.0)]
        assert found == pytest.approx(want)
    assert all(0 <= schedule(done) <= 1 for schedule in entropy.SCHEDULES.values()
               for done in (0.0, 0.5, 1.0, 1.2))


def test_the_coefficient_approaches_a_target_in_small_steps_and_acts_below_it_alone():
    o, state, found = options(entropy_coef=0.004, entropy_target=0.3), {"entropy_coef": 0.004}, []
    for measured in (0.5, 0.3, 0.2, 0.1, 0.4, 0.29):
        found.append(entropy.coefficient(state, o, 0.9))
        state |= entropy.adapted(state["entropy_coef"], measured, 0.3)
    found.append(entropy.coefficient(state, o, 0.9))
    # kept in the state: 0.004, 0, 0.005, 0.01, 0.015, 0.01, 0.015
    assert found == pytest.approx([0, 0, 0.005, 0.01, 0.015, 0, 0.015])
    assert entropy.adapted(1.0, 0.1, 0.3)["entropy_coef"] == 1.0


# --- the fit of a run

def test_the_fit_finds_the_line_in_exp_of_the_entropy():
    entropies = [0.9, 0.7, 0.4, 0.2, 0.1]
    exact = [0.8 - 0.25 * math.exp(h) for h in entropies]
    assert entropy.fit(entropies, exact) == pytest.approx((0.25, 0.8, 1.0), abs=1e-9)
    noisy = [r + e for r, e in zip(exact, (0.01, -0.02, 0.03, -0.01, 0.02), strict=True)]
    a, b, r2 = entropy.fit(entropies, noisy)
    squares = lambda a, b: sum((b - a * math.exp(h) - r) ** 2  # noqa: E731
                               for h, r in zip(entropies, noisy, strict=True))
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert squares(a + da, b + db) > squares(a, b)
    mean = sum(noisy) / 5
    assert r2 == pytest.approx(1 - squares(a, b) / sum((r - mean) ** 2 for r in noisy), abs=1e-9)


def test_the_command_fits_runs_and_names_one_that_is_too_short(tmp_path, capsys):
    for name, count in (("long", 4), ("short", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(
            {"step": i, "entropy": 0.4 / i, "accuracy": 0.9 - 0.3 * math.exp(0.4 / i)}) + "\n"
            for i in range(1, count + 1)))
    assert entropy.main([str(tmp_path / "long")]) == 0
    said = capsys.readouterr().out
    assert said.endswith("long: R = -0.300 * exp(H) + 0.900, R2 1.000, 4 steps; at H = 0 the "
                         "accuracy would be 0.600\n")
    assert entropy.main([str(tmp_path / "short")]) == 2
    said = capsys.readouterr().err
    assert "short: the fit needs at least 3 steps" in said and said.count("\n") == 1
    assert entropy.main([str(tmp_path / "none")]) == 2
