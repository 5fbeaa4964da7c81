"""reward_model.py: the loss and its measures against loops, the networks, the seam in train.py."""

import json
import math
import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from small import tiny_model

import config
import model as gpt
import reward_model
import tasks
import train
import verify
from infra import cli, judges, run_dir, tensors
from infra.models import Models
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()
CHOSEN, REJECTED = [1.5, -0.3, 0.2, 2.0, 0.1], [0.5, 0.4, 0.2, -1.0, 0.3]


def tiny(seed=0):
    torch.manual_seed(seed)
    return gpt.GPT(gpt.Config(tokenizer.n_vocab, layers=2, width=32, heads=2, kv_heads=1,
                              hidden=48))


def says(answer, thought="a"):
    return f"<think>{thought}</think><answer>{answer}</answer>"


def sides():
    return [torch.tensor(x, requires_grad=True) for x in (CHOSEN, REJECTED)]


# --- the loss and its measures

def test_the_loss_and_its_gradient_are_the_definition_s():
    chosen, rejected = sides()
    reward_model.pair_loss(chosen, rejected).backward()
    margins = [a - b for a, b in zip(CHOSEN, REJECTED, strict=True)]
    want = sum(math.log(1 + math.exp(-m)) for m in margins) / 5
    assert reward_model.pair_loss(chosen, rejected).item() == pytest.approx(want, abs=1e-6)
    for found, other, m in zip(chosen.grad, rejected.grad, margins, strict=True):
        assert float(found) == pytest.approx(-1 / (1 + math.exp(m)) / 5, abs=1e-6)
        assert float(found) == -float(other)
    assert math.isfinite(reward_model.pair_loss(torch.tensor([-1e4]), torch.tensor([1e4])))


def test_the_loss_is_that_of_trl():
    trl = pytest.importorskip("trl")
    ours, (chosen, rejected) = sides(), sides()
    trainer = SimpleNamespace(
        args=SimpleNamespace(center_rewards_coefficient=None),
        model=SimpleNamespace(training=False), _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x))

    def model(**_):
        return SimpleNamespace(logits=torch.cat([chosen, rejected])[:, None])
    loss = trl.RewardTrainer.compute_loss(
        trainer, model, {"input_ids": torch.zeros(10, 1), "attention_mask": torch.ones(10, 1)})
    loss.backward()
    mine = reward_model.pair_loss(*ours)
    mine.backward()
    assert mine.item() == pytest.approx(loss.item(), abs=1e-6)
    assert torch.allclose(ours[0].grad, chosen.grad, atol=1e-6)
    assert torch.allclose(ours[1].grad, rejected.grad, atol=1e-6)


def test_accuracy_and_calibration_are_the_definition_s():
    chosen, rejected = (x.detach() for x in sides())
    assert reward_model.accuracy(chosen, rejected) == pytest.approx((1 + 0 + 0.5 + 1 + 0) / 5)
    found = reward_model.calibration(chosen, rejected, bins=5)
    bins = {}
    for a, b in zip(CHOSEN, REJECTED, strict=True):
        p = 1 / (1 + math.exp(b - a))
        confidence, right = max(p, 1 - p), 1.0 if a > b else 0.5 if a == b else 0.0
        bins.setdefault(min(4, int((confidence - 0.5) * 10)), []).append((confidence, right))
    rows = [(sum(c for c, _ in rows) / len(rows), sum(r for _, r in rows) / len(rows), len(rows))
            for _, rows in sorted(bins.items())]
    assert [pytest.approx(row, abs=1e-6) for row in rows] == found["bins"]
    assert found["ece"] == pytest.approx(sum(n * abs(c - r) for c, r, n in rows) / 5, abs=1e-6)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    margins = torch.full((1000,), math.log(3.0))  # 75% sure, and right in 750 of 1000
    margins[:250] *= -1
    assert reward_model.calibration(margins, torch.zeros(1000))["ece"] == pytest.approx(0, abs=1e-6)


# --- the networks

def test_the_reward_is_the_head_on_the_last_token_whatever_the_padding():
    model = reward_model.RewardModel(tiny(), seed=3)
    rows = [([5, 6], [7, 8, 9]), ([5], [4]), ([1, 2, 3], [9, 9, 9, 9]), ([5, 6], [7, 8, 9])]
    found = reward_model.scores(model, rows)
    for reward, (prompt, ids) in zip(found, rows, strict=True):
        hidden = model.trunk(torch.tensor([prompt + ids]))[0, -1]
        assert float(reward) == pytest.approx(float(model.head(hidden)), abs=1e-5)
    assert torch.allclose(found, reward_model.scores(model, rows, max_tokens=1), atol=1e-5)


