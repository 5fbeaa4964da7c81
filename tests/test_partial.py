"""infra/partial.py: a response that is cut and continued is the one that was never cut; groups wait
until they are complete; old tokens have no weight, or that of their own log-probs."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import TINY

import evaluate
import grpo
import kimi
import model
import offpolicy
import ppo
import sample
import tasks
import train
from config import Options
from engine.request import concat_rollouts
from infra import partial, tensors
from infra.models import Models
from tokenizer import Tokenizer

TOKENIZER = Tokenizer.toy()
BUDGET, LIMIT = 4, 12


def policy(seed=0):
    """A random model whose responses end after 1 to LIMIT tokens, some only at the limit."""
    torch.manual_seed(seed)
    made = model.GPT(model.Config(TOKENIZER.n_vocab, **(TINY | dict(tied=False))))
    bias = torch.zeros(TOKENIZER.n_vocab)
    bias[TOKENIZER.stop_ids[0]] = 4.0
    made.lm_head.bias = torch.nn.Parameter(bias)
    return made


MODELS = Models(None, TOKENIZER, behavior=policy())


def options(**changes):
    return Options(**(dict(prompts=3, group_size=4, partial_rollouts=BUDGET, max_new_tokens=LIMIT,
                           sampler="plain", device="cpu", dtype="float32") | changes))


def steps(n, o, state, models=MODELS):
    """(problems, rollout, texts) of n steps, whose seeds are 0, 1, ..., each with new problems."""
    for step in range(n):
        new = tasks.Arithmetic(1).sample(random.Random(step), o.prompts)
        yield partial.sample_groups(models, new, step, state, o)


def response(rollout, row) -> tuple:
    inside = rollout.mask[row] > 0
    return tuple(getattr(rollout, name)[row][inside] for name in ("tokens", "logp", "entropy"))


# --- sampling

@pytest.mark.parametrize("sampler", ["plain", "fast"])
def test_a_continued_response_is_the_uninterrupted_one(sampler):
    """The policy stays, so each row of step 0 has the tokens and log-probs of a row without cuts,
    in whatever step its group is complete."""
    o, found = options(sampler=sampler), []
    problems, whole, texts = train.sample_groups(
        MODELS, tasks.Arithmetic(1).sample(random.Random(0), 3), 0, {}, replace(
            o, partial_rollouts=0))
    for done, rollout, said in steps(4, o, {}):
        for i, problem in enumerate(done):
            if problem in problems:
                first, number = problems.index(problem) * 4, len(found)
                for row in range(4):
                    a, b = response(whole, first + row), response(rollout, i * 4 + row)
                    assert torch.equal(a[0], b[0]) and said[i * 4 + row] == texts[first + row]
                    assert torch.allclose(a[1], b[1], atol=1e-5)
                    assert torch.allclose(a[2], b[2], atol=1e-4)
                    assert whole.truncated[first + row] == rollout.truncated[i * 4 + row]
                found.append(problem)
                assert number < 3
    lengths = whole.mask.sum(1)
    assert len(found) == 3 and (lengths > 2 * BUDGET).any() and (lengths <= BUDGET).any()
    assert whole.truncated.any() and not whole.truncated.all()


def test_each_group_comes_once_and_complete_and_rows_stay_within_their_bounds(monkeypatch):
    drawn, calls, sample, draw = [], [], evaluate.sample_responses, partial.draw_segments

    def watched(*args, **more):
        rollout, texts = sample(*args, **more)
        drawn.append(rollout.mask.sum(1).tolist())
        return rollout, texts

    def segments(models, groups, o):
        complete = any(all(not row["open"] for row in group["rows"]) for group in groups)
        calls.append((len(seen), complete))
        draw(models, groups, o)
    monkeypatch.setattr(evaluate, "sample_responses", watched)
    monkeypatch.setattr(partial, "draw_segments", segments)
    state, o, seen = {}, options(), []
    for problems, rollout, texts in steps(6, o, state):
        assert 1 <= len(problems) <= o.prompts and len(texts) == 4 * len(problems)
        assert rollout.group.tolist() == [i // 4 for i in range(len(texts))]
        ends = [int(response(rollout, row)[0][-1]) in TOKENIZER.stop_ids
                for row in range(len(texts))]
        assert ends == (~rollout.truncated).tolist()
        assert (rollout.mask.sum(1)[rollout.truncated] == LIMIT).all()
        seen += problems
    waiting = [tasks.Problem(**group["problem"]) for group in state["open_groups"]]
    assert len(set(seen + waiting)) == len(seen + waiting)
    assert all(len(rows) <= o.prompts * 4 and max(rows) <= BUDGET for rows in drawn)
    # a second segment in the same step comes only where no group is complete
    again = [b[1] for a, b in zip(calls, calls[1:], strict=False) if a[0] == b[0]]
    assert again and not any(again) and len(drawn) == len(calls)


def test_complete_groups_beyond_a_full_batch_wait_and_come_first():
    o = options(prompts=2, group_size=2, partial_rollouts=LIMIT)
    first = tasks.Arithmetic(1).sample(random.Random(99), 4)
    groups = partial.new_groups(first, 1, 2)
    for group in groups:  # one row of each is complete already
        group["rows"][0] |= dict(tokens=[5], logp=[-0.1], entropy=[0.2], open=False)
    found = list(steps(3, o, {"open_groups": groups}))
    assert [problems for problems, *_ in found[:2]] == [first[:2], first[2:]]
    assert found[2][0][0] not in first and found[1][1].old.sum() == found[1][1].mask.sum()


@pytest.fixture(scope="module")
def dropping():
    """The rollouts of four steps with --old-segments drop, and the metrics of each step."""
    state, found = {}, []
    for _, rollout, _ in steps(4, options(old_segments="drop"), state):
        rows = partial.rows_of(state["open_groups"])
        found.append((rollout, partial.metrics(state, rollout), sum(row["open"] for row in rows)))
    return found


def test_old_tokens_are_those_of_earlier_steps(dropping):
    for step, (rollout, metrics, n_open) in enumerate(dropping):
        assert torch.equal(rollout.loss_mask, rollout.mask - rollout.old)
        assert bool(rollout.old.any()) == (step > 0)
        for old, inside in zip(rollout.old, rollout.mask, strict=True):  # a beginning of each row
            old = old[inside > 0].tolist()
            assert old == sorted(old, reverse=True)
            assert sum(old) % BUDGET == 0 or sum(old) == len(old)
        assert metrics["old_tokens"] == float(rollout.old.sum() / rollout.mask.sum())
        assert metrics["open_responses"] == n_open > 0


def test_log_probs_are_those_of_the_policy_that_drew_the_token():
    """Between the steps the policy changes."""
    one, other = policy(0), policy(1)
    state, o = {}, options(prompts=2)
    next(steps(1, o, state, MODELS._replace(behavior=one)))
    new = tasks.Arithmetic(1).sample(random.Random(9), 2)
    _, rollout, _ = partial.sample_groups(MODELS._replace(behavior=other), new, 9, state, o)
    with torch.no_grad():
        first, second = (m.logp(rollout.tokens, rollout.mask) for m in (one, other))
    want = torch.where(rollout.old > 0, first, second) * rollout.mask
    assert torch.allclose(rollout.logp, want, atol=1e-4)
    assert rollout.old.any() and ((first - second) * rollout.old).abs().max() > 0.1


@pytest.mark.parametrize("task", sorted(
    name for name, task in tasks.TASKS.items() if name != "file" and not task.has_tool))
def test_a_checkpoint_holds_open_groups_of_each_task(task, tmp_path):
    problems = tasks.TASKS[task](1).sample(random.Random(0), 2)
    groups = partial.new_groups(problems, 5, 2)
    groups[0]["rows"][0] |= {"tokens": [3, 4], "logp": [-0.1, -1 / 3], "entropy": [0.5, 0.25]}
    tensors.save(tmp_path / "c.pt", {"open_groups": groups})
    loaded = tensors.load(tmp_path / "c.pt")["open_groups"]
    assert loaded == groups and [tasks.Problem(**g["problem"]) for g in loaded] == problems


def test_the_first_rows_have_the_seeds_of_one_call():
    whole = options(partial_rollouts=0, max_new_tokens=BUDGET)
    problems = tasks.Arithmetic(1).sample(random.Random(0), 3)
    _, want, _ = train.sample_groups(MODELS, problems, 7, {}, whole)
    _, found, _ = partial.sample_groups(MODELS, problems, 7, {}, replace(
        whole, partial_rollouts=BUDGET))
    assert torch.equal(want.tokens, found.tokens) and torch.equal(want.mask, found.mask)


# --- the loss

def batch_of(rollout, correct):
    return ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group, correct, correct,
                     loss_mask=rollout.loss_mask)


@pytest.mark.parametrize("aggregate", ppo.AGGREGATIONS)
def test_dropped_tokens_have_no_weight_and_count_in_no_denominator(aggregate, dropping):
    o, rollout = options(aggregate=aggregate, minibatches=1), dropping[-1][0]
    given = batch_of(rollout, torch.arange(len(rollout.tokens)) % 2.0)
    [made] = ppo.minibatches(replace(given, advantages=given.mask), o, random.Random(0))
    assert not made.weights[made.loss_mask == 0].any() and (made.loss_mask < made.mask).any()
    assert torch.equal(made.weights, ppo.token_weights(made.loss_mask, aggregate, LIMIT))
    [kept] = ppo.minibatches(replace(given, advantages=given.mask, loss_mask=None), o,
                             random.Random(0))
    assert kept.weights[kept.mask > 0].all()


@pytest.mark.parametrize("algo, changes", [
    (grpo, {}), (grpo, {"ratio": "sequence"}), (grpo, {"ratio": "product"}),
    (kimi, {"pmd_tau": 0.3}),
    *((offpolicy, {"surrogate": name}) for name in sorted(offpolicy.SURROGATES))])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_gradient_at_old_tokens(dropped, algo, changes, dropping):
    """weigh: that of the ratio to the policy that drew them; drop: none, whatever the ratio."""
    o, rollout = options(minibatches=1, clip_high=9.0, clip_low=1.0), dropping[-1][0]
    if not dropped:
        rollout = replace(rollout, loss_mask=None)
    given = grpo.prepare(batch_of(rollout, torch.arange(len(rollout.tokens)) % 2.0), o)
    [made] = ppo.minibatches(given, o, random.Random(0))
    logp = (made.old_logp + 0.5 * made.mask).requires_grad_()
    fake = SimpleNamespace(logprobs=lambda *_, **__: (logp, None))
    total, _ = algo.loss(fake, None, made, replace(o, **changes))
    gradient = torch.autograd.grad(total, logp)[0]
    at_old = gradient[made.mask > made.loss_mask] if dropped else gradient[:, -BUDGET:]
    assert bool(at_old.any()) != dropped and gradient.any()
    if algo is grpo and not changes:
        want = -made.weights * made.advantages * torch.tensor(0.5).exp()
        assert torch.allclose(gradient, want, atol=1e-6)


# --- the loop

def test_an_open_rollout_survives_a_checkpoint_of_the_loop(tmp_path):
    """Two steps, a checkpoint, two steps: the same batches as four steps."""
    def batches(n, state, seen):
        for _ in range(n):
            step = state["step"]
            new = tasks.Arithmetic(1).sample(random.Random(step), 3)
            seen.append(partial.sample_groups(MODELS, new, step, state, options())[1])
            state["step"] += 1
    whole, cut = [], []
    batches(4, train.new_state(options()), whole)
    state = train.new_state(options())
    batches(2, state, cut)
    assert any(row["open"] and row["tokens"] for row in partial.rows_of(state["open_groups"]))
    tensors.save(tmp_path / "c.pt", {"state": state})
    batches(2, tensors.load(tmp_path / "c.pt")["state"], cut)
    for a, b in zip(whole, cut, strict=True):
        for name in ("tokens", "logp", "entropy", "mask", "old", "truncated", "group"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_processes_share_the_open_rows(monkeypatch):
    """Each process samples some of the rows, with their own seeds and tokens so far."""
    prompts, prefixes, seeds = [[5, 6], [7], [8, 9, 10]], [[1, 2], [], [3]], [11, 22, 33]
    stop = evaluate.stop_conditions(MODELS.behavior, TOKENIZER)
    how = dict(seed=seeds, prefixes=prefixes, **stop)
    whole, parts = sample.generate(MODELS.behavior, prompts, 1, BUDGET, 1.0, **how), []
    monkeypatch.setattr(evaluate.distributed, "all_gather", lambda x: parts.append(x) or [x])
    for part in (slice(0, 2), slice(2, 3)):
        monkeypatch.setattr(evaluate.distributed, "local_slice", lambda _, part=part: part)
        evaluate.generate_distributed(sample.generate, MODELS.behavior, prompts, 1, BUDGET, 1.0,
                                      **how)
    found = concat_rollouts(parts, how["pad"])
    assert found.responses() == whole.responses() and torch.equal(found.tokens, whole.tokens)
