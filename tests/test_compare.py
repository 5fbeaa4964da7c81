"""bench/compare.py: what its tables say of runs whose curves are known."""

import json

import pytest

from bench import ablate_dapo, compare
from config import ALGORITHMS
from infra.cli import parse, validate


def row(accuracies, **changes):
    """A run that is evaluated every second step, 1,000 tokens a step."""
    blank = dict.fromkeys(compare.CURVE)
    curve = [blank | {"step": i + 1, "tokens": 1000 * (i + 1), "entropy": 1.0 / (i + 1),
                      "eval_accuracy": accuracies[i // 2] if i % 2 else None,
                      "groups_with_gradient": 0.75, "length": 10, "truncated": 0.5}
             for i in range(2 * len(accuracies))]
    return dict(accuracy=0.9, sampled=0.8, pass16=1.0, length=95.0, peak_rss_mb=700,
                parameters=630_000, curve=[[p[name] for name in compare.CURVE] for p in curve]
                ) | changes


def test_tokens_to_a_level_are_those_of_the_first_evaluation_that_reaches_it():
    assert compare.tokens_to(row([0.5, 0.8, 0.7, 0.9])) == 4000
    assert compare.tokens_to(row([0.5, 0.7])) is None
    assert compare.tokens_cell([row([0.9]), row([0.1])]) == "1 of 2 reach it"
    assert compare.tokens_cell([row([0.9]), row([0.1, 0.9])]).startswith("3 [")


def test_the_interval_is_over_seeds():
    mean, low, high = compare.bootstrap([0.0, 1.0, 2.0])
    assert mean == 1 and 0 <= low < 0.5 and 1.5 < high <= 2
    assert compare.bootstrap([3.0] * 5) == (3, 3, 3)


def test_after_is_a_mean_over_what_follows_a_share_of_the_run():
    one = row([0.1, 0.2])
    assert compare.after(one, 1, "eval_accuracy") == 0.2
    assert compare.after(one, 0.5, "tokens") == pytest.approx(3500)
    assert compare.after(one, 0, "tokens") == pytest.approx(2500)


def test_tables_have_a_cell_for_every_column():
    groups = {"grpo": [row([0.9])], "ppo": [row([0.1])]}
    for lines in (compare.table(groups, {"grpo": [1, 0, 2], "ppo": [1, 1, 3]}),
                  ablate_dapo.table({"DAPO": [row([0.9], variant="DAPO")]})):
        assert len({line.count("|") for line in lines}) == 1 and len(lines) > 2


def test_every_setting_is_one_that_train_accepts():
    assert set(compare.GRID) == set(ALGORITHMS)
    for algo, settings in compare.GRID.items():
        assert len(settings) == len(set(settings)) == 4
        for setting in settings:
            validate(parse(["--algo", algo, *compare.COMMON, *setting.split()])[0])
    for off in ablate_dapo.VARIANTS.values():
        validate(parse([*ablate_dapo.SETTING, *" ".join(off).split()])[0])


def test_sections_are_replaced_in_place_of_their_own(tmp_path, monkeypatch):
    (tmp_path / "bench").mkdir()
    path = tmp_path / "bench" / "RESULTS.md"
    path.write_text("# All\n\ntext\n\n## One\n\nold\n\n## Two\n\nkept\n")
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    compare.write_section("One", ["new"])
    assert path.read_text() == "# All\n\ntext\n\n## One\n\nnew\n\n## Two\n\nkept\n"
    compare.write_section("One", ["newer"])
    assert path.read_text().count("## One") == 1 and "newer" in path.read_text()
    compare.write_section("Three", ["last"])
    assert path.read_text().endswith("## Two\n\nkept\n\n## Three\n\nlast\n")


def test_compact_keeps_the_curve(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(
        json.dumps({"step": i, "tokens": 10, "entropy": 0.123456}) + "\n" for i in (1, 2)))
    (tmp_path / "summary.json").write_text(json.dumps(dict(
        accuracy_after=0.5, accuracy_sampled_after=0.4, pass_at_k_after={"16": 1.0},
        accuracy_before=0.1, length_after=9.0, truncated_after=0.0, parameters=5,
        peak_rss_mb=1.4)))
    made = compare.compact(tmp_path, algo="grpo", seed=0)
    assert compare.column(made, "tokens") == [10, 20] and made["seed"] == 0
    assert compare.column(made, "entropy") == [0.1235, 0.1235]
