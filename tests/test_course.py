"""course/: the copy for students, and the grader's points, messages and defences."""

import ast
import json
import sys
from fractions import Fraction as F
from hashlib import sha256
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "course"), str(ROOT / "course" / "answers")]

import blank  # noqa: E402
import grade  # noqa: E402
import variants  # noqa: E402
from checks import outputs  # noqa: E402
from exercises import DIAGNOSIS, EXERCISES  # noqa: E402
from judge import judge  # noqa: E402

STORED = json.loads((ROOT / "course/checks/fingerprints.json").read_text("utf-8"))
EXERCISE = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)


def judged(exercise, function) -> str:
    return judge(exercise, variants.messages_of(exercise, function), STORED[exercise.name])


# --- the exercises, and what the grader says of right and wrong functions

def test_the_table():
    assert 20 <= len(EXERCISES) <= 35
    assert sum(e.points for e in EXERCISES) + DIAGNOSIS == 100
    before = set()
    for e in EXERCISES:  # what a function calls is written before it
        assert set(e.uses) <= before, e.name
        before.add(e.function)
    assert [e.part for e in EXERCISES] == sorted(e.part for e in EXERCISES)


@EXERCISE
def test_right_functions_get_the_points(exercise):
    """The true one, and others: loops, other operation orders, other names."""
    others = variants.solutions(exercise)
    assert others
    for function in [variants.compiled(exercise, variants.true_source(exercise)), *others]:
        assert judged(exercise, function) == "", function


@EXERCISE
def test_each_common_mistake_gets_its_message(exercise):
    mutants = variants.mutants(exercise)
    assert len(mutants) >= 4
    assert [m for m, _ in mutants] == [m["message"] for m in STORED[exercise.name]["mutants"]]
    for message, function in mutants:
        assert judged(exercise, function) == message


def test_many_messages():
    messages = [m["message"] for stored in STORED.values() for m in stored["mutants"]]
    assert len(set(messages)) >= 200


def wrong_in_another_way(old: str, new: str, function: str) -> str:
    [exercise] = [e for e in EXERCISES if e.function == function]
    return judged(exercise, variants.mutated(exercise, [old, new]))


def test_an_unknown_mistake_is_placed():
    said = wrong_in_another_way("return advantages", "return advantages + mask / 7", "gae")
    assert said == ('wrong on 7 of 7 inputs. The input "lambda 1, gamma 1, a full row" has a wrong '
                    'result at [0, 0]: yours is 1.043. Others: "lambda 0, gamma 1, a full row", '
                    '"lambda 0.9, gamma 0.8, a full row"')
    assert "returns float (1, 5, 1); asked for: float (1, 5)" in wrong_in_another_way(
        "return advantages", "return advantages[..., None]", "gae")
    assert "at [0, 0]: yours is nan" in wrong_in_another_way(
        "return advantages", "return advantages * float('nan')", "gae")
    assert "raises ZeroDivisionError" in wrong_in_another_way(
        "return advantages", "return 1 / 0", "gae")
    assert "returns None; asked for: float (1, 5)" in wrong_in_another_way(
        "return advantages", "return None", "gae")
    assert "returns a single number; asked for: float" in wrong_in_another_way(
        "return advantages", "return advantages.mean()", "gae")


def test_results_have_names():
    """The names of exercises.py or of a part's file, and no positions in a tuple."""
    weight = "mask[i, len(prompt):end] = 1.0"
    assert "has a wrong result in mask at [0, 2]: yours is 2" in wrong_in_another_way(
        weight, weight.replace("1.0", "2.0"), "padded")
    assert "returns tokens int (1, 4), mask a single number; asked for: tokens int (1, 4), mask f" \
        in wrong_in_another_way("return tokens, mask", "return tokens, mask.sum()", "padded")
    assert "has a wrong result in the gradient with respect to logp at [0, 0]: yours is 7" in \
        wrong_in_another_way("lambda log_ratio: -log_ratio,", "lambda log_ratio: 6 * "
                             "log_ratio.detach() - 7 * log_ratio,", "kl")
    assert "has a wrong result in numbers: yours is [7, 1]" in wrong_in_another_way(
        "return None if tokens else (value, used)", "return value, used + [1]", "expression")


def test_two_mistakes_at_once_are_both_named():
    [exercise] = [e for e in EXERCISES if e.function == "kl"]
    k1, k2, k3 = "lambda log_ratio: -log_ratio,", "log_ratio * log_ratio / 2", "torch.expm1"
    edits = [k1, k1.replace("-", ""), k2, k2[:-4]]
    messages = ["Perhaps: k1 has the wrong sign", ". Also: k2 is half of the squared"]
    for more, rest in (([], False), ([k3, "torch.sinh"], True)):
        said = judged(exercise, variants.mutated(exercise, edits + more))
        assert all(message in said for message in messages)
        assert ('. There is also: input "k3 (values' in said) == rest


