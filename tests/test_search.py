"""search.py: each method on a completer that reads from a script, whose right choice is known."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small import tiny_model

import evaluate
import infra.completer
import prm
import search
import tasks
import train
from tasks import chain
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()
STOPS_AT_ANSWER = replace(tokenizer, stop_strings=["</answer>"])


def says(answer, thought="t"):
    return f"<think>{thought}</think><answer>{answer}</answer>"


class Scripted:
    """A Completer whose responses and scores are given. It goes through the responses of a question
    in a cycle; greedy takes the first."""

    beams, tokenizer = 0, tokenizer

    def __init__(self, scores=None, **script):
        self.script, self.scores = script, scores or {}
        self.prefixes, self.greedy, self.max_new_tokens, self.calls = [], [], [], []

    def score(self, name, questions, texts, ended=True):
        """The given score of each line, and 0.5 for other lines."""
        return [[self.scores.get(part, 0.5) for part in text.split("\n") if part]
                for text in texts]

    def next_steps(self, questions, prefixes, n, seeds, greedy=False):
        """The next lines of the given responses, which the rows take in turn."""
        extended = []
        self.calls.append((n, greedy))
        for row in range(n * len(prefixes)):
            text = prefixes[row // n]
            fit = [t for t in self.script[questions[row // n]] if t.startswith(text)]
            lines = fit[0 if greedy else row % len(fit)].splitlines(keepends=True)
            new = lines[text.count("\n")]
            extended.append((text + new, 1, not new.endswith("\n")))
        return extended

    def complete(self, questions, n, seed, prefixes=None, stop=(), greedy=False, max_new_tokens=0):
        self.prefixes.append(prefixes)
        self.greedy.append(greedy)
        self.max_new_tokens.append(max_new_tokens)
        made = []
        for i, question in enumerate(questions):
            texts = self.script[question]
            if prefixes is not None and prefixes[i]:
                more = "more" if stop else "7</answer>"
                text = prefixes[i] + more * (not self.tokenizer.has_stop_string(prefixes[i]))
                made.append([(text, 5)] * n)
            elif stop:
                made.append([(texts[0].partition("</think>")[0][:max_new_tokens or None], 3)] * n)
            else:
                made.append([(texts[j % len(texts)], 2) for j in range(n)])
        return made


PROBLEMS = [tasks.Problem("a", "1"), tasks.Problem("b", "2")]


def test_answers_are_grouped_by_value_in_order():
    assert search.group_by_answer(["1/2", None, "3", "0.5", "3.0", "x"]) == [[0, 3], [2, 4], [5]]


@pytest.mark.parametrize("given, groups", [
    (["3", "2", "2.0"], [[0], [1, 2]]),                      # in order, not by size
    (["yes", "no", "1/3", "0.33"], [[0], [1], [2], [3]]),
    ([r"\frac12", "3", "0.5", "2^3", "8"], [[0, 2], [1], [3, 4]]),
    ([r"\sum_1^2 k", "3"], [[0], [1]]),                      # cannot be decided
    ([r"\unknown", "3", r"\unknown"], [[0, 2], [1]])])
def test_only_certainly_equal_answers_are_grouped(given, groups):
    assert search.group_by_answer(given) == groups


@pytest.mark.parametrize("answers, chosen", [
    (["3", "1", "1"], "1"), (["3", "1"], "3"), (["1/2", "3", "0.5"], "1/2"),
    (["3", "4", "4", "3"], "3"), (["5"], "5")])
def test_the_vote_takes_the_largest_group_and_the_first_of_equals(answers, chosen):
    completer = Scripted(a=[says(x) for x in answers])
    [one] = search.vote(completer, PROBLEMS[:1], len(answers), 0)
    assert one.text == says(chosen) and one.tokens == 2 * len(answers)


@pytest.mark.parametrize("texts, chosen", [
    (["so it is 1", "so it is 1", says("2")], 2), ([says("10"), says("3")], 0)])
def test_the_vote_reads_tagged_answers_and_takes_the_first_of_equals(texts, chosen):
    assert search.vote(Scripted(a=texts), PROBLEMS[:1], len(texts), 0)[0].text == texts[chosen]


def test_unreadable_answers_do_not_vote():
    completer = Scripted(a=["nonsense", "nonsense", says("1")], b=["no", "none", "nothing"])
    one, other = search.vote(completer, PROBLEMS, 3, 0)
    assert one.text == says("1") and other.text == "no"


def best_of(method, n=3):
    texts = ["<think>a\nb" + says("1")[8:], "<think>c\nd" + says("1/2")[8:],
             "<think>e\nf" + says("0.5")[8:]]
    ends = [text.split("\n")[1] for text in texts]
    completer = Scripted(dict(zip(["<think>a", ends[0], "<think>c", ends[1], "<think>e", ends[2]],
                                  [0.3, 0.9, 0.5, 0.5, 0.6, 0.45], strict=True)), a=texts)
    return texts.index(search.METHODS[method](completer, PROBLEMS[:1], n, 0)[0].text)


@pytest.mark.parametrize("method, chosen", [
    ("prm", 1),             # minima 0.3, 0.5, 0.45
    ("prm-product", 0),     # products 0.27, 0.25, 0.27: the first of the largest
    ("prm-last", 0), ("orm", 0),
    ("weighted", 1),        # 1/2 and 0.5 together: 0.95 against 0.3
    ("weighted-orm", 1)])   # 0.95 against 0.9
def test_best_of_n_and_weighted_vote(method, chosen):
    assert best_of(method) == chosen
    assert best_of(method, 1) == 0


@pytest.mark.parametrize("method, chosen", [("vote", 0), ("weighted", 2), ("weighted-orm", 2)])
def test_a_weighted_vote_returns_the_best_sample_of_its_answer(method, chosen):
    texts = ["1/2", "3", "0.5"]
    completer = Scripted(dict(zip(map(says, texts), [0.2, 0.6, 0.5], strict=True)),
                         a=list(map(says, texts)))
    [one] = search.METHODS[method](completer, PROBLEMS[:1], 3, 0)
    assert one.text == says(texts[chosen])


def test_beam_search_keeps_the_best_beams_and_dvts_the_best_of_each_subtree():
    texts = [f"<think>{x}\n{y}" + says("1")[8:] for x in "ab" for y in "cd"]
    end = says("1")[8:]
    scores = {"<think>a": 0.6, "<think>b": 0.7, "c" + end: 0.9, "d" + end: 0.4}
    completer = Scripted(scores, a=texts)
    [one] = search.METHODS["beam"](completer, PROBLEMS[:1], 4, 0)  # one beam is kept: b
    assert one.text == texts[2] and set(one.samples) == {texts[2], texts[3]} and one.tokens == 8
    completer.beams = 2
    [one] = search.METHODS["beam"](completer, PROBLEMS[:1], 4, 0)  # two distinct ones: b, then a
    assert one.text == texts[2] and [t[7] for t in one.samples] == ["b", "b", "a", "a"]
    [one] = search.METHODS["dvts"](completer, PROBLEMS[:1], 4, 0)  # the subtree of rows 0 and 1
    assert [t[7] for t in one.samples] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("subtrees, places", [(False, [3, 3, 0, 0, 4, 4]),
                                              (True, [0, 0, 3, 3, 4, 4])])
def test_prune_ranks_by_the_minimum_step_score(subtrees, places):
    scores = [[0.9, 0.5, 0.6], [0.3, 0.9, 0.9], [0.95, 0.35, 0.9], [0.6, 0.6, 0.6],
              [0.4, 0.9, 0.9], [0.2, 0.9, 0.99]]
    one = search.SearchResult("", 0, list("abcdef"), list(scores))
    ended = [False, False, False, True, False, False]
    search.prune(one, ended, 3, subtrees)
    assert one.samples == [list("abcdef")[j] for j in places]
    assert one.scores == [scores[j] for j in places] and ended == [j == 3 for j in places]


def test_prune_fills_up_with_duplicates():
    one, ended = search.SearchResult("", 0, list("aabb"), [[0.9], [0.9], [0.1], [0.1]]), [False] * 4
    search.prune(one, ended, 2, False)
    assert one.samples == ["a", "a", "b", "b"]
    search.prune(one, ended, 4, False)
    assert one.samples == ["a", "b", "a", "b"] and len(ended) == len(one.scores) == 4
    one.samples, one.scores = list("aaab"), [[0.9], [0.9], [0.9], [0.1]]
    search.prune(one, ended, 4, False)
    assert one.samples == ["a", "b", "a", "a"] and len(ended) == len(one.scores) == 4


def test_lookahead_scores_the_step_after_the_beam():
    end = says("1")[8:]
    texts = [f"<think>a\nc{end}", f"<think>b\nd{end}"]
    scores = {"<think>a": 0.6, "<think>b": 0.7, "c" + end: 0.9, "d" + end: 0.1}
    for method, chosen in (("beam", 1), ("lookahead", 0)):
        completer = Scripted(scores, a=texts)
        [one] = search.METHODS[method](completer, PROBLEMS[:1], 2, 0)
        assert one.text == texts[chosen]
    assert completer.calls == [(2, False), (1, True), (2, False)]  # the lookahead is greedy
    assert one.tokens == 2 + 2 + 2  # two first steps, a lookahead from each, two second steps


def test_more_beams_than_samples_are_refused():
    completer = Scripted(a=["x"])
    completer.beams = 4
    with pytest.raises(ValueError, match="beams"):
        search.METHODS["beam"](completer, PROBLEMS[:1], 2, 0)


def test_the_tree_prints_shared_steps_once():
    one = search.SearchResult("", 0, ["a\nb</think>c", "a\nd", "a\nb</think>c"],
                              [[0.9, 0.5, 0.1], [0.9, 0.2], [0.9, 0.5, 0.1]])
    red, yellow, green = (f"\x1b[{n}m" for n in (31, 33, 32))
    assert search.render_tree(one).replace("\x1b[0m", "").split("\n") == [
        f"{green}a  0.90  x3", f"  {yellow}b</think>  0.50  x2", f"    {red}c  0.10  x2",
        f"  {red}d  0.20"]


def test_the_tree_of_unscored_samples_has_no_scores():
    shown = search.render_tree(search.SearchResult("", 0, ["a\nb", "a\nc", "a\nb"]))
    assert re.sub(r"\x1b\[\d+m", "", shown) == "a  x3\n  b  x2\n  c"


@pytest.mark.parametrize("method", ["vote", "verifier"])
def test_with_one_sample_that_sample_is_chosen(method):
    completer = Scripted(a=[says("1"), says("2")], b=["x"])
    assert [f.text for f in search.METHODS[method](completer, PROBLEMS, 1, 0)] == [says("1"), "x"]


def test_the_upper_bound_counts_a_problem_if_any_sample_is_correct():
    completer = Scripted(a=[says("9"), says("1")], b=[says("9"), says("8")])
    task = tasks.Arithmetic(1)
    assert search.evaluate_method(completer, task, PROBLEMS, "verifier", 2, 0)[0]["accuracy"] == 0.5
    said, found = search.evaluate_method(completer, task, PROBLEMS, "vote", 2, 0)
    assert said["accuracy"] == 0.0 and len(found) == said["problems"] == 2
    assert said["tokens_per_problem"] == 2 * 2  # of two samples each
    search.evaluate_method(completer, task, PROBLEMS, "greedy", 2, 0)
    assert completer.greedy == [False, False, True]


@pytest.mark.parametrize("method", search.METHODS)
def test_no_method_calls_the_verifier(method, monkeypatch):
    def never(*_):
        raise AssertionError("the verifier was asked")
    for name in ("number_correct", "written_correct", "verdict"):
        monkeypatch.setattr(search.verify, name, never)
    for task in tasks.TASKS.values():
        monkeypatch.setattr(task, "correct", never)
    monkeypatch.setattr(chain, "steps_true", never)
    search.METHODS[method](Scripted(a=[says("1")], b=[says("2")]), PROBLEMS, 4, 0)


def test_budget_forcing_replaces_the_end_of_thinking():
    completer = Scripted(a=[says("1", "one")])
    [one] = search.METHODS["force"](completer, PROBLEMS[:1], 3, 0)
    assert one.text == "<think>one\nwait\nmore\nwait\nmore</think><answer>7</answer>"
    assert one.tokens == 3 + 5 + 5 + 5


def test_a_token_with_stop_string_and_line_end_ends_the_response(monkeypatch):
    """A real model may have such a token."""
    made = [tokenizer.encode("<answer>1</answer>\n"), tokenizer.encode("<answer>1\n")]
    monkeypatch.setattr(evaluate, "stop_conditions", lambda *_: dict(stop=[tokenizer.eos_id]))
    monkeypatch.setattr(infra.completer, "generate", lambda *_, **how: SimpleNamespace(
        responses=lambda: made))
    completer = search.Completer(None, STOPS_AT_ANSWER, 96)
    assert [over for *_, over in completer.next_steps(["q"], [""], 2, [0, 1])] == [True, False]


@pytest.mark.parametrize("method", ["force", "cut"])
def test_a_response_without_thinking_stays_as_it_is(method):
    """A real model's response may end with a stop string in place of an end token."""
    completer = Scripted(a=["<answer>1</answer>"])
    completer.tokenizer = STOPS_AT_ANSWER
    [one] = search.METHODS[method](completer, PROBLEMS[:1], 30, 0)
    assert one.text == "<answer>1</answer>"


