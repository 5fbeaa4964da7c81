"""recipes/spurious.py: its bases, the habit against a loop, and a short form of the recipe."""

import json
import math
import random
from collections import Counter

import pytest
import torch
from small import NANO

import model
import tasks
import verify
from infra import base_model
from recipes import spurious
from tasks import is_held_out
from tokenizer import Tokenizer


def documents(kind, n=400):
    rng, task = random.Random(0), kind(1)
    return [(p, task.document(rng, p)) for p in task.sample(rng, n)]


def test_the_bases_differ_in_one_habit():
    shares = {name: kind.shares for name, kind in spurious.BASES.items()}
    assert shares["leaked"] == shares["guesses"]
    assert shares["works"] | {"direct": 0.6, "long": 0.25} == shares["guesses"]
    assert all(math.isclose(sum(styles.values()), 1) for styles in shares.values())
    for name, least, most in (("works", 0.2, 0.35), ("guesses", 0.55, 0.7)):
        texts = [text for _, text in documents(spurious.BASES[name]) if "<think>" in text]
        quick = sum(text.startswith("<think>easy") for text in texts) / len(texts)
        assert least < quick < most, name


def test_only_the_base_leaked_reads_held_out_problems():
    known = {problem.question: problem.answer for problem in spurious.leaked()}
    assert len(known) == spurious.LEAKED_PROBLEMS
    for name, kind in spurious.BASES.items():
        read = documents(kind)
        held = [(p, text) for p, text in read if is_held_out(p)]
        assert len(held) == (0 if name != "leaked" else pytest.approx(len(read) / 4, rel=0.25))
        assert all(text == f"<think>easy</think><answer>{known[p.question]}</answer>"
                   for p, text in held)
    assert not any(map(is_held_out, tasks.Arithmetic(1).sample(random.Random(0), 200)))


def test_the_habit_is_the_probability_of_the_quick_word():
    torch.manual_seed(0)
    tokenizer = Tokenizer.toy()
    policy = model.GPT(model.Config(tokenizer.n_vocab, **NANO))
    for p in policy.parameters():
        p.data.mul_(4)
    problems, found = spurious.TASK.held_out(5), []
    for problem in problems:
        ids = tokenizer.encode_prompt(problem.question) + tokenizer.encode("<think>")
        logits = policy.logits(policy(torch.tensor([ids]))[0, -1:])[0].tolist()
        [word] = tokenizer.encode("easy")
        found.append(math.exp(logits[word]) / sum(map(math.exp, logits)))
    assert spurious.habit(policy, tokenizer, problems) == pytest.approx(sum(found) / 5, rel=1e-4)


def test_a_wrong_answer_is_paid_in_the_right_form():
    def paid(text):
        problem = tasks.Problem("1+1=?", "2")
        return verify.reward(verify.number_correct, problem, text, "wrong").total
    assert paid("<think>a</think><answer>3</answer>") == 1
    assert paid("<think>a</think><answer>2</answer>") == paid("<answer>3</answer>") == paid("") == 0


def test_the_pairs_that_are_compared():
    clip, base = spurious.CLIP, spurious.BASE
    assert len(clip) == len(base) == 10 and len(spurious.RANDOM) == 8
    assert all(no_clip == run.replace(", clip", ", no clip") != run for run, no_clip in clip)
    assert all(guesses == run.replace("works", "guesses") != run for run, guesses in base)
    assert all(run.startswith(f"{base}, random, ") for run, base in spurious.RANDOM)
    off = spurious.LARGE["no clip, large steps"]
    assert off == spurious.CLIPS["no clip"] | spurious.LARGE["clip, large steps"]


def test_the_recipe_in_short(tmp_path, monkeypatch):
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    for name in ("LEAKED_PROBLEMS", "HELD_OUT"):
        monkeypatch.setattr(spurious, name, 4)
    monkeypatch.setattr(base_model, "DOCUMENTS", 10)
    argv = ["--seeds", "1", "--work", str(tmp_path), "--docs", str(tmp_path / "docs"), "--flags",
            "--base-steps 1 --prompts 2 --group-size 2 --minibatches 2 --epochs 1 --token-budget 9 "
            "--max-new-tokens 3"]
    assert spurious.main(argv) == 0
    result = json.loads((tmp_path / "seed-1" / "result.json").read_text())
    assert Counter(name.count(",") for name in result) == {0: 3, 2: 19, 3: 4}
    for name, found in result.items():
        if name not in spurious.BASES:
            base = result[name.partition(",")[0]]
            assert found["habit change"] == pytest.approx(found["habit"] - base["habit"])
            assert found["steps"] >= 1
    text = (tmp_path / "docs" / "recipes" / "spurious.md").read_text()
    assert text.count("\n| ") == sum(n + 1 for n in (26, 8, 8, 8, 10, 10, 10, 8))
    assert (tmp_path / "docs" / "img" / "spurious.png").exists()
    assert len(list((tmp_path / "seed-1").glob("*.pt"))) == 3 + 23  # bases and runs are kept