def test_a_mistake_that_explains_little_is_not_named():
    """It may fit by chance: a text of 200 characters gives None here too."""
    assert wrong_in_another_way("len(text) > MAX_CHARS", "True", "expression").startswith(
        "wrong on 1")


def test_another_exception_is_wrong():
    assert ", where another exception is asked for. Others: " in wrong_in_another_way(
        "raise ValueError(", "raise TypeError(", "pass_at_k")


def test_a_changed_argument_is_wrong():
    said = wrong_in_another_way("return loss / 2", "returns.zero_()\n    return loss / 2",
                                "value_loss")
    assert said == ("the result is right, but returns is changed in place, and the caller still "
                    "needs it. Input: no clip")
    mark = "mask[i, len(prompt):end] = 1.0"
    assert "the result is right, but pairs is changed in place" in wrong_in_another_way(
        mark, mark + "; prompt.extend(response)", "padded")
    assert "the result is right, but batch.step_rewards is changed in place" in \
        wrong_in_another_way("rewards = rewards - ", "rewards -= ", "token_rewards")


# --- outputs and fingerprints

@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 0.0123449999, 12.345, 0.01, 1000.0, 4.8e8])
def test_rounding_errors_pass_and_real_differences_do_not(value):
    stored = outputs.prints("s", value)

    def fits(x):
        return outputs.first_difference(outputs.hashed("s", x), stored) is None
    for error in (0.0, 1e-6, -1e-6):
        assert fits(value * (1 + error) + error)
    assert not fits(value * 1.01 + 0.001)
    assert not fits(-value - 1) and not fits(float("nan")) and not fits(None)


def test_other_outputs():
    same = [(F(5), 5), (5, 5.0), (torch.tensor(2.5), 2.5), ((1, "a"), [1, "a"]),
            (torch.ones(2), torch.ones(2).double()), ({"b": 1, "a": 2}, {"b": 1, "a": 2})]
    other = [(F(1, 3), 1 / 3), ("5", 5), (True, 1), (None, "None"), ([1, 2], [2, 1]), ([], None),
             (torch.ones(2), torch.ones(2).long()), (torch.ones(2), torch.ones(2, 1)),
             (torch.ones(2), [1.0, 1.0]), ([[1], [2]], [[1, 2]]), (object(), None)]
    for pairs, want in ((same, True), (other, False)):
        for a, b in pairs:
            a, b = (json.loads(json.dumps(outputs.encode(x))) for x in (a, b))
            found = outputs.first_difference(outputs.hashed("s", a), outputs.prints("s", b))
            assert (found is None) == want, (a, b)


def test_many_numbers_share_a_fingerprint():
    """So a fingerprint does not tell the number."""
    wanted = outputs.prints("s", 0.7345)["prints"]
    found = [n for n in range(10**5, 4 * 10**5)
             if outputs.fingerprint("s 0", f"{n / 10**5:.5f}") == wanted]
    assert len(found) > 1


# --- the copy for students

