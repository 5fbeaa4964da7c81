"""train.py as its users meet it: whole runs in small, bad input, being stopped, going on."""

import contextlib
import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
import types
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch
from small import TINY, tiny_model

import config
import evaluate
import grpo
import model as gpt
import ppo
import sft
import tasks
import train
import verify
from infra import base_model, cli, forward, metrics, models, tensors

ROOT = Path(__file__).parents[1]
# --reward random: a base which can do nothing has a gradient
SMALL = ["--base-steps", "3", "--steps", "6", "--prompts", "2", "--group-size", "4", "--eval-every",
         "2", "--eval-problems", "4", "--eval-samples", "4", "--max-new-tokens", "10", "--device",
         "cpu", "--minibatches", "2", "--reward", "random"]
# A run with the model TINY in a process that kills itself where `function` of `module` is called
# for the n-th time: before or after the call.
KILLED = """
import importlib, os, signal, sys, torch
log = os.open(out + ".log", os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1), os.dup2(log, 2), sys.path.insert(0, root)
torch.set_num_threads(1)  # the last bits depend on the number of threads
import model, train
model.SIZES["tiny"], module = tiny, importlib.import_module(module)
called, calls = getattr(module, function), []

def call(*args):
    calls.append(args)
    if len(calls) == n and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = called(*args)
    if len(calls) == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(module, function, call)
sys.exit(train.main(flags))
"""


def run(out, *flags):
    with tiny_model():
        return train.main(["--algo", "grpo", "--out", str(out), *SMALL, *flags])


def run_killed(out, module, function, n, when):
    """The same in a process of its own, which must die of KILLED."""
    exit_code = forked.run(
        KILLED, root=str(ROOT), out=str(out), tiny=TINY, module=module, function=function, n=n,
        when=when, flags=["--out", str(out), *SMALL])
    assert exit_code == -signal.SIGKILL, Path(f"{out}.log").read_text()
    assert not (out / "summary.json").exists()


def logged(out):
    """The lines of metrics.jsonl without what the clock decides."""
    path = Path(out) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def weights(out):
    saved = tensors.load(Path(out) / "checkpoint.pt")
    return saved["model"] | {"critic " + k: v for k, v in saved.get("critic", {}).items()}


@contextlib.contextmanager
def stopped_at_step_3(monkeypatch):
    """Ctrl-C comes when the metrics of step 3 have been written."""
    append = train.runs.append

    def interrupted(path, new):
        append(path, new)
        if path.name == "metrics.jsonl" and new[0]["step"] == 3:
            raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(train.runs, "append", interrupted)
        yield


@contextlib.contextmanager
def copied_after_step_2(monkeypatch, copy):
    """The run's folder is copied when the checkpoint of step 2 has been written."""
    save = train.runs.save_run

    def save_and_copy(path, models, optimizer, state):
        save(path, models, optimizer, state)
        if state["step"] == 2:
            shutil.copytree(path, copy)
    with monkeypatch.context() as patch:
        patch.setattr(train.runs, "save_run", save_and_copy)
        yield


def same_run(a, b):
    assert logged(a) == logged(b)
    samples = [(Path(x) / "samples.jsonl").read_text() for x in (a, b)]
    assert samples[0] == samples[1]
    one, other = weights(a), weights(b)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", autouse=True)
def trained_once():
    """A base model of the same settings is trained once for all tests. Returns the function that
    trains it."""
    train_base, trained = base_model.train_base, {}

    def once(options, *rest):
        key = tuple(getattr(options, name) for name in ("task", "level", "data", "base_steps",
                                                        "base_seed"))
        if key not in trained:
            trained[key] = train_base(options, *rest)
        return copy.deepcopy(trained[key])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_model, "train_base", once)
        yield train_base


@pytest.fixture
def own_base(trained_once, monkeypatch):
    """The test trains its base model itself."""
    monkeypatch.setattr(base_model, "train_base", trained_once)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert run(out) == 0
    return out


