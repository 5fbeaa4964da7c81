"""infra/recorder.py: samples.jsonl has the groups of a step as they were trained on, and recording
changes nothing else."""

import json

import pytest
import torch
from test_train import logged, run, weights

import config
import dapo
import model as gpt
import ppo
import tasks
import train
import verify
from infra import recorder
from infra.models import Models
from sample import Rollout
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()
OPTIONS = config.Options(prompts=2, group_size=2, micro_tokens=64)


def lines_of(out, kind):
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def attempt_of(correct, algo=None, truncated=None, texts=None, options=OPTIONS):
    """An Attempt: a group of two responses for each two verdicts, of which row i has i + 1 tokens
    after a prompt of two."""
    texts = texts or [f"<answer>{i}</answer>"[:i + 1] for i in range(len(correct))]
    n, width = len(correct), 3 + len(correct)
    tokens, mask = torch.randint(5, 20, (n, width)), torch.zeros(n, width)
    for row in range(n):
        mask[row, 2:3 + row] = 1
        tokens[row, 2 + row] = tokenizer.eos_id if row % 2 else 5
    truncated = torch.tensor(truncated or [False] * n)
    rollout = Rollout(tokens, -torch.rand(n, width) * mask, torch.rand(n, width) * mask, mask,
                      torch.arange(n) // 2, truncated)
    correct = torch.tensor(correct)
    batch = ppo.Batch(tokens, mask, rollout.logp, rollout.group, correct.clone(), correct,
                      truncated)
    samples = [(tasks.Problem(f"question {i // 2}", "7"), text, verify.Reward(
        float(right), {"correct": float(right), "format": 0.0}))
        for i, (text, right) in enumerate(zip(texts, correct, strict=True))]
    return train.Attempt(n // 2, rollout, samples, (algo or dapo).prepare(batch, options))


def small_model():
    torch.manual_seed(0)
    return gpt.GPT(gpt.Config(tokenizer.n_vocab, layers=1, width=32, heads=2, kv_heads=1,
                              hidden=32))


# --- groups and responses

def test_dropped_groups_have_their_reason():
    options = config.Options(prompts=2, group_size=2, dynamic_sampling=True)
    attempts = [attempt_of([1.0, 1, 0, 0, 1, 0], options=options),
                attempt_of([0.0, 1, 0, 1, 1, 1], options=options)]
    found = recorder.groups_of(attempts, 2)
    assert [group.dropped for group in found] == ["all right", "all wrong", "", "", "not needed",
                                                  "all right"]
    assert [group.attempt for group in found] == [attempts[0]] * 3 + [attempts[1]] * 3
    kept = dapo.full_batch(attempts, 2)
    tokens = [group.attempt.batch.tokens[row] for group in found for row in group.batch_rows]
    assert len(kept.tokens) == 4
    for one, other in zip(tokens, kept.tokens, strict=True):
        assert torch.equal(one[:len(other)], other[:len(one)])


def test_other_reasons():
    def says(*totals):
        return recorder.reason([verify.Reward(total, {"correct": float(i % 2)})
                                for i, total in enumerate(totals)])
    assert says(0.5, 0.5) == "equal rewards" and says(0.5, 0.6) == "not kept"


def test_a_response_that_is_masked_for_its_length_is_told_from_the_others():
    options = config.Options(prompts=1, group_size=2, overlong="mask")
    attempt = attempt_of([1.0, 0, 0, 0], truncated=[False, True, True, True], options=options)
    first, second = recorder.groups_of([attempt], 2)
    assert recorder.in_batch(first) == [0, None]
    assert recorder.line_of(first, 3, tokenizer)["responses"][1]["dropped"] == "not kept"  # RAFT
    one, other = recorder.line_of(first, 3, tokenizer, "mask")["responses"]
    assert one["advantage"] > 0 and "dropped" not in one and one["ending"] == "stop string"
    assert other["advantage"] == 0 and other["dropped"] == "overlong" and other["ending"] == "limit"
    assert second.dropped == "all wrong"


def test_rewards_and_advantages_are_those_that_the_batch_has():
    options = config.Options(prompts=2, group_size=2, overlong="soft", max_new_tokens=4,
                             overlong_buffer=2)
    attempt = attempt_of([1.0, 0, 1, 0], options=options)
    rows = [r for group in recorder.groups_of([attempt], 2)
            for r in recorder.line_of(group, 1, tokenizer)["responses"]]
    assert [r["reward"] for r in rows] == [1, 0, 0.5, -1]  # lengths 1, 2, 3, 4
    advantages = attempt.batch.advantages.amax(1) + attempt.batch.advantages.amin(1)
    assert [r["advantage"] for r in rows] == pytest.approx(advantages.tolist(), abs=6e-4)
    assert [r["length"] for r in rows] == [1, 2, 3, 4] and not any("ids" in r for r in rows)
    assert [r["ending"] for r in rows] == ["stop string", "end of text"] * 2


def test_numbers_per_token_stand_at_their_tokens():
    """A tool's answer in row 3 has mask 0. The critic's and the reward model's numbers are
    there too."""
    attempt = attempt_of([1.0, 0, 1, 0])
    rollout, batch = attempt.rollout, attempt.batch
    rollout.mask[3, 3] = batch.mask[3, 3] = 0
    columns = torch.arange(batch.mask.shape[1]).float()
    batch.values, batch.step_rewards = columns + 0 * batch.mask, 10 * columns + 0 * batch.mask
    batch.advantages = batch.mask * columns
    group = recorder.groups_of([attempt], 2)[1]
    after = recorder.policy_after(group, small_model(), OPTIONS)
    line = recorder.in_detail(recorder.line_of(group, 1, tokenizer), group, after)
    found = line["responses"][1]
    at = slice(2, 6)
    assert found["ids"] == rollout.tokens[3, at].tolist() and found["mask"] == [1, 0, 1, 1]
    for name in ("logp", "entropy"):
        assert found[name] == pytest.approx(getattr(rollout, name)[3, at].tolist(), abs=6e-3)
    assert found["values"] == [2, 3, 4, 5] and found["scores"] == [20, 30, 40, 50]
    assert found["advantages"] == [2, 0, 4, 5] and found["length"] == 3
    assert found["ratio"][1] == 1 and found["alternatives"][1] == []
    assert "mask" not in line["responses"][0]
    lengths = {len(found[name]) for name in ("ids", "ratio", "alternatives", "values", "scores")}
    assert lengths == {4}
    text = recorder.encoded(line)
    assert json.loads(text) == line and text.isascii() and ": " not in text


def test_equal_advantages_within_a_response_are_one_number():
    group = recorder.groups_of([attempt_of([1.0, 0, 1, 0])], 2)[1]
    line = recorder.line_of(group, 1, tokenizer)
    for response in recorder.in_detail(line, group)["responses"]:
        assert "advantages" not in response and "values" not in response


@pytest.mark.parametrize("temperature, micro_tokens", [(1.0, 999), (0.5, 6)])
def test_what_the_policy_says_after_the_update(temperature, micro_tokens):
    """Against the softmax over the whole vocabulary, row by row."""
    policy, group = small_model(), recorder.groups_of([attempt_of([1.0, 0, 1, 0])], 2)[1]
    with torch.no_grad():
        policy.embedding.weight.mul_(12)  # sure of itself, so that some alternatives are unlikely
    rollout = group.attempt.rollout
    for row in group.rows:  # the likeliest token is drawn first: it is no alternative
        rollout.tokens[row, 2] = policy.logits(policy(rollout.tokens[row:row + 1])[0])[1].argmax()
    options = config.Options(temperature=temperature, micro_tokens=micro_tokens)
    found, counts = recorder.policy_after(group, policy, options), set()
    for row, after in zip(group.rows, found, strict=True):
        logits = policy.logits(policy(rollout.tokens[row:row + 1])[0]) / temperature
        start, end = 2, 3 + row
        logp = logits.log_softmax(-1)[start - 1:end - 1]
        ids = rollout.tokens[row, start:end]
        want = logp.gather(1, ids[:, None])[:, 0]
        assert torch.allclose(after["logp"], want, atol=1e-4)
        for others, all_logp, chosen in zip(after["others"], logp.tolist(), ids, strict=True):
            order = sorted((i for i in range(len(all_logp)) if i != chosen),
                           key=lambda i: -all_logp[i])
            likely = [[i, pytest.approx(all_logp[i], abs=6e-3)] for i in order[:2]
                      if all_logp[i] > recorder.LEAST_ALTERNATIVE]
            assert others == likely
            counts.add(len(others))
    assert counts - {2} or temperature == 1


# --- how much is recorded

def test_texts_come_first_then_details_as_far_as_there_is_room():
    groups = recorder.groups_of([attempt_of([1.0, 0] * 4)], 4)
    models = Models(None, tokenizer, sampler=small_model())

    def within(room):
        return recorder.lines_within(room, 1, groups, models, OPTIONS, after_update=False)

    def size(lines):
        return sum(len(recorder.encoded(line)) + 1 for line in lines)
    whole = within(10**6)
    texts = [recorder.line_of(group, 1, tokenizer) for group in groups]
    assert len(whole) == 4 and all("ids" in line["responses"][0] for line in whole)
    assert within(size(texts)) == texts and within(size(texts) - 1) == texts[:3]
    assert within(size(whole)) == whole and within(0) == []
    assert within(size(whole) - 1) == [*whole[:3], texts[3]]
    some = within((size(whole) + size(texts)) // 2)
    detailed = ["ids" in line["responses"][0] for line in some]
    assert detailed == sorted(detailed, reverse=True) and 0 < sum(detailed) < 4


def test_the_size_of_the_file_is_limited():
    assert recorder.size_limit(1000, 20) == 20e6 and recorder.size_limit(40, 20) < 3e6
    assert recorder.size_limit(40, 0) == 0


def test_groups_of_the_batch_are_recorded_before_dropped_ones(tmp_path):
    options = config.Options(prompts=2, group_size=2, dynamic_sampling=True)
    attempts = [attempt_of([1.0, 1, 1, 1, 1, 0], options=options)]
    models = Models(None, tokenizer, sampler=small_model())
    found = recorder.record_step(tmp_path, attempts, False, models, {"step": 1}, options)
    assert [line["dropped"] for line in found] == ["", "all right"]
    found = recorder.record_step(tmp_path, attempts, True, models, {"step": 2}, options)
    assert [line["dropped"] for line in found] == ["", "all right", "all right"]


def test_a_run_stays_below_its_limit(finished):
    small, none = finished.parent / "small", finished.parent / "none"
    assert run(small, "--prompts", "4", "--record-mb", "0.5") == 0
    groups = lines_of(small, "group")
    sizes = [sum(len(recorder.encoded(line)) + 1 for line in groups if line["step"] <= step)
             for step in range(1, 7)]
    assert all(0 < size <= recorder.size_limit(i + 1, 0.5) for i, size in enumerate(sizes))
    assert 0 < sum("ids" in line["responses"][0] for line in groups) < len(groups)
    assert run(none, "--record-mb", "0", "--steps", "2") == 0
    assert not lines_of(none, "group") and lines_of(none, "held-out")


# --- whole runs

@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that moves. The folder of all runs holds its base model."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(out, "--lr", "0.02") == 0
    return out


@pytest.mark.parametrize("algo", ["grpo", "ppo"])
def test_recording_changes_no_metric_and_no_weight(algo, tmp_path):
    flags = ["--algo", algo, "--lr", "0.01"]
    flags += ["--critic-warmup", "2"] if algo == "ppo" else []
    assert run(tmp_path / "with", *flags) == 0 == run(tmp_path / "without", *flags, "--no-report")
    assert logged(tmp_path / "with") == logged(tmp_path / "without")
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "with" / "report.html").exists()
    assert not (tmp_path / "without" / "report.html").exists()
    assert not (tmp_path / "without" / "samples.jsonl").exists()
    first = lines_of(tmp_path / "with", "group")[-1]["responses"][0]
    assert ("values" in first) == ("advantages" in first) == (algo == "ppo")


def test_what_is_recorded_is_what_was_trained_on(finished):
    """Where the step size is 0 the ratio is 1; otherwise it moves."""
    still = finished.parent / "still"
    assert run(still, "--lr", "1e-12") == 0
    moved = []
    for out in (still, finished):
        rows = [r for line in lines_of(out, "group") for r in line["responses"]]
        moved.append(max(abs(x - 1) for r in rows for x in r.get("ratio", ())))
        assert {line["step"] for line in lines_of(out, "group")
                if "ratio" in line["responses"][0]} == {2, 4, 6}
        assert all(tokenizer.decode_response(r["ids"]) == r["text"] for r in rows)
    assert moved[0] < 0.002 and moved[1] > 0.01


def test_the_same_held_out_problems_are_answered_each_time(finished):
    lines = lines_of(finished, "held-out")
    assert [line["step"] for line in lines] == [0] * 4 + [2] * 4 + [4] * 4 + [6] * 4
    questions = [line["question"] for line in lines]
    assert questions == questions[:4] * 4 and len(set(questions)) == 4
    problems = {p.question: p for p in tasks.Arithmetic(2).held_out(4)}
    assert all(line["correct"] == tasks.Arithmetic.correct(problems[line["question"]], line["text"])
               and line["answer"] == problems[line["question"]].answer for line in lines)


def test_a_page_that_fails_does_not_stop_a_run(finished, monkeypatch, capsys):
    def broken(runs):
        raise RuntimeError("no page today")
    monkeypatch.setattr(train.log.report, "write_report", broken)
    assert run(finished.parent / "without", "--steps", "2") == 0
    said = capsys.readouterr().out
    assert "the page of the run is not written: RuntimeError: no page today" in said
    assert "the run as a page" not in said
    assert (finished.parent / "without" / "summary.json").exists()


def test_the_page_is_written_after_each_evaluation_and_diagnoses_are_said_once(
        finished, monkeypatch, capsys):
    rules = {"third": lambda r: "it is the third step" if len(r.metrics) >= 3 else None,
             "texts": lambda r: f"{len(r.responses())} responses, --lr {r.options['lr']:g}"}
    write, seen, out = train.log.report.write_report, [], finished.parent / "told"

    def counted(runs):
        seen.append(len(logged(runs[0])))
        return write(runs)
    monkeypatch.setattr(train.log.report, "write_report", counted)
    monkeypatch.setattr(train.log, "PAGE_SHARE", 99)  # a page takes longer than so short a run
    monkeypatch.setattr(train.log.diagnose, "RULES", rules)
    assert run(out, "--steps", "4") == 0
    assert seen == [2, 4, 4]
    said = capsys.readouterr().out
    assert f"the run as a page: {out / 'report.html'}" in said
    assert said.count("step 3: it is the third step") == said.count("it is the third step") == 1
    assert said.count("step 1: 8 responses, --lr 0.0004") == said.count("responses, --lr") == 1


def test_a_rule_that_fails_is_said_once_and_ends_no_run(finished, monkeypatch, capsys):
    monkeypatch.setattr(train.log.diagnose, "RULES", {"wrong": lambda r: 1 / 0})
    assert run(finished.parent / "failing", "--steps", "3") == 0
    said = capsys.readouterr().out
    assert said.count("step 1: a rule of diagnose.py failed: ZeroDivisionError") == 1
    assert said.count("a rule of diagnose.py failed") == 1


def test_a_resumed_run_is_diagnosed_from_its_first_step(finished, monkeypatch, capsys):
    out = finished.parent / "resumed"
    monkeypatch.setattr(train.log.diagnose, "RULES", {
        "sixth": lambda r: "six steps" if [x["step"] for x in r.metrics] == [*range(1, 7)]
        else None})
    seen, update = [], train.update

    def stops(*args):
        seen.append(args)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return update(*args)
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", stops)
        assert run(out) == 130
    assert run(out, "--resume") == 0
    assert capsys.readouterr().out.count("step 6: six steps") == 1


def test_scores_of_a_process_reward_model_are_recorded():
    attempt = attempt_of([1.0, 0])
    attempt.batch.step_rewards = attempt.batch.mask * 0.25
    [group] = recorder.groups_of([attempt], 1)
    found = recorder.in_detail(recorder.line_of(group, 1, tokenizer), group)["responses"]
    assert [r["scores"] for r in found] == [[0.25], [0.25, 0.25]]
    assert recorder.rounded(torch.tensor([-0.0, 1.0, -1.23456, 0.5]), 2) == [0, 1, -1.23, 0.5]
