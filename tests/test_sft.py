"""sft.py: a corpus whose clean documents are true, whose mix is as mixed as it says, and training
that repeats to the last bit."""

import math
import random
import re
from collections import Counter
from fractions import Fraction

import pytest
import torch

import evaluate
import model
import sft
import tasks
import tokenizer
import verify
from tasks import chain

LEVELS = pytest.mark.parametrize("level", range(1, 6))
EQUATION = re.compile(r"([^=]*[-+*/][^=]*)=(-?[0-9]+)")


def draw(name, level, n, seed=0):
    return tasks.TASKS[name](level).draw(random.Random(seed), n)


def corpus(name, level, n, drill=False, seed=0):
    """n problems with a document each."""
    rng = random.Random(seed)
    return [(p, sft.document(rng, p, drill)) for p in draw(name, level, n, seed)]


def value(text):
    """Exact value of an expression that may start with a sign."""
    text = re.sub(r"^-", "0-", text)
    return verify.expression(text)[0]


def is_true(line):
    """An equation that holds exactly, or the heading of a step, which claims nothing."""
    if re.fullmatch(r"[0-9]+[-+*/][0-9]+", line):
        return True
    left, right = EQUATION.fullmatch(line).groups()
    return value(left) == Fraction(right)


def is_right(name, problem, document):
    return tasks.TASKS[name].correct(problem, document)


def micro(seed=0):
    torch.manual_seed(seed)
    return model.GPT(model.Config(tokenizer.encoding.n_vocab, context=512, layers=1, width=32,
                                  heads=2, kv_heads=1, hidden=48))


def trained(steps, seed=0):
    made, losses = micro(), []
    sft.train(made, tasks.Arithmetic(1), steps, seed, losses.append)
    return made, losses


@pytest.fixture
def small_batches(monkeypatch):
    """A fifth of the tokens a step."""
    monkeypatch.setattr(sft, "BATCH_TOKENS", 600)


# --- workings

@LEVELS
@pytest.mark.parametrize("style", ["short", "long"])
def test_a_clean_working_is_true_line_by_line_and_ends_in_the_answer(style, level):
    rng = random.Random(0)
    for p in draw("arithmetic", level, 300):
        lines, said = sft.working(rng, p.steps, style, wrong=False)
        assert str(said) == p.answer
        assert all(map(is_true, lines)), (p, lines)
        assert lines[-1].endswith(f"={p.answer}")


@LEVELS
def test_a_checked_working_corrects_each_slip(level):
    rng, slips = random.Random(0), 0
    for p in draw("arithmetic", level, 200):
        lines, said = sft.working(rng, p.steps, "check", wrong=False)
        assert str(said) == p.answer
        equations = [i for i, line in enumerate(lines) if line not in ("check", "ok", "wait")]
        for i in equations:
            first_try = lines[i + 1:i + 2] == ["check"]
            assert first_try or is_true(lines[i]), (p, lines)
        tries = [is_true(lines[i]) for i in equations if lines[i + 1:i + 2] == ["check"]]
        verdicts = [line == "ok" for line in lines if line in ("ok", "wait")]
        assert tries == verdicts and len(tries) == len(p.steps)
        slips += tries.count(False)
    assert slips > 20


@pytest.mark.parametrize("level", [1, 2])
def test_word_problems_are_worked_truly(level):
    rng = random.Random(0)
    for p in draw("gsm", level, 300):
        for style in ("short", "long"):
            lines, said = sft.working(rng, p.steps, style, wrong=False)
            assert str(said) == p.answer and all(map(is_true, lines)), (p, lines)


def test_the_example_of_the_docstring():
    lines = ", ".join(sft.long_lines(47, "*", 6, 282))
    assert f"47*6=282 -> {lines}" in " ".join(sft.long_lines.__doc__.split())