def test_a_run_leaves_what_it_promises(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("algo task seed steps accuracy_before accuracy_after accuracy_ci_after "
                 "pass_at_k_before pass_at_k_after length_before length_after "
                 "working_share_before working_share_after self_check_share_before "
                 "self_check_share_after accuracy_given_working_before "
                 "accuracy_given_working_after "
                 "seconds_base seconds_rl seconds_total peak_rss_mb tokens_sampled").split():
        assert name in summary, name
    lines = logged(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name in ("reward reward_std accuracy format length length_correct length_wrong "
                 "truncated zero_std_groups entropy kl approx_kl clipfrac_low clipfrac_high "
                 "grad_norm "
                 "logp_diff tokens").split():
        assert name in lines[0], name
    assert summary["tokens_sampled"] == sum(line["tokens"] for line in lines)
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert {line["step"] for line in samples if line["kind"] == "held-out"} == {0, 2, 4, 6}
    assert {line["step"] for line in samples if line["kind"] == "group"} == {1, 2, 3, 4, 5, 6}


def test_sampler_and_trainer_agree_in_every_step(finished):
    found = [line["logp_diff"] for line in logged(finished)]
    assert found.count(None) < 3  # of groups that were paid alike
    assert all(0 < x < 1e-4 for x in found if x is not None)


def test_truncated_answers_are_logged(finished):
    assert any(line["truncated"] > 0 for line in logged(finished))


def test_same_seed_same_run_to_the_last_bit_and_another_seed_another(
        finished, own_base, tmp_path):
    assert run(tmp_path / "again") == 0
    same_run(finished, tmp_path / "again")
    assert run(tmp_path / "other", "--seed", "1", "--steps", "2") == 0
    assert logged(finished)[0] != logged(tmp_path / "other")[0]


@pytest.mark.parametrize("steps, where", [
    (1, ("infra.run_dir", "append", 2, "after")), (3, ("train", "update", 4, "before")),
    (0, ("infra.run_dir", "append", 1, "after"))])
def test_killed_and_resumed_is_the_same_run(finished, tmp_path, steps, where):
    """Between the log and the checkpoint, within a step, and before there is a checkpoint."""
    out = tmp_path / "killed"
    run_killed(out, *where)
    assert [line["step"] for line in logged(out)] == list(range(1, steps + 1))
    assert run(out, "--resume") == 0
    same_run(finished, out)


@pytest.mark.parametrize("number, after", [(signal.SIGTERM, 3), (signal.SIGINT, 2)])
def test_stopped_by_a_signal_and_resumed_is_the_same_run(finished, tmp_path, monkeypatch, number,
                                                         after):
    """The step ends first, and its checkpoint is written."""
    out, update, updates = tmp_path / "stopped", train.update, []

    def signalled(*args):
        updates.append(args)
        if len(updates) == after:
            os.kill(os.getpid(), number)
        return update(*args)
    with monkeypatch.context() as patch:
        patch.setattr(train, "update", signalled)
        assert run(out) == 130
    assert not (out / "summary.json").exists()
    assert tensors.load(out / "checkpoint.pt")["state"]["step"] == after
    assert run(out, "--resume") == 0
    same_run(finished, out)


def test_killed_while_the_base_is_made(finished, own_base, tmp_path):
    out = tmp_path / "early"
    run_killed(out, "sft", "padded", 2, "before")
    assert (out / "config.json").exists() and not (out / "checkpoint.pt").exists()
    assert run(out, "--resume") == 0
    same_run(finished, out)


def test_killed_between_writing_and_renaming_a_checkpoint(finished, tmp_path, monkeypatch):
    out = tmp_path / "half"
    replace, saves = os.replace, []

    def die_at_the_third(source, target):
        if str(target).endswith("checkpoint.pt"):
            saves.append(target)
            if len(saves) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_at_the_third)
    assert run(out) == 130
    monkeypatch.setattr(os, "replace", replace)
    assert run(out, "--resume") == 0
    same_run(finished, out)


def test_resuming_a_finished_run_changes_nothing(finished):
    before = logged(finished)
    assert run(finished, "--resume") == 0
    assert logged(finished) == before


def test_micro_batches_change_memory_and_not_the_gradient(finished, tmp_path):
    assert run(tmp_path / "cut", "--micro-tokens", "40") == 0
    for one, other in zip(logged(finished), logged(tmp_path / "cut"), strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3) and one["grad_norm"]
        assert one["reward"] == other["reward"]


def test_the_norm_of_the_gradient_is_clipped_to_one():
    torch.manual_seed(0)
    policy = gpt.GPT(gpt.Config(30, layers=1, width=32, heads=2, kv_heads=1, hidden=32))
    tokens, mask = torch.randint(0, 30, (4, 9)), torch.ones(4, 9)
    mask[:, :2] = 0
    with torch.no_grad():
        old_logp = policy.logp(tokens, mask)
    batch = ppo.Batch(tokens, mask, old_logp, torch.arange(4), torch.ones(4),
                      advantages=1e4 * mask)
    options = train.Options(minibatches=1)
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    stats = train.update(train.Models(policy), torch.optim.SGD(policy.parameters(), lr=1.0),
                         batch, options, random.Random(0))
    after = torch.cat([p.detach().flatten() for p in policy.parameters()])
    moved = (after - before).norm()
    assert stats["grad_norm"] > 10 and float(moved) == pytest.approx(1, abs=1e-3)


def test_equal_rows_are_computed_once():
    """What is asked of each row without gradient, and an update, which is the same as without
    merging."""
    torch.manual_seed(0)
    unique, index = torch.randint(0, 30, (3, 9)), torch.tensor([0, 1, 0, 2, 2, 0, 1])
    mask = torch.ones(3, 9)
    mask[:, :2], mask[1, 6:] = 0, 0
    values = torch.randn(3, 9) * mask
    batch = ppo.Batch(unique[index], mask[index], values[index] - 3, torch.zeros(7).long(),
                      torch.ones(7), advantages=values[index])
    options, asked = train.Options(minibatches=1, micro_tokens=18), []

    def f(part):
        asked.extend(part.tokens[:, 0].tolist())
        return part.tokens * part.mask
    found = forward.without_gradient(f, batch, options)
    assert torch.equal(found, batch.tokens * batch.mask) and len(asked) == 3
    moved = []
    for merge in (train.dedup.merge_duplicates, lambda batch: (batch, batch.mask[:, 1] + 1)):
        torch.manual_seed(1)
        policy = gpt.GPT(gpt.Config(30, layers=1, width=32, heads=2, kv_heads=1, hidden=32))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train.dedup, "merge_duplicates", merge)
            stats = train.update(train.Models(policy), torch.optim.SGD(
                policy.parameters(), lr=1.0), batch, options, random.Random(0))
        moved.append((torch.cat([p.detach().flatten() for p in policy.parameters()]), stats))
    assert torch.allclose(moved[0][0], moved[1][0], atol=1e-6)
    assert moved[0][1] == pytest.approx(moved[1][1], rel=1e-4)


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    out, loss, calls = tmp_path / "nan", grpo.loss, []

    def poisoned(*args):
        calls.append(1)
        value, sums = loss(*args)
        return value * (float("nan") if len(calls) > 3 else 1.0), sums

    monkeypatch.setattr(grpo, "loss", poisoned)
    assert run(out, "--kl-coef", "0.1") == 1
    assert "no longer finite" in capsys.readouterr().err
    assert all(torch.isfinite(w).all() for w in weights(out).values())


