"""The broken runs of course/broken/: each shows its mistake, and only the sealed file names it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import grpo
import ppo
import report
import tasks
import train
import verify
from course import broken
from grading.expression import expression
from infra.read_run import read_run

ANSWERS = broken.answers()
CAUSES = json.loads((broken.COURSE / "broken" / "causes.json").read_text())
FOLDERS = {run: broken.COURSE / "broken" / run for run in [*broken.HEALTHY, *sorted(ANSWERS)]}


# --- the folders

def test_the_causes_are_sealed():
    """Ten different mistakes of twenty possible ones. The digests are those of the answers."""
    names = {answer["cause"] for answer in ANSWERS.values()}
    assert len(ANSWERS) == len(names) == 10 and names == set(broken.FAULTS)
    assert names < set(CAUSES) and len(CAUSES) == 20
    seals = json.loads((broken.COURSE / "broken" / "sealed.json").read_text())
    assert seals == {"salt": seals["salt"]} | {
        run: broken.seal(seals["salt"], run, answer["cause"]) for run, answer in ANSWERS.items()}
    assert all(len(answer["shows"]) > 40 for answer in ANSWERS.values())


def test_the_folders_are_small_and_do_not_name_the_cause():
    paths = [folder / name for folder in FOLDERS.values() for name in broken.FILES]
    assert sum(path.stat().st_size for path in paths) < 1_500_000
    others = {path for folder in FOLDERS.values() for path in folder.iterdir()} - set(paths)
    assert {path.name for path in others} <= {"report.html"}  # which git ignores
    for run, folder in FOLDERS.items():
        text = "".join((folder / name).read_text() for name in broken.FILES)
        assert not [name for name in CAUSES if name in text]
        options = json.loads((folder / "config.json").read_text())
        assert options["steps"] == 30 and options["lr"] == 4e-4, run


@pytest.mark.parametrize("run", sorted(FOLDERS))
def test_the_report_reads_the_run(run, capsys):
    assert report.main([str(FOLDERS[run]), "--text"]) == 0
    out = capsys.readouterr().out
    assert "Curves, steps 1 to 30" in out and "Step " in out and "Held-out problems" in out


# --- what each run shows: a function of its files that is true of this run alone

def column(run, name: str) -> list[float]:
    return [line[name] for line in run.metrics if line.get(name) is not None]


def responses(run) -> list[tuple[dict, dict]]:
    """(group, response) of all recorded responses."""
    return [(group, response) for group in run.groups for response in group["responses"]]


def gradient_without_difference(run) -> bool:
    """Groups of equal rewards have a gradient, and no advantage is negative."""
    return set(column(run, "groups_with_gradient")) == {1.0} and min(
        r["advantage"] for _, r in responses(run)) == 0


def wrong_gold(run) -> bool:
    """A recorded gold answer is not the value of its question."""
    return any(expression(group["question"].removesuffix("=?"))[0] != int(group["answer"])
               for group in run.groups)


def stale(run) -> bool:
    differences = column(run, "logp_diff")
    return differences[0] < 1e-5 and differences[-1] > 0.01 and max(column(run, "kl")) < 1e-9


def paid_by_length(run) -> bool:
    return all(abs(r["reward"] - r["parts"]["correct"] - 0.1 * r["parts"]["format"]
                   + 0.03 * r["length"]) < 1e-3 for _, r in responses(run))


def one_token_missing(run) -> bool:
    return all(line["tokens"] - line["loss_tokens"] == round(128 * (1 - line["truncated"]))
               for line in run.metrics)


def blind_critic(run) -> bool:
    return column(run, "explained_variance") == [0.0] * 30


def wrong_pay(run) -> bool:
    """A right response earns less than 0.5, and a wrong one more."""
    return any(r["parts"]["correct"] and 0 <= r["reward"] < 0.5 for _, r in responses(run)) and any(
        not r["parts"]["correct"] and r["reward"] > 0.5 for _, r in responses(run))


def norm_never_falls(run) -> bool:
    norms = column(run, "grad_norm")
    return min(norms) > 1 and max(norms) < 2


def accepts_another_answer(run) -> bool:
    return any(r["parts"]["correct"] and verify.extract(r["text"]) != group["answer"]
               for group, r in responses(run))


def runs_from_reference(run) -> bool:
    return run.options["kl_coef"] > 0 and column(run, "kl")[-1] > 1


EVIDENCE = {
    "no-baseline": gradient_without_difference, "wrong-golds": wrong_gold,
    "sampler-not-updated": stale, "short-responses-paid": paid_by_length,
    "eos-not-in-loss": one_token_missing, "critic-not-trained": blind_critic,
    "rewards-of-neighbours": wrong_pay, "gradients-not-cleared": norm_never_falls,
    "verifier-reads-anywhere": accepts_another_answer, "kl-sign": runs_from_reference}


@pytest.mark.parametrize("cause", sorted(EVIDENCE))
def test_a_run_shows_its_own_mistake_and_no_other(cause):
    found = {run for run, folder in FOLDERS.items() if EVIDENCE[cause](read_run(folder))}
    assert found == {run for run, answer in ANSWERS.items() if answer["cause"] == cause}


# --- the script that makes the runs

def batch(mask, **more):
    mask = torch.tensor(mask)
    zeros = torch.zeros_like(mask)
    return ppo.Batch(zeros.long(), mask, zeros, torch.arange(len(mask)), **more)


def test_mistakes_of_the_batch(monkeypatch):
    made = batch([[0.0, 1, 1, 0], [1, 1, 1, 1]], rewards=torch.tensor([1.0, 2.0]),
                 truncated=torch.tensor([False, True]))
    for fault, name, wanted in (
            ("rewards-of-neighbours", "rewards", [2.0, 1.0]),
            ("eos-not-in-loss", "mask", [[0, 1, 0, 0], [1, 1, 1, 1]])):
        monkeypatch.setattr(train, "build_batch", lambda *args: made)
        assert broken.FAULTS[fault]() == []
        changed = train.build_batch(1, 2, 3, 4)
        assert getattr(changed, name).tolist() == wanted
        assert replace(changed, **{name: getattr(made, name)}) is not made


def test_mistakes_of_the_loss(monkeypatch):
    monkeypatch.setattr(grpo, "group_advantages", grpo.group_advantages)
    monkeypatch.setattr(grpo, "policy_loss", grpo.policy_loss)
    monkeypatch.setattr(ppo, "policy_loss", lambda logp, batch, options, *more: options.kl_coef)
    broken.FAULTS["no-baseline"]()
    flags = broken.FAULTS["kl-sign"]()
    assert grpo.group_advantages(torch.tensor([1.0, 0.0]), torch.zeros(2)).tolist() == [1, 0]
    options = replace(train.Options(), kl_coef=float(flags[1]))
    assert grpo.policy_loss(None, None, options) == -1


def test_mistakes_of_verifier_reward_and_data(monkeypatch):
    arithmetic = tasks.TASKS["arithmetic"]
    monkeypatch.setattr(arithmetic, "correct", arithmetic.__dict__["correct"])
    monkeypatch.setitem(verify.REWARDS, "correct", verify.REWARDS["correct"])
    problems = [tasks.Problem("5-2=?", "3"), tasks.Problem("5+2=?", "7")]
    monkeypatch.setattr(tasks, "sample_problems", lambda *args: problems)
    for name in ("verifier-reads-anywhere", "short-responses-paid", "wrong-golds"):
        broken.FAULTS[name]()
    assert [p.answer for p in tasks.sample_problems()] == ["4", "7"]
    assert arithmetic.correct(problems[0], "3+1=4") and not arithmetic.correct(problems[0], "13")
    sample = verify.Sample(problems[0], "", 1.0, 1.0, tokens=[0] * 10)
    assert verify.REWARDS["correct"](sample) == pytest.approx(0.8)


def test_mistakes_of_the_loop(monkeypatch):
    rates = SimpleNamespace(param_groups=[{"lr": 1.0}, {"lr": 1.0}], zero_grad=lambda: 1)
    monkeypatch.setattr(train, "set_learning_rates", lambda optimizer, *more: None)
    monkeypatch.setattr(train, "optimizer_step", lambda models, optimizer, sums: optimizer)
    monkeypatch.setattr(train, "sample_groups", lambda models, *more: models)
    for name in ("critic-not-trained", "gradients-not-cleared", "sampler-not-updated"):
        broken.FAULTS[name]()
    train.set_learning_rates(rates, 0)
    assert [group["lr"] for group in rates.param_groups] == [1.0, 0.0]
    assert train.optimizer_step(None, rates, None).zero_grad() is None
    models = train.Models(policy=None, reference="base", behavior="now")
    assert train.sample_groups(models).behavior == "base"


def test_a_run_keeps_the_files_of_the_report(monkeypatch, tmp_path):
    """make() patches the program, trains, and copies; the program is not trained here."""
    work, course = tmp_path / "work", tmp_path / "course"
    (course / "broken").mkdir(parents=True)
    flags = []

    def main(given):
        flags.append(given)
        (work / "run-01").mkdir(parents=True)
        for name in (*broken.FILES, "checkpoint.pt"):
            (work / "run-01" / name).write_text(name)
        return 0
    monkeypatch.setattr(broken, "COURSE", course)
    monkeypatch.setattr(broken, "answers", lambda: ANSWERS)
    monkeypatch.setattr(train, "main", main)
    monkeypatch.setitem(broken.FAULTS, ANSWERS["run-01"]["cause"], lambda: ["--kl-coef", "0.5"])
    assert broken.make("run-01", work) == 0
    assert sorted(p.name for p in (course / "broken" / "run-01").iterdir()) == sorted(broken.FILES)
    assert flags == [[*broken.SETTINGS, "--kl-coef", "0.5", "--out", str(work / "run-01")]]
    broken.write_seals("salt")
    seals = json.loads((course / "broken" / "sealed.json").read_text())
    assert seals["run-01"] == broken.seal("salt", "run-01", ANSWERS["run-01"]["cause"])