def test_a_reward_model_of_the_answer_reads_nothing_else():
    whole, answer = (reward_model.RewardModel(tiny(), reads) for reads in reward_model.READS)
    one, other = (answer.encode(tokenizer, "q", says("yes", thought)) for thought in "ab")
    assert one == other == (tokenizer.encode("q\n"), [*tokenizer.encode("yes"), tokenizer.eos_id])
    assert answer.encode(tokenizer, "q", "<think>a</think>")[1] == [tokenizer.eos_id]
    assert whole.encode(tokenizer, "q", says("yes"))[1] == [
        *tokenizer.encode(says("yes")), tokenizer.eos_id]


def test_an_ensemble_is_the_mean_minus_the_spread_and_a_judge_is_a_sum():
    members = [reward_model.RewardModel(tiny(), seed=seed) for seed in range(3)]
    texts, questions = [says("yes"), says("no"), ""], ["a", "b", "c"]
    each = [reward_model.Ensemble([m]).scores(tokenizer, questions, texts).tolist()
            for m in members]
    ensemble = reward_model.Ensemble(members, spread_coef=0.5)
    found = ensemble.scores(tokenizer, questions, texts).tolist()
    for reward, values in zip(found, zip(*each, strict=True), strict=True):
        mean = sum(values) / 3
        std = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
        assert std > 1e-3 and reward == pytest.approx(mean - 0.5 * std, abs=1e-5)
    judge = reward_model.Judge(ensemble, reward_model.Ensemble(members[:1]))
    total = [a + b for a, b in zip(found, each[0], strict=True)]
    assert judge.scores(tokenizer, questions, texts).tolist() == pytest.approx(total, abs=1e-5)


# --- training

def pairs(n=40):
    """People prefer "yes"."""
    rng = random.Random(0)
    return [(f"{rng.randrange(1000)}?", says("yes"), says("no")) for _ in range(n)]


def test_training_learns_the_preference_and_centres_the_rewards():
    ensemble = reward_model.train_ensemble(tiny(), tokenizer, pairs(), members=2, epochs=4,
                                           lr=3e-3, batch_tokens=300)
    found = judges.measure(ensemble, tokenizer, pairs(60)[40:])
    assert found["accuracy"] == 1 and found["pairs"] == 20 and found["loss"] < 0.4
    questions, *both = zip(*pairs(), strict=True)
    one, two = (reward_model.Ensemble([m]) for m in ensemble.members)
    for member in (one, two):
        rewards = torch.cat([member.scores(tokenizer, questions, texts) for texts in both])
        assert float(rewards.mean()) == pytest.approx(0, abs=1e-4)
    assert not torch.equal(*(e.scores(tokenizer, questions, both[0]) for e in (one, two)))
    assert not any(p.requires_grad for p in ensemble.parameters())


def test_training_without_pairs_is_refused():
    with pytest.raises(ValueError, match="no pairs"):
        reward_model.train_ensemble(tiny(), tokenizer, [])


# --- the seam

