"""bench/reckoning.py: which processes it starts, how it goes on, and that its table is right."""

import json
import re
from importlib import import_module

import pytest

from bench import reckoning


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls of recipes, which make a result instead of training."""
    made = []

    def call_recipe(name, *flags):
        made.append((name, *flags[:2]))
        if "--seeds" in flags and name != "scaling":
            path = tmp_path / "runs" / name / f"seed-{flags[1]}" / "result.json"
            path.parent.mkdir(parents=True)
            path.write_text("{}")
        return int(name == "scaling")
    monkeypatch.setattr(reckoning, "ROOT", tmp_path)
    monkeypatch.setattr(reckoning, "call_recipe", call_recipe)
    monkeypatch.setattr(reckoning, "SEEDS", {"hacking": 2, "scaling": 1})
    return made


def test_finished_seeds_are_not_made_again(calls, tmp_path):
    assert reckoning.main(["hacking"]) == 0
    assert sorted(calls) == [("hacking",), ("hacking", "--seeds", "0"), ("hacking", "--seeds", "1")]
    assert calls[-1] == ("hacking",)  # the page, after all seeds
    lines = (tmp_path / "runs" / "reckoning.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
    calls.clear()
    assert reckoning.main(["hacking"]) == 0 and calls == [("hacking",)]


def test_a_seed_that_fails_gives_no_page(calls, capsys):
    assert reckoning.main([]) == 1
    assert ("scaling",) not in calls and ("hacking",) in calls
    assert "scaling: a seed failed; runs/scaling/log.txt says why" in capsys.readouterr().out


def test_names_that_are_no_recipes(calls, capsys):
    with pytest.raises(SystemExit):
        reckoning.main(["hackers"])
    assert "hackers is no recipe of the reckoning" in capsys.readouterr().err and not calls


@pytest.mark.parametrize("name", sorted(reckoning.SEEDS))
def test_the_page_of_a_recipe_has_the_seeds_that_the_reckoning_makes(name, capsys):
    assert import_module(f"recipes.{name}").main(["--help"]) == 0
    default = re.search(r"--seeds.*?\(default:\s+([0-9,]+)\)", capsys.readouterr().out, re.S)[1]
    assert default == ",".join(map(str, range(reckoning.SEEDS[name])))