def test_the_control_rewards_run_and_pay_for_what_they_say(tmp_path):
    for kind in ("format", "random"):
        assert run(tmp_path / kind, "--reward", kind, "--steps", "3") == 0
    assert all(line["reward"] == line["format"] for line in logged(tmp_path / "format"))
    paid = [line["reward"] for line in logged(tmp_path / "random")]
    assert 0.2 < sum(paid) / len(paid) < 0.8


def test_a_run_goes_on_with_less_memory_and_with_a_flag_it_did_not_know(tmp_path, capsys):
    assert run(tmp_path, "--steps", "0") == 0
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["dual_clip"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    less = "--micro-tokens", "500", "--gradient-checkpointing", "--resume"
    assert run(tmp_path, "--steps", "0", *less) == 0
    assert run(tmp_path, "--steps", "0", *less, "--lr", "1e-3") == 2
    assert "lr was" in capsys.readouterr().err


def test_the_learning_rate_warms_up_and_decays_to_a_tenth():
    found = [train.learning_rate(2.0, step, done) for step, done in (
        (0, 0.0), (3, 0.1), (4, 0.1), (50, 0.5), (100, 1.0), (200, 1.5))]
    assert found == pytest.approx([0.4, 1.6 * 0.91, 2 * 0.91, 2 * 0.55, 0.2, 0.2])


def test_the_kl_is_to_the_reference_which_can_be_renewed(tmp_path, monkeypatch):
    saved, asked = train.runs.save_run, []

    def looked_at(path, models, optimizer, state):
        asked.append((state["step"], *(copy.deepcopy(m.state_dict())
                                       for m in (models.policy, models.reference))))
        saved(path, models, optimizer, state)
    monkeypatch.setattr(train.runs, "save_run", looked_at)
    same = lambda a, b: all(torch.equal(a[k], b[k]) for k in a)  # noqa: E731
    assert run(tmp_path / "kept", "--lr", "0.01", "--kl-coef", "0.1") == 0
    lines, (begin, *_, end) = logged(tmp_path / "kept"), asked
    assert same(begin[2], end[2]) and same(begin[1], end[2]) and not same(*end[1:])
    assert lines[0]["kl"] < 1e-6 and lines[-1]["kl"] > 1e-4
    asked.clear()
    assert run(tmp_path / "renewed", "--lr", "0.01", "--ref-update-interval", "2") == 0
    assert all(same(policy, reference) for step, policy, reference in asked)
    _, second, third, *_ = logged(tmp_path / "renewed")
    assert second["kl"] > 1e-4 and third["kl"] < 1e-6 and len(asked) == 4


def test_reference_log_probs_are_the_references():
    torch.manual_seed(0)
    reference = gpt.GPT(gpt.Config(30, context=40, layers=1, width=32, heads=2, kv_heads=1,
                                   hidden=32))
    mask = torch.ones(4, 9)
    mask[:, :3] = 0
    batch = ppo.Batch(torch.randint(0, 30, (4, 9)), mask, -2 * mask, torch.arange(4), mask[:, 0])
    options = config.Options(temperature=0.8)
    found = forward.policy_logp(reference, batch, options).detach()
    want = reference.logp(batch.tokens, mask, 0.8).detach()
    assert torch.allclose(found, want, atol=1e-5) and (found - batch.old_logp).abs().max() > 0.1
    kl = metrics.kl_to_reference(reference, batch, options)
    gap = (want - batch.old_logp)[mask > 0]
    assert kl == pytest.approx(float((gap.exp() - 1 - gap).mean()), rel=1e-4)


def test_several_updates_a_step_move_the_ratio(tmp_path):
    assert run(tmp_path / "several", "--minibatches", "2", "--epochs", "2", "--kl-coef", "0.1",
               "--lr", "0.01") == 0
    lines = logged(tmp_path / "several")
    assert all(line["logp_diff"] < 1e-4 for line in lines) and lines[-1]["approx_kl"] > 0


ALGORITHMS = {
    "drgrpo": ["--ratio", "product", "--kl-coef", "0.05", "--unbiased-kl", "--kl-target", "0.001",
               "--ref-update-interval", "2"],
    "rloo": ["--kl-coef", "0.05", "--kl-in", "reward", "--token-filter", "kl-cov",
             "--cov-ratio", "0.1", "--entropy-target", "9"],
    "gspo": ["--entropy-coef", "0.01", "--max-new-tokens", "16", "--partial-rollouts", "2"],
    "maxrl": [],
    "lite": [],
    "sapo": [],
    "gmpo": [],
    "reinforce++": ["--kl-coef", "0.05", "--kl-in", "reward"],
    "gfpo": ["--keep-count", "3", "--divisor", "mean"],
    "raft": ["--keep-at-random"],
    "reinforce-rej": ["--reward", "sign"],
    "cispo": ["--token-filter", "top-entropy", "--sampler-correction", "tis", "--sequence-mask",
              "0.001", "--epochs", "2"],
    "passk": ["--pass-at", "2"],
    "dpo": ["--sample-from", "reference", "--ref-update-interval", "2", "--nll-coef", "0.5"],
    "kimi": ["--length-warmup", "2", "--max-new-tokens", "16", "--partial-rollouts", "4",
             "--old-segments", "drop", "--train-levels", "1,3", "--problem-sampling",
             "prioritized"],
    "dapo": ["--train-levels", "1,3", "--steps", "6"],
    "dapo mask": ["--overlong", "mask", "--token-filter", "clip-cov", "--entropy-coef", "0.01",
                  "--entropy-schedule", "linear"],
    "ppo": ["--critic-warmup", "2", "--epochs", "2"],
    "vapo": ["--critic-warmup", "1", "--critic-hints"],
    "ppo head": ["--critic", "head", "--critic-warmup", "2", "--kl-coef", "0.05", "--kl-in",
                 "reward", "--group-size", "1", "--prompts", "8"]}


def test_no_algorithm_is_left_out_of_the_test_below():
    assert {name.split()[0] for name in ALGORITHMS} | {"grpo"} == {*config.PRESETS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_something_and_resumes_exactly(name, tmp_path, monkeypatch):
    coin = lambda problem, text: sum(text.encode()) % 2 == 0  # noqa: E731
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(coin))
    if "--partial-rollouts" in ALGORITHMS[name]:
        # a third of the tokens end a response, so that some groups stay open
        stop = evaluate.stop_conditions
        monkeypatch.setattr(evaluate, "stop_conditions", lambda *of: stop(*of) | {
            "stop": list(range(0, 590, 3))})
    flags = ["--algo", name.split()[0], "--reward", "correct", "--steps", "4",
             *ALGORITHMS[name]]
    with copied_after_step_2(monkeypatch, tmp_path / "cut"):
        assert run(tmp_path / "whole", *flags) == 0
    lines = logged(tmp_path / "whole")
    assert any(line["grad_norm"] > 0 for line in lines if "loss" in line)
    if name == "dapo":
        assert all(line["groups_with_gradient"] == 1 for line in lines)
        assert max(line["prompts_sampled"] for line in lines) > 2
    if "--partial-rollouts" in ALGORITHMS[name]:
        assert lines[1]["open_responses"] > 0  # in the checkpoint of step 2
    if name == "kimi":  # old segments are not in the loss
        assert any(line["loss_tokens"] < line["tokens"] for line in lines)
    if name.startswith(("ppo", "vapo")):
        assert all("explained_variance" in line and line["grad_norm_critic"] > 0 for line in lines)
    assert run(tmp_path / "cut", *flags, "--resume") == 0
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_dynamic_sampling_fills_the_batch_with_whole_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(
        lambda problem, text: sum(text.encode()) % 3 == 0))
    seen, update = [], train.update

    def looked_at(models, optimizer, batch, *rest):
        seen.append(batch)
        return update(models, optimizer, batch, *rest)
    monkeypatch.setattr(train, "update", looked_at)
    flags = ["--algo", "dapo", "--reward", "sign", "--prompts", "4", "--max-attempts", "9"]
    assert run(tmp_path / "full", *flags) == 0
    for batch in seen:
        counts = batch.group.unique(return_counts=True)[1]
        assert counts.tolist() == [4] * 4
        right = batch.correct.view(4, 4).mean(1)
        assert ((right > 0) & (right < 1)).all()
    assert all(-1 <= line["reward"] <= 1 and line["groups"] == 4
               for line in logged(tmp_path / "full"))