@pytest.mark.parametrize("step, lines", [
    ((47, "*", 6, 282), "40*6=240 7*6=42 240+42 40+40=80 0+2=2 200+80=280 280+2=282"),
    ((6, "*", 47, 282), "40*6=240 7*6=42 240+42 40+40=80 0+2=2 200+80=280 280+2=282"),
    ((405, "*", 2, 810), "400*2=800 0*2=0 5*2=10 800+0 0+0=0 800+0=800 "
                         "800+10 0+10=10 0+0=0 800+10=810 810+0=810"),
    ((10, "*", 8, 80), "10*8=80 0*8=0 80+0 0+0=0 80+0=80"), ((7, "*", 8, 56), "7*8=56"),
    ((308, "-", 27, 281), "0-20=-20 8-7=1 300-20=280 280+1=281"),
    ((47, "+", 36, 83), "40+30=70 7+6=13 70+13=83"), ((80, "/", 4, 20), "80/4=20")], ids=str)
def test_the_lines_of_a_step(step, lines):
    assert sft.long_lines(*step) == lines.split()


@pytest.mark.parametrize("op", "+-*")
def test_every_step_taken_apart_is_true(op):
    """All x and y up to 60, and products by a digit up to 999."""
    pairs = [(x, y) for x in range(61) for y in range(61)] if op != "*" else [
        (x, y) for x in range(0, 1000, 7) for y in range(2, 10) if x * y <= 999]
    for x, y in pairs:
        result = verify.apply(x, op, y)
        if result >= 0:
            lines = sft.long_lines(x, op, y, result)
            assert all(map(is_true, lines)) and lines[-1].endswith(f"={result}"), lines


STEPS = [((30, "-", 29, 1), (40, "/", 1, 40)),      # a slip to 0 and then a division by it
         ((80, "-", 78, 2), (50, "/", 2, 25)),
         ((20, "-", 10, 10), (10, "*", 8, 80), (80, "+", 10, 90), (90, "*", 4, 360),
          (360, "*", 2, 720)),                        # 10 said 30, and on to 1000
         ((9, "*", 9, 81), (81, "-", 80, 1), (50, "-", 1, 49))]


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("style", ["short", "long", "check"])
def test_a_mistake_never_stops_the_corpus(steps, style):
    rng = random.Random(0)
    for _ in range(300):
        lines, said = sft.working(rng, steps, style, wrong=True)
        assert lines and said >= 0


def test_a_wrong_working_is_usually_wrong():
    rng, problems = random.Random(0), draw("arithmetic", 2, 200)
    said = [sft.working(rng, p.steps, "short", wrong=True)[1] for p in problems]
    assert sum(str(s) != p.answer for s, p in zip(said, problems, strict=True)) > 180


def test_a_slip_is_a_near_miss():
    rng = random.Random(0)
    for n in range(1000):
        said = sft.slip(rng, n)
        assert said >= 0 and abs(said - n) <= 2 * 10 ** (len(str(n)) - 1)
        assert said != n or n == 0


# --- countdown

@LEVELS
def test_countdown_tries_are_true_and_the_found_expression_reaches(level):
    rng = random.Random(0)
    for p in draw("countdown", level, 60):
        for style in ("short", "check", "long"):
            lines, found = sft.countdown(rng, p, style, wrong=False)
            assert verify.countdown_correct(p, f"<answer>{found}</answer>"), (p, found)
            for line in lines:
                equations = [word for word in line.split() if "=" in word]
                assert all(map(is_true, equations)), line


@LEVELS
def test_an_attempt_says_whether_it_reached_the_target(level):
    for p in draw("countdown", level, 20):
        for facts, found in sft.attempts(int(p.answer), [(n, str(n)) for n in p.numbers]):
            assert len(facts) == len(p.numbers) - 1 and all(map(is_true, facts))
            assert (facts[-1].split("=")[1] == p.answer) == bool(found)
            assert not found or verify.countdown_correct(p, f"<answer>{found}</answer>")


