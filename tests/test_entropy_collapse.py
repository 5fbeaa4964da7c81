"""recipes/entropy_collapse.py: the arms, the curve and its fit, and a short form of the recipe."""

import json
import math
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from small import tiny_model

from infra import cli
from recipes import entropy_collapse as recipe
from recipes import page


def test_an_arm_differs_from_grpo_in_its_cure_alone():
    fields = {"bonus": ["entropy_coef"], "schedule": ["entropy_coef", "entropy_schedule"],
              "target": ["entropy_coef", "entropy_target"], "clip-higher": ["clip_high"],
              "clip-cov": ["token_filter"], "kl-cov": ["token_filter"],
              "top fifth": ["token_filter"]}
    options = {name: cli.parse(f"{recipe.FLAGS} {flags}".split())[0]
               for name, flags in recipe.ARMS.items()}
    for given in options.values():
        cli.validate(given)
    for name, own in fields.items():
        back = {field: getattr(options["grpo"], field) for field in own}
        assert replace(options[name], **back) == options["grpo"] != options[name]
    assert set(fields) == set(recipe.CURES)


def test_a_point_is_the_mean_of_its_steps(monkeypatch):
    monkeypatch.setattr(recipe, "POINTS", 2)
    history = [{"tokens": 10, "accuracy": r, "entropy": h}
               for r, h in ((0.1, 0.9), (0.3, 0.7), (0.5, 0.5), (0.9, 0.1))]
    assert recipe.curve(history) == [[20, pytest.approx(0.2), pytest.approx(0.8)],
                                     [40, pytest.approx(0.7), pytest.approx(0.3)]]


def test_the_ceiling_is_the_accuracy_at_entropy_0():
    points = [[0, 0.9 - 0.4 * math.exp(h), h] for h in (0.1, 0.2, 0.5)]
    assert recipe.law(points) == pytest.approx({"a": 0.4, "R2": 1.0, "ceiling": 0.5})
    assert recipe.law([[0, 0.5, h] for h in (0.1, 0.2, 0.5)]) == {}


def test_the_recipe_writes_its_page(monkeypatch, tmp_path):
    arms = {name: recipe.ARMS[name] for name in ("grpo", "target", "kl-cov")}
    for name, value in dict(POINTS=2, HELD_OUT=2, PASS_PROBLEMS=1, ARMS=arms,
                            CURES=["target", "kl-cov"]).items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr("infra.base_model.DOCUMENTS", 2)
    monkeypatch.setattr(page, "save_figure", lambda path, draw: draw(Figure()))
    flags = "--base-steps 1 --max-new-tokens 2 --prompts 1 --minibatches 1 --reward random"
    with tiny_model():
        assert recipe.main(["--work", str(tmp_path), "--docs", str(tmp_path / "docs"), "--seeds",
                            "2", "--tokens", "40", "--flags", flags]) == 0
    result = json.loads((tmp_path / "seed-2" / "result.json").read_text())
    assert set(result) == {"base", *arms}
    for name in arms:
        assert 40 <= result[name]["tokens"] < 40 + 16 and len(result[name]["curve"]) == 2
        assert (tmp_path / "seed-2" / f"{name}.pt").exists()
    text = (tmp_path / "docs" / "recipes" / "entropy_collapse.md").read_text()
    assert text.count("\n| kl-cov |") == 5 and text.count("\n| grpo |") == 2