def test_a_beam_continues_after_a_lookahead_that_ended_at_once(monkeypatch):
    """The lookahead samples the end token at once, so its text equals the beam's text."""
    asked, line, end = [], tokenizer.encode("1\n"), [tokenizer.eos_id]
    answers = iter([[line], [end], [line]])

    def generate(policy, prompts, n, longest, temperature, seeds, *, prefixes, **how):
        asked.append(prefixes)
        made = next(answers)
        return SimpleNamespace(responses=lambda: made)
    monkeypatch.setattr(infra.completer, "generate", generate)
    monkeypatch.setattr(evaluate, "stop_conditions", lambda *_: dict(stop=end))
    one = search.Completer(None, tokenizer, 96)
    assert one.next_steps(["q"], [""], 1, [0]) == [("1\n", 2, False)]
    assert one.next_steps(["q"], ["1\n"], 1, 0, greedy=True) == [("1\n", 1, True)]
    assert one.next_steps(["q"], ["1\n"], 1, [0]) == [("1\n1\n", 2, False)]
    assert asked == [[[]], [line], [line]]


def test_early_stopping_of_the_thinking():
    completer = Scripted(a=[says("1", "long thought")])
    [one] = search.early_stop(completer, PROBLEMS[:1], 9, 0)
    assert one.text == "<think>lo</think><answer>7</answer>" and one.tokens == 3 + 5
    assert one.samples == [one.text]
    assert completer.greedy == [True, True] and completer.max_new_tokens == [9, 32]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "short"
    with tiny_model():
        assert train.main(["--out", str(out), "--base-steps", "20", "--steps", "1", "--prompts",
                           "2", "--group-size", "4", "--eval-problems", "5", "--max-new-tokens",
                           "32", "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def run_with_prm(run):
    assert prm.main(["--run", str(run), "--problems", "4", "--solutions", "2", "--completions", "1",
                     "--epochs", "1", "--eval-problems", "2"]) == 0
    return run


CHOOSE = [name for name in search.METHODS if name not in ("greedy", "force", "force-neutral", "cut",
                                                          "verifier")]


def test_one_sample_of_every_method_is_the_same_sample(run_with_prm):
    policy, tokenizer, _ = search.evaluate.load_run(str(run_with_prm))
    completer = search.Completer(policy, tokenizer, 32,
                                 reward_models=prm.load(str(run_with_prm), policy))
    problems = tasks.Arithmetic(2).held_out(20)
    want = [f.text for f in search.sampled(completer, problems, 1, 3)]
    assert len(set(want)) > 1
    for method in CHOOSE:
        assert [f.text for f in search.METHODS[method](completer, problems, 1, 3)] == want, method


def test_a_missing_reward_model_is_a_one_sentence_error(run, tmp_path, capsys):
    for name in ("checkpoint.pt", "config.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert search.main(["--run", str(tmp_path), "--method", "beam", "--count", "2"]) == 2
    said = capsys.readouterr().err
    assert "prm.py" in said and said.count("\n") == 1


def test_problems_without_an_answer_are_counted(run_with_prm, capsys):
    capsys.readouterr()
    assert search.main(["--run", str(run_with_prm), "--method", "weighted", "--n", "2", "--count",
                        "8", "--temperature", "50"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["without_answer"] > 0 and said["accuracy"] <= 1 - said["without_answer"] / 8


@pytest.mark.parametrize("method, n", [("greedy", 1), ("verifier", 3), ("force", 2), ("cut", 8),
                                       ("force-neutral", 2)] + [(name, 4) for name in CHOOSE])
def test_the_command_line(run_with_prm, method, n, capsys):
    found, run = [], run_with_prm
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
def test_bad_input_gives_a_one_sentence_error(run, flags, named, capsys):
    assert search.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_ended_texts_are_scored_with_their_end_token(monkeypatch):
    """Equal ones are read once: test_prm.py."""
    monkeypatch.setattr(prm, "score_steps", lambda scorer, tokenizer, pairs: [
        [len(p), len(ids)] for p, ids in pairs])
    completer = search.Completer(None, tokenizer, 96, reward_models={"prm": None})
    questions, texts = ["1 +1 =?"] * 4 + ["1 +1 +2 =?"], ["<think>1", "<think>"] * 2 + ["<think>"]
    said = completer.score("prm", questions, texts, [True, False, True, True, False])
    assert [ids for _, ids in said] == [3, 1, 3, 2, 1] and said[1][0] < said[4][0]
