"""recipes/overthinking.py: the corpus, the use of a response, tokens saved, a short form."""

import json
import random
from types import SimpleNamespace

import pytest
from small import NANO

import model
from recipes import overthinking, page
from recipes.overthinking import stopped, use

CHAIN = SimpleNamespace(answer="6", question="4 *9 +6 +4 =?")


def right(text):
    return text.endswith("<answer>6</answer>")


def test_a_stopped_response_ends_with_the_result_of_its_last_telling():
    text = "<think>4*9=6\n6+8=2\nwait\n4*9=6\n6+8=4\nwait\n4*9=6\n6+8=1</think><answer>1</answer>"
    assert stopped(text, 1) == "<think>4*9=6\n6+8=2</think><answer>2</answer>"
    assert stopped(text, 2) == ("<think>4*9=6\n6+8=2\nwait\n4*9=6\n6+8=4</think>"
                                "<answer>4</answer>")
    assert stopped(text, 3) == stopped(text, 9) == text


@pytest.mark.parametrize("results, answer, want", [
    ("6", 6, (1, 1, 1, 1.0)), ("2", 2, (0, 0, 1, 0.0)), ("66", 6, (1, 1, 2, 0.5)),
    ("262", 6, (1, 0, 3, 2 / 3)),   # right from the second telling on
    ("62", 2, (0, 1, 2, 0.0)),      # right at first, wrong in the end
    ("22", 6, (1, 0, 2, 1.0))])     # the answer alone is right
def test_the_use_of_a_response(results, answer, want):
    text = "<think>" + "\nwait\n".join(f"5+1={x}" for x in results)
    text += f"</think><answer>{answer}</answer>"
    found = use(text, right, lambda x: x.count("5+1"))
    assert tuple(found[key] for key in ("sampled", "stopped", "tellings", "efficiency")) == want


def test_the_longest_habit_of_the_corpus_is_the_surest():
    rng, task = random.Random(0), overthinking.Chains(1)
    problems = task.sample(rng, 800)
    texts, found = [task.document(rng, problem) for problem in problems], {}
    for problem, text in zip(problems, texts, strict=True):
        habit = next((x for x in ("easy", "wait") if x in text), "once")
        found.setdefault(habit, []).append(task.correct(problem, text))
    assert {habit: len(x) / 800 for habit, x in found.items()} == pytest.approx(
        {"easy": 0.5, "once": 0.25, "wait": 0.25}, abs=0.05) and all(found["wait"])
    assert 0.1 < sum(found["once"]) / len(found["once"]) < 0.3  # most are random digits
    assert max(text.count("wait") for text in texts) == overthinking.MOST - 1
    assert all(task.correct(p, task.document(rng, p, drill=True)) for p in problems[:100])
    # the further tellings are of no use
    assert all(task.correct(p, stopped(t, 1)) for p, t in zip(problems, texts, strict=True)
               if "wait" in t)


def test_the_price_of_a_token():
    problem, text = CHAIN, "<think>4*9=6</think><answer>6</answer>"
    task = overthinking.Chains(1)
    for task.price, want in ((0.0, 1.0), (0.01, 0.95)):
        found = task.score(problem, text, "accuracy", tokens=[1] * 5)
        assert found.total == pytest.approx(want) and found.parts["correct"] == 1


def test_tokens_are_saved_at_equal_accuracy_alone():
    def curve(*points):
        return [{"sampled": a, "length": n} for a, n in points]
    result = {"GRPO": curve((0.5, 10), (0.9, 80), (0.9, 100)), "a": curve((0.5, 5), (0.88, 40)),
              "b": curve((0.87, 5), (0.87, 4))}
    assert overthinking.saved(result, "GRPO")["saved"] == pytest.approx(0.2)
    found = overthinking.saved(result, "a")
    assert found == pytest.approx({"saved": 0.6, "lost": 0.02})
    assert overthinking.saved(result, "b") == {}


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The recipe in a second. Half of all responses are right, whatever they say."""
    for name, value in dict(PROBLEMS=3, POINTS=1, SAMPLES=1).items():
        monkeypatch.setattr(overthinking, name, value)
    monkeypatch.setattr(overthinking.Chains, "correct", staticmethod(
        lambda problem, text: sum(text.encode()) % 2 == 0))
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    flags = "--base-steps 1 --max-new-tokens 6 --prompts 2 --group-size 4"
    for name, arm in overthinking.ARMS.items():
        monkeypatch.setitem(overthinking.ARMS, name, arm.replace("-buffer 96", "-buffer 4"))
    return lambda *more: overthinking.main([
        "--work", str(tmp_path), "--docs", str(tmp_path / "docs"), "--tokens", "9", "--flags",
        flags, *more])


def test_the_recipe_in_short(short, tmp_path, monkeypatch):
    assert short("--seeds", "0") == 0
    result = json.loads((tmp_path / "seed-0" / "result.json").read_text())
    assert list(result) == list(overthinking.ARMS)
    for curve in result.values():
        assert len(curve) == 2 and curve[0]["tokens"] == 0 and curve[1]["tokens"] >= 9
        assert curve[0] == result["GRPO"][0]  # the same base
    text = (tmp_path / "docs" / "recipes" / "overthinking.md").read_text()
    arms = len(overthinking.ARMS)
    assert text.count("\n| ") == 4 + 2 * (arms + 1) + arms + arms - 1 + 3 and "![" in text
    # a stopped seed goes on with the arms that are missing
    (tmp_path / "seed-0" / "result.json").unlink()
    (tmp_path / "seed-0" / "kimi.json").unlink()
    monkeypatch.setattr(overthinking.runs, "reinforce", lambda *_: None)
    monkeypatch.setattr(page, "write", lambda *_: None)
    assert short("--seeds", "0") == 0
    again = json.loads((tmp_path / "seed-0" / "result.json").read_text())
    assert len(again.pop("kimi")) == 1 and again == {
        name: curve for name, curve in result.items() if name != "kimi"}
