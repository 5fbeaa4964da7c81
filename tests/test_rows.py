"""tasks/rows.py: other people's data sets are read, and what cannot be a problem is counted."""

import json
import os
import random
from pathlib import Path

import pytest

import tasks
from tasks import countdown, rows

DATA = Path(os.environ.get("DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


def write(path, *lines):
    """A file of these rows; text and bytes are written as they are."""
    made = [line if isinstance(line, bytes) else line.encode() if isinstance(line, str)
            else json.dumps(line).encode() + b"\n" for line in lines]
    path.write_bytes(b"".join(made))
    return str(path)


def plain(n):
    return [{"question": f"What is {i}?", "answer": str(i)} for i in range(n)]


def chat(*contents, roles=("user", "assistant", "user")):
    return [{"role": role, "content": content}
            for role, content in zip(roles, contents, strict=False)]


# --- the names of the fields

ROWS = {  # row -> question and gold answer
    "GSM8K": ({"question": "1+2?", "answer": "1+2=<<1+2=3>>3\n#### 3"}, "3"),
    "words after the mark": ({"question": "1+2?", "answer": "so\n#### 3, altogether"}, "3"),
    "MATH": ({"problem": "1+2?", "level": "1", "type": "a", "solution": r"so \boxed{3}"}, "3"),
    "MATH, two boxes": ({"problem": "1+2?", "solution": r"\boxed{2} no, \boxed{3}"}, "3"),
    "MATH-500": ({"problem": "1+2?", "solution": r"so \boxed{4}", "answer": "3"}, "3"),
    "AIME": ({"ID": "x", "Problem": "1+2?", "Answer": 3}, "3"),
    "an answer in a box": ({"question": "1+2?", "answer": r"\boxed{3}"}, "3"),
    "an empty answer beside a solution": (
        {"problem": "1+2?", "answer": "", "solution": r"so \boxed{3}"}, "3"),
    "TRL, a text": ({"prompt": "1+2?", "solution": r"\frac{6}{2}"}, r"\frac{6}{2}"),
    "TRL, a chat": ({"prompt": chat("1+2?"), "solution": "3"}, "3"),
    "verl": ({"data_source": "x", "prompt": chat("1+2?"), "ability": "math",
              "reward_model": {"style": "rule", "ground_truth": "3"}}, "3"),
    "verl, a list as text": (
        {"prompt": chat("1+2?"), "reward_model": {"ground_truth": '["3"]'}}, "3"),
    "open-r1": ({"problem": "1+2?", "answer": "3", "messages": chat("other", "text")}, "3"),
    "a chat with an answer": ({"messages": chat("1+2?", r"It is \boxed{3}.")}, "3"),
    "a chat with a system message": (
        {"prompt": chat("Think.", "1+2?", roles=("system", "user")), "answer": "3"}, "3"),
    "a chat of parts": ({"messages": chat([{"type": "text", "text": "1+2?"}]), "answer": "3"}, "3"),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "1+2?"},
                                    {"from": "gpt", "value": "#### 3"}]}, "3"),
    "DeepMath": ({"question": "1+2?", "final_answer": "3", "r1_solution_1": "3"}, "3"),
    "OlympiadBench": ({"question": "1+2?", "final_answer": ["3"]}, "3"),
    "a float": ({"question": "1+2?", "answer": 3.0}, "3"),
    "a small float": ({"question": "1+2?", "answer": 1e-7}, "1/10000000"),
    "a word": ({"question": "1+2?", "answer": r"\text{three}"}, r"\text{three}"),
    "a number with a long unit": ({"question": "1+2?", "answer": "3 square feet per second"},
                                  "3 square feet per second"),
    "mathematics after the mark": ({"question": "1+2?", "answer": r"so #### \sqrt{9}"},
                                   r"\sqrt{9}"),
}


@pytest.mark.parametrize("row, gold", ROWS.values(), ids=ROWS.keys())
def test_a_row_of_another_data_set_is_a_problem(row, gold):
    problem = rows.read_row(row)
    assert (problem.question, problem.answer) == ("1+2?", gold)
    assert rows.read_row(json.dumps(row).encode()) == problem
    assert tasks.File.correct(problem, f"<think>so</think><answer>{gold}</answer>")
    assert not tasks.File.correct(problem, "<think>so</think><answer>7654</answer>")