def test_dynamic_sampling_gives_up_when_all_are_wrong(tmp_path):
    flags = ["--algo", "dapo", "--reward", "sign", "--max-attempts", "3"]
    assert run(tmp_path / "wrong", *flags) == 0
    assert all(line["prompts_sampled"] == 6 and line["groups"] == 0 and "loss" not in line
               for line in logged(tmp_path / "wrong"))


def test_in_the_warm_up_the_policy_stands_still(tmp_path):
    assert run(tmp_path / "warm", "--algo", "ppo", "--critic-warmup", "6") == 0
    saved = tensors.load(tmp_path / "warm" / "checkpoint.pt")
    assert all(torch.equal(saved["model"][k], saved["reference"][k]) for k in saved["model"])
    assert saved["critic"]["head.weight"].abs().sum() > 0


def test_a_critic_that_diverges_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ppo, "value_loss", lambda values, *_: values * float("nan"))
    assert run(tmp_path / "nan", "--algo", "ppo") == 1
    assert "the critic diverged" in capsys.readouterr().err


def test_the_weight_of_the_kl_that_follows_its_target_is_used(tmp_path):
    for name, target in (("held", []), ("moved", ["--kl-target", "0.1"])):
        assert run(tmp_path / name, "--kl-coef", "0.5", *target) == 0
    held, moved = logged(tmp_path / "held"), logged(tmp_path / "moved")
    assert held[0] == moved[0] and held[-1]["loss"] != moved[-1]["loss"]
    assert tensors.load(tmp_path / "moved" / "checkpoint.pt")["state"]["kl_coef"] < 0.5


def test_no_steps_measure_the_base_alone(tmp_path):
    assert run(tmp_path / "base", "--steps", "0") == 0
    assert not (tmp_path / "base" / "metrics.jsonl").exists()
    assert json.loads((tmp_path / "base" / "summary.json").read_text())["tokens_sampled"] == 0


def test_a_token_budget_ends_the_run(tmp_path):
    assert run(tmp_path / "budget", "--token-budget", "300") == 0
    tokens = [line["tokens"] for line in logged(tmp_path / "budget")]
    assert sum(tokens[:-1]) < 300 <= sum(tokens)


def test_runs_of_other_rewards_and_models_have_folders_of_their_own():
    names = {"": "grpo-arithmetic-0", "--algo dapo": "dapo-arithmetic-0",
             "--reward claim --seed 2": "grpo-arithmetic-2-claim",
             "--init some/smollm2/ --task gsm": "grpo-gsm-0-smollm2", "--out x": "x"}
    for words, name in names.items():
        assert cli.parse(words.split())[0].out.removeprefix("runs/") == name


def test_a_gpu_that_is_named_is_the_current_one(monkeypatch):
    named, there = [], SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "set_device", named.append)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", lambda *_, device: there)
        cli.validate(cli.parse(["--device", "cuda:1"])[0])
    assert named == [there.device]


def test_micro_batches_are_larger_on_a_gpu():
    sizes = [cli.parse([*some])[0].micro_tokens for some in (
        ["--device", "cpu"], ["--device", "cuda:1"], ["--device", "cuda", "--micro-tokens", "99"])]
    assert sizes == [1024, 0, 99]  # 0: memory.py chooses


