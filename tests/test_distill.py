"""gkd.py: the KL to a teacher on the student's samples. recipes/distill.py: a short form of it."""

import copy
import json
import math

import pytest
import torch
from small import NANO, tiny_model

import gkd
import model
import tasks
from infra import cli
from recipes import distill, page

VOCAB = 11


def small(seed, width=16):
    torch.manual_seed(seed)
    made = model.GPT(model.Config(VOCAB, context=32, layers=1, width=width, heads=2, kv_heads=1,
                                  hidden=24))
    for p in made.parameters():  # far from uniform distributions
        p.data.mul_(8)
    return made


PAIRS = [([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9, 10], [1, 2]), ([3], [4, 4, 4, 4])]


def loop_kl(logits, teacher_logits):
    """The KL and its gradient with respect to the student's logits, in floats."""
    def log_softmax(z):
        lse = math.log(sum(math.exp(x) for x in z))
        return [x - lse for x in z]
    logp, logq = log_softmax(logits), log_softmax(teacher_logits)
    kl = sum(math.exp(a) * (a - b) for a, b in zip(logp, logq, strict=True))
    return kl, [math.exp(a) * (a - b - kl) for a, b in zip(logp, logq, strict=True)]


def test_reverse_kl_and_its_gradient_are_the_definition_s():
    g = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(5, VOCAB, generator=g)).double().requires_grad_()
    teacher_logits = (3 * torch.randn(5, VOCAB, generator=g)).double()
    found = gkd.reverse_kl(logits.log_softmax(-1), teacher_logits.log_softmax(-1))
    found.sum().backward()
    for row in range(5):
        kl, gradient = loop_kl(logits[row].tolist(), teacher_logits[row].tolist())
        assert float(found[row].detach()) == pytest.approx(kl) and kl > 0
        assert logits.grad[row].tolist() == pytest.approx(gradient, abs=1e-9)
    same = gkd.reverse_kl(logits.log_softmax(-1), logits.log_softmax(-1))
    assert same.abs().max() < 1e-12


def test_the_loss_is_the_mean_over_response_tokens():
    """Token by token: the teacher reads another prompt, and each reads the same response."""
    student, teacher = small(0), small(1, width=32)
    views = [(pair, ([5, 5, *pair[0]], pair[1])) for pair in PAIRS]
    loss, total = gkd.backward(student, teacher, views), 0.0
    for (prompt, response), (teacher_prompt, _) in views:
        for t in range(len(response)):
            rows = []
            for policy, before in ((student, prompt), (teacher, teacher_prompt)):
                ids = torch.tensor([before + response[:t]])
                rows.append(policy.logits(policy(ids)[0, -1:])[0].tolist())
            total += loop_kl(*rows)[0]
    assert loss == pytest.approx(total / 10, rel=1e-4)
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())


def test_the_gradient_does_not_depend_on_the_micro_batches(monkeypatch):
    views, grads = [(pair, pair) for pair in PAIRS], []
    for limit in (1000, 1):
        student = small(0)
        monkeypatch.setitem(gkd.sft.MICRO_TOKENS, "cpu", limit)
        gkd.backward(student, small(1), views)
        grads.append([p.grad for p in student.parameters()])
    for whole, cut in zip(*grads, strict=True):
        assert torch.allclose(whole, cut, rtol=1e-4, atol=1e-6)


def test_a_student_that_is_its_teacher_has_no_loss():
    student = small(0)
    assert gkd.backward(student, copy.deepcopy(student), [(pair, pair) for pair in PAIRS]) < 1e-6
    assert all(p.grad.abs().max() < 1e-4 for p in student.parameters())


def test_steps_bring_the_student_to_its_teacher():
    student, teacher, losses = small(0), small(1), []
    optimizers = [torch.optim.Adam(student.parameters(), lr=0.02)]
    for _ in range(30):
        losses.append(gkd.step(student, teacher, [(pair, pair) for pair in PAIRS], optimizers))
    assert losses[-1] < losses[0] / 2


