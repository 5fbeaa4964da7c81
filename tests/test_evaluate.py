"""evaluate.py: working and self-checks, proportions, all measurements; sample.py's command."""

import json
import math
import random
import shutil
import statistics
import types

import pytest
import torch

import evaluate
import model as gpt
import sample
import search
import tasks
import verify
from infra import run_dir, tensors
from model import GPT, Config
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()


@pytest.mark.parametrize("text,works", [
    ("<think>47*6=282</think><answer>282</answer>", True),
    ("47*6 = 282 <answer>282</answer>", True),
    ("<think>2-7=-5\n</think>", True),
    ("<think>easy</think><answer>282</answer>", False),
    ("<think>easy</think><answer>47*6=282</answer>", False),
    ("<think>47*6</think><answer>282</answer>", False),
    ("", False)])
def test_working_is_an_equation_before_the_answer(text, works):
    assert tasks.Arithmetic(1).shows_working(text) == works


@pytest.mark.parametrize("text,works", [
    ("<think>x+3\n(x+3)*2</think><answer>def f(x): return (x+3)*2</answer>", True),
    ("<think>x-2\n[x-2 for x in a]</think><answer>def f(a): return 1</answer>", True),
    ("<think>easy</think><answer>def f(x): return x+3</answer>", False), ("", False)])
def test_working_of_task_code_is_an_expression_before_the_answer(text, works):
    assert tasks.Code(1).shows_working(text) == works


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "gsm", "code", "chain", "wait"])
def test_most_of_a_task_s_drill_is_working_by_its_own_word(name):
    task, rng = tasks.TASKS[name](1), random.Random(0)
    made = [task.document(rng, p, drill=True) for p in task.sample(rng, 100)]
    assert sum(map(task.shows_working, made)) > 80


@pytest.mark.parametrize("text,checks", [
    ("<think>47*6=272\ncheck\n40*6=240\nwait\n47*6=282</think>", True),
    ("<think>26-5=21 no\n</think>", False),
    ("<think>I know this</think><answer>wait</answer>", False),
    ("<think>notes</think>", False)])
def test_a_self_check_is_check_or_wait_before_the_answer(text, checks):
    assert evaluate.checks_itself(text) == checks


def test_proportion_is_a_mean_with_its_wilson_interval():
    result = evaluate.proportion([True] * 9 + [False])
    assert result["value"] == 0.9 and result["n"] == 10
    assert tuple(result["ci"]) == verify.wilson(9, 10)
    assert evaluate.proportion([])["ci"] == [0.0, 1.0]


class Scripted(tasks.Arithmetic):
    """Every other problem counts as solved, whatever the text."""

    def __init__(self):
        super().__init__(1)
        self.correct = lambda problem, text: int(problem.answer) % 2 == 0


def test_measure_counts_what_the_verifier_says():
    task, model = Scripted(), GPT(Config(tokenizer.n_vocab, layers=1, width=32, heads=2,
                                         kv_heads=1, hidden=32))
    problems = task.held_out(20)
    arguments = dict(seed=0, max_new_tokens=5, n_pass=8, samples=4)
    result = evaluate.measure(model, tokenizer, task, problems, **arguments)
    even = sum(int(p.answer) % 2 == 0 for p in problems) / 20
    assert result["greedy"]["value"] == result["sampled"]["value"] == even
    some = sum(int(p.answer) % 2 == 0 for p in problems[:8]) / 8
    assert result["pass_at_k"] == {"1": some, "4": some}
    assert result["truncated"]["value"] + (result["length"] < 5) > 0
    again = evaluate.measure(model, tokenizer, task, problems, **arguments)
    assert again == result