def test_the_text_before_the_answer_is_the_solution():
    marked, boxed, chatted = (rows.read_row(ROWS[name][0]).solution
                              for name in ("GSM8K", "MATH", "a chat with an answer"))
    assert (marked, boxed, chatted) == ("1+2=3", r"so \boxed{3}", r"It is \boxed{3}.")


def test_a_question_with_a_body_has_both():
    problem = rows.read_row({"Body": "Ann has 3 cats", "Question": "How many?", "Answer": 3.0})
    assert problem.question == "Ann has 3 cats. How many?"


@pytest.mark.parametrize("row", [
    {"target": 98, "nums": [44, 19, 35]}, {"target": 98.0, "nums": [44.0, 19.0, 35.0]},
    {"prompt": chat("Using the numbers"),
     "reward_model": {"ground_truth": {"target": 98, "numbers": [44, 19, 35]}}}])
def test_a_row_of_countdown_is_checked_as_countdown(row):
    problem = rows.read_row(row)
    assert "44 19 35 make 98" in problem.question and "exactly once" in problem.question
    for answer, right in (("44+19+35", True), ("98", False), ("44+54", False), ("35+63", False)):
        assert tasks.File.correct(problem, f"<think>a</think><answer>{answer}</answer>") == right


def test_the_corpus_of_countdown_rows_has_expressions(tmp_path):
    made = [{"target": a + b * c, "nums": [a, b, c]} for a in range(2, 9) for b in (3, 5)
            for c in (4, 7)]
    task = tasks.File(path=write(tmp_path / "f.jsonl", *made))
    for problem in task.sample(random.Random(0), 20):
        assert task.correct(problem, task.document(random.Random(1), problem, drill=True))


@pytest.mark.parametrize("target, nums", [(7, [2, 2, 2]), (997, [1] * 8), (1, [9])])
def test_a_countdown_row_without_a_solution_is_no_endless_search(target, nums, monkeypatch):
    monkeypatch.setattr(countdown, "MAX_ATTEMPTS", 500)
    problem = rows.read_row({"target": target, "nums": nums})
    lines, answer = tasks.Countdown(1).write_solution(random.Random(0), problem, "long", False)
    assert len(lines) <= countdown.MAX_LINES and "None" not in answer
    assert not tasks.File.correct(problem, f"<think>a</think><answer>{answer}</answer>")


# --- rows that are no problems