def test_each_algorithm_has_its_own_defaults_and_any_flag_overrules_them():
    options, _ = cli.parse(["--algo", "dapo"])
    assert options.clip_high == 0.28 and options.dynamic_sampling and options.reward == "sign"
    options, _ = cli.parse(["--algo=dapo", "--clip-high", "0.2", "--no-dynamic-sampling"])
    assert options.clip_high == 0.2 and not options.dynamic_sampling
    assert cli.parse([])[0] == cli.parse(["--algo", "grpo"])[0]
    for algo, (module, defaults) in config.ALGORITHMS.items():
        assert {"prepare", "loss"} <= set(dir(module)), algo
        assert set(defaults) <= {f.name for f in fields(config.Options)}


def test_a_new_algorithm_that_needs_a_critic_has_one_and_its_flags(tmp_path, monkeypatch):
    own = types.ModuleType("own")
    own.prepare, own.loss, own.needs_critic = ppo.prepare, ppo.loss, True
    changed = config.ALGORITHMS["ppo"][1] | dict(gae_lambda=0.9)
    monkeypatch.setitem(config.ALGORITHMS, "own", (own, changed))
    assert run(tmp_path / "a", "--algo", "own", "--critic", "head", "--steps", "2") == 0
    assert all(line["value_loss"] >= 0 for line in logged(tmp_path / "a"))
    own = types.ModuleType("own")
    own.prepare, own.loss = ppo.prepare, ppo.loss
    monkeypatch.setitem(config.ALGORITHMS, "own", (own, {}))
    assert run(tmp_path / "b", "--algo", "own", "--critic", "head") == 2
    assert run(tmp_path / "b", "--algo", "own", "--no-dynamic-sampling", "--overlong", "mask") == 2


def test_every_algorithm_says_whether_it_needs_a_critic():
    found = set(filter(config.needs_critic, config.ALGORITHMS))
    assert "ppo" in found and not found & {"grpo", "drgrpo", "rloo", "gspo", "dapo"}


# --- runs without checkpoints, and rewards that are no numbers

def test_a_run_without_checkpoints_is_the_same_and_leaves_its_policy_alone(finished, tmp_path,
                                                                           capsys):
    out = tmp_path / "without"
    assert run(out, "--no-checkpoints") == 0
    assert logged(out) == logged(finished)
    whole, alone = (tensors.load(x / "checkpoint.pt") for x in (finished, out))
    assert set(alone) == set(whole) - {"optimizer", "reference", "state"}
    assert all(torch.equal(alone["model"][k], whole["model"][k]) for k in whole["model"])
    policy, tokenizer, settings = evaluate.load_run(str(out), "cpu")
    assert settings["checkpoints"] is False
    assert run(out, "--no-checkpoints", "--resume") == 2
    assert "--no-checkpoints" in capsys.readouterr().err


def test_a_run_without_checkpoints_that_was_stopped_begins_again(finished, tmp_path, monkeypatch,
                                                                 capsys):
    out = tmp_path / "cut"
    with stopped_at_step_3(monkeypatch):
        assert run(out, "--no-checkpoints") == 130
    assert "or begins again" in capsys.readouterr().err
    assert not (out / "checkpoint.pt").exists()
    assert run(out, "--resume") == 0  # and has checkpoints from now on
    same_run(finished, out)


def test_a_reward_that_is_no_finite_number_is_named_and_the_run_goes_on_later(
        finished, tmp_path, monkeypatch, capsys):
    out, score, calls = tmp_path / "nan", tasks.Task.score, []

    def spoiled(task, problem, text, *more):
        calls.append(problem.question)
        reward = score(task, problem, text, *more)
        return reward if len(calls) != 30 else replace(reward, total=float("nan"))
    with monkeypatch.context() as patch:
        patch.setattr(tasks.Task, "score", spoiled)
        assert run(out) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--reward random returned" in said and calls[29] in said
    assert "finite" in said and "--lr" not in said
    assert run(out, "--resume") == 0
    same_run(finished, out)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_batch_with_a_reward_that_is_no_finite_number_is_refused(value):
    """1e39 is infinite in float32."""
    rollout = SimpleNamespace(**dict.fromkeys(("mask", "logp", "group", "truncated", "entropy")),
                              tokens=torch.ones(2, 3))
    rewards = [verify.Reward(total, {"correct": 0.0}) for total in (1.0, value)]
    samples = [(tasks.Problem(f"{i}+1=?", "1"), "", reward) for i, reward in enumerate(rewards)]
    with pytest.raises(verify.RewardError, match="returned (nan|-?inf) .*'1\\+1=\\?'"):
        train.build_batch(rollout, samples, train.Models(None), config.Options())


def test_a_reward_function_that_returns_nan_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(verify.REWARDS, "random", lambda sample: float("nan"))
    assert run(tmp_path / "nan") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the reward function random returned nan for the problem '" in said
    assert (tmp_path / "nan" / "checkpoint.pt").exists()


def test_every_process_hears_of_a_reward_that_is_no_number(monkeypatch):
    """The error is gathered like the rewards, so no process waits for the one that had it."""
    def broken(sample):
        raise verify.RewardError("no number")
    monkeypatch.setitem(verify.REWARDS, "random", broken)
    gathered, parallel_map = [], train.distributed.parallel_map
    monkeypatch.setattr(train.distributed, "parallel_map", lambda f, rows: (
        gathered.extend(parallel_map(f, rows)) or gathered))
    rollout = SimpleNamespace(responses=lambda: [[1]] * 4)
    options = config.Options(reward="random", group_size=2)
    problems = [tasks.Problem("1+1=?", "2")] * 2
    with pytest.raises(verify.RewardError, match="no number"):
        train.score(tasks.Arithmetic(1), problems, rollout, [""] * 4, random.Random(0), options)
    assert len(gathered) == 4


def test_a_verdict_that_cannot_tell_counts_as_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(lambda *_: None))
    assert run(tmp_path / "none", "--steps", "1") == 0
    assert json.loads((tmp_path / "none" / "summary.json").read_text())["accuracy_after"] == 0


