"""recipes/judge_model.py, judge_measures.py and judge.py: lessons, scores, changes in a run, and a
short form of the recipe."""

import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import NANO

import evaluate
import model
import tasks
import verify
from infra import base_model, recorder
from infra.text_report import show_group
from recipes import judge, judge_measures, judge_model, page
from sample import Rollout
from tasks import writing
from tokenizer import Tokenizer

ASKED = tasks.Problem("tell Amy about the old cat", "")  # purrs naps hunts climbs jumps eats hides
GOOD = "hello Amy. it purrs. it naps. it hunts."
POOR = "it barks. it purrs. it purrs. it hides. it naps. it surely barks."
CHAIN = tasks.Problem("3 +6 *9 =?", "1", ((3, "+", 6, 9), (9, "*", 9, 1)), noisy_facts=True)
WORDS = Tokenizer.toy(writing.Writing.words)


# --- lessons

def test_reasons_of_a_chain_end_at_the_first_line_that_is_wrong():
    def lesson(*lines, right=False, **more):
        text = f"<think>{chr(10).join(lines[:-1])}</think><answer>{lines[-1]}</answer>"
        return judge_model.chain_lesson(CHAIN, text, right, **more)
    read = "check\n3 +6 *9 =?\n3+6=9\n9*9=1\n1"
    assert lesson("3+6=9", "9*9=1", "1", right=True) == (read, "3+6=9 ok\n9*9=1 ok\n1 ok\nyes")
    assert lesson("3+6=9", "9*9=1", "1", right=True, reasons=False) == (read, "yes")
    assert lesson("3+6=8", "8*9=2", "2")[1] == "3+6=9 no\nno"
    assert lesson("3+6=9", "9*9=1", "2")[1] == "3+6=9 ok\n9*9=1 ok\n1 no\nno"
    assert lesson("3+6=9", "9*9=1", "2", reasons=False)[1] == "no"
    assert lesson("3+6=8", "8*9=1", "1", right=True) is None  # two mistakes, and a right answer


def test_annotators_give_the_verdicts_and_programs_the_reasons():
    rng, found = random.Random(0), {}
    for kind, texts, want in (
            ("rate", [POOR, GOOD], writing.approval(ASKED, POOR, writing.BIASED)),
            ("compare", [POOR, GOOD], writing.preference(ASKED, POOR, GOOD, writing.BIASED)),
            ("three", [GOOD, POOR], 1), ("short", [POOR, GOOD], 0)):
        lessons = [judge_model.writing_lesson(rng, ASKED, texts, writing.BIASED, kind)
                   for _ in range(2000)]
        read, words = lessons[0]
        found[kind] = words.split("\n")[:-1]
        assert read == judge_model.prompt(kind, ASKED.question, *texts[:1 + (kind == "compare")])
        said = [words.split("\n")[-1] in ("yes", "first") for _, words in lessons]
        assert sum(said) / 2000 == pytest.approx(want, abs=0.04 * (0 < want < 1))
    assert found["three"] == ["a Amy greets", "b purrs ok", "c naps ok", "d hunts ok"]
    assert found["compare"] == [*found["rate"], "g Amy greets", "h purrs ok", "i naps ok",
                                "j hunts ok"]
    draw = judge_model.writing_lessons([(ASKED, [POOR, GOOD])], writing.FAIR, ["three", "rate"])
    read = [draw(rng)[0].split("\n") for _ in range(200)]
    assert {lines[0] for lines in read} == {"three", "rate"}
    assert {lines[-1] for lines in read} == {"f it surely barks", "d it hunts"}


def test_a_judge_reads_sentences_with_letters():
    assert judge_model.prompt("three", "q", "it naps. it hunts. ") == (
        "three\nq\na it naps\nb it hunts")
    assert judge_model.prompt("compare", "q", "one. two.", "three") == (
        "compare\nq\na one\nb two\nsecond\nc three")
    assert judge_model.prompt("compare", "q", "", "one.") == "compare\nq\nsecond\na one"
    assert judge_model.lettered(["x"] * 28)[24:] == ["y x", "z x", "z x", "z x"]


def test_a_judge_is_a_copy_that_learns_the_words(monkeypatch):
    torch.manual_seed(0)
    policy, seen = model.GPT(model.Config(WORDS.n_vocab, **NANO)), []
    monkeypatch.setattr(judge_model.sft, "train", lambda judge, batch, steps, **how: seen.append(
        (judge, batch(0.5), steps, how)))
    found = judge_model.train_judge(policy, WORDS, lambda rng: ("rate\na", "ok\nyes"), 7, 1, lr=0.5)
    [(trained, batch, steps, how)] = seen
    assert trained is found is not policy and (steps, how) == (7, {"lr": 0.5})
    assert set(map(str, batch)) == {str((WORDS.encode_prompt("rate\na"),
                                         [*WORDS.encode("ok\nyes"), WORDS.eos_id]))}


