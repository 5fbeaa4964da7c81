"""--sampler-lag and --sampler-dtype: rollouts from an older or coarser policy."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from small import TINY, tiny_model

import diagnose
import model as gpt
import train
from infra import cli, memory, metrics, tensors
from infra.forward import policy_logp

SMALL = ["--steps", "5", "--prompts", "2", "--group-size", "4", "--eval-every", "2",
         "--eval-problems", "2", "--eval-samples", "2", "--max-new-tokens", "8", "--device", "cpu",
         "--reward", "random", "--lr", "0.01", "--base-steps", "1", "--minibatches", "1"]


def setup(*flags):
    """Options, task, and models of a random tiny policy with their optimizer."""
    with tiny_model():
        options, _ = cli.parse([*SMALL, *flags])
        task, tokenizer = cli.validate(options)
    torch.manual_seed(0)
    policy = gpt.GPT(gpt.Config(tokenizer.n_vocab, **TINY))
    for name, weight in policy.named_parameters():  # its log-probs differ between tokens
        weight.data *= 5 if weight.dim() == 2 and "embedding" not in name else 1
    return options, task, *train.make_models(policy, tokenizer, options)


def train_small(monkeypatch, *flags):
    """The metrics of a run in memory. For each step: the policy's weights before the update, those
    of the behavior policy, and the batch."""
    options, task, models, optimizer = setup(*flags)
    seen, update = [], train.update

    def noted(models, optimizer, batch, *more):
        seen.append(SimpleNamespace(
            policy=copy.deepcopy(models.policy), behavior=copy.deepcopy(models.behavior),
            trainer=policy_logp(models.policy, batch, options), batch=batch))
        return update(models, optimizer, batch, *more)
    monkeypatch.setattr(train, "update", noted)
    history = train.reinforce(task, models, optimizer, options)
    lines = [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in history]
    return lines, seen, options


def same(one, other) -> bool:
    return all(torch.equal(a.float(), b.float()) for a, b in
               zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("lag", [1, 3])
def test_the_behavior_policy_is_exactly_so_many_steps_old(monkeypatch, lag):
    lines, seen, options = train_small(monkeypatch, "--sampler-lag", str(lag))
    assert not same(seen[0].policy, seen[1].policy)
    for step, at in enumerate(seen):
        assert same(at.behavior, seen[max(0, step - lag)].policy)
        theirs = policy_logp(at.behavior, at.batch, options)  # no correction: the sampler's
        assert torch.allclose(at.batch.old_logp, theirs, atol=1e-4)
        assert at.batch.sampler_logp is None
    assert lines[0]["logp_diff"] < 1e-4 and all(line["logp_diff"] > 1e-3 for line in lines[1:])


@pytest.mark.parametrize("correction", ["tis", "icepop"])
def test_a_correction_needs_the_trainer_s_log_probs_of_the_old_tokens(monkeypatch, correction):
    _, seen, options = train_small(monkeypatch, "--algo", "cispo", "--sampler-lag", "2",
                                   "--sampler-correction", correction)
    for at in seen[1:]:
        assert torch.equal(at.batch.old_logp, at.trainer)
        theirs = policy_logp(at.behavior, at.batch, options)
        assert torch.allclose(at.batch.sampler_logp, theirs, atol=1e-4)
        assert (at.batch.sampler_logp - at.trainer).abs().max() > 1e-3


def test_without_lag_nothing_changes_and_the_first_step_never_does(monkeypatch):
    options, _, models, _ = setup()
    assert models.behavior is models.sampler is models.policy and models.versions is None
    plain, *_ = train_small(monkeypatch)
    assert plain == train_small(monkeypatch, "--sampler-lag", "0", "--sampler-dtype", "float32")[0]
    late, *_ = train_small(monkeypatch, "--sampler-lag", "2")
    keys = plain[0].keys() - {"eval_accuracy"}
    assert all(plain[0][k] == late[0][k] for k in keys)
    assert plain[1]["loss"] != late[1]["loss"]


def test_evaluations_measure_the_current_policy(monkeypatch):
    measured, answer = [], metrics.evaluate.greedy_accuracy

    def noted(policy, *more):
        measured.append(copy.deepcopy(policy))
        return answer(policy, *more)
    monkeypatch.setattr(metrics.evaluate, "greedy_accuracy", noted)
    _, seen, _ = train_small(monkeypatch, "--sampler-lag", "3")  # evaluates after steps 2, 4 and 5
    assert same(measured[0], seen[2].policy) and same(measured[1], seen[4].policy)


def test_the_reference_is_renewed_from_the_current_policy(monkeypatch):
    options, task, models, optimizer = setup("--sampler-lag", "3", "--steps", "2",
                                             "--ref-update-interval", "1")
    train.reinforce(task, models, optimizer, options)
    assert same(models.reference, models.policy) and not same(models.behavior, models.policy)


# --- --sampler-dtype

def test_a_bfloat16_sampler_beside_a_float32_trainer(monkeypatch):
    lines, seen, options = train_small(monkeypatch, "--sampler-dtype", "bfloat16", "--steps", "2")
    for at in seen:
        assert at.behavior.embedding.weight.dtype == torch.bfloat16
        assert torch.equal(at.behavior.embedding.weight, at.policy.embedding.weight.bfloat16())
        assert torch.allclose(at.batch.old_logp, policy_logp(at.behavior, at.batch, options),
                              atol=1e-2)
    assert 1e-4 < lines[0]["logp_diff"] < 0.1


def test_old_and_coarse_at_once(monkeypatch):
    _, seen, _ = train_small(monkeypatch, "--sampler-dtype", "bfloat16", "--sampler-lag", "1")
    for before, at in zip(seen, seen[1:], strict=False):
        assert same(at.behavior, before.policy.cast(torch.bfloat16))


def test_gspo_takes_the_trainer_s_log_probs_if_the_sampler_is_coarse(monkeypatch):
    _, seen, _ = train_small(monkeypatch, "--algo", "gspo", "--sampler-dtype", "bfloat16",
                             "--steps", "1")
    assert torch.equal(seen[0].batch.old_logp, seen[0].trainer)


# --- runs

def run(out, *flags):
    with tiny_model():
        return train.main(["--out", str(out), *SMALL, *flags])


def timeless(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def test_a_stopped_run_resumes_exactly(tmp_path, monkeypatch, capsys):
    """It goes on from step 2, which has three of the five versions."""
    flags = ["--sampler-lag", "4", "--sampler-dtype", "bfloat16", "--no-report"]
    assert run(tmp_path / "whole", *flags) == 0
    append = train.runs.append

    def interrupted(path, new):
        append(path, new)
        if path.name == "metrics.jsonl" and new[0]["step"] == 3:
            raise KeyboardInterrupt
    monkeypatch.setattr(train.runs, "append", interrupted)
    assert run(tmp_path / "cut", *flags) == 130
    monkeypatch.setattr(train.runs, "append", append)
    assert run(tmp_path / "cut", *flags, "--resume") == 0
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")
    one, other = (dict(tensors.named_tensors(tensors.load(tmp_path / name / "checkpoint.pt")))
                  for name in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    # another lag, and a checkpoint without its versions
    assert run(tmp_path / "cut", "--sampler-lag", "1", "--resume") == 2
    content = tensors.load(tmp_path / "cut" / "checkpoint.pt")
    content["versions"].pop()
    tensors.save(tmp_path / "cut" / "checkpoint.pt", content)
    capsys.readouterr()
    assert run(tmp_path / "cut", *flags, "--resume") == 2
    assert "checkpoint.pt holds other networks" in capsys.readouterr().err


def test_the_memory_of_old_policies_is_planned():
    def plan(*flags):
        options, *_ = setup(*flags)
        config = cli.config_of(options)
        return (memory.estimate(config, options)["old policies"],
                memory.checkpoint_bytes(config, options))
    p = plan("--sampler-dtype", "bfloat16")[0] // 4
    assert plan()[0] == 0
    assert plan("--sampler-lag", "2")[0] == 4 * 4 * p
    assert plan("--sampler-lag", "2", "--sampler-dtype", "bfloat16")[0] == 4 * 2 * p
    assert plan("--sampler-lag", "2")[1] > plan()[1]


def test_an_old_sampler_is_no_fault():
    rows = [{"step": 1, "logp_diff": 0.05}]
    for options, found in (({}, True), ({"sampler_dtype": "bfloat16"}, False),
                           ({"sampler_lag": 4}, False), ({"sampler_lag": 0}, True)):
        assert bool(diagnose.sampler_differs(diagnose.Run(options, rows, []))) == found