def test_greedy_answers_are_the_likeliest_tokens():
    torch.manual_seed(0)
    model = GPT(Config(tokenizer.n_vocab, layers=1, width=32, heads=2, kv_heads=1,
                       hidden=32))  # far from sure: a sample would be another text
    problems = tasks.Arithmetic(1).held_out(3)
    found = evaluate.greedy_accuracy(model, tokenizer, tasks.Arithmetic(1), problems, 6)["examples"]
    for problem, text in zip(problems, found, strict=True):
        ids = tokenizer.encode_prompt(problem.question)
        prompt = len(ids)
        while len(ids) < prompt + 6 and ids[-1] not in tokenizer.stop_ids:
            ids.append(int(model.lm_head(model(torch.tensor([ids])))[0, -1].argmax()))
        assert text == tokenizer.decode([i for i in ids[prompt:] if i not in tokenizer.stop_ids])


def test_response_metrics():
    """Two groups of two responses: the first group has one correct response, the second none."""
    mask = torch.zeros(4, 9)
    for i, length in enumerate((2, 4, 6, 8)):
        mask[i, :length] = 1
    tokens = torch.arange(36).view(4, 9)
    rollout = types.SimpleNamespace(tokens=tokens, mask=mask, entropy=0.5 * mask,
                                    truncated=torch.tensor([False, False, False, True]))
    texts = ["<think>1+1=2</think><answer>2</answer>", "<think>wait</think>", "", "<answer>"]
    rewards = [verify.Reward(total, {"correct": float(total == 1), "format": float(i < 1)})
               for i, total in enumerate((1.0, 0.0, 0.4, 0.4))]
    task = tasks.Arithmetic(1)
    found = evaluate.response_metrics(3, [rollout], rewards, texts, 2, task)
    expected = {
        "step": 3, "reward": 0.45, "reward_std": statistics.stdev((1, 0, 0.4, 0.4)),
        "correct": 0.25, "format": 0.25,
        "accuracy": 0.25, "length": 5.0, "length_correct": 2.0, "length_wrong": 6.0,
        "truncated": 0.25, "zero_std_groups": 0.5, "entropy": 0.5, "working": 0.25,
        "self_check": 0.25, "tokens": 20, "most_common_answer": 0.25, "repetition": 0,
        "runs_on": 0, "no_verdict": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    rollout = types.SimpleNamespace(tokens=tokens[:2], mask=mask[:2], entropy=mask[:2],
                                    truncated=torch.zeros(2))
    found = evaluate.response_metrics(4, [rollout], rewards[1:3], texts[1:3], 2, task)
    assert found["zero_std_groups"] == 0 and found["length_correct"] is None  # none is correct
    task.working = None
    rollout = types.SimpleNamespace(tokens=tokens[:1], mask=mask[:1], entropy=mask[:1],
                                    truncated=torch.zeros(1))
    found = evaluate.response_metrics(5, [rollout], rewards[:1], texts[:1], 1, task)
    assert found["reward_std"] == 0 and "working" not in found
    assert all(x is None or math.isfinite(x) for x in found.values())


def test_the_most_common_answer_is_a_share_of_all_responses():
    texts = [f"<answer>{answer}</answer>" for answer in "77718"]
    assert evaluate.most_common_answer([*texts, "7", "", "<answer>7"]) == 3 / 8
    assert evaluate.most_common_answer(["", "7"]) == 0


@pytest.mark.parametrize("response, repeated", [
    ([1] * 16, True), ([1] * 15, False), ([5, *[1] * 16, 7], True),
    ([1, 2] * 8, True), ([1, 2] * 7 + [1], False),
    ([1, 2, 3, 4, 5] * 4, True), ([1, 2, 3, 4, 5] * 3 + [1, 2, 3, 4, 6], False),
    ([*range(32)] * 4, True), ([*range(33)] * 4, False), ([*range(150)], False), ([1, 2], False)])
def test_a_response_repeats_a_phrase_four_times_and_sixteen_tokens_in_a_row(response, repeated):
    """Beside a longer row, whose prompt and padding do not count."""
    tokens, mask = torch.full((2, 170), 9), torch.zeros(2, 170)
    for row, ids in enumerate((response, [*range(60)])):
        tokens[row, 3:3 + len(ids)] = torch.tensor(ids)
        mask[row, 3:3 + len(ids)] = 1
    assert evaluate.repeats(tokens, mask).tolist() == [repeated, False]
    short = evaluate.repeats(tokens[:, :3 + len(response)], mask[:, :3 + len(response)])
    assert short[0] == repeated


def test_a_response_runs_on_if_text_follows_its_answer():
    texts = ["<answer>1</answer>", "<answer>1</answer>\n ", "<answer>1</answer>\n2", "<answer>1"]
    mask = torch.ones(4, 2)
    rollout = types.SimpleNamespace(tokens=mask, mask=mask, entropy=mask, truncated=mask[:, 0])
    rewards = [verify.Reward(0.0, {"correct": 0.0})] * 4
    found = evaluate.response_metrics(1, [rollout], rewards, texts, 4, tasks.Arithmetic(1))
    assert found["runs_on"] == 1 / 4


def test_a_tool_s_answer_interrupts_a_repetition():
    tokens, mask = torch.ones(1, 24), torch.ones(1, 24)
    mask[0, 12] = 0
    assert not evaluate.repeats(tokens, mask) and evaluate.repeats(tokens, torch.ones(1, 24))


def test_responses_without_a_verdict_are_counted():
    """And are wrong. A verifier of mathematics cannot compare a sum that it cannot work out."""
    problem = tasks.Problem("q", "1/2 + x")
    texts = [f"<answer>{a}</answer>" for a in ("x+1/2", r"\sum_1^2 k", "x", "?")]
    rewards = [verify.reward(verify.written_correct, problem, text) for text in texts]
    assert [reward.parts["correct"] for reward in rewards] == [1, 0, 0, 0]
    expected = [verify.verdict(problem.answer, verify.extract(text)) is None for text in texts]
    assert [reward.no_verdict for reward in rewards] == expected and expected[1]
    mask = torch.ones(4, 2)
    rollout = types.SimpleNamespace(tokens=mask, mask=mask, entropy=mask, truncated=mask[:, 0])
    found = evaluate.response_metrics(1, [rollout], rewards, texts, 4, tasks.Arithmetic(1))
    assert found["no_verdict"] == sum(expected) / 4


def test_measure_reports_the_style_of_responses(monkeypatch):
    """Ten responses: three show working, and two of these are correct. One of the other seven
    checks itself, and one is correct."""
    problems = [tasks.Problem(f"{i}+1=?", str(i + 1)) for i in range(10)]
    texts = [f"<think>{i}+1={i + 1}</think><answer>{i + (i < 2) + (i == 2) * 5}</answer>"
             for i in range(3)]
    texts += ["<think>wait</think><answer>0</answer>"]
    texts += ["<think>easy</think><answer>5</answer>"] * 6
    rollout = types.SimpleNamespace(mask=torch.ones(10, 7), truncated=torch.arange(10) > 8)
    asked = []

    def sample_responses(policy, tokenizer, some, n=1, **how):
        asked.append((len(some), n, how))
        return rollout, texts if n == 1 else [  # i of the samples of problem i are correct
            f"<answer>{i + (j < i)}</answer>" for i in range(len(some)) for j in range(n)]
    monkeypatch.setattr(evaluate, "sample_responses", sample_responses)
    result = evaluate.measure(None, tokenizer, tasks.Arithmetic(1), problems, 6, 7, n_pass=4,
                              samples=4)
    calls = [(10, 1, {"temperature": 0, "max_new_tokens": 7}),
             (10, 1, {"seed": 6, "max_new_tokens": 7}),
             (4, 4, {"seed": 7, "max_new_tokens": 7})]
    for (problems_, n, arguments), expected in zip(asked, calls, strict=True):
        assert (problems_, n) == expected[:2] and arguments | expected[2] == arguments
    expected = {"greedy": (0.3, 10), "sampled": (0.3, 10), "truncated": (0.1, 10),
                "working": (0.3, 10), "self_check": (0.1, 10),
                "accuracy_given_working": (2 / 3, 3), "accuracy_given_no_working": (1 / 7, 7)}
    assert {name: (result[name]["value"], result[name]["n"]) for name in expected} == expected
    assert result["length"] == 7 and result["pass_at_k"] == {"1": 0.375, "4": 0.75}


@pytest.mark.parametrize("working", [tasks.base.EQUATION, None])
def test_what_is_printed_says_n_and_no_more_than_the_task_knows(working, monkeypatch, capsys):
    """One problem is held out, and no response shows working."""
    task = tasks.Arithmetic(1)
    monkeypatch.setattr(tasks.Arithmetic, "working", working)
    rollout = types.SimpleNamespace(mask=torch.ones(1, 7), truncated=torch.zeros(1))
    monkeypatch.setattr(task, "held_out", lambda n: [tasks.Problem("1+1=?", "2")])
    monkeypatch.setattr(evaluate, "sample_responses", lambda policy, tokenizer, some, n=1, **how: (
        rollout, ["<think>easy</think><answer>2</answer>"] * n))
    options = types.SimpleNamespace(eval_problems=1, seed=0, max_new_tokens=7, eval_samples=4)
    result = evaluate.evaluate_and_print(None, tokenizer, task, options, "before")
    said = capsys.readouterr().out
    assert "pass@1 100.0%, pass@4 100.0% on 1 of them, with 4 samples each" in said
    assert ("with working 0.0%" in said) == ("working" in result) == (working is not None)
    assert "accuracy with working" not in said
    assert ("accuracy without working 100.0%" in said) == (working is not None)
    state = {when: result for when in ("before", "after")} | dict.fromkeys(
        ("seconds_base", "seconds_rl", "seconds_eval", "tokens_sampled"), 1)
    options = types.SimpleNamespace(**dict.fromkeys(
        ("algo", "task", "level", "size", "seed", "steps", "reward", "device")))
    assert ("working_share_after" in evaluate.summarize(options, state)) == (working is not None)


def test_greedy_accuracy_is_also_given_per_kind():
    task, model = tasks.Gsm(2), GPT(Config(tokenizer.n_vocab, layers=1, width=32, heads=2,
                                           kv_heads=1, hidden=32))
    problems = task.held_out(30)
    parts = evaluate.greedy_accuracy(model, tokenizer, task, problems, 3)["by_kind"]
    assert set(parts) == {tasks.SEEN, tasks.NEW}
    assert sum(part["n"] for part in parts.values()) == 30
    task.correct = lambda problem, text: problem.category == tasks.SEEN
    parts = evaluate.greedy_accuracy(model, tokenizer, task, problems, 3)["by_kind"]
    assert (parts[tasks.SEEN]["value"], parts[tasks.NEW]["value"]) == (1, 0)


# --- the command line of sample.py

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with an untrained policy."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    made = GPT(Config(tokenizer.n_vocab, layers=1, width=32, heads=2, kv_heads=1,
                      hidden=32, tied=False))
    with torch.no_grad():
        made.lm_head.weight.mul_(9)
    tensors.save(folder / "checkpoint.pt", gpt.to_state(made) | {"format": run_dir.FORMAT})
    (folder / "config.json").write_text(json.dumps(
        dict(task="arithmetic", level=2, data="", eval_data="", max_new_tokens=12)))
    return folder