def test_a_score_of_a_process_reward_model_that_is_not_finite_is_named():
    samples = [(tasks.Problem("1+1=?", "2"), "", None), (tasks.Problem("1+2=?", "3"), "", None)]
    options = config.Options(reward="process", judge="runs/judge")
    models.refuse_infinite(torch.tensor([0.0, -1e30]), samples, options)
    with pytest.raises(verify.RewardError, match="--judge runs/judge returned nan .*'1\\+2=\\?'"):
        models.refuse_infinite(torch.tensor([0.0, float("nan")]), samples, options)


# --- hints

def test_a_pretrained_model_without_answers_is_told_of_few_shot(capsys):
    def first_step(texts, step=0, **flags):
        options = config.Options(**{"init": "some", "group_size": 1} | flags)
        ones = torch.ones(2, 3)
        rollout = SimpleNamespace(tokens=ones, mask=ones, entropy=ones, truncated=torch.zeros(2))
        reward = verify.Reward(0.0, {"correct": 0.0, "format": 0.0})
        problem = tasks.Problem("1+1=?", "2")
        attempt = train.Attempt(2, rollout, [(problem, text, reward) for text in texts], None)
        batch = ppo.Batch(*(torch.ones(2, 3),) * 3, torch.arange(2), torch.zeros(2),
                          ref_logp=torch.ones(2, 3), advantages=torch.zeros(2, 3))
        metrics.step_metrics({"step": step}, [attempt], batch, train.Models(None), options,
                             tasks.Arithmetic(1))
        return capsys.readouterr().out
    assert "--few-shot 4" in first_step(["2", "<think>"])
    assert "more examples" in first_step(["2", ""], few_shot=4)
    assert not first_step(["2", "<think>a</think><answer>3</answer>"])
    assert not first_step(["2", ""], init="") and not first_step(["2", ""], step=1)


@pytest.mark.parametrize("solved, right, rounds, words", [
    ([0.1, 0.9], True, 2, ["trained again (round 2 of 3)"]), ([0.9], True, 1, []),
    ([0.1] * 9, True, 3, ["again (round 2", "again (round 3", "its training ends here"]),
    ([0.0] * 9, False, 1, ["refuses all of 200 correct documents", "its training ends here"])])
def test_what_a_base_says_of_its_training_is_what_it_does(solved, right, rounds, words, own_base,
                                                          monkeypatch, capsys):
    trained, solved = [], iter(solved)
    monkeypatch.setattr(sft, "train", lambda *_, **__: trained.append(1))
    monkeypatch.setattr(sft, "solved_in_16", lambda *_, **__: next(solved))
    monkeypatch.setattr(tasks.Arithmetic, "correct", staticmethod(lambda *_: right))
    monkeypatch.setitem(gpt.SIZES, "tiny", TINY)
    options, _ = cli.parse(["--device", "cpu"])
    base_model.train_base(options, *cli.validate(options))
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "base model" in line
            or "refuses" in line]
    said = [line for line in said if "solves" in line or "refuses" in line]
    assert len(trained) == rounds and len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


# --- the base model's name

def base_name(*flags):
    options, _ = cli.parse(flags)
    return base_model.base_name(options, *cli.validate(options))


def test_a_comment_a_task_or_a_reward_of_your_own_needs_no_new_base(tmp_path):
    """In a copy of the repository: a comment in every file, a further task, a further reward."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]:
        if path.parent.name not in ("tests", "bench"):
            copied = tmp_path / path.relative_to(ROOT)
            copied.parent.mkdir(exist_ok=True)
            shutil.copy(path, copied)
    ask = """
import sys
sys.path.insert(0, tree)
from pathlib import Path
from infra import base_model, cli
options, _ = cli.parse([])
Path(tree, "name").write_text(base_model.base_name(options, *cli.validate(options)))"""

    def name():
        assert forked.run(ask, tree=str(tmp_path)) == 0
        return (tmp_path / "name").read_text()
    before = name()
    for path in tmp_path.rglob("*.py"):
        path.write_text(path.read_text() + "\n# a comment\n")
    with open(tmp_path / "tasks" / "__init__.py", "a") as file:
        file.write("class Mine(Arithmetic):\n    pass\n\n\nTASKS['mine'] = Mine\n")
    with open(tmp_path / "verify.py", "a") as file:
        file.write("def mine(problem, text):\n    return Reward(len(text), {'correct': 0.0})\n")
    assert name() == before == base_name()


@pytest.mark.parametrize("drill", [True, False])
def test_a_changed_document_of_either_phase_makes_a_new_base(drill, monkeypatch):
    before, document = base_name(), tasks.Task.document

    def changed(task, rng, problem, in_drill=False):
        text = document(task, rng, problem, in_drill)
        return text.replace("7", "8") if in_drill == drill else text
    monkeypatch.setattr(tasks.Task, "document", changed)
    assert base_name() != before


def test_other_settings_of_the_training_make_a_new_base(monkeypatch):
    names = [base_name(), base_name("--level", "1"), base_name("--size", "small"),
             base_name("--base-steps", "449"), base_name("--base-seed", "1"),
             base_name("--seed", "2"), base_name("--task", "countdown")]
    for module, name, value in ((sft, "RECIPE", 99), (sft, "DRILL_FRACTION", 0.5),
                                (sft, "WARMUP_STEPS", 9), (sft, "DECAY_FRACTION", 0.2),
                                (sft, "BATCH_TOKENS", 999),
                                (tasks.Arithmetic, "min_base_pass16", 0.9)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            names.append(base_name())
    assert len(set(names)) == len(names)


def test_a_changed_problem_of_a_file_makes_a_new_base(tmp_path):
    """Also one that is in none of the digest's documents."""
    path, names = tmp_path / "f.jsonl", []
    for last in ("1999", "2000"):
        path.write_text("".join(json.dumps({"question": f"q{i}?", "answer": str(i)}) + "\n"
                                for i in range(1999)) + json.dumps(
                                    {"question": "the last?", "answer": last}) + "\n")
        names.append(base_name("--task", "file", "--data", str(path)))
    assert names[0] != names[1]


