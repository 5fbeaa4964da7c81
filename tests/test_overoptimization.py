"""recipes/overoptimization.py: best-of-n against its definition, the summary, a short form."""

import itertools
import json
import math
from statistics import mean

import pytest
from small import tiny_model

from recipes import overoptimization


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_choices_of_n_samples(n):
    proxy, gold = [0.3, -1.0, 2.0, 0.1, 0.9], [5.0, 1.0, -2.0, 0.5, 7.0]
    chosen = [max(part, key=lambda i: proxy[i]) for part in itertools.combinations(range(5), n)]
    found = overoptimization.best_of_n(proxy, gold, n)
    assert found == pytest.approx(mean(gold[i] for i in chosen))


def test_the_kl_of_best_of_n():
    """That of the largest of n uniform numbers, whose density is n u^(n-1), by quadrature."""
    for n in (1, 4, 32):
        points = [(i + 0.5) / 20_000 for i in range(20_000)]
        density = [n * u ** (n - 1) for u in points]
        kl = mean(p * math.log(p) if p > 0 else 0.0 for p in density)
        assert overoptimization.best_of_n_kl(n) == pytest.approx(kl, abs=1e-3)


def test_the_summary_finds_the_peak_and_the_fall():
    gold = [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.5]
    run = {"gold": gold, "proxy": list(range(11)), "kl": list(range(11)), "length": [9.0] * 11}
    found = overoptimization.summary(run)
    assert found["gold, peak"] == 2.6 and found["proxy, peak"] == 4 and found["kl, end"] == 8
    again = overoptimization.summary({name: run[name] for name in ("gold", "proxy", "kl")}, 1)
    assert (again["gold, peak"], again["gold falls by"], again["kl, peak"]) == (3, 2.5, 3)
    assert found["gold, base"] == 0 and found["gold falls by"] == pytest.approx(2.6 - 1.1)


def test_the_recipe_in_short(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(overoptimization.assistant.Assistant, "default_max_new_tokens", 8)
    flags = "--base-steps 2 --prompts 2 --group-size 4 --max-new-tokens 8 --minibatches 1"
    argv = ["--seeds", "1", "--steps", "2", "--pairs", "20", "--members", "2", "--requests", "2",
            "--samples", "4", "--flags", flags, "--work", str(tmp_path / "work"), "--docs",
            str(tmp_path / "docs")]
    with tiny_model():
        assert overoptimization.main(argv) == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert list(found["runs"]) == list(overoptimization.RUNS)
    assert all(len(run["gold"]) == 2 for run in found["runs"].values())
    assert found["best of n"]["ensemble"]["n"] == [1, 2]
    text = (tmp_path / "docs" / "recipes" / "overoptimization.md").read_text()
    assert text.count("\n| ") == 3 + 6 + 3 + 2 and "![" in text
    assert (tmp_path / "docs" / "img" / "overoptimization.png").exists()
    assert "seed 1, KL and ensemble" in capsys.readouterr().out
    assert overoptimization.main(argv) == 0  # a finished seed is read