def test_a_sibling_is_another_right_response_of_the_group():
    pairs = [([g], [10 * g + i]) for g in range(3) for i in range(3)]
    right = [False, True, True, False, True, False, False, False, False]
    views = gkd.with_siblings(pairs, right, 3)
    shown = {pair[1][0]: teacher for pair, teacher in views}
    # group 0 has two right ones, group 1 has one, which has no other; group 2 has none
    assert sorted(shown) == [0, 1, 2, 10, 12]
    assert shown[1] == ([0, 2, 0], [1]) and shown[2] == ([0, 1, 0], [2])
    assert shown[10] == ([1, 11, 1], [10]) and shown[12] == ([1, 11, 1], [12])
    assert shown[0] in (([0, 1, 0], [0]), ([0, 2, 0], [0]))


def test_the_average_moves_by_its_rate():
    average, new = small(0), small(1)
    before = [p.clone() for p in average.parameters()]
    gkd.move_average(average, new, 0.25)
    for old, p, q in zip(before, average.parameters(), new.parameters(), strict=True):
        assert torch.allclose(p, 0.75 * old + 0.25 * q)


# --- the recipe

@pytest.fixture
def short(monkeypatch, tmp_path):
    """The recipe in a second: its function from flags to the exit code. The verifier decides by the
    text alone, so that a base that can do nothing has right responses."""
    for name, value in dict(ANSWERS=6, SAMPLES=8, GROUP=4, POINTS=2, CURVE_PROBLEMS=2, HELD_OUT=4,
                            PASS_PROBLEMS=1).items():
        monkeypatch.setattr(distill, name, value)
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(
        lambda problem, text: sum(text.encode()) % 2 == 0))
    monkeypatch.setitem(model.SIZES, "nano", NANO)
    flags = "--base-steps 1 --steps 1 --max-new-tokens 6 --prompts 2 --group-size 4"
    with tiny_model():
        yield lambda *more: distill.main(["--work", str(tmp_path), "--docs", str(tmp_path / "docs"),
                                          "--tokens", "60", "--flags", flags, *more])


def test_the_recipe_writes_its_page_and_goes_on_with_the_next_seed(short, tmp_path, monkeypatch):
    assert short("--seeds", "0") == 0
    result = json.loads((tmp_path / "seed-0" / "result.json").read_text())
    assert set(result) == {"teacher", "base", *distill.ROWS}
    teacher = result["teacher"]["tokens"]
    for name in distill.ROWS:
        row, budget = result[name], 60 + teacher * (name == distill.LONG)
        # the last round may go beyond the budget; the curve begins at the base and ends at the end
        assert budget <= row["tokens"] < budget + 80 and row["seconds"] > 0, name
        assert row["curve"][0][:2] == [0, 0] and row["curve"][-1][0] == row["tokens"], name
    text = (tmp_path / "docs" / "recipes" / "distill.md").read_text()
    assert text.count("\n| on-policy |") == 9 and text.count("\n| rl, more tokens |") == 1
    # seed 0 is read, not made again
    monkeypatch.setattr(distill, "work", lambda args, seed: result)
    monkeypatch.setattr(page, "save_figure", lambda *_: None)
    assert short("--seeds", "0,1") == 0 and (tmp_path / "seed-1" / "result.json").exists()


def test_measuring_costs_no_seconds(monkeypatch):
    """10 seconds pass between two calls, and 1000 at each measurement."""
    clock = [0]

    def greedy_accuracy(*_):
        clock[0] += 1000
        return {"value": 0.5}
    monkeypatch.setattr(distill.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(distill.evaluate, "greedy_accuracy", greedy_accuracy)
    monkeypatch.setattr(distill, "POINTS", 2)
    run = distill.Run(None, None, tasks.Arithmetic(1), None, cli.parse([])[0], 100)
    for tokens in (0, 20, 40, 60):
        run.add(tokens)
        clock[0] += 10
    assert run.tokens == 120 and run.seconds == 30
    assert run.curve == [(0, 0, 0.5), (60, 20, 0.5), (120, 30, 0.5)]


def test_flags_that_are_no_flags(short, capsys):
    assert short("--seeds", "0;1") == 2 and "seeds look like 0,1,2" in capsys.readouterr().err
    assert short("--seeds", "0", "--tokens", "0") == 2 and "--tokens" in capsys.readouterr().err
    assert short("--flags", "--size huge") == 2 and "--size" in capsys.readouterr().err