def test_open_requests_get_the_reward_model_s_score_and_others_the_verifier_s():
    judge = reward_model.Judge(reward_model.Ensemble([reward_model.RewardModel(tiny())]))
    problems = [tasks.Problem("1+1=?", "2"), tasks.Problem("tell Amy", "")]
    samples = [(problem, text, verify.Reward(0.25, {"correct": 1.0, "format": 1.0}))
               for problem in problems for text in (says("2"), says("3"))]
    rollout = SimpleNamespace(
        tokens=torch.ones(4, 3, dtype=torch.long), mask=torch.ones(4, 3), logp=torch.zeros(4, 3),
        group=torch.tensor([0, 0, 1, 1]), truncated=torch.zeros(4), entropy=torch.zeros(4, 3))
    batch = train.build_batch(rollout, samples, Models(None, tokenizer, reward_model=judge),
                              config.Options(reward="preference"))
    scores = judge.scores(tokenizer, ["tell Amy"] * 2, [says("2"), says("3")]).tolist()
    want = [0.25, 0.25, 0.25 + scores[0], 0.25 + scores[1]]
    assert batch.rewards.tolist() == pytest.approx(want, abs=1e-6)
    assert [reward.total for *_, reward in samples] == pytest.approx(want, abs=1e-6)
    assert batch.correct.tolist() == [1, 1, 0, 0]  # an algorithm does not see the gold
    assert [reward.parts["correct"] for *_, reward in samples] == [1, 1, 1, 1]  # the metrics do


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A base of the task assistant, with a reward model that prefers "yes" to "no"."""
    folder = tmp_path_factory.mktemp("run")
    with tiny_model():
        assert train.main([*FLAGS, "--steps", "0", "--base-steps", "1", "--out",
                           str(folder / "base")]) == 0
    lines = [{"prompt": q, "chosen": c, "rejected": r} for q, c, r in pairs()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "base", folder / "pairs.jsonl"


FLAGS = ("--task assistant --device cpu --eval-problems 4 --eval-samples 2 --max-new-tokens 16 "
         "--no-report").split()


def test_the_command_line_and_a_run_that_is_paid_by_it(run, tmp_path, capsys):
    base, file = run
    flags = ["--run", str(base), "--pairs", str(file), "--members", "2", "--spread-coef", "1"]
    assert reward_model.main(flags) == 0
    said = json.loads((base / "reward_model.json").read_text())
    assert said["pairs"] + said["held_out"]["pairs"] == 40 and said["held_out"]["pairs"] > 0
    judge = judges.load(base)
    assert len(judge.ensembles[0].members) == 2 and judge.ensembles[0].spread_coef == 1
    with tiny_model():
        assert train.main([*FLAGS, "--reward", "preference", "--judge", str(base), "--steps", "2",
                           "--base-steps", "1", "--prompts", "4", "--group-size", "4", "--out",
                           str(tmp_path / "x")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "x/metrics.jsonl").read_text().splitlines()]
    assert all(line["reward_std"] > 0 and math.isfinite(line["gold"]) for line in lines)


def test_files_of_a_sum_of_two_come_back_as_they_were(tmp_path):
    parts = [reward_model.Ensemble([reward_model.RewardModel(tiny(), reads, seed)], 0.5 * seed)
             for seed, reads in enumerate(reward_model.READS)]
    judge = reward_model.Judge(*parts)
    judges.save(tmp_path, judge)
    again, rows = judges.load(tmp_path), (["a", "b"], [says("yes"), says("no")])
    again.ensembles[1].spread_coef = judge.ensembles[1].spread_coef = 0.0  # one member
    assert torch.equal(again.scores(tokenizer, *rows), judge.scores(tokenizer, *rows))
    tensors.save(tmp_path / judges.NAME, {"config": {}})
    with pytest.raises(ValueError, match="makes it again"):
        judges.load(tmp_path)


@pytest.mark.parametrize("line, named", [
    ("{", "line 2"), ('{"prompt": "a", "chosen": "b"}', "line 2"), ("", "line 2"),
    ('{"prompt": "a", "chosen": "b", "rejected": 3}', "line 2")])
def test_a_bad_line_of_a_file_of_pairs_is_named(line, named, run, tmp_path, capsys):
    (tmp_path / "pairs").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + line
                                    + "\n")
    assert reward_model.main(["--run", str(run[0]), "--pairs", str(tmp_path / "pairs")]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


@pytest.mark.parametrize("flags, named", [
    (["--pairs", "nowhere"], "nowhere"), (["--spread-coef", "1"], "--members"),
    (["--members", "0"], "--members")])
def test_bad_flags_are_refused_in_one_sentence(flags, named, run, capsys):
    try:
        code = reward_model.main(["--run", str(run[0]), "--pairs", str(run[1]), *flags])
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err
    assert code == 2 and named in said and said.count("\n") == 1


@pytest.mark.parametrize("flags, named", [
    ("--task assistant", "--task assistant has no verifier"),
    ("--task assistant --reward preference", "--judge"),
    ("--task assistant --judge x", "--reward"),
    ("--task assistant --reward preference --judge nowhere", "python reward_model.py"),
    ("--task chain --reward preference --judge x", "has no effect with --task chain"),
    ("--task assistant --algo dapo --reward preference --judge x", "--dynamic-sampling"),
    ("--task assistant --algo reinforce-rej --reward preference --judge x", "--keep mixed"),
    ("--task assistant --algo dpo --reward preference --judge x", "made by the verifier"),
    ("--task assistant --algo kimi --reward preference --judge x", "needs --length-coef 0"),
    ("--task assistant --algo gfpo --keep efficient --reward preference --judge x", "below 0"),
    ("--task arithmetic --reward language", "try --task bilingual"),
    ("--task chain --reward process --judge x", "such as --algo ppo")])
def test_flags_that_do_not_fit_the_reward_are_refused(flags, named, tmp_path, capsys):
    assert train.main([*flags.split(), "--device", "cpu", "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_a_reward_model_of_another_vocabulary_is_refused(tmp_path, monkeypatch):
    with tiny_model():
        judges.save(tmp_path, reward_model.Judge(reward_model.Ensemble([
            reward_model.RewardModel(tiny())])))
        options, _ = cli.parse(["--task", "mixture", "--reward", "preference", "--judge",
                                str(tmp_path), "--device", "cpu"])
        with pytest.raises(run_dir.UserError, match="another vocabulary"):
            cli.validate(options)


def test_a_changed_reward_model_is_noticed_on_resume():
    options = config.Options(reward="preference", judge="runs/judge")
    assert [str(path) for path in run_dir.files_read(options)][-1] == "runs/judge/reward_model.pt"
    assert set(run_dir.JUDGES) <= set(verify.REWARDS)