@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with parts 4 and 6 blank."""
    out = tmp_path_factory.mktemp("student") / "copy"
    assert blank.main(["--part", "4", "6", "--out", str(out)]) == 0
    return out


def test_a_blank_copy(copy):
    for e in EXERCISES:
        true, text = ((folder / e.file).read_text("utf-8") for folder in (ROOT, copy))
        function = blank.find(ast.parse(text), e.function)
        assert ast.get_docstring(function) == ast.get_docstring(
            blank.find(ast.parse(true), e.function))
        raised = f'raise NotImplementedError("part {e.part}: {e.name}")'
        assert (raised in text) == (e.part in (4, 6) and not e.table)
        if e.table:
            values = blank.find(ast.parse(text), e.table).value.values
            assert {ast.unparse(value) for value in values} == {"..."}
        assert {line for line in text.splitlines() if "raise NotImpl" not in line
                and ": ...," not in line} <= set(true.splitlines())


def test_solutions_and_the_lecturers_files_stay_behind(copy):
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert not [name for name in names if name.startswith((".git/", "course/answers",
                                                           "tests/test_course"))]
    assert {"train.py", "course/grade.py", "course/checks/part4.py"} <= names
    assert "handout" in (copy / "course/README.md").read_text("utf-8")
    for part, files in blank.ORACLES.items():
        for name, helpers in files.items():
            for helper in helpers:
                assert f"def {helper}(" in (ROOT / name).read_text("utf-8")
                assert (helper in (copy / name).read_text("utf-8")) == (part not in (4, 6))


def test_the_docs_quote_no_removed_code(copy):
    k3 = '"k3": lambda log_ratio: torch.expm1(log_ratio) - log_ratio'
    assert k3 in (ROOT / "ppo.py").read_text("utf-8")
    assert not [page for page in copy.rglob("*.md") if k3 in page.read_text("utf-8")]
    assert blank.without_quotes("a\n+ x = f(y)\nb\n", {"x = f(y)"}) == "a\n...\nb\n"


def test_the_other_parts_are_whole(copy):
    results = grade.grade(copy, ["4", "7", "vote"], 600.0)
    assert {r.message for r in results if r.part == 4} == {"not written yet"}
    assert all(r.points == r.max_points and not r.message for r in results if r.part == 7)


def test_all_parts_and_solutions(tmp_path, capsys):
    assert blank.main(["--all", "--out", str(tmp_path / "a")]) == 0
    text = (tmp_path / "a" / "sample.py").read_text("utf-8")
    assert text.count("raise NotImplementedError") == 3
    assert "@torch.inference_mode()\ndef decode(" in text
    assert blank.main(["--all", "--solutions", "--out", str(tmp_path / "b")]) == 0
    for name in ("sample.py", "course/answers/variants.py", "tests/test_course.py"):
        assert (tmp_path / "b" / name).read_bytes() == (ROOT / name).read_bytes()
    with pytest.raises(SystemExit):
        blank.main(["--all", "--out", str(tmp_path / "a")])
    assert "is not empty" in capsys.readouterr().err


# --- students' code that is worse than wrong

PART_6 = [e for e in EXERCISES if e.part == 6]


@pytest.fixture
def attack(copy):
    """Grades part 6 after changes of dapo.py: bodies of its functions, and code before them."""
    true = (copy / "dapo.py").read_text("utf-8")

    def graded(before="", seconds=600.0, **bodies):
        text = true + before + "".join(f"\n\ndef {name}(*args):\n    {body}\n"
                                       for name, body in bodies.items())
        (copy / "dapo.py").write_text(text, "utf-8")
        results = grade.grade_part(6, PART_6, copy, seconds, STORED)
        return {r.name.split()[1]: (r.points, r.message) for r in results}
    yield graded
    (copy / "dapo.py").write_text(true, "utf-8")


RIGHT = "return max(0, min(args[0], -(-(args[0] - args[2]) * args[1] // max(1, args[2]))))"


def test_a_loop_without_end(attack):
    found = attack(seconds=2.0, informative="import time; time.sleep(10**6)")
    points, message = found["informative"]
    assert points == 0 and message.startswith("did not end within 2 s")


def test_exits_and_floods(attack):
    found = attack(informative="import sys; sys.exit(0)",
                   overlong_penalty="import os; os._exit(0)",
                   prompts_to_sample=f"print('x' * 10**7); {RIGHT}")
    assert found["informative"][0] == 0
    assert "raises SystemExit on the input: mixed, all right" in found["informative"][1]
    points, message = found["overlong_penalty"]
    assert points == 0 and message.startswith("the process ended on the input: limit 100, buffer 2")
    assert found["prompts_to_sample"] == (2, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit is one of Linux")
def test_a_memory_limit(attack):
    found = attack(informative="return torch.ones(2 * 10**9)",
                   overlong_penalty="return bytearray(10**10)", prompts_to_sample=RIGHT)
    assert "can't allocate memory" in found["informative"][1]
    assert "MemoryError" in found["overlong_penalty"][1]
    assert found["prompts_to_sample"] == (2, "")


FORGED = [b'{"output": 1, "input": {}, "error": [], "place": 5}', b"[1]", b"7",
          b'{"output": {"list": 5}}', b'{"output": {"tensor": "float"}}', b"[" * 5000]


def test_forged_messages_give_no_points(attack):
    """Code that writes to all open files what it likes."""
    texts = [b"%08x" % len(text) + text for text in FORGED]
    body = f"""import os
    for text in {texts!r}:
        for file in range(3, 9):
            try:
                os.write(file, text)
            except OSError:
                pass"""
    found = attack(informative=body, overlong_penalty="import os; os.write(3, b'zz'); os.write(4, "
                   "b'zzzzzzzz')", prompts_to_sample=RIGHT)
    assert found["informative"][0] == found["overlong_penalty"][0] == 0
    assert found["prompts_to_sample"] == (2, "")


def test_patches_of_the_libraries_and_of_the_child(attack):
    patches = """
