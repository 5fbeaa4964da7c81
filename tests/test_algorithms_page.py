"""docs/algorithms.md: each cell of its table is made from config.PRESETS again."""

import re
from pathlib import Path

import pytest

import config
from config import Options

PAGE = (Path(__file__).parents[1] / "docs" / "algorithms.md").read_text()
COLUMNS = ["`--algo`", "file", "responses", "advantage", "ratio of", "bounds of the ratio",
           "aggregation of tokens", "KL", "extra model", "for"]
BASELINES = {"mean": "r − group mean", "others": "r − mean of the others",
             "batch": "r − batch mean"}
DIVISORS = {"std": "group std", "batch-std": "batch std", "mean": "group mean"}
AGGREGATIONS = {"sequence": "mean per response, then over responses",
                "token": "mean over all tokens", "sum": "sum per response, then mean",
                "constant": "sum, divided by a constant"}


def advantage(name: str, o: Options) -> str:
    if config.reads_group(name, "VAPO"):
        return f"GAE with γ = {o.gamma:g}, λ = 1 − 1 / ({o.gae_alpha:g} × length), whitened"
    if config.needs_critic(name):
        return f"GAE with γ = {o.gamma:g}, λ = {o.gae_lambda:g}, whitened"
    if config.reads_group(name, "DPO"):
        return "none; the loss is −log σ(margin)"
    if config.reads_group(name, "pass@k"):
        return f"what r adds to the best of {o.pass_at - 1} others"
    if config.reads_group(name, "RAFT") and o.keep != "shortest":
        return {"right": "1", "mixed": "r"}[o.keep]
    base = BASELINES[o.baseline]
    return f"({base}) / {DIVISORS[o.divisor]}" if o.scale_by_std else base


def responses(name: str, o: Options) -> str:
    if o.dynamic_sampling:
        return "groups with right and wrong ones, sampled until the batch is full"
    if config.reads_group(name, "DPO"):
        return "pairs of a right and a wrong one"
    if config.reads_group(name, "RAFT"):
        return {"right": "right ones", "mixed": "groups with right and wrong ones",
                "shortest": f"shortest {o.keep_count} of {o.group_size}"}[o.keep]
    return "all" if o.group_size == 16 else f"all, {o.group_size} per problem"


def ratio_and_bounds(name: str, o: Options) -> list[str]:
    if config.reads_group(name, "DPO"):
        return ["response, to the reference", "none"]
    if config.reads_group(name, "Kimi"):
        return ["none", f"squared log-ratio of the response, τ = {o.pmd_tau:g}"]
    ratio = {"token": "token", "sequence": "response"}[o.ratio]
    bounds = f"{1 - o.clip_low:g} to {1 + o.clip_high:g}"
    return {"clip": [ratio, bounds], "likelihood": ["none", "none"],
            "cispo": ["token", f"{bounds}, of the weight"],
            "sapo": ["token", f"smooth, τ = {o.tau_pos:g} and {o.tau_neg:g}"],
            "gmpo": ["response, from clipped tokens", bounds]}[o.surrogate]


def cells(name: str) -> list[str]:
    """The cells of an algorithm's row, but for the last one."""
    file, preset = config.PRESETS[name]
    o = Options(algo=name, **preset)
    kl = f"{o.kl_coef:g} in the {o.kl_in}" if o.kl_coef else "off"
    aggregate = AGGREGATIONS[o.aggregate]
    if config.reads_group(name, "DPO"):
        kl, aggregate = f"{o.kl_coef:g} (β)", "sum per response, then mean over pairs"
    critic = "a critic of the policy's size" if config.needs_critic(name) else "none"
    return [f"`{name}`", f"`{file}.py`", responses(name, o), advantage(name, o),
            *ratio_and_bounds(name, o), aggregate, kl, critic]


def table() -> list[list[str]]:
    lines = PAGE[PAGE.index("## The defaults"):].splitlines()[2:]
    lines = lines[:lines.index("")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_a_row_for_each_algorithm():
    head, _, *rows = table()
    assert head == COLUMNS and [row[0].strip("`") for row in rows] == list(config.PRESETS)
    assert all(len(row[-1]) > 10 for row in rows)


@pytest.mark.parametrize("name", config.PRESETS)
def test_each_cell_is_true_of_the_preset(name):
    [row] = [row for row in table() if row[0] == f"`{name}`"]
    assert row[:-1] == cells(name)


def test_papers_are_named_in_the_files_of_the_algorithms():
    root, paper = Path(__file__).parents[1], re.compile(r"\b2\d{3}\.\d{5}\b")
    texts = "".join((root / f"{file}.py").read_text() for file, _ in config.PRESETS.values())
    texts += (root / "entropy.py").read_text()  # a file of options
    assert set(paper.findall(PAGE)) <= set(paper.findall(texts))