# --- for recipes, and the choice of the sampler

def test_reinforce_runs_without_a_folder_and_writes_nothing(tmp_path, monkeypatch):
    """And learns the same: the metrics that it returns are those of a run's log."""
    assert run(tmp_path / "run", "--steps", "0") == 0
    log = tmp_path / "log"
    assert run(log, "--out", str(log)) == 0
    options, _ = cli.parse(["--algo", "grpo", *SMALL])
    task, tokenizer = cli.validate(options)
    saved = tensors.load(tmp_path / "run" / "checkpoint.pt")
    models, optimizer = train.make_models(gpt.from_state(saved), tokenizer, options)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    lines = train.reinforce(task, models, optimizer, options)
    assert sorted(tmp_path.rglob("*")) == before
    assert [{k: v for k, v in line.items() if not k.startswith("seconds")}
            for line in lines] == logged(log)


def test_every_response_comes_from_the_sampler_that_was_chosen(tmp_path, monkeypatch):
    """The base's test, both evaluations and the training; and both samplers draw the same."""
    calls, generate = [], config.SAMPLERS["plain"]

    def counted(*args, **more):
        calls.append("plain")
        return generate(*args, **more)

    def refused(*_, **__):
        raise AssertionError("--sampler plain asked the fast one")
    assert run(tmp_path / "fast") == 0
    monkeypatch.setitem(config.SAMPLERS, "plain", counted)
    monkeypatch.setitem(config.SAMPLERS, "fast", refused)
    assert run(tmp_path / "plain", "--sampler", "plain") == 0
    assert len(calls) > 6 + 2 * 3
    for one, other in zip(logged(tmp_path / "fast"), logged(tmp_path / "plain"), strict=True):
        assert [one[k] for k in ("reward", "length")] == [other[k] for k in ("reward", "length")]


def test_file_task_trains_end_to_end(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": f"What is {i} plus {i}?",
                                        "answer": f"It is {2 * i}.\n#### {2 * i}"}) + "\n"
                            for i in range(40)))
    assert run(tmp_path / "file", "--task", "file", "--data", str(data)) == 0


