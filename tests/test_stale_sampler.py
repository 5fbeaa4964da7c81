"""recipes/stale_sampler.py: the distance of two policies, and a short form of the lesson."""

import math

import pytest
import torch
from small import tiny_model

from infra import cli
from recipes import stale_sampler


def test_the_distance_is_the_definition_s():
    g = torch.Generator().manual_seed(0)
    logp, sampler_logp = -torch.rand(5, 7, generator=g), -torch.rand(5, 7, generator=g)
    mask = (torch.arange(7) < torch.tensor([7, 1, 4, 6, 2])[:, None]).float()
    found = stale_sampler.distance(logp, sampler_logp, mask)
    gaps = [[float(x) for x, inside in zip(*row, strict=True) if inside] for row in
            zip((logp - sampler_logp).tolist(), mask.tolist(), strict=True)]
    tokens = [gap for row in gaps for gap in row]
    assert found["logp_diff"] == pytest.approx(sum(map(abs, tokens)) / 20)
    assert found["KL"] == pytest.approx(sum(math.exp(x) - x - 1 for x in tokens) / 20)
    for name, logs in (("ESS, tokens", tokens), ("ESS, responses", map(sum, gaps))):
        weights = list(map(math.exp, logs))
        want = sum(weights) ** 2 / len(weights) / sum(w * w for w in weights)
        assert found[name] == pytest.approx(want)
    assert math.exp(min(tokens)) < found["1%"] < 1 < found["99%"] < math.exp(max(tokens))
    same = stale_sampler.distance(logp, logp, mask)
    assert same == {"logp_diff": 0, "KL": 0, "1%": 1, "99%": 1, "ESS, tokens": 1,
                    "ESS, responses": 1}


def test_one_weight_that_has_all_leaves_one_sample():
    weights = torch.tensor([1.0, 0, 0, 0])
    assert stale_sampler.effective_sample_size(weights) == 0.25


def test_the_flags_of_each_correction_fit_each_other():
    for flags in stale_sampler.VARIANTS.values():
        cli.validate(cli.parse([*stale_sampler.FLAGS, *flags.split(), "--sampler-lag", "8"])[0])


def test_the_lesson_prints_a_line_for_each_run_and_each_age(tmp_path, monkeypatch, capsys):
    flags = ("--prompts 2 --group-size 4 --max-new-tokens 8 --eval-problems 1 --eval-every 1000 "
             "--base-steps 1 --device cpu").split()
    monkeypatch.setattr(stale_sampler, "FLAGS", flags)
    monkeypatch.setattr(stale_sampler, "HELD_OUT", 16)
    monkeypatch.setattr(stale_sampler, "VARIANTS", {
        name: stale_sampler.VARIANTS[name] for name in ("on policy", "tis")})
    with tiny_model():
        code = stale_sampler.main(["--lag", "2", "--steps", "3", "--work", str(tmp_path)])
    runs, _, distances = capsys.readouterr().out.rpartition("\n\n")
    runs, distances = runs.splitlines(), distances.splitlines()
    assert code == 0 and [line[:13].strip() for line in runs + distances] == [
        "correction", "on policy", "tis", "sampler", "0 steps old", "1 steps old", "2 steps old",
        "bfloat16"]
    assert len(set(map(len, distances))) == 1
    assert runs[1].split()[2] == "0.000" and distances[1].split()[3] == "0.0000"
