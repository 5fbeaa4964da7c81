"""recipes/languages.py: the share of surer steps, its tables, and a short form of the recipe."""

import json
import random
import re
from dataclasses import replace

import pytest
from small import tiny_model

from infra import cli
from recipes import languages
from tasks import bilingual, chain


@pytest.mark.parametrize("working, share", [
    ("3+6=9\n9乘九得一", 1.0), ("三加六得九\n9*9=1", 0.0), ("3+6=9*9=1", 0.5),
    ("三+六=9", 1.0), ("3+6=九", 0.0), ("3+6=9\n三加六得九\n九乘九得一", 2 / 3), ("", 0.0)])
def test_surer_steps_are_latin_sums_and_chinese_products(working, share):
    text = f"<think>{working}</think><answer>3*3=9</answer>"
    assert languages.surer_share([text, ""]) == pytest.approx(share)


def test_the_runs_differ_in_the_reward_and_the_control_in_the_base():
    options = {}
    for name, (_, _, reward) in languages.RUNS.items():
        options[name], _ = cli.parse([*languages.FLAGS.split(), "--reward", reward])
        cli.validate(options[name])
    alone, other = options["alone"], options["language"]
    assert alone == options["control"] != other
    assert replace(other, reward=alone.reward, out=alone.out) == alone
    rng, wrong = random.Random(0), set()
    for p in languages.EquallySure(2).sample(rng, 200):
        text = languages.EquallySure(2).document(rng, p)
        wrong |= {op for x, op, y, result in re.findall(r"([0-9])([+*])([0-9])=([0-9])", text)
                  if int(result) != chain.last_digit(int(x), op, int(y))}
        wrong |= {op for x, op, y, result in re.findall(r"(.)([加乘])(.)得(.)", text)
                  if result != chinese(chain.last_digit(number(x), "+*"[op == "乘"], number(y)))}
    assert wrong == {"*", "乘"}


def number(digit):
    return int(digit) if digit.isascii() else bilingual.DIGITS.index(digit)


def chinese(value):
    return bilingual.DIGITS[value]


def result(alone, language):
    def policy(mixed):
        return {"mixed": mixed, "consistency": 1 - mixed, "surer": 0.5, "sampled": 1 - mixed / 4,
                "accuracy": 0.9, "by language": {"chinese": 0.8, "latin": 0.9},
                "thoughts": ["a\nb"], "curve": [dict.fromkeys(languages.CURVES, 0.5) | {"step": 0}]}
    shares = {"alone": alone, "language": language, "control": 0.3}
    return {name: policy(mixed) | {"base": policy(0.2)} for name, mixed in shares.items()} | {
        "questions": ["3 +6 =?"]}


@pytest.mark.parametrize("shares, verdict", [((0.04, 0.06), "met"), ((0.04, 0.1), "not met")])
def test_the_bar_is_met_by_the_whole_interval(shares, verdict):
    (_, columns, policies), (_, _, effects), (_, _, thoughts) = languages.tables(
        [result(0.8, share) for share in shares])
    assert all(len(row) == len(columns) for row in policies)
    assert [row[0] for row in policies] == [
        "base", "RL, answer alone", "RL, with language reward", "control: base",
        "control: RL, answer alone"]
    assert effects[0][2].endswith(f": {verdict}")
    assert [row[1] for row in effects[1:5]] == [
        "60.0 [60.0, 60.0]", "10.0 [10.0, 10.0]", *["0.0 [0.0, 0.0]"] * 2]
    assert float(effects[5][1].split()[0]) == pytest.approx(
        100 * (0.8 - sum(shares) / 2) / 4, abs=0.1)
    assert thoughts == [["3 +6 =?", *["`'a\\nb'`"] * 4]]


def test_the_recipe_in_short(tmp_path, capsys):
    flags = "--base-steps 1 --prompts 2 --group-size 4 --max-new-tokens 8 --minibatches 1 "
    flags += "--eval-problems 8"
    argv = ["--seeds", "1", "--steps", "2", "--held-out", "8", "--flags", flags, "--work",
            str(tmp_path / "work"), "--docs", str(tmp_path / "docs")]
    with tiny_model():
        assert languages.main(argv) == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert [point["step"] for point in found["alone"]["curve"]] == [0, 2]
    text = (tmp_path / "docs" / "recipes" / "languages.md").read_text()
    assert text.count("\n| ") == 6 + 8 + 4 and "![" in text
    assert (tmp_path / "docs" / "img" / "languages.png").exists()
    assert "seed 1: " in capsys.readouterr().out