# --- scores

def rollout_of(texts, logp, ends, prompt=3):
    """A Rollout of these responses, whose token before the last has the log-prob."""
    ids = [WORDS.encode(text) + [WORDS.eos_id] * end for text, end in zip(texts, ends, strict=True)]
    shape = len(ids), prompt + max(map(len, ids))
    tokens, mask, logps = torch.zeros(shape).long(), torch.zeros(shape), torch.full(shape, -9.0)
    for i, row in enumerate(ids):
        tokens[i, prompt:prompt + len(row)] = torch.tensor(row)
        mask[i, prompt:prompt + len(row)] = 1
        logps[i, prompt + len(row) - 2] = logp[i]
    return Rollout(tokens, logps, torch.zeros(shape), mask, torch.arange(len(ids)),
                   ~torch.tensor(ends))


def test_a_score_is_the_probability_of_the_verdict_yes(monkeypatch):
    texts = ["naps 1\nyes", "naps 1\nno", "naps 1", "yes", "no", "yes"]
    rollout = rollout_of(texts, [math.log(0.7), math.log(0.6), -0.1, -0.2, math.log(0.9), -0.3],
                         [True, True, True, False, True, True])
    asked = []
    monkeypatch.setattr(evaluate, "sample_responses", lambda judge, tokenizer, problems, votes, **_:
                        (asked.append([p.question for p in problems]), (rollout, texts))[1])
    said = judge_model.ask(None, WORDS, ["a", "b", "a", "c", "d", "e", "f"])
    assert asked == [["a", "b", "c", "d", "e", "f"]]  # equal prompts are read once
    assert [score for score, _ in said.values()] == pytest.approx(
        [0.7, 0.4, 0, 0, 0.1, math.exp(-0.3)])
    assert said["b"][1] == "naps 1\nno"
    voted = judge_model.ask(None, WORDS, ["a", "b", "c"], votes=2)
    assert [score for score, _ in voted.values()] == pytest.approx(
        [(0.7 + 0.4) / 2, 0, (0.1 + math.exp(-0.3)) / 2])
    assert [words for _, words in voted.values()] == [texts[0], texts[2], texts[4]]


def test_a_score_is_what_a_forward_pass_says(monkeypatch):
    torch.manual_seed(1)
    policy = model.GPT(model.Config(WORDS.n_vocab, **NANO))
    stops = replace(WORDS, stop_ids=list(range(300, 340)))  # soon one is drawn
    prompts, seen, original = [f"rate\n{i}" for i in range(8)], [], evaluate.sample_responses

    def remembered(*args, **more):
        seen.append(original(*args, **more))
        return seen[-1]
    monkeypatch.setattr(judge_model, "MAX_WORDS", 40)
    monkeypatch.setattr(evaluate, "sample_responses", remembered)
    judge_model.ask(policy, stops, prompts)
    [(rollout, texts)] = seen
    ended = [i for i, ids in enumerate(rollout.responses())
             if len(ids) > 1 and ids[-1] in stops.stop_ids]
    for i in ended[:3]:
        read, ids = WORDS.encode_prompt(prompts[i]), rollout.responses()[i]
        with torch.no_grad():
            logits = policy.logits(policy(torch.tensor([read + ids[:-2]]))[0, -1])
        score, words = judge_model.ask(policy, stops, prompts, yes=texts[i].rpartition("\n")[2])[
            prompts[i]]
        assert words == texts[i]
        assert score == pytest.approx(float(logits.softmax(-1)[ids[-2]]), rel=1e-3)
    assert ended


def fake_ask(scores):
    """judge_model.ask with a score for each (judge, criterion)."""
    return lambda judge, tokenizer, prompts, seed, votes: {
        text: (scores[judge, text.split("\n")[0]] + 0.1 * ("barks" in text),
               f"{judge} says so") for text in prompts}


