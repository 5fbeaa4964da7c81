"""search.py: each method on a player that reads from a script, whose right choice is known."""

import json

import pytest

import search
import tasks
import train


def says(answer, thought="t"):
    return f"<think>{thought}</think><answer>{answer}</answer>"


class Scripted:
    """Gives each question its list of responses, again and again; greedy takes the first."""

    def __init__(self, **script):
        self.script, self.asked = script, []

    def complete(self, questions, n, seed, begun=None, stop=(), greedy=False, longest=0):
        self.asked.append(begun)
        made = []
        for i, question in enumerate(questions):
            texts = self.script[question]
            if begun is not None and begun[i]:
                text = begun[i] + ("more" if stop else "<answer>7</answer>")
                made.append([(text, 5)] * n)
            elif stop:
                made.append([(texts[0].partition("</think>")[0][:longest or None], 3)] * n)
            else:
                made.append([(texts[j % len(texts)], 2) for j in range(n)])
        return made


PROBLEMS = [tasks.Problem("a", "1"), tasks.Problem("b", "2")]


def test_equal_answers_are_grouped_by_value_in_order():
    assert search.grouped(["1/2", None, "3", "0.5", "3.0", "x"]) == [[0, 3], [2, 4], [5]]


@pytest.mark.parametrize("answers, chosen", [
    (["3", "1", "1"], "1"), (["3", "1"], "3"), (["1/2", "3", "0.5"], "1/2"),
    (["3", "4", "4", "3"], "3"), (["5"], "5")])
def test_the_vote_takes_the_largest_group_and_the_first_of_equals(answers, chosen):
    player = Scripted(a=[says(x) for x in answers])
    [one] = search.vote(player, PROBLEMS[:1], len(answers), 0)
    assert one.text == says(chosen) and one.tokens == 2 * len(answers)


def test_answers_that_cannot_be_read_do_not_vote():
    player = Scripted(a=["nonsense", "nonsense", says("1")], b=["no", "none", "nothing"])
    one, other = search.vote(player, PROBLEMS, 3, 0)
    assert one.text == says("1") and other.text == "no"


@pytest.mark.parametrize("method", ["vote", "verifier"])
def test_one_sample_is_what_was_sampled(method):
    player = Scripted(a=[says("1"), says("2")], b=["x"])
    assert [f.text for f in search.METHODS[method](player, PROBLEMS, 1, 0)] == [says("1"), "x"]


def test_the_bound_counts_a_problem_if_any_sample_is_right():
    player = Scripted(a=[says("9"), says("1")], b=[says("9"), says("8")])
    task = tasks.Arithmetic(1)
    assert search.evaluate_method(player, task, PROBLEMS, "verifier", 2, 0)[0]["accuracy"] == 0.5
    assert search.evaluate_method(player, task, PROBLEMS, "vote", 2, 0)[0]["accuracy"] == 0.0


@pytest.mark.parametrize("method", search.METHODS)
def test_no_method_asks_the_verifier(method, monkeypatch):
    def never(*_):
        raise AssertionError("the verifier was asked")
    for name in ("number_correct", "verdict", "math_correct", "countdown_correct"):
        monkeypatch.setattr(search.verify, name, never)
    search.METHODS[method](Scripted(a=[says("1")], b=[says("2")]), PROBLEMS, 4, 0)


def test_the_end_of_thinking_is_put_off():
    player = Scripted(a=[says("1", "one")])
    [one] = search.force(player, PROBLEMS[:1], 3, 0)
    assert one.text == "<think>one\nwait\nmore\nwait\nmore</think><answer>7</answer>"
    assert one.tokens == 3 + 5 + 5 + 5


def test_the_thinking_is_cut_off():
    [one] = search.cut(Scripted(a=[says("1", "long thought")]), PROBLEMS[:1], 9, 0)
    assert one.text == "<think>lo</think><answer><answer>7</answer>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "short"
    assert train.main(["--out", str(out), "--base-steps", "20", "--steps", "1", "--prompts", "2",
                       "--group-size", "4", "--eval-problems", "5", "--max-new-tokens", "32",
                       "--device", "cpu"]) == 0
    return out


@pytest.mark.parametrize("method, n", [("greedy", 1), ("vote", 3), ("verifier", 3), ("force", 2),
                                       ("cut", 8)])
def test_the_command_line(run, method, n, capsys):
    found = []
    for _ in range(2):
        assert search.main(["--run", str(run), "--method", method, "--n", str(n), "--count",
                            "6"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0}
    assert found[0]["problems"] == 6 and found[0]["tokens_per_problem"] > 0
    assert found[0]["ci"][0] <= found[0]["accuracy"] <= found[0]["ci"][1]


@pytest.mark.parametrize("flags, named", [
    (["--n", "0"], "--n"), (["--count", "0"], "--count"), (["--run", "nowhere"], "nowhere"),
    (["--problems", "no.jsonl"], "no.jsonl")])
def test_bad_input_is_one_sentence(run, flags, named, capsys):
    assert search.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