def asked(capsys, *args):
    assert sample.main(list(map(str, args))) == 0
    return capsys.readouterr().out


def test_a_question_is_answered_and_greedy_is_the_default(run, capsys):
    said = asked(capsys, "--run", run, "1+1=?")
    assert len(said) > 1 and said == asked(capsys, "--run", run, "1+1=?")
    drawn = {asked(capsys, "--run", run, "1+1=?", "--temperature", 1, "--seed", s, *more)
             for s in range(3) for more in ([], ["--top-k", 1], ["--top-p", 1e-6])}
    assert said in drawn and len(drawn) == 4  # top_k = 1 and a tiny top_p are greedy
    assert asked(capsys, "--run", run, "1+1=?", "--max-new-tokens", 3) in (
        said[:i] + "\n" for i in range(len(said)))


def test_a_character_made_of_several_tokens_is_printed_whole(run, capsys, monkeypatch):
    def writes(*_, on_token, **__):
        for token in [*tokenizer.encode_ordinary("é漢1"), *tokenizer.encode_ordinary("é")[:1]]:
            on_token(token)
    monkeypatch.setattr(sample, "generate", writes)
    assert asked(capsys, "--run", run, "1+1=?") == "é漢1\ufffd\n"


def test_problems_of_a_file_are_scored(run, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1=?", "answer": str(i + 1)}) + "\n"
                            for i in range(5)))
    said = json.loads(asked(capsys, "--run", run, "--problems", path))
    assert said["n"] == 5 and 0 <= said["ci"][0] <= said["accuracy"] <= said["ci"][1] <= 1
    assert 1 <= said["length"] <= 12


