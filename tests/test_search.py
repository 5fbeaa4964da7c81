"""search.py: each method on a player that reads from a script, whose right choice is known."""

import json
import re
from types import SimpleNamespace

import pytest

import evaluate
import player
import prm
import search
import tasks
import tokenizer
import train
from tasks import chain


def says(answer, thought="t"):
    return f"<think>{thought}</think><answer>{answer}</answer>"


class Scripted:
    """Gives each question its list of responses, again and again; greedy takes the first."""

    beams = 0

    def __init__(self, scores=None, **script):
        self.script, self.scores = script, scores or {}
        self.asked, self.greedy, self.longest, self.grown = [], [], [], []

    def judge(self, name, questions, texts, ended=True):
        """Of each step what the script says of its line; 0.5 of an unknown one."""
        return [[self.scores.get(part, 0.5) for part in text.split("\n") if part]
                for text in texts]

    def steps(self, questions, begun, n, seeds, greedy=False):
        """The lines of the script's texts, one by one; row by row the next text."""
        grown = []
        self.grown.append((n, greedy))
        for row in range(n * len(begun)):
            text = begun[row // n]
            fit = [t for t in self.script[questions[row // n]] if t.startswith(text)]
            lines = fit[0 if greedy else row % len(fit)].splitlines(keepends=True)
            new = lines[text.count("\n")]
            grown.append((text + new, 1, not new.endswith("\n")))
        return grown

    def complete(self, questions, n, seed, begun=None, stop=(), greedy=False, longest=0):
        self.asked.append(begun)
        self.greedy.append(greedy)
        self.longest.append(longest)
        made = []
        for i, question in enumerate(questions):
            texts = self.script[question]
            if begun is not None and begun[i]:
                more = "more" if stop else "7</answer>"
                text = begun[i] + more * (not tokenizer.stopped(begun[i]))
                made.append([(text, 5)] * n)
            elif stop:
                made.append([(texts[0].partition("</think>")[0][:longest or None], 3)] * n)
            else:
                made.append([(texts[j % len(texts)], 2) for j in range(n)])
        return made


PROBLEMS = [tasks.Problem("a", "1"), tasks.Problem("b", "2")]


def test_equal_answers_are_grouped_by_value_in_order():
    assert search.grouped(["1/2", None, "3", "0.5", "3.0", "x"]) == [[0, 3], [2, 4], [5]]


@pytest.mark.parametrize("given, groups", [
    (["3", "2", "2.0"], [[0], [1, 2]]),                      # in order, not by size
    (["yes", "no", "1/3", "0.33"], [[0], [1], [2], [3]]),
    ([r"\frac12", "3", "0.5", "2^3", "8"], [[0, 2], [1], [3, 4]]),
    ([r"\sum_1^2 k", "3"], [[0], [1]]),                      # nobody can tell
    ([r"\unknown", "3", r"\unknown"], [[0, 2], [1]])])
def test_only_certainly_equal_answers_are_grouped(given, groups):
    assert search.grouped(given) == groups


@pytest.mark.parametrize("answers, chosen", [
    (["3", "1", "1"], "1"), (["3", "1"], "3"), (["1/2", "3", "0.5"], "1/2"),
    (["3", "4", "4", "3"], "3"), (["5"], "5")])
def test_the_vote_takes_the_largest_group_and_the_first_of_equals(answers, chosen):
    player = Scripted(a=[says(x) for x in answers])
    [one] = search.vote(player, PROBLEMS[:1], len(answers), 0)
    assert one.text == says(chosen) and one.tokens == 2 * len(answers)


@pytest.mark.parametrize("texts, chosen", [
    (["so it is 1", "so it is 1", says("2")], 2), ([says("10"), says("3")], 0)])
def test_the_vote_reads_tagged_answers_and_takes_the_first_of_equals(texts, chosen):
    assert search.vote(Scripted(a=texts), PROBLEMS[:1], len(texts), 0)[0].text == texts[chosen]


def test_answers_that_cannot_be_read_do_not_vote():
    player = Scripted(a=["nonsense", "nonsense", says("1")], b=["no", "none", "nothing"])
    one, other = search.vote(player, PROBLEMS, 3, 0)
    assert one.text == says("1") and other.text == "no"


def best_of(method, n=3):
    texts = ["<think>a\nb" + says("1")[8:], "<think>c\nd" + says("1/2")[8:],
             "<think>e\nf" + says("0.5")[8:]]
    ends = [text.split("\n")[1] for text in texts]
    player = Scripted(dict(zip(["<think>a", ends[0], "<think>c", ends[1], "<think>e", ends[2]],
                               [0.3, 0.9, 0.5, 0.5, 0.6, 0.45], strict=True)), a=texts)
    return texts.index(search.METHODS[method](player, PROBLEMS[:1], n, 0)[0].text)


@pytest.mark.parametrize("method, chosen", [
    ("prm", 1),             # least steps 0.3, 0.5, 0.45
    ("prm-product", 0),     # products 0.27, 0.25, 0.27: the first of the largest
    ("prm-last", 0), ("orm", 0),
    ("weighted", 1),        # 1/2 and 0.5 together: 0.95 against 0.3
    ("weighted-orm", 1)])   # 0.95 against 0.9
def test_the_best_of_n_and_the_weighted_vote(method, chosen):
    assert best_of(method) == chosen
    assert best_of(method, 1) == 0


@pytest.mark.parametrize("method, chosen", [("vote", 0), ("weighted", 2), ("weighted-orm", 2)])
def test_of_the_chosen_answer_a_weighted_vote_takes_the_best_sample(method, chosen):
    texts = ["1/2", "3", "0.5"]
    player = Scripted(dict(zip(map(says, texts), [0.2, 0.6, 0.5], strict=True)),
                      a=list(map(says, texts)))
    [one] = search.METHODS[method](player, PROBLEMS[:1], 3, 0)
    assert one.text == says(texts[chosen])


def test_a_beam_keeps_the_best_first_step_and_a_subtree_its_own():
    texts = [f"<think>{x}\n{y}" + says("1")[8:] for x in "ab" for y in "cd"]
    end = says("1")[8:]
    scores = {"<think>a": 0.6, "<think>b": 0.7, "c" + end: 0.9, "d" + end: 0.4}
    player = Scripted(scores, a=texts)
    [one] = search.METHODS["beam"](player, PROBLEMS[:1], 4, 0)  # one is kept: b
    assert one.text == texts[2] and set(one.samples) == {texts[2], texts[3]} and one.tokens == 8
    player.beams = 2
    [one] = search.METHODS["beam"](player, PROBLEMS[:1], 4, 0)  # two different ones: b, then a
    assert one.text == texts[2] and [t[7] for t in one.samples] == ["b", "b", "a", "a"]
    [one] = search.METHODS["dvts"](player, PROBLEMS[:1], 4, 0)  # rows 0 and 1 began with a alone
    assert [t[7] for t in one.samples] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("subtrees, places", [(False, [3, 3, 0, 0, 4, 4]),
                                              (True, [0, 0, 3, 3, 4, 4])])
def test_prune_by_the_least_step(subtrees, places):
    scores = [[0.9, 0.5, 0.6], [0.3, 0.9, 0.9], [0.95, 0.35, 0.9], [0.6, 0.6, 0.6],
              [0.4, 0.9, 0.9], [0.2, 0.9, 0.99]]
    one = search.Found("", 0, list("abcdef"), list(scores))
    ended = [False, False, False, True, False, False]
    search.prune(one, ended, 3, subtrees)
    assert one.samples == [list("abcdef")[j] for j in places]
    assert one.scores == [scores[j] for j in places] and ended == [j == 3 for j in places]


def test_prune_fills_up_with_equal_texts():
    one, ended = search.Found("", 0, list("aabb"), [[0.9], [0.9], [0.1], [0.1]]), [False] * 4
    search.prune(one, ended, 2, False)
    assert one.samples == ["a", "a", "b", "b"]
    search.prune(one, ended, 4, False)
    assert one.samples == ["a", "b", "a", "b"] and len(ended) == len(one.scores) == 4
    one.samples, one.scores = list("aaab"), [[0.9], [0.9], [0.9], [0.1]]
    search.prune(one, ended, 4, False)
    assert one.samples == ["a", "b", "a", "a"] and len(ended) == len(one.scores) == 4


def test_looking_ahead_sees_what_a_step_leads_to():
    end = says("1")[8:]
    texts = [f"<think>a\nc{end}", f"<think>b\nd{end}"]
    scores = {"<think>a": 0.6, "<think>b": 0.7, "c" + end: 0.9, "d" + end: 0.1}
    for method, chosen in (("beam", 1), ("lookahead", 0)):
        player = Scripted(scores, a=texts)
        [one] = search.METHODS[method](player, PROBLEMS[:1], 2, 0)
        assert one.text == texts[chosen]
    assert player.grown == [(2, False), (1, True), (2, False)]  # a look takes the likeliest tokens
    assert one.tokens == 2 + 2 + 2  # two first steps, a look ahead from each, two second steps


def test_more_beams_than_samples_are_refused():
    player = Scripted(a=["x"])
    player.beams = 4
    with pytest.raises(ValueError, match="beams"):
        search.METHODS["beam"](player, PROBLEMS[:1], 2, 0)


def test_the_tree_shows_what_is_shared_once():
    one = search.Found("", 0, ["a\nb</think>c", "a\nd", "a\nb</think>c"],
                       [[0.9, 0.5, 0.1], [0.9, 0.2], [0.9, 0.5, 0.1]])
    red, yellow, green = (f"\x1b[{n}m" for n in (31, 33, 32))
    assert search.drawn(one).replace("\x1b[0m", "").split("\n") == [
        f"{green}a  0.90  x3", f"  {yellow}b</think>  0.50  x2", f"    {red}c  0.10  x2",
        f"  {red}d  0.20"]


def test_a_tree_that_nobody_judged_has_no_scores():
    shown = search.drawn(search.Found("", 0, ["a\nb", "a\nc", "a\nb"]))
    assert re.sub(r"\x1b\[\d+m", "", shown) == "a  x3\n  b  x2\n  c"


@pytest.mark.parametrize("method", ["vote", "verifier"])
def test_one_sample_is_what_was_sampled(method):
    player = Scripted(a=[says("1"), says("2")], b=["x"])
    assert [f.text for f in search.METHODS[method](player, PROBLEMS, 1, 0)] == [says("1"), "x"]


def test_the_bound_counts_a_problem_if_any_sample_is_right():
    player = Scripted(a=[says("9"), says("1")], b=[says("9"), says("8")])
    task = tasks.Arithmetic(1)
    assert search.evaluate_method(player, task, PROBLEMS, "verifier", 2, 0)[0]["accuracy"] == 0.5
    said, found = search.evaluate_method(player, task, PROBLEMS, "vote", 2, 0)
    assert said["accuracy"] == 0.0 and len(found) == said["problems"] == 2
    assert said["tokens_per_problem"] == 2 * 2  # of two samples each
    search.evaluate_method(player, task, PROBLEMS, "greedy", 2, 0)
    assert player.greedy == [False, False, True]


@pytest.mark.parametrize("method", search.METHODS)
def test_no_method_asks_the_verifier(method, monkeypatch):
    def never(*_):
        raise AssertionError("the verifier was asked")
    for name in ("number_correct", "written_correct", "verdict"):
        monkeypatch.setattr(search.verify, name, never)
    for task in tasks.TASKS.values():
        monkeypatch.setattr(task, "correct", never)
    monkeypatch.setattr(chain, "steps_true", never)
    search.METHODS[method](Scripted(a=[says("1")], b=[says("2")]), PROBLEMS, 4, 0)


def test_the_end_of_thinking_is_put_off():
    player = Scripted(a=[says("1", "one")])
    [one] = search.METHODS["force"](player, PROBLEMS[:1], 3, 0)
    assert one.text == "<think>one\nwait\nmore\nwait\nmore</think><answer>7</answer>"
    assert one.tokens == 3 + 5 + 5 + 5


def test_a_step_that_ends_the_response_and_a_line_at_once_has_ended(monkeypatch):
    """A real model's token may hold both."""
    monkeypatch.setattr(tokenizer, "STRINGS", ["</answer>"])
    made = [tokenizer.encode("<answer>1</answer>\n"), tokenizer.encode("<answer>1\n")]
    monkeypatch.setattr(evaluate, "ending", lambda policy: dict(stop=[tokenizer.EOT]))
    monkeypatch.setattr(player, "generate", lambda *_, **how: SimpleNamespace(
        responses=lambda: made))
    assert [over for *_, over in player.Player(None, 96).steps(["q"], [""], 2, [0, 1])] == [
        True, False]


@pytest.mark.parametrize("method", ["force", "cut"])
def test_an_answer_without_a_thought_stays_as_it_is(method, monkeypatch):
    """As a real model may give it, which ends with a text and no token of its own."""
    monkeypatch.setattr(tokenizer, "STRINGS", ["</answer>"])
    [one] = search.METHODS[method](Scripted(a=["<answer>1</answer>"]), PROBLEMS[:1], 30, 0)
    assert one.text == "<answer>1</answer>"


def test_a_beam_goes_on_though_a_look_ahead_ended_where_it_stands(monkeypatch):
    """The look draws the end of text at once, so its text is the beam's own."""
    asked, line, end = [], tokenizer.encode("1\n"), [tokenizer.EOT]
    answers = iter([[line], [end], [line]])

    def generate(policy, prompts, n, longest, temperature, seeds, *, prefixes, **how):
        asked.append(prefixes)
        made = next(answers)
        return SimpleNamespace(responses=lambda: made)
    monkeypatch.setattr(player, "generate", generate)
    monkeypatch.setattr(evaluate, "ending", lambda policy: dict(stop=end))
    one = player.Player(None, 96)
    assert one.steps(["q"], [""], 1, [0]) == [("1\n", 2, False)]
    assert one.steps(["q"], ["1\n"], 1, 0, greedy=True) == [("1\n", 1, True)]
    assert one.steps(["q"], ["1\n"], 1, [0]) == [("1\n1\n", 2, False)]
    assert asked == [[[]], [line], [line]]


def test_the_thinking_is_cut_off():
    player = Scripted(a=[says("1", "long thought")])
    [one] = search.cut(player, PROBLEMS[:1], 9, 0)
    assert one.text == "<think>lo</think><answer>7</answer>" and one.tokens == 3 + 5
    assert one.samples == [one.text]
    assert player.greedy == [True, True] and player.longest == [9, 32]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "short"
    assert train.main(["--out", str(out), "--base-steps", "20", "--steps", "1", "--prompts", "2",
                       "--group-size", "4", "--eval-problems", "5", "--max-new-tokens", "32",
                       "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def judged(run):
    assert prm.main(["--run", str(run), "--problems", "4", "--solutions", "2", "--completions", "1",
                     "--epochs", "1", "--eval-problems", "2"]) == 0
    return run


CHOOSE = [name for name in search.METHODS if name not in ("greedy", "force", "force-neutral", "cut",
                                                          "verifier")]


def test_one_sample_of_every_method_is_the_same_sample(judged):
    policy, settings = search.evaluate.trained(str(judged))
    player = search.Player(policy, 32, judges=prm.load(str(judged), policy))
    problems = tasks.Arithmetic(2).held_out(20)
    want = [f.text for f in search.sampled(player, problems, 1, 3)]
    assert len(set(want)) > 1
    for method in CHOOSE:
        assert [f.text for f in search.METHODS[method](player, problems, 1, 3)] == want, method


def test_without_a_judge_it_is_said_how_to_make_one(run, tmp_path, capsys):
    for name in ("checkpoint.pt", "config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert search.main(["--run", str(tmp_path), "--method", "beam", "--count", "2"]) == 2
    said = capsys.readouterr().err
    assert "prm.py" in said and said.count("\n") == 1


def test_a_problem_without_an_answer_is_counted(judged, capsys):
    capsys.readouterr()
    assert search.main(["--run", str(judged), "--method", "weighted", "--n", "2", "--count", "8",
                        "--temperature", "50"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["without_answer"] > 0 and said["accuracy"] <= 1 - said["without_answer"] / 8


@pytest.mark.parametrize("method, n", [("greedy", 1), ("verifier", 3), ("force", 2), ("cut", 8),
                                       ("force-neutral", 2)] + [(name, 4) for name in CHOOSE])
def test_the_command_line(judged, method, n, capsys):
    found, run = [], judged
    capsys.readouterr()
    for _ in range(2):
        assert search.main(["--run", str(run), "--method", method, "--n", str(n), "--count",
                            "6"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0}
    assert found[0]["problems"] == 6 and found[0]["tokens_per_problem"] > 0
    assert found[0]["ci"][0] <= found[0]["accuracy"] <= found[0]["ci"][1]


@pytest.mark.parametrize("flags, named", [
    (["--n", "0"], "--n"), (["--count", "0"], "--count"), (["--run", "nowhere"], "nowhere"),
    (["--problems", "no.jsonl"], "no.jsonl"), (["--beams", "-1"], "--beams")])
def test_bad_input_is_one_sentence(run, flags, named, capsys):
    assert search.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_a_judge_reads_ended_texts_with_their_end(monkeypatch):
    """Equal ones are read once: test_prm.py."""
    monkeypatch.setattr(prm, "scores", lambda judge, pairs: [[len(p), len(ids)]
                                                             for p, ids in pairs])
    player = search.Player(None, 96, judges={"prm": None})
    questions, texts = ["1 +1 =?"] * 4 + ["1 +1 +2 =?"], ["<think>1", "<think>"] * 2 + ["<think>"]
    said = player.judge("prm", questions, texts, [True, False, True, True, False])
    assert [ids for _, ids in said] == [3, 1, 3, 2, 1] and said[1][0] < said[4][0]