def test_the_order_of_attempts():
    found = list(sft.attempts(43, [(5, "5"), (8, "8"), (6, "6")]))
    assert [f[0] for f, _ in found] == ["8+5=13", "8-5=3", "8*5=40", "6+5=11", "6-5=1", "6*5=30",
                                        "8+6=14", "8-6=2", "8*6=48"]
    assert found[-1] == (["8*6=48", "48-5=43"], "(8*6)-5")
    assert found[0] == (["8+5=13", "13+6=19"], None)  # nearer than 13*6=78


@pytest.mark.parametrize("numbers, target", [((5, 5, 5), 5), ((1, 1, 1), 1), ((1, 8, 8), 1),
                                             ((2, 3, 2), 3), ((4, 8, 4), 24), ((9, 9, 9), 27)])
def test_problems_with_few_ways(numbers, target):
    problem = tasks.Problem("?", str(target), numbers=numbers)
    for seed in range(20):
        lines, found = sft.countdown(random.Random(seed), problem, "long", wrong=False)
        assert 1 <= len(lines) <= 9 and verify.countdown_correct(problem,
                                                                 f"<answer>{found}</answer>")


# --- the corpus

EVERY = pytest.mark.parametrize("name, level", [("arithmetic", 1), ("arithmetic", 2),
                                                ("arithmetic", 5), ("countdown", 1),
                                                ("countdown", 4), ("gsm", 2)])


@EVERY
def test_the_drill_is_all_right_and_well_formed(name, level):
    for problem, document in corpus(name, level, 150, drill=True):
        assert is_right(name, problem, document) and verify.well_formed(document), document


@EVERY
def test_most_of_the_drill_works(name, level):
    documents = [d for _, d in corpus(name, level, 200, drill=True)]
    assert sum("=" in d.partition("</think>")[0] for d in documents) > 170


@EVERY
def test_the_corpus_is_as_mixed_as_the_web(name, level):
    made = corpus(name, level, 400)
    share = {
        "wrong": sum(not is_right(name, p, d) for p, d in made),
        "malformed": sum(not verify.well_formed(d) for _, d in made),
        "at once": sum("=" not in d for _, d in made),
        "working": sum(evaluate.shows_working(d) for _, d in made),
    }
    share = {what: count / 400 for what, count in share.items()}
    assert 0.1 < share["wrong"] < 0.45
    assert 0.08 < share["malformed"] < 0.25
    assert 0.4 < share["at once"] < 0.68
    assert 0.25 < share["working"] < 0.6


def test_some_documents_check_themselves_and_correct():
    words = Counter(w for _, d in corpus("arithmetic", 2, 600) for w in ("check", "wait", "ok")
                    if re.search(rf"^{w}$", d, re.M))
    assert 20 < words["check"] < 120 and words["wait"] > 5 and words["ok"] > 15


def test_direct_documents_are_the_preferred_style():
    assert max(sft.STYLES, key=sft.STYLES.get) == "direct"
    assert sum(sft.STYLES.values()) == pytest.approx(1) == sum(sft.DRILL_STYLES.values())


def test_documents_of_a_file_use_its_solutions():
    problem = tasks.Problem("How many?", "24", solution="48/2=24 clips")
    made = [sft.document(random.Random(i), problem, drill=True) for i in range(50)]
    assert any("48/2=24 clips" in d for d in made)
    assert all(verify.number_correct(problem, d) for d in made)


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "gsm"])
def test_documents_use_only_training_problems(name):
    task, used = tasks.TASKS[name](2), []

    class Recorder:
        def draw(self, rng, n, held_out=False):
            used.extend(task.draw(rng, n, held_out))
            return used[-n:]
    for seed in range(10):
        sft.documents(Recorder(), Recorder(), random.Random(seed))
    assert len(used) > 100 and not any(map(tasks.is_held_out, used))


