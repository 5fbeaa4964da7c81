"""recipes/forgetting.py and what it adds to the spine: several tasks in one, the KL of responses,
rank correlation, SFT with RL's optimizer, a point of a curve; and a short form of the recipe.
"""

import itertools
import json
import math
import random

import pytest
import torch
from small import NANO

import gkd
import model
import train
from bench.stats import spearman
from infra.models import make_models
from recipes import forgetting, page, runs
from tasks.base import several

VOCAB = 5


def small(seed, vocab=VOCAB):
    torch.manual_seed(seed)
    made = model.GPT(model.Config(vocab, context=32, layers=1, width=16, heads=2, kv_heads=1,
                                  hidden=24))
    for p in made.parameters():  # far from uniform distributions
        p.data.mul_(6)
    return made


def probability(policy, prompt, response):
    """The probability of a response, token by token."""
    total = 0.0
    for t, token in enumerate(response):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *response[:t]]])
            total += float(policy.logits(policy(ids)[0, -1:])[0].log_softmax(-1)[token])
    return math.exp(total)


def test_the_kl_of_responses_is_that_of_their_distribution():
    """The mean of the estimate over all responses of two tokens is KL(policy || other)."""
    policy, other, want, found = small(0), small(1), 0.0, 0.0
    for response in itertools.product(range(VOCAB), repeat=2):
        p, q = (probability(x, [1, 2], response) for x in (policy, other))
        want += p * math.log(p / q)
        found += p * gkd.response_kl(policy, other, [([1, 2], list(response))])
    assert found == pytest.approx(want, rel=1e-4) and want > 0.1
    pairs = [([1], [2, 3]), ([2], [4])]
    both = [gkd.response_kl(policy, other, [pair]) for pair in pairs]
    assert gkd.response_kl(policy, other, pairs) == pytest.approx(sum(both) / 2, rel=1e-4)
    assert abs(gkd.response_kl(policy, policy, pairs)) < 1e-5


def test_rank_correlation():
    rng = random.Random(0)
    xs, ys = rng.sample(range(100), 9), rng.sample(range(100), 9)
    ranks = [[sorted(values).index(x) for x in values] for values in (xs, ys)]
    gaps = sum((a - b) ** 2 for a, b in zip(*ranks, strict=True))
    assert spearman(xs, ys) == pytest.approx(1 - 6 * gaps / (9 * (81 - 1)))
    assert spearman([1, 2, 3], [1, 10, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0
    # ties have the mean rank: 1.5, 1.5, 3 against 1, 2, 3
    assert spearman([0, 0, 1], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_the_first_point_that_reaches_a_target():
    curve = [{"x": 0.2, "y": 1.0}, {"x": 0.6, "y": 3.0}, {"x": 0.4, "y": 9.0}, {"x": 0.8, "y": 0}]
    assert page.first_at(curve, "x", 0.5) == pytest.approx({"x": 0.5, "y": 2.5})
    assert page.first_at(curve, "x", 0.7) == pytest.approx({"x": 0.7, "y": 2.25})
    assert page.first_at(curve, "x", 0.1) == curve[0]


def test_several_tasks_in_one():
    task, rng = several(forgetting.PARTS), random.Random(0)
    problems = task.sample(rng, 120)
    counts = {name: sum(p.category == name for p in problems) for name in forgetting.PARTS}
    assert min(counts.values()) > 25 and sum(counts.values()) == 120
    for problem in problems:
        text = task.document(rng, problem, drill=True)
        assert task.correct(problem, text), (problem, text)
        assert ("得" in text) == ("得" in problem.question) == (
            problem.category == "Chinese chains")
    assert task.easier_task().sample(rng, 1)


def test_supervised_learning_is_the_likelihood_of_the_pairs():
    """A step equals one of the same optimizer on the mean over responses of the mean over tokens of
    -log p; without the recipe, in floats."""
    options, _, tokenizer = runs.read("--algo raft --steps 1 --prompts 1 --group-size 2 "
                                      "--minibatches 1 --lr 0.01", 0)
    policy = small(0, tokenizer.n_vocab)
    again, pairs, steps = small(0, tokenizer.n_vocab), [([1, 2], [3, 4, 5])], []
    runs.supervise(policy, pairs, tokenizer, options, steps.append)
    assert steps == [{"step": 1}]
    _, optimizer = make_models(again, tokenizer, options)
    logits = again.logits(again(torch.tensor([[1, 2, 3, 4]]))[0, 1:])
    (-logits.log_softmax(-1)[range(3), [3, 4, 5]].mean()).backward()
    torch.nn.utils.clip_grad_norm_(again.parameters(), train.MAX_GRAD_NORM)
    train.set_learning_rates(optimizer, {"step": 0}, options)
    optimizer.step()
    for p, q in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)
    with pytest.raises(ValueError, match="no answers to learn from"):
        runs.supervise(policy, [], tokenizer, options)


def test_the_recipe_in_short(tmp_path, monkeypatch):
    for name, value in dict(PROBLEMS=2, KL_PROMPTS=2, POINTS=(1,)).items():
        monkeypatch.setattr(forgetting, name, value)
    monkeypatch.setattr(forgetting.PARTS[forgetting.NEW], "correct",
                        lambda problem, text: sum(text.encode()) % 2 == 0)
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    flags = "--base-steps 1 --steps 2 --max-new-tokens 6 --prompts 2 --group-size 4"
    argv = ["--work", str(tmp_path), "--docs", str(tmp_path / "docs"), "--answers", "8", "--flags",
            flags, "--seeds", "0"]
    assert forgetting.main(argv) == 0
    result = json.loads((tmp_path / "seed-0" / "result.json").read_text())
    assert list(result) == list(forgetting.ARMS)
    for curve in result.values():
        assert [point["step"] for point in curve] == [0, 1, 2] and curve[0] == result["GRPO"][0]
        assert abs(curve[0]["forward KL"]) < 1e-5 and curve[0]["distance"] == 0
    assert result["SFT, corpus"][-1]["forward KL"] > 0 < result["SFT, corpus"][-1]["distance"]
    text = (tmp_path / "docs" / "recipes" / "forgetting.md").read_text()
    assert text.count("\n| ") == 4 + 7 + 8 + 6 + 3 and "![" in text