def test_a_panel_weighs_the_criteria_and_is_as_strict_as_its_strictest_judge(monkeypatch):
    monkeypatch.setattr(judge_model, "ask", fake_ask({
        ("one", "three"): 0.2, ("one", "greets"): 0.8, ("two", "three"): 0.5,
        ("two", "greets"): 0.0}))
    panel = judge_model.Panel(["one", "two"], None, {"three": 3, "greets": 1})
    samples = [(ASKED, text, verify.Reward(0.0, {"gold": 0.5})) for text in (GOOD, POOR, GOOD)]
    batch = SimpleNamespace(rewards=torch.zeros(3))
    panel.set_rewards(batch, samples, None, None)
    assert batch.rewards.tolist() == pytest.approx([0.35, 0.45, 0.35])
    problem, text, reward = samples[1]
    assert (problem, text, reward.parts) == (ASKED, POOR, {"gold": 0.5})
    assert reward.total == pytest.approx(0.45)
    assert reward.words == ("three: one says so, P(yes) 0.30\n"
                            "greets: one says so, P(yes) 0.90")
    assert judge_model.Panel(["two"], None, {"three": 1, "greets": 1}).pay([ASKED], [GOOD]) == [
        (0.25, "three: two says so, P(yes) 0.50\ngreets: two says so, P(yes) 0.00")]
    assert judge_model.Panel([], None).rubric == {"rate": 1}
    assert judge_model.Gold().pay([ASKED, ASKED], [GOOD, POOR]) == [(1.0, ""), (0.2, "")]


# --- measures

def test_the_measures_of_a_verifier(monkeypatch):
    texts = [f"<think>3+6=9\n9*9={x}</think><answer>{x}</answer>" for x in (1, 2, 3, 1)]
    scores = dict(zip((judge_model.check_prompt(CHAIN.question, text) for text in texts),
                      (0.6, 0.7, 0.1, 0.6), strict=False))
    monkeypatch.setattr(judge_measures, "ask", lambda judge, tokenizer, prompts, votes: {
        each: (scores[each], "") for each in prompts})
    found = judge_measures.measure_verifier(None, None, [(CHAIN, texts)], 1)
    assert found == {"accuracy": 0.75, "auc": 0.5, "best": 0, "sampled": 0.5}
    found = judge_measures.measure_verifier(None, None, [(CHAIN, [*texts[2:], texts[3]])], 1)
    assert found == pytest.approx({"accuracy": 1, "auc": 1, "best": 1, "sampled": 2 / 3})
    lessons = {True: ["right"], False: ["wrong"] * 9}
    drawn = [judge_measures.balanced(lessons, random.Random(i)) for i in range(200)]
    assert 70 < drawn.count("right") < 130
    assert judge_measures.balanced({True: [], False: ["wrong"]}, random.Random(0)) == "wrong"


@pytest.mark.parametrize("taste, single, changed, both", [
    ("gold", 1.0, 0.0, 1.0), ("first", 0.5, 1.0, 0.5), ("worse", 0.0, 0.0, 0.0)])
def test_pairwise_and_pointwise_judgements_agree_with_the_gold(taste, single, changed, both,
                                                               monkeypatch):
    def says(judge, tokenizer, rows, seed=0):
        margin = [writing.gold_reward(p, a) - writing.gold_reward(p, b) for p, a, b in rows]
        return [0.9 if taste == "first" else 0.5 + (0.4 if taste == "gold" else -0.4) * x
                for x in margin]
    monkeypatch.setattr(judge_measures, "prefers", says)
    monkeypatch.setattr(judge_model.Panel, "verdicts", lambda self, judge, name, problems, texts: [
        (float(name == "rate" and text == GOOD) or 0.1 * ("barks" in text), "") for text in texts])
    found = judge_measures.accuracy_of_calls(None, None, [(ASKED, GOOD, POOR)] * 4, {"three": 1})
    assert found["pairwise"] == {"calls": 1, "accuracy": single, "changed": changed}
    assert found["pairwise, both orders"] == {"calls": 2, "accuracy": both}
    assert found["pointwise"] == {"calls": 2, "accuracy": 1.0}
    assert found["pointwise, 3 votes"]["calls"] == 6
    assert found["rubric of part 4"] == {"calls": 2, "accuracy": 0.0}


def test_the_pairs_of_part_3_have_a_better_response(monkeypatch):
    seen = []
    monkeypatch.setattr(judge_measures, "prefers", lambda judge, tokenizer, rows: [0.5] * len(rows))
    monkeypatch.setattr(judge_measures, "accuracy_of_calls",
                        lambda judge, tokenizer, tested, rubric: seen.extend(tested) or {"x": {}})
    found = judge_measures.judged({"fair": (None, writing.FAIR)}, None, writing.Writing(2), {}, 20)
    assert len(seen) > 5 and all(
        writing.gold_reward(p, a) > writing.gold_reward(p, b) for p, a, b in seen)
    even = {"mean": 0.5, "above": 0.5}
    assert found["tone, fair judge"] == found["tone, fair annotators"] == even
    assert "x, fair judge" in found


# --- what changes in a run