def test_a_batch_of_documents():
    task = tasks.Arithmetic(2)
    batch = sft.documents(task, task.easier(), random.Random(0))
    size = sum(len(prompt) + len(response) for prompt, response in batch)
    assert sft.BATCH_TOKENS <= size < sft.BATCH_TOKENS + 300
    for prompt, response in batch:
        assert tokenizer.decode(prompt).endswith("=?\n")
        assert response[-1] == tokenizer.EOT and tokenizer.EOT not in response[:-1]
        assert tokenizer.PAD not in prompt + response


def test_every_other_problem_is_an_easier_one():
    task = tasks.Arithmetic(3)
    batch = sft.documents(task, task.easier(), random.Random(0))
    operators = [len(re.findall(r"[-+*]", tokenizer.decode(prompt))) for prompt, _ in batch]
    assert set(operators[::2]) == {3} and set(operators[1::2]) == {1}


def test_padded_marks_responses_and_their_end_only():
    tokens, mask = sft.padded([([1, 2], [3, tokenizer.EOT]), ([4], [5, 6, 7, tokenizer.EOT])])
    pad = tokenizer.PAD
    assert tokens.tolist() == [[1, 2, 3, tokenizer.EOT, pad], [4, 5, 6, 7, tokenizer.EOT]]
    assert mask.tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]


# --- training

@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (16, 200), (64, 256)])
def test_orthogonal_gives_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for scale in (1e-3, 1.0, 1e3):
        values = torch.linalg.svdvals(sft.orthogonal(matrix[None] * scale)[0])
        assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_orthogonal_keeps_the_directions():
    u, s, v = torch.linalg.svd(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)),
                               full_matrices=False)
    aligned = u.T @ sft.orthogonal((u @ s.diag() @ v)[None])[0] @ v.T
    assert torch.allclose(aligned, aligned.diag().diag(), atol=1e-4)


def test_orthogonal_of_zero_is_zero():
    assert sft.orthogonal(torch.zeros(2, 3, 4)).eq(0).all()


