"""recipes/scaling.py: ScaleRL's curve, its fit, the predictions, and a short form of the recipe."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from small import NANO, tiny_model

import model
from recipes import page, scaling

C = np.arange(5_000, 300_000, 10_000.0)


def loop_sigmoid(c, r0, a, b, c_mid):
    return r0 + (a - r0) / (1 + math.exp(b * (math.log(c_mid) - math.log(c))))


def test_the_curve_is_the_paper_s():
    found = scaling.sigmoid(C, 0.1, 0.9, 1.5, 40_000)
    assert found.tolist() == pytest.approx([loop_sigmoid(c, 0.1, 0.9, 1.5, 40_000) for c in C])
    # half of the gain at C_mid, R_0 without compute, A with all
    at = scaling.sigmoid(np.array([40_000, 1e-9, 1e15]), 0.1, 0.9, 1.5, 40_000)
    assert at.tolist() == pytest.approx([0.5, 0.1, 0.9])


@pytest.mark.parametrize("a, b, c_mid", [(0.9, 1.5, 40_000), (0.6, 3.0, 90_000)])
def test_the_fit_finds_the_curve_of_its_points(a, b, c_mid):
    found = scaling.fit(C, scaling.sigmoid(C, 0.1, a, b, c_mid), 0.1)
    assert found == pytest.approx((a, b, c_mid), rel=0.05)


def test_no_other_curve_fits_better():
    r = np.random.default_rng(0).uniform(0.1, 0.8, len(C))

    def error(a, b, c_mid):
        return sum((loop_sigmoid(c, 0.1, a, b, c_mid) - y) ** 2 for c, y in zip(C, r, strict=True))
    found = scaling.fit(C, r, 0.1)
    best = error(*found)
    for b in scaling.STEEPNESS[::8]:
        for c_mid in scaling.MIDPOINTS[::16] * C[-1]:
            for a in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, found[0]):
                assert best <= error(a, b, c_mid) + 1e-12


@pytest.mark.parametrize("r, a", [(np.full(len(C), 0.02), 0.1), (np.linspace(0.1, 3, len(C)), 1)])
def test_the_asymptote_is_a_pass_rate_and_not_below_the_base(r, a):
    assert scaling.fit(C, r, 0.1)[0] == pytest.approx(a)


def test_a_point_is_an_evaluation_after_the_tokens_before_it():
    history = [{"tokens": 30}, {"tokens": 30, "eval_accuracy": 0.3},
               {"tokens": 40, "eval_accuracy": 0.8}]
    assert scaling.points_of(history) == [[60, 0.3], [100, 0.8]]


def test_the_predictions_see_the_first_half_alone():
    r = scaling.sigmoid(C, 0.1, 0.9, 1.5, 40_000)
    changed = np.where(C <= 150_000, r, 0.3)
    found, other = (scaling.predictions(list(zip(C, y, strict=True)), 300_000, 0.1)
                    for y in (r, changed))
    for name in scaling.PREDICTIONS[:3]:
        assert found[name].tolist() == other[name].tolist() and len(found[name]) == 15
    assert found["A"] == other["A"] and found["A of all points"] > other["A of all points"]
    assert found["half"] == pytest.approx(r[12:15].mean()) and other["end"] == pytest.approx(0.3)
    # the line goes through the points of a line in log C
    straight = 0.05 * np.log(C) - 0.2
    line = scaling.predictions(list(zip(C, straight, strict=True)), 300_000, 0.1)["line"]
    assert line.tolist() == pytest.approx(straight[15:].tolist())


def test_the_errors_are_those_of_a_loop():
    r = scaling.sigmoid(C, 0.1, 0.9, 1.5, 40_000) + np.where(np.arange(len(C)) % 2, 0.05, -0.05)
    found = scaling.assess(list(zip(C, r, strict=True)), 300_000, 0.1)
    last = sum(r[12:15]) / 3
    want = math.sqrt(sum((last - y) ** 2 for y in r[15:]) / 15)
    assert found["error of last value"] == pytest.approx(want)
    assert found["bias of last value"] == pytest.approx(last - sum(r[-3:]) / 3)
    assert found["error of sigmoid of all points"] == pytest.approx(0.05, abs=0.01)
    assert not set(found) & set(scaling.PREDICTIONS)


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The recipe in a second: its function from flags to the exit code."""
    monkeypatch.setattr(scaling, "PROBLEMS", 4)
    monkeypatch.setattr("infra.base_model.DOCUMENTS", 2)
    monkeypatch.setattr(page, "save_figure", lambda path, draw: draw(Figure()))
    for size in ("nano", "wide"):
        monkeypatch.setitem(model.SIZES, size, NANO)
    flags = "--base-steps 1 --max-new-tokens 2 --prompts 1 --minibatches 1 --reward random "
    flags += "--eval-problems 2 --eval-every 1"
    with tiny_model():
        yield lambda *more: scaling.main(["--work", str(tmp_path), "--docs", str(tmp_path / "docs"),
                                          "--tokens", "120", "--flags", flags, *more])


def test_the_recipe_writes_its_page(short, tmp_path, capsys):
    assert short("--seeds", "3") == 0
    result = json.loads((tmp_path / "seed-3" / "result.json").read_text())
    assert set(result) == {*scaling.SETTINGS, *scaling.PREDICTIONS}
    for name in scaling.SETTINGS:
        assert len(result[name]["points"]) >= 5
        assert (tmp_path / "seed-3" / f"{name}.pt").exists()
    text = (tmp_path / "docs" / "recipes" / "scaling.md").read_text()
    assert text.count("\n| tiny, 4 problems |") == 5 and text.count("\n| sigmoid |") == 3
    assert short("--seeds", "4", "--tokens", "1") == 2
    assert "points to fit" in capsys.readouterr().err