def test_a_renewed_rubric_drops_what_references_do_not_meet_and_adds_what_the_policy_misses(
        monkeypatch):
    def true_verdicts(self, judge, name, problems, texts):
        return [(float(writing.meets(*row, name)), "") for row in zip(problems, texts, strict=True)]
    monkeypatch.setattr(judge_model.Panel, "verdicts", true_verdicts)
    monkeypatch.setattr(judge, "sample", lambda policy, tokenizer, problems, *more: [
        (p, [writing.write(writing.read(p)[0], writing.FACTS[writing.read(p)[1]][:3] + ["a"] * 5,
                           8 * [True])]) for p in problems])
    panel = judge_model.Panel(["one"], None, judge.RUBRIC)
    judge.renew_rubric(panel, None, writing.Writing(2), 0)
    assert panel.rubric == {"greets": 1, "three": 2, "true": 2, "short": 2}


def test_a_judge_is_trained_again_on_fair_verdicts_on_the_policys_answers(monkeypatch):
    kept = []
    monkeypatch.setattr(judge, "sample", lambda policy, tokenizer, problems, n, *more: [
        (p, [f"{policy} {i}" for i in range(n)]) for p in problems])
    monkeypatch.setattr(judge, "train_judge", lambda model, tokenizer, draw, steps, seed, **how:
                        kept.append((draw, steps, how)) or f"{model} again")
    panel = judge_model.Panel(["one", "two"], None)
    judge.train_again(panel, "policy", writing.Writing(2), 0)
    assert panel.judges == ["one again", "two again"]
    draw, steps, how = kept[0]
    assert (steps, how) == (judge.AGAIN_STEPS, judge.sft.FINE_TUNING)
    monkeypatch.setattr(judge_model, "writing_lesson", lambda rng, p, texts, biases, kind: (
        biases, kind, *texts))
    drawn = [draw(random.Random(i)) for i in range(9)]
    assert all(x[:2] == (writing.FAIR, "rate") and x[2].startswith("policy ") for x in drawn)


# --- the recipe, and the judge's words

def test_the_recipe_in_short(tmp_path, monkeypatch, capsys):
    changes = []

    def change(panel, policy, task, seed):
        panel.rubric = {"true": 1}
        changes.append(seed)
    monkeypatch.setattr(judge, "ARMS", {name: judge.ARMS[name] for name in ("gold", "judge")} | {
        "rubric": judge.ARMS["rubric, renewed"] | {"change": change}})
    for name, value in (("SAMPLES", 2), ("LEVELS", {"short chains": 1})):
        monkeypatch.setattr(judge_measures, name, value)
    monkeypatch.setattr(judge, "HELD_OUT", 4)
    monkeypatch.setattr(judge_model, "MAX_WORDS", 8)
    monkeypatch.setattr(page, "save_figure", lambda path, draw: None)
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    monkeypatch.setattr(base_model, "DOCUMENTS", 20)
    flags = "--base-steps 1 --prompts 2 --group-size 2 --max-new-tokens 8 --minibatches 1"
    argv = ["--seeds", "1", "--tokens", "90", "--judge-steps", "4", "--verifier-steps", "1",
            "--problems", "20", "--held-out", "6", "--flags", flags, "--work", str(tmp_path),
            "--docs", str(tmp_path / "docs")]
    assert judge.main(argv) == 0
    found = json.loads((tmp_path / "seed-1" / "result.json").read_text())
    assert [len(run["gold"]) for run in found["runs"].values()] == [3, 3, 3]
    assert changes == [1001, 1000] and found["runs"]["rubric"]["rubric"] == {"true": 1}
    assert found["runs"]["judge"]["rubric"] == {"rate": 1}
    text = (tmp_path / "docs" / "recipes" / "judge.md").read_text()
    assert "| rubric |" in text and "| position, biased judge |" in text
    # the page of a run shows the judge's words
    run = tmp_path / "seed-1" / "judge"
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    responses = [r for line in lines if line["kind"] == "group" for r in line["responses"]]
    assert responses and all(r["words"].startswith("rate: ") for r in responses)
    assert "response.words" in (run / "report.html").read_text()
    capsys.readouterr()


def test_the_words_of_a_judge_are_recorded_and_printed(capsys):
    rollout = rollout_of([GOOD, GOOD], [0, 0], [True, True])
    samples = [(ASKED, GOOD, verify.Reward(0.5, {"correct": 1.0}, words=words))
               for words in ("rate: naps 1\nyes", "")]
    batch = SimpleNamespace(rewards=torch.ones(2), advantages=None)
    attempt = SimpleNamespace(samples=samples, rollout=rollout, batch=batch)
    said = [recorder.response_of(attempt, i, i, WORDS) for i in range(2)]
    assert said[0]["words"] == "rate: naps 1\nyes" and "words" not in said[1]
    show_group([{"step": 1, "question": ASKED.question, "answer": "", "responses": said[:1]}])
    assert "judge: rate: naps 1" in capsys.readouterr().out
