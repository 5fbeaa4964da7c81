"""bench/faults.py: a short form of the fuzzer, and what it counts as a fault."""

import sys

import pytest

from bench import faults
from bench.fault_rules import Case, judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory")


def test_damaged_input_is_refused_in_one_sentence_or_done_right():
    cases = faults.run_cases(range(24), seed=0)
    assert not [f"{case.number} {case.fault}: {case.said}" for case in cases if case.fault]
    assert {case.code for case in cases} >= {0, 2}
    assert len({case.entry for case in cases}) == len(faults.entry_points())


@pytest.mark.parametrize("code, out, err, fault", [
    (2, "", "search.py: --n must be above 0\n", ""),
    (2, "", "a note\nsearch.py: --n must be above 0\n", ""),
    (0, '{"accuracy": 0.5}', "", ""),
    (1, "", "Traceback (most recent call last)", "traceback"),
    (70, "", "", "traceback"),
    (-14, "", "", "hang"), (-9, "", "", "killed"), (3, "", "search.py: no", "exit code 3"),
    (2, "", "", "no sentence"), (2, "", "usage: search.py [-h]", "no sentence"),
    (2, "", "search.py: a\nsearch.py: b", "several"),
    (2, "", "search.py: top_p must be above 0", "names no flag"),
    (2, "", "search.py: " + "x" * 4000, "long"),
    (2, "", "search.py: \x1b[2J", "control"), (0, "\x07", "", "control"),
    (0, "", "UserWarning: x", "warning"),
    (0, '{"accuracy": NaN}', "", "invalid"), (0, '{"accuracy": 2.0}', "", "invalid"),
    (0, "", "", "invalid")])
def test_verdicts(code, out, err, fault, tmp_path):
    case = Case(0, "search.py", ["--run", "x"], code=code)
    found = judge(case, tmp_path, out, err)
    assert fault in found and bool(fault) == bool(found)


def test_a_case_depends_on_its_seed_and_number_alone(tmp_path):
    (tmp_path / "answers.jsonl").write_text("")
    made = [[faults.run_case(number, seed, tmp_path) for number in numbers]
            for seed, numbers in ((3, (5, 6)), (3, (6, 5)), (4, (5, 6)))]
    assert made[0] == made[1][::-1] and made[0] != made[2]