@pytest.mark.parametrize("flags, named", [
    ([], "either"), (["1+1=?", "--problems", "x"], "either"), (["--problems", "no.jsonl"], "no.js"),
    (["x", "--run", "nowhere"], "nowhere"), (["x", "--temperature", "nan"], "--temperature"),
    (["x", "--temperature", "1e-45"], "--temperature"), (["x", "--temperature=--"], "--temp"),
    (["x", "--seed", "9" * 20], "--seed"), (["x", "--problems", ""], "--problems"),
    (["x", "--max-new-tokens", "0"], "--max-new"), (["x", "--max-new-tokens", "-1"], "--max-new"),
    (["x", "--max-new-tokens", "1" * 19], "context"), (["x", "--max-new-tokens", "1.5"], "--max"),
    (["x", "--top-p", "2"], "--top-p"), (["x", "--top-p", "inf"], "--top-p"),
    (["x", "--top-k", "-1"], "--top-k"), (["x", "--\x1b[2J"], "\\x1b[2J")])
def test_bad_input_gives_a_one_sentence_error(run, flags, named, capsys):
    assert sample.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


@pytest.mark.parametrize("name, content, named", [
    ("checkpoint.pt", b"", "is no checkpoint"), ("checkpoint.pt", b"x" * 99, "is no checkpoint"),
    ("config.json", b"{", "config.json"), ("config.json", None, "config.json")])