import sys, json
child = sys.modules["__main__"]
child.run = lambda case, folder: {"input": "", "output": None, "changed": ""}
child.outputs.first_difference = lambda *_: None
torch.equal = torch.allclose = lambda *_, **__: True
torch.Tensor.__eq__ = lambda *_: True
"""
    found = attack(before=patches, informative="return 1", overlong_penalty="return 1",
                   prompts_to_sample=RIGHT)
    assert all(points == 0 for points, _ in found.values())


def test_files_that_cannot_be_imported(attack):
    found = attack(before="\n\ndef broken(:\n")
    assert all("SyntaxError" in message and "dapo.py line " in message
               for _, message in found.values())


# --- the grader's output

def test_the_command_and_its_json(copy, tmp_path, capsys):
    file = tmp_path / "results.json"
    assert grade.main(["6", "--folder", str(copy), "--json", str(file)]) == 1
    written, printed = json.loads(file.read_text("utf-8")), capsys.readouterr().out
    tests = [t for t in written["tests"] if t["name"].startswith("dapo")]
    assert written["score"] == 0 and len(tests) == 3
    assert tests[0] == {"name": "dapo.py informative", "number": "6", "score": 0, "max_score": 2,
                        "output": "not written yet", "status": "failed"}
    assert "  0/2  dapo.py informative\n       not written yet\n" in printed
    with pytest.raises(SystemExit):
        grade.main(["8"])
    assert "there is no part or exercise 8; choose of 1, 2, " in capsys.readouterr().err
    for name, points in (("informative", 2), ("GPT.logprobs_of", 3), ("logprobs_of", 3)):
        assert grade.main([name, "--folder", str(copy)]) == (name == "informative")
        assert f" of {points} points" in capsys.readouterr().out


def test_a_wrong_exercise_names_the_wrong_one_that_it_calls():
    results = [grade.Result(4, "grpo.py group_std", 0, 2, "wrong on 1 of 2 inputs"),
               grade.Result(4, "grpo.py group_advantages", 0, 3, "wrong on 1 of 2 inputs")]
    grade.name_causes(results)
    assert results[0].message == "wrong on 1 of 2 inputs"
    assert results[1].message == ("wrong on 1 of 2 inputs. It calls grpo.py group_std, which is "
                                  "not right yet: mend that first")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two broken runs, whose causes are a and b."""
    (tmp_path / "broken").mkdir()
    sealed = {"salt": "s"} | {run: sha256(f"s {run} {cause}".encode()).hexdigest()
                              for run, cause in (("run-01", "a"), ("run-02", "b"))}
    (tmp_path / "broken" / "sealed.json").write_text(json.dumps(sealed))
    causes = dict.fromkeys(("a", "b", "c", "clip"), "why")
    (tmp_path / "broken" / "causes.json").write_text(json.dumps(causes))
    monkeypatch.setattr(grade, "COURSE", tmp_path)
    return tmp_path


@pytest.mark.parametrize("answers, points, message", [
    ('["run-01"]', 0, "no answer yet"),
    ("{", 0, "no answer yet"),
    ('{"run-01": "a"}', 1, "no answer yet"),
    ('{"run-01": "a", "run-02": "b"}', 2, ""),
    ('{"run-01": "a", "run-02": "c"}', 1, "not this cause"),
    ('{"run-01": "a", "run-02": "d"}', 1, "'d' is no name in course/broken/causes.json"),
    ('{"run-01": "a", "run-02": "clips"}', 1, "; is it clip?"),
    (None, 0, "no answer yet"),
])
def test_the_diagnosis(runs, answers, points, message):
    if answers is not None:
        (runs / "answers.json").write_text(answers)
    results = grade.grade_diagnosis(runs)
    assert [r.max_points for r in results] == [1, 1] and sum(r.points for r in results) == points
    assert message in results[1].message and bool(message) == bool(results[1].message)


@pytest.mark.parametrize("answers, message", [
    (None, 'there is no answers.json; it holds {"run-01": "a cause", ...}'),
    ("{", "answers.json is no JSON object"), ('["run-01"]', "answers.json is no JSON object"),
    ('{"run-1": "a"}', "of the answers, run-1 is no run")])
def test_trouble_with_the_file_of_answers_is_told_once(runs, answers, message):
    if answers is not None:
        (runs / "answers.json").write_text(answers)
    first, second = grade.grade_diagnosis(runs)
    assert message in first.message and second.message == "no answer yet"
