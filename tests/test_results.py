"""bench/results.py and bench/stats.py: docs/results.md is what the measurements say."""

import re

import pytest

from bench import results, results_search, stats


def row(accuracies, **changes):
    """A run that is evaluated every second step, 1,000 tokens a step."""
    blank = dict.fromkeys(stats.CURVE)
    curve = [blank | {"step": i + 1, "tokens": 1000 * (i + 1), "entropy": 1.0 / (i + 1),
                      "eval_accuracy": accuracies[i // 2] if i % 2 else None,
                      "groups_with_gradient": 0.75, "length": 10, "truncated": 0.5}
             for i in range(2 * len(accuracies))]
    return dict(accuracy=0.9, sampled=0.8, pass16=1.0, length=95.0, peak_rss_mb=700,
                parameters=630_000, curve=[[p[name] for name in stats.CURVE] for p in curve]
                ) | changes


def test_the_page_is_what_the_script_makes():
    assert results.PATH.read_text() == results.page(), "run `python bench/results.py`"


def test_every_table_has_a_cell_for_every_column():
    rows = results.page().splitlines()
    for before, line in zip(rows, rows[1:], strict=False):
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line


def test_every_section_names_command_commit_and_machine():
    sections = results.page().split("\n## ")[1:]
    assert len(sections) > 30
    for section in sections:
        assert re.match(r".+\n\n```text\n.+\n(.+\n)*```\n\nCommit .+\. Machine: .+\.\n", section)


def test_every_file_of_measurements_is_used(monkeypatch):
    read = set()

    def reader(function):
        return lambda path: read.add(path) or function(path)
    monkeypatch.setattr(results, "read_json", reader(stats.read_json))
    monkeypatch.setattr(results, "read_jsonl", reader(stats.read_jsonl))
    results.page()
    unread = {path.name for path in stats.RUNS.glob("*.json*")} - {path.name for path in read}
    assert unread <= {"search-wait-bases.jsonl"}  # a row of wait-bases.json is the same
    folders = {path.parent for path in stats.RUNS.glob("*/summary.json")}
    assert folders == {path.parent for path in read} - {stats.RUNS}


def test_an_empty_cell_where_a_method_was_not_measured():
    assert results_search.cell([], method="vote", n=3) == ""
    assert results_search.best_choice([], 60, "0") == ""


def test_tokens_to_a_level_are_those_of_the_first_evaluation_that_reaches_it():
    assert stats.tokens_to(row([0.5, 0.8, 0.7, 0.9])) == 4000
    assert stats.tokens_to(row([0.5, 0.7])) is None
    assert stats.tokens_cell([row([0.9]), row([0.1])]) == "1 of 2 reach it"
    assert stats.tokens_cell([row([0.9]), row([0.1, 0.9])]).startswith("3 [")


def test_the_interval_is_over_seeds():
    mean, low, high = stats.bootstrap([0.0, 1.0, 2.0])
    assert mean == 1 and 0 <= low < 0.5 and 1.5 < high <= 2
    assert stats.bootstrap([3.0] * 5) == (3, 3, 3)


def test_after_is_a_mean_over_what_follows_a_share_of_the_run():
    one = row([0.1, 0.2])
    assert stats.after(one, 1, "eval_accuracy") == 0.2
    assert stats.after(one, 0.5, "tokens") == pytest.approx(3500)
    assert stats.after(one, 0, "tokens") == pytest.approx(2500)


def test_comparison_tables_have_a_cell_for_every_column():
    groups = {"grpo": [row([0.9])], "ppo": [row([0.1])]}
    for lines in (results.algorithm_table(groups, {"grpo": [1, 0, 2], "ppo": [1, 1, 3]}),
                  results.ablation_table({"DAPO": [row([0.9], variant="DAPO")]})):
        lines = [line for line in lines if line]
        assert len({line.count("|") for line in lines}) == 1 and len(lines) > 2