BAD = {  # line -> the reason, and what is shown
    "no JSON": ("not json\n", rows.NO_ROW, "not json"),
    "a list": ("[1, 2]\n", rows.NO_ROW, "[1, 2]"),
    "a number": ("3\n", rows.NO_ROW, "3"),
    "null": ("null\n", rows.NO_ROW, "None"),
    "no answer": ({"question": "a"}, rows.NO_ROW, "question"),
    "no question": ({"answer": "1"}, rows.NO_ROW, "answer"),
    "empty question": ({"question": " ", "answer": "1"}, rows.NO_ROW, "answer"),
    "a number as question": ({"question": 5, "answer": "1"}, rows.NO_ROW, "5"),
    "deep": ("[" * 100_000 + "\n", rows.NO_ROW, "[[["),
    "cut": ('{"question": "a", "ans\n', rows.NO_ROW, "ans"),
    "a bad byte": (b'{"question": "\xff", "answer": "1"}\n', rows.NO_ROW, "question"),
    "an endless number": ('{"question": "a", "answer": %s}\n' % ("9" * 5000), rows.NO_ROW, "9"),
    "empty": ({"question": "a", "answer": ""}, rows.NO_GOLD, "''"),
    "nothing": ({"question": "a", "answer": None}, rows.NO_GOLD, "''"),
    "nothing after the mark": ({"question": "a", "answer": "#### "}, rows.NO_GOLD, "#### "),
    "a word after the mark": ({"question": "a", "answer": "so #### x"}, rows.NO_GOLD, "x"),
    "half": ({"question": "a", "answer": "4 or"}, rows.NO_GOLD, "4 or"),
    "infinite": ('{"question": "a", "answer": 1e999}\n', rows.NO_GOLD, "inf"),
    "NaN": ('{"question": "a", "answer": NaN}\n', rows.NO_GOLD, "nan"),
    "true": ({"question": "a", "answer": True}, rows.NO_GOLD, "True"),
    "divided by zero": ({"question": "a", "answer": "1/0"}, rows.NO_GOLD, "1/0"),
    "two answers": ({"question": "a", "answer": [1, 2]}, rows.NO_GOLD, "[1, 2]"),
    "proof": ({"problem": "prove", "answer": "proof"}, rows.NO_GOLD, "proof"),
    "a proof by its type": ({"problem": "prove", "answer": "3", "question_type": "proof"},
                            rows.NO_GOLD, "3"),
    "not found": ({"problem": "prove", "answer": r"\text{Not found}"}, rows.NO_GOLD, "ound"),
    "notfound": ({"problem": "prove", "answer": "notfound"}, rows.NO_GOLD, "notfound"),
    "n/a": ({"problem": "prove", "answer": "N/A"}, rows.NO_GOLD, "N/A"),
    "the end of a proof": ({"problem": "prove", "solution": r"QED \boxed{}"}, rows.NO_GOLD, "QED"),
    "prose": ({"problem": "a", "answer": "The sum is even"}, rows.NO_GOLD, "sum"),
    "prose with a number": ({"problem": "a", "answer": "There are exactly 5 such values of n"},
                            rows.NO_GOLD, "values"),
    "a solution without a box": ({"problem": "a", "solution": "Two cases are left."},
                                 rows.NO_GOLD, "cases"),
    "choices": ({"question": "a", "choices": ["x", "y"], "answer": 1}, rows.NO_CHOICES, "x"),
    "turns": ({"messages": chat("a", "b", "c"), "answer": "1"}, rows.NO_CHAT, "3 turns"),
    "an image": ({"messages": chat([{"type": "image", "image": "x"}]), "answer": "1"},
                 rows.NO_CHAT, "image"),
    "a chat of texts": ({"messages": ["a", "b"], "answer": "1"}, rows.NO_CHAT, "a"),
    "half a pair": ('{"question": "a \\ud800", "answer": "1"}\n', "not valid Unicode", "ud800"),
    "no target": ({"target": None, "nums": [1, 2]}, rows.NO_COUNTDOWN, "None"),
    "texts as numbers": ({"target": 3, "nums": ["1", "2"]}, rows.NO_COUNTDOWN, "'1'"),
    "a negative number": ({"target": 3, "nums": [4, -1]}, rows.NO_COUNTDOWN, "-1"),
    "half a number": ({"target": 3, "nums": [4, 0.5]}, rows.NO_COUNTDOWN, "0.5"),
}


@pytest.mark.parametrize("line, reason, shown", BAD.values(), ids=BAD.keys())
def test_a_row_that_is_no_problem_is_left_out_with_its_line(line, reason, shown, tmp_path):
    found = rows.read_rows(write(tmp_path / "f.jsonl", *plain(2), line, *plain(1)))
    assert len(found.problems) == 3 and found.left_out == 1
    note = found.notes[0]
    assert "f.jsonl: left out 1 of 4 rows" in note and "line 3 " in note
    assert reason in note and shown in note and len(note) < 300 and "\n" not in note
    with pytest.raises(ValueError, match="f.jsonl: left out (1 of 1|2 of 2) rows"):
        rows.read_rows(write(tmp_path / "f.jsonl", line))


def test_a_note_counts_all_rows_and_shows_three(tmp_path):
    bad = [{"problem": f"p{i}", "answer": "proof"} for i in range(7)]
    found = rows.read_rows(write(tmp_path / "f.jsonl", *plain(4), *bad))
    assert found.left_out == 7 and len(found.notes) == 1
    assert "7 of 11 rows" in found.notes[0] and found.notes[0].count("'proof'") == 3
    assert all(f"line {i}" in found.notes[0] for i in (5, 6, 7))


def test_one_bad_row_in_12000_does_not_cost_the_file(tmp_path):
    found = rows.read_rows(write(tmp_path / "f.jsonl", *plain(11_999), "{\n"))
    assert len(found.problems) == 11_999 and "1 of 12000 rows" in found.notes[0]


def test_what_a_file_says_cannot_reach_the_terminal_as_a_command(tmp_path, capsys):
    row = {"question": "a", "answer": "\x1b[2J or \ud83d"}
    assert len(tasks.read_jsonl(write(tmp_path / "f.jsonl", *plain(2), row))) == 2
    said = capsys.readouterr()
    assert said.out == "" and "\x1b" not in said.err and r"\x1b[2J" in said.err