BAD = {
    "unknown task": (["--task", "chess"], "chess"),
    "unknown size": (["--size", "huge"], "huge"),
    "unknown algorithm": (["--algo", "magic"], "magic"),
    "unknown reward": (["--reward", "gold"], "gold"),
    "group of one": (["--group-size", "1"], "--group-size 1"),
    "no prompts": (["--prompts", "0"], "--prompts"),
    "level": (["--level", "9"], "--level 9"),
    "temperature": (["--temperature", "0"], "--temperature"),
    "learning rate": (["--lr", "-1"], "--lr"),
    "no data": (["--task", "file"], "--data"),
    "missing data": (["--task", "file", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    "device": (["--device", "cuda:99"], "cuda:99"),
    "context": (["--max-new-tokens", "5000"], "context"),
    "not a number": (["--lr", "nan"], "--lr"),
    "data of another task": (["--data", "some.jsonl"], "--task file"),
    "no groups to sample": (["--algo", "ppo", "--dynamic-sampling"], "--dynamic-sampling"),
    "a trick of DAPO's in GRPO": (["--overlong", "soft"], "--algo dapo"),
    "a critic in GRPO": (["--critic", "head"], "--algo ppo"),
    "group's std with a critic": (["--algo", "ppo", "--scale-by-std"], "--scale-by-std"),
    "whole responses with a critic": (["--algo", "ppo", "--ratio", "sequence"], "--ratio"),
    "leave one out and a std": (["--baseline", "others"], "--no-scale-by-std"),
    "lambda": (["--algo", "ppo", "--gae-lambda", "1.1"], "--gae-lambda"),
    "gamma": (["--algo", "ppo", "--gamma", "-0.1"], "--gamma"),
    "clip": (["--clip-low", "-0.1"], "--clip-low"),
    "dual clip": (["--dual-clip", "0.5"], "--dual-clip"),
    "minibatches": (["--minibatches", "3"], "--minibatches 3"),
    "a target without a KL": (["--kl-target", "0.1"], "--kl-coef"),
    "overlong buffer": (["--algo", "dapo", "--overlong-buffer", "25"], "--overlong-buffer 25"),
    "strict without a file": (["--strict"], "--strict"),
    "whole products with a critic": (["--algo", "ppo", "--ratio", "product"], "--ratio product"),
    "an unbiased KL without a KL": (["--unbiased-kl"], "--kl-coef"),
    "an unbiased KL in the reward": (["--unbiased-kl", "--kl-coef", "1", "--kl-in", "reward"],
                                     "--kl-in loss"),
    "levels": (["--train-levels", "1,9"], "--train-levels 1,9"),
    "no levels": (["--train-levels", "1,x"], "--train-levels 1,x: "),
    "an abbreviation": (["--alg", "dapo"], "--alg"),
    "no such algorithm": (["--algo", "nonsense"], "nonsense"),
    "no such device": (["--device", "meta"], "--device meta"),
    "no such model": (["--init", "nowhere"], "--init nowhere: there is no such folder"),
    "not a clip": (["--clip-high", "nan"], "--clip-high"),
    "seed": (["--seed", "9" * 20], "--seed"),
    "seed of the base": (["--base-seed", "9" * 20], "--base-seed"),
    "an infinite rate": (["--lr", "inf"], "--lr"), "a rate": (["--lr", "1e-45x"], "--lr"),
    "a temperature": (["--temperature", "1e-45"], "--temperature"),
    "an infinite clip": (["--clip-high", "inf"], "--clip-high"),
    "no value": (["--algo=--"], "--algo"), "an empty seed": (["--seed", ""], "--seed"),
    "more than the memory": (["--group-size", str(2**31)], "--group-size"),
    "more problems than the memory": (["--eval-problems", str(2**40)], "--eval-problems"),
    "top-p": (["--top-p", "0.9"], "whole distribution"),
    "top-k": (["--top-k", "5"], "whole distribution"),
}


@pytest.mark.parametrize("flags,named", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_and_exit_code_2(flags, named, tmp_path, capsys):
    try:
        code = run(tmp_path / "never", *flags)
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and named in said[-1] and len(said) <= 2  # argparse's usage is a line
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("content,named", [
    ("", "empty"), ('{"question": "a"}\n', "line 1"),
    ('{"question": "a", "answer": "1"}\nx\n', "line 2"),
    ('{"question": "a", "answer": "no #### number"}\n', "line 1")])
def test_bad_data_names_the_line(content, named, tmp_path, capsys):
    data = tmp_path / "bad.jsonl"
    data.write_text(content)
    assert run(tmp_path / "never", "--task", "file", "--data", str(data)) == 2
    assert named in capsys.readouterr().err


def test_rows_that_are_left_out_are_said_and_strict_refuses_them(tmp_path, capsys):
    data = tmp_path / "some.jsonl"
    bad = ["{", '{"problem": "prove", "answer": "proof"}', '{"problem": "p", "answer": "\\u001b"}']
    data.write_text("\n".join([*bad, *(json.dumps({"question": f"{i}+1?", "answer": str(i + 1)})
                                       for i in range(60))]))
    flags = ["--task", "file", "--data", str(data), "--steps", "0"]
    assert run(tmp_path / "never", *flags, "--strict") == 2
    said = capsys.readouterr().err
    assert "--strict" in said and "some.jsonl" in said and "line 1" in said
    assert not (tmp_path / "never").exists()
    assert run(tmp_path / "run", *flags) == 0
    said = capsys.readouterr().out
    assert "left out 1 of 63 rows" in said and "left out 2 of 63 rows" in said
    assert "'proof'" in said and "\x1b" not in said and "with working" not in said


def test_problems_that_are_too_long_are_left_out_of_training_and_of_the_search(tmp_path, capsys):
    data = tmp_path / "long.jsonl"
    rows = [{"question": "é" * 1200, "answer": "1"}, {"question": "1+1?", "answer": "a #### 2"},
            *({"question": f"{i}+1?", "answer": str(i + 1)} for i in range(60)),
            {"question": "2+2?", "answer": "x" * 3000 + "#### 4"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--task", "file", "--data", str(data), "--steps", "0"]
    assert run(tmp_path / "never", *flags, "--strict") == 2
    said = capsys.readouterr().err
    assert "--strict" in said and "left out 2 problems that do not fit" in said and "éé" in said
    options, _ = cli.parse(flags)
    task, tokenizer = cli.validate(options)
    assert len(task.train + task.eval) == 61 and task.left_out == 2
    settings = dict(task="file", level=2, data=str(data), eval_data="", max_new_tokens=16)
    assert len(evaluate.load_task(settings, tokenizer, 2048).all_problems()) == 62
    data.write_text("".join(json.dumps({**row, "question": "é" * 999 + row["question"]}) + "\n"
                            for row in rows))
    assert run(tmp_path / "never", *flags) == 2
    assert "context" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_levels_of_a_file_are_refused(tmp_path, capsys):
    data = tmp_path / "f.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}?", "answer": "1"}) + "\n"
                            for i in range(40)))
    assert run(tmp_path / "never", "--task", "file", "--data", str(data), "--train-levels",
               "1,2") == 2
    assert "a file has none" in capsys.readouterr().err


def test_help_says_each_default_once(capsys):
    for algo, high in (("grpo", "0.2"), ("dapo", "0.28")):
        with pytest.raises(SystemExit):
            cli.parse(["--algo", algo, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        parts = re.split(r" (?=--[a-z])", said)
        assert all(part.count("(default") <= 1 for part in parts) and len(parts) > 50
        [clip] = [part for part in parts if part.startswith("--clip-high")]
        assert f"(default: {high})" in clip


def test_a_damaged_checkpoint_is_one_sentence_and_the_one_before_it_goes_on(
        finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "run")
    flipped = bytearray((out / "checkpoint.pt").read_bytes())
    flipped[len(flipped) // 3] ^= 16
    (out / "checkpoint.pt").write_bytes(flipped)
    assert run(out, "--resume") == 2
    said = capsys.readouterr().err
    assert "checkpoint.pt is no checkpoint or is damaged" in said and said.count("\n") == 1
    subprocess.run(re.search(r"mv \S+ \S+", said)[0], shell=True, check=True)
    assert tensors.load(out / "checkpoint.pt")["state"]["step"] == 4
    assert run(out, "--resume") == 0
    same_run(finished, out)


def test_a_folder_of_other_settings_or_without_resume_is_refused(finished, capsys):
    assert run(finished) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(finished, "--resume", "--lr", "0.1") == 2
    assert "lr was" in capsys.readouterr().err


def test_no_space_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    assert run(tmp_path / "full") == 2
    assert "no space" in capsys.readouterr().err


def test_a_file_is_evaluated_whole(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}+1?", "answer": str(i + 1)}) + "\n"
                            for i in range(300)))
    options, _ = cli.parse(["--task", "file", "--data", str(path)])
    task, _ = cli.validate(options)
    assert options.eval_problems == len(task.eval) == len(task.held_out(options.eval_problems)) > 9
    options, _ = cli.parse([])
    cli.validate(options)
    assert options.eval_problems == 1000
