"""bench/compare.py and bench/ablate_dapo.py: their settings, and what they keep of a run."""

import json

from bench import ablate_dapo, compare, stats
from config import ALGORITHMS
from infra.cli import parse, validate


def test_every_setting_is_one_that_train_accepts():
    assert set(compare.GRID) <= set(ALGORITHMS)
    for algo, settings in compare.GRID.items():
        assert len(settings) == len(set(settings)) == 4
        for setting in settings:
            validate(parse(["--algo", algo, *compare.COMMON, *setting.split()])[0])
    for off in ablate_dapo.VARIANTS.values():
        validate(parse([*ablate_dapo.SETTING, *" ".join(off).split()])[0])


def test_compact_keeps_the_curve(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(
        json.dumps({"step": i, "tokens": 10, "entropy": 0.123456}) + "\n" for i in (1, 2)))
    (tmp_path / "summary.json").write_text(json.dumps(dict(
        accuracy_after=0.5, accuracy_sampled_after=0.4, pass_at_k_after={"16": 1.0},
        accuracy_before=0.1, length_after=9.0, truncated_after=0.0, parameters=5,
        peak_rss_mb=1.4)))
    made = compare.compact(tmp_path, algo="grpo", seed=0)
    assert stats.column(made, "tokens") == [10, 20] and made["seed"] == 0
    assert stats.column(made, "entropy") == [0.1235, 0.1235]