def test_repeated_questions_are_counted_and_kept(tmp_path):
    again = [{"question": "What  is 0?\n", "answer": "0"}, {"question": "What is 1?", "answer": 9}]
    found = rows.read_rows(write(tmp_path / "f.jsonl", *plain(5), *again))
    assert len(found.problems) == 7 and found.left_out == 0
    [note] = found.notes
    assert "2 of 7 rows repeat" in note and "1 with another answer" in note


# --- files

@pytest.mark.parametrize("change", [
    lambda text: b"\xef\xbb\xbf" + text,                      # a UTF-8 byte order mark
    lambda text: text.replace(b"\n", b"\r\n"),
    lambda text: text.replace(b"\n", b"\n\n \n"),
    lambda text: text.rstrip(b"\n"),
    lambda text: b"[" + b",".join(text.splitlines()) + b"]",  # a JSON list
    lambda text: b"\xef\xbb\xbf\n [" + b",\n".join(text.splitlines()) + b"]\n"])
def test_a_file_may_begin_and_end_otherwise(change, tmp_path):
    path = write(tmp_path / "f.json", *plain(3))
    want = rows.read_rows(path)
    (tmp_path / "f.json").write_bytes(change((tmp_path / "f.json").read_bytes()))
    assert rows.read_rows(path) == want and not want.notes


@pytest.mark.parametrize("name, content, words", [
    ("f.csv", b"question,answer\n1,2\n", "read_csv("), ("f.CSV", b"a,b\n", "read_csv("),
    ("f.tsv", b"a\tb\n", "sep="), ("f.parquet", b"PAR1...", "read_parquet("),
    ("f.jsonl", b"PAR1\x15\x04", "read_parquet("), ("f.jsonl.gz", b"\x1f\x8b\x08", "read_json("),
    ("f.jsonl", b"\x1f\x8b\x08", "read_json("), ("f.xlsx", b"PK", "read_excel("),
    ("f.jsonl", '{"question": "a"}'.encode("utf-16"), "encoding='utf-16'"),
    ("f.jsonl", '{"question": "a"}'.encode("utf-32"), "encoding='utf-32'")])
def test_another_format_is_refused_with_the_line_that_converts_it(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="this line of Python converts it") as error:
        rows.read_rows(str(path))
    assert words in str(error.value) and str(path) in str(error.value)
    line = str(error.value).partition("converts it: ")[2]
    compile(line, "the line", "exec")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_the_line_that_converts_another_encoding_does(encoding, tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" for row in plain(3)).encode(encoding))
    with pytest.raises(ValueError, match="converts it: ") as error:
        rows.read_rows(str(path))
    exec(str(error.value).partition("converts it: ")[2])
    assert len(rows.read_rows(f"{path}.jsonl").problems) == 3


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path, "a\0b"):
        with pytest.raises(ValueError, match="cannot be read"):
            rows.read_rows(str(path))


# --- the two sides

def test_what_is_held_out_leaves_training_and_is_said(tmp_path):
    spaced = {"question": " What is\n1? ", "answer": "1"}
    task = tasks.File(path=write(tmp_path / "a.jsonl", *plain(20), spaced),
                      eval_path=write(tmp_path / "b.jsonl", *plain(5)))
    assert len(task.train) == 15 and len(task.eval) == 5
    assert "left out 6 of 21 problems" in task.notes[-1] and "b.jsonl" in task.notes[-1]


def test_a_question_with_other_spaces_is_on_the_same_side(tmp_path):
    spaced = [{**row, "question": row["question"].replace(" ", "  ")} for row in plain(200)]
    task = tasks.File(path=write(tmp_path / "f.jsonl", *plain(200), *spaced))
    train, held = ({p.identity for p in side} for side in (task.train, task.eval))
    assert len(train | held) == 200 and not train & held


def test_a_side_without_problems_says_what_was_left_out(tmp_path):
    with pytest.raises(ValueError, match="both are needed; .*line 2 'proof'"):
        tasks.File(path=write(tmp_path / "f.jsonl", *plain(1), {"problem": "p", "answer": "proof"}))


@pytest.mark.skipif(not (DATA / "SVAMP.json").exists(), reason="no shared/data")
@pytest.mark.parametrize("name, n", [("SVAMP.json", 1000), ("math500.jsonl", 500)])
def test_real_sets_are_read_whole(name, n):
    found = rows.read_rows(str(DATA / name))
    assert len(found.problems) == n and not found.left_out