def test_a_damaged_run_gives_a_one_sentence_error(run, name, content, named, tmp_path, capsys):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert sample.main(["--run", str(tmp_path), "1+1=?"]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


@pytest.mark.parametrize("entry, value", [
    ("format", torch.ones(3)), ("format", None), ("format", [2]), ("config", []),
    ("config", {"norm_eps": []}), ("config", {"layers": "x"}), ("config", {"layers": 2**40}),
    ("config", {"context": 2**40}),
    ("config", {"tied": torch.ones(2)}), ("config", {"more": 1}), ("model", None),
    ("model", torch.ones(1)), ("model", {"embedding.weight": 1}), (None, None)])
def test_a_whole_checkpoint_of_other_content_is_refused(run, entry, value, tmp_path, capsys):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    content = run_dir.load_checkpoint(run)
    if isinstance(value, dict):
        value = content[entry] | value
    path = tmp_path / "checkpoint.pt"
    path.unlink()
    if entry is None:
        path.mkdir()
    else:
        tensors.save(path, content | {entry: value})
    assert sample.main(["--run", str(tmp_path), "1+1=?"]) == 2
    said = capsys.readouterr().err
    assert "checkpoint.pt" in said and said.count("\n") == 1


@pytest.mark.parametrize("task", ["countdown", "code"])
def test_tasks_without_written_answers_are_refused(run, task, tmp_path, capsys):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    settings = json.loads((run / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"task": task}))
    path = tmp_path / "some.jsonl"
    path.write_text('{"question": "1+1=?", "answer": "2"}\n')
    for main in (sample.main, search.main):
        assert main(["--run", str(tmp_path), "--problems", str(path)]) == 2
        assert f"--task {task}" in capsys.readouterr().err