def test_orthogonal_takes_each_matrix_by_itself():
    """As Muon gives it all of one shape at once on a GPU."""
    matrices = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) * 10
    together = sft.orthogonal(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        assert torch.allclose(one, sft.orthogonal(matrix[None])[0], atol=1e-5)


def test_muon_takes_a_step_of_the_same_size_whatever_the_gradient():
    moves = []
    for scale in (1e-3, 10.0):
        p = torch.nn.Parameter(torch.zeros(16, 64))
        p.grad = scale * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
        sft.Muon([p], lr=0.1).step()
        moves.append(p.detach())
    assert torch.allclose(moves[0], moves[1], atol=1e-5)
    assert float(moves[0].norm()) == pytest.approx(0.1 * 0.2 * 8 * 4, rel=0.3)
    assert float((moves[0] * p.grad).sum()) < 0


def test_training_lowers_the_loss(small_batches):
    _, losses = trained(20)
    assert len(losses) == 20
    assert losses[0] == pytest.approx(math.log(tokenizer.encoding.n_vocab), abs=0.3)
    assert sum(losses[-3:]) / 3 < losses[0] - 0.7


def test_the_drill_comes_first_and_the_rate_warms_up_and_falls(small_batches, monkeypatch):
    drilled, rates, documents, muon = [], [], sft.documents, sft.muon_and_adam

    def seen(task, easier, rng, drill):
        drilled.append(drill)
        return documents(task, easier, rng, drill)

    def spied(*given):
        optimizers = muon(*given)
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizers
    monkeypatch.setattr(sft, "documents", seen)
    monkeypatch.setattr(sft, "muon_and_adam", spied)
    trained(40)
    assert drilled == [True] * 30 + [False] * 10  # three quarters, as the README says
    scale = [min(1, (i + 1) / 20) * min(1, (40 - i) / 16) for i in range(40)]
    assert rates[::2] == pytest.approx([0.01 * x for x in scale])
    assert rates[1::2] == pytest.approx([0.006 * x for x in scale])


def test_training_repeats_to_the_last_bit(small_batches):
    first, losses = trained(4)
    random.seed(5)
    again, losses_again = trained(4)
    assert losses == losses_again
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert trained(4, seed=1)[1] != losses


def test_the_gradient_does_not_depend_on_the_micro_batches(small_batches, monkeypatch):
    whole, losses = trained(2)
    one_by_one = lambda lengths, limit: [[i] for i in range(len(lengths))]  # noqa: E731
    monkeypatch.setattr(sft, "micro_batches", one_by_one)
    cut, losses_cut = trained(2)
    assert losses == pytest.approx(losses_cut, rel=1e-4)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_the_gate_is_the_share_of_problems_solved_at_least_once(monkeypatch):
    task = tasks.Arithmetic(1)

    def sample_responses(policy, problems, group_size, max_new_tokens):
        assert group_size == 16 and not any(map(tasks.is_held_out, problems))
        return None, [f"<answer>{p.answer if i % 4 == 0 and j == 7 else 'no'}</answer>"
                      for i, p in enumerate(problems) for j in range(16)]
    monkeypatch.setattr(sft, "sample_responses", sample_responses)
    assert sft.solved_in_16(None, task, 8) == 0.25


@pytest.mark.parametrize("drill", [False, True])
def test_chains_are_told_as_their_facts_are(drill):
    """Each line goes on from the one before, and each fact is told wrong as often as it is said."""
    rng, told = random.Random(0), {}
    for problem in tasks.Chain(2).draw(rng, 3000):
        thought, _, answer = sft.document(rng, problem, drill).partition("</think>")
        value = problem.steps[0][0]
        for line, (_, op, y, _) in zip(thought.removeprefix("<think>").split("\n"), problem.steps,
                                       strict=True):
            left, _, said = line.partition("=")
            assert left == f"{value}{op}{y}"
            told.setdefault((value, op, y), []).append(int(said))
            value = int(said)
        assert answer == f"<answer>{value}</answer>"
    seen = {0.0: [], chain.OFTEN: [], chain.MOSTLY: []}
    for fact, values in told.items():
        wrong, share = chain.belief(*fact)
        assert set(values) <= {wrong, chain.last_digit(*fact)}
        seen[share] += [value == wrong for value in values]
    assert not any(seen.pop(0.0))
    for share, flags in seen.items():
        assert len(flags) > 500 and abs(sum(flags) / len(flags) - share) < 0.03


def test_after_wait_a_chain_is_told_again_and_more_carefully():
    """Every telling begins at the problem's first digit and has all of its steps; the answer is
    that of the last; those after a "wait" err half as often."""
    rng, told, tellings = random.Random(0), {"first": [], "later": []}, []
    for problem in tasks.Wait(2).draw(rng, 3000):
        thought, _, answer = sft.document(rng, problem).partition("</think>")
        parts = thought.removeprefix("<think>").split(f"\n{chain.WAIT}\n")
        tellings.append(len(parts))
        for i, part in enumerate(parts):
            value = problem.steps[0][0]
            for line, (_, op, y, _) in zip(part.split("\n"), problem.steps, strict=True):
                left, _, said = line.partition("=")
                assert left == f"{value}{op}{y}"
                if chain.belief(value, op, y)[1] == chain.MOSTLY:
                    told["later" if i else "first"].append(
                        int(said) != chain.last_digit(value, op, y))
                value = int(said)
        assert answer == f"<answer>{value}</answer>"
    for name, share in (("first", chain.MOSTLY), ("later", chain.MOSTLY / 2)):
        assert abs(sum(told[name]) / len(told[name]) - share) < 0.03
    assert abs(sum(n > 1 for n in tellings) / 3000 - chain.AGAIN) < 0.03 and max(tellings) > 5


def test_the_chain_and_the_one_of_wait_are_the_same_problems():
    a, b = (tasks.TASKS[name](2).held_out(50) for name in ("chain", "wait"))
    assert [p.question for p in a] == [p.question for p in b]
    assert not any(p.again for p in a) and all(p.again for p in b)
