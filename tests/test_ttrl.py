"""recipes/ttrl.py: its rewards against loops over floats, and a short form of the recipe."""

import json
import math
from dataclasses import replace

import pytest
import torch
from small import TINY, tiny_model

import model
import tasks
from recipes import page, ttrl
from tokenizer import Tokenizer

TOY = Tokenizer.toy()
PROBLEM = tasks.Problem("2+5=?", "7")
TEXTS = ["<think>easy</think><answer>7</answer>", "<think>2+5=8</think><answer>8</answer>", "8",
         "<think>wait</think><answer>8</answer>"]


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    made = model.GPT(model.Config(TOY.n_vocab, **TINY))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    return made


def responses():
    return [TOY.encode(text) + [TOY.eos_id] for text in TEXTS]


def log_probs(gpt, prompt, response):
    """The distributions of the response's tokens, one forward pass of one row."""
    with torch.no_grad():
        logits = gpt.logits(gpt(torch.tensor([prompt + response]))[0])
    return logits.log_softmax(-1)[len(prompt) - 1:-1]


def test_a_vote_is_for_the_commonest_answer():
    assert ttrl.vote(None, None, None, TEXTS, None) == [0.0, 1.0, 0.0, 1.0]
    assert ttrl.vote(None, None, None, TEXTS[:2], None) == [1.0, 0.0]
    assert ttrl.vote(None, None, None, ["8", ""], None) == [0.0, 0.0]


def test_certainty_is_the_kl_of_the_uniform_distribution(gpt):
    got = ttrl.certainty(gpt, TOY, PROBLEM, TEXTS, responses())
    prompt, size = TOY.encode_prompt("2+5=?"), TOY.n_vocab
    for value, ids in zip(got, responses(), strict=True):
        per_token = [sum(math.log(1 / size / math.exp(x)) / size for x in row)
                     for row in log_probs(gpt, prompt, ids).double().tolist()]
        assert value == pytest.approx(sum(per_token) / len(ids), rel=1e-4)


def test_the_reference_stands_in_the_place_of_the_answer(gpt):
    got = ttrl.reference(gpt, TOY, PROBLEM, TEXTS, responses())
    prompt, answer = TOY.encode_prompt("2+5=?"), TOY.encode("7</answer>")
    for value, text in zip(got, TEXTS, strict=True):
        thought, tag, _ = text.partition("<answer>")
        logp = log_probs(gpt, prompt + TOY.encode(thought + tag), answer)
        want = sum(math.exp(row[i]) for row, i in zip(logp.tolist(), answer, strict=True))
        assert value == pytest.approx(want / len(answer) if tag else 0.0, rel=1e-4)


def test_a_group_is_scored_once_and_its_verdicts_stay(gpt):
    calls = []

    def signal(policy, tokenizer, problem, texts, responses):
        calls.append((problem.question, texts))
        return [float(i) for i in range(len(texts))]
    task = ttrl.rewarded(tasks.Arithmetic(1), signal, gpt, TOY)
    group = list(zip(TEXTS, responses(), strict=True))
    found = [task.score(PROBLEM, text, "accuracy", 0.0, ids, group) for text, ids in group]
    assert [reward.total for reward in found] == [0.0, 1.0, 2.0, 3.0] and len(calls) == 1
    assert [reward.parts["correct"] for reward in found] == [1.0, 0.0, 0.0, 0.0]
    other = replace(PROBLEM, question="3+4=?")
    task.score(other, *group[0][:1], "accuracy", 0.0, group[0][1], group)
    assert [question for question, _ in calls] == ["2+5=?", "3+4=?"] and calls[0][1] == TEXTS


def test_the_recipe_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ttrl, "TASKS", {"chain": "--level 1"})
    monkeypatch.setattr(ttrl, "VOTES", 4)
    monkeypatch.setattr(page, "save_figure", lambda path, draw: None)
    flags = "--base-steps 1 --prompts 2 --group-size 4 --max-new-tokens 8 --minibatches 1"
    argv = ["--seeds", "1", "--steps", "1", "--held-out", "4", "--flags", flags, "--work",
            str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]
    with tiny_model():
        assert ttrl.main(argv) == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert len(found) == 6 and len(found["chain, vote"]["curve"]) == 1
    text = (tmp_path / "docs" / "recipes" / "ttrl.md").read_text()
    assert "| chain, reference |" in text and capsys.readouterr().out
