"""prm.py: step labels against enumeration, the loss against a loop, scores, the command line."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch
from small import tiny_model

import config
import model as gpt
import ppo
import prm
import reward_model
import tasks
import train
from engine import sampler
from infra import tensors
from tasks import chain, oracle
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()


def tiny(seed=0):
    torch.manual_seed(seed)
    return gpt.GPT(gpt.Config(tokenizer.n_vocab, layers=2, width=32, heads=2, kv_heads=1,
                              hidden=48))


def ids(text):
    return tokenizer.encode(text) + [tokenizer.eos_id]


def solution_of(problem, text, correct, outcomes=()):
    prompt = tokenizer.encode_prompt(problem.question)
    return prm.Solution(problem, prompt, ids(text), text, correct, list(outcomes))


QUESTION, RIGHT = "3 +6 *9 -2 =?", "<think>3+6=9\n9*9=1\n1-2=9</think><answer>9</answer>"
PROBLEM = tasks.Problem(QUESTION, "9", ((3, "+", 6, 9), (9, "*", 9, 1), (1, "-", 2, 9)),
                        noisy_facts=True)


def test_a_scorer_is_on_the_policys_device():
    assert {p.device.type for p in prm.StepScorer(tiny().to("meta")).parameters()} == {"meta"}


def test_steps_end_with_lines_with_the_thinking_and_with_the_response():
    response = ids(RIGHT)
    ends = prm.step_ends(tokenizer, response)
    assert [tokenizer.decode([response[e]]) for e in ends] == ["\n", "\n", "</think>",
                                                               "<|endoftext|>"]
    assert prm.step_ends(tokenizer, ids("x")[:1]) == [0]  # cut off in the first step
    assert prm.step_ends(tokenizer, tokenizer.encode("1\n")) == [1]


def test_a_line_end_within_the_answer_ends_a_step():
    response = ids("<think>1\n</think><answer>\n9</answer>")
    assert [tokenizer.decode([response[e]]) for e in prm.step_ends(tokenizer, response)] == [
        "\n", "</think>", "\n", "<|endoftext|>"]


def test_step_ends_of_tokens_that_hold_several_characters():
    """As in a real model's vocabulary. A token may hold a line end and the text after it, or two
    line ends. A tag of several tokens ends with the token that completes it."""
    pieces = [b"1+", b"1=2\nso", b" 3\n\n", b"4", b"</", b"think", b"><answer", b">3", b"\n4"]
    pretrained = SimpleNamespace(decode_bytes=lambda ids: b"".join(pieces[i] for i in ids))
    assert prm.step_ends(pretrained, list(range(9))) == [1, 2, 6, 8]
    assert prm.step_ends(pretrained, list(range(8))) == [1, 2, 6, 7]
    assert prm.step_ends(pretrained, [4, 5]) == [1]
    assert prm.step_ends(pretrained, [1, 1]) == [0, 1]


def fake_rollouts(monkeypatch, endings):
    """Replaces generate by a scripted policy: its j-th completion of a prefix is
    `endings(prefix text, j)`. Returns the list of calls."""
    asked = []

    def generate(policy, prompts, group_size, max_new_tokens, temperature, seed, *, stop, pad,
                 stop_table, prefixes=None):
        asked.append((prompts, prefixes, max_new_tokens, temperature, stop))
        made = [ids(endings(tokenizer.decode(prefix), j))
                for prefix in prefixes or [[]] * len(prompts) for j in range(group_size)]

        class Made:
            group = torch.arange(len(prompts)).repeat_interleave(group_size)
            mask = torch.tensor([[i < len(one) for i in range(96)] for one in made]).float()

            @staticmethod
            def responses():
                return made
        return Made
    monkeypatch.setattr(prm, "generate", generate)
    monkeypatch.setattr(sampler, "generate", generate)
    return asked


def test_labels_are_the_proportion_of_correct_completions(monkeypatch):
    def endings(prefix, j):  # every other completion of a true beginning is correct
        good = RIGHT.startswith(prefix)
        return RIGHT[len(prefix):] if good and j % 2 else "0</think><answer>0</answer>"
    asked = fake_rollouts(monkeypatch, endings)
    wrong = RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a")
    prompt = tokenizer.encode_prompt(QUESTION)
    solutions = [solution_of(PROBLEM, RIGHT, 1.0), solution_of(PROBLEM, wrong, 0.0)]
    drawn = prm.label_steps(tiny(), tokenizer, tasks.Chain(2), solutions, 4, 96, 0)
    assert solutions[0].step_labels() == [0.5, 0.5, 0.5, 1.0]
    assert solutions[1].step_labels() == [0.5, 0, 0, 0]
    assert solutions[0].step_labels(1) == [0, 0, 0, 1]
    [(prompts, prefixes, *how)] = asked
    assert how == [96, 1.0, [tokenizer.eos_id]] and prompts == [prompt] * 5
    assert len(prefixes) == 5  # the first step is shared and completed once
    assert drawn == sum(len(ids(endings(tokenizer.decode(prefix), j)))
                        for prefix in prefixes for j in range(4))
    quality = oracle.label_quality(solutions, 4)
    assert quality["4"] == {"auc": 1.0, "hard_wrong": 0.0}
    # of one completion: the first always fails, so the four true steps get hard labels of 0
    assert quality["1"] == {"auc": 0.5, "hard_wrong": pytest.approx(4 / 6)}


def test_completions_start_at_step_ends_with_temperature_one(monkeypatch):
    """Two questions whose responses begin alike; a line end stands within the answer."""
    other = tasks.Problem("1 +1 =?", "2", ((1, "+", 1, 2),), noisy_facts=True)
    text = "<think>0</think><answer>\n9</answer>"
    asked = fake_rollouts(monkeypatch, lambda prefix, j: text[len(prefix):])
    solutions = [solution_of(p, text, c) for p, c in ((PROBLEM, 1.0), (other, 0.0))]
    prm.label_steps(tiny(), tokenizer, tasks.Chain(2), solutions, 2, 96, 5)
    assert [s.outcomes for s in solutions] == [[[1, 1], [1, 1], [1]], [[0, 0], [0, 0], [0]]]
    [(prompts, prefixes, *how)] = asked
    assert prompts == [s.prompt for s in solutions for _ in range(2)]
    assert [tokenizer.decode([p[-1]]) for p in prefixes] == ["</think>", "\n"] * 2
    assert how == [96, 1.0, [tokenizer.eos_id]]


def test_solutions_without_steps_are_refused():
    with pytest.raises(ValueError):
        prm.label_steps(tiny(), tokenizer, tasks.Chain(2), [solution_of(PROBLEM, "9", 0.0)], 1, 9,
                        0)


def test_labels_use_the_verifier_and_never_the_oracle(monkeypatch):
    fake_rollouts(monkeypatch, lambda prefix, j: RIGHT[len(prefix):])
    monkeypatch.setattr(chain, "steps_true", None)
    solution = solution_of(PROBLEM, RIGHT, 1.0)
    prm.label_steps(tiny(), tokenizer, tasks.Chain(2), [solution], 2, 96, 0)
    assert solution.step_labels() == [1, 1, 1, 1]


def test_duplicate_solutions_are_dropped(monkeypatch):
    fake_rollouts(monkeypatch, lambda prefix, j: RIGHT if j < 3 else "x")
    solutions = prm.sample_solutions(tiny(), tokenizer, tasks.Chain(2), [PROBLEM], 5, 96, 0)
    assert [(s.text, s.correct) for s in solutions] == [(RIGHT, 1.0), ("x", 0.0)]


def batch():
    pairs = [(tokenizer.encode_prompt(QUESTION), ids(RIGHT)),
             (tokenizer.encode_prompt("1 +1 =?"), ids("<think>1+1=2</think><answer>2</answer>"))]
    return pairs, [prm.step_ends(tokenizer, response) for _, response in pairs]


def random_scorer(seed=0):
    scorer = prm.StepScorer(tiny(seed))
    torch.nn.init.normal_(scorer.head.weight)
    torch.nn.init.constant_(scorer.head.bias, 0.3)
    return scorer


def test_a_batch_scores_as_single_texts_do():
    pairs, ends = batch()
    scorer = random_scorer()
    together = scorer(*prm.scorer_inputs(pairs, ends, "cpu"))
    alone = [scorer(*prm.scorer_inputs([p], [e], "cpu")) for p, e in zip(pairs, ends, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_scorer_is_causal_and_sees_the_minimum_log_probability_so_far():
    pairs, ends = batch()
    scorer = random_scorer()
    prompt, response = pairs[0]
    tokens = torch.tensor([prompt + response])
    logp = scorer.trunk(tokens)[0] @ scorer.trunk.lm_head.weight.T
    logp = logp.log_softmax(-1)[:-1].gather(1, tokens[0, 1:, None])[:, 0]
    states = scorer.trunk(tokens)[0]
    logits = scorer(*prm.scorer_inputs(pairs[:1], ends[:1], "cpu"))
    for end, logit in zip(ends[0], logits, strict=True):
        at = len(prompt) + end
        least = max(prm.MIN_LOGP, float(logp[len(prompt) - 1:at].detach().min()))
        want = scorer.head(states[at])[0] + scorer.logp_weight * least
        assert torch.allclose(logit, want, atol=1e-4)
    cut = [(prompt, response[:ends[0][1] + 1])]
    part = scorer(*prm.scorer_inputs(cut, [ends[0][:2]], "cpu"))
    assert torch.allclose(part, logits[:2], atol=1e-5)


def test_the_log_probability_is_bounded_below():
    pairs, ends = batch()
    scorer = prm.StepScorer(tiny())  # its head is 0: the logit is the least log-probability
    torch.nn.init.normal_(scorer.trunk.lm_head.weight, std=100)
    logits = scorer(*prm.scorer_inputs(pairs, ends, "cpu"))
    assert torch.equal(logits, torch.full_like(logits, prm.MIN_LOGP))
    logits.sum().backward()
    assert scorer.logp_weight.grad == len(logits) * prm.MIN_LOGP
    assert not scorer.trunk.lm_head.weight.grad.any()


def test_the_loss_is_cross_entropy_at_step_ends_only():
    pairs, ends = batch()
    scorer = random_scorer()
    labels = [[0.25, 0.5, 1.0, 1.0], [0.75, 0.0]]
    logits = scorer(*prm.scorer_inputs(pairs, ends, "cpu")).tolist()
    want = 0.0
    for x, y in zip(logits, [y for row in labels for y in row], strict=True):
        p = 1 / (1 + math.exp(-x))
        want -= y * math.log(p) + (1 - y) * math.log(1 - p)
    assert prm.loss(scorer, pairs, ends, labels).item() == pytest.approx(want, rel=1e-4)
    # an ORM's loss depends on the last step alone
    last = prm.loss(scorer, pairs, [e[-1:] for e in ends], [[1.0], [0.0]])
    assert last.item() == pytest.approx(-math.log(1 / (1 + math.exp(-logits[3])))
                                        - math.log(1 - 1 / (1 + math.exp(-logits[5]))), rel=1e-4)


def test_a_confident_wrong_scorer_has_a_finite_loss():
    pairs, ends = batch()
    scorer = prm.StepScorer(tiny())
    torch.nn.init.zeros_(scorer.logp_weight)
    torch.nn.init.constant_(scorer.head.bias, 200.0)
    loss = prm.loss(scorer, pairs, ends, [[0.0] * len(e) for e in ends])
    loss.backward()
    assert loss.item() == pytest.approx(200 * sum(map(len, ends)))
    assert scorer.head.bias.grad.item() == pytest.approx(sum(map(len, ends)))


def test_equal_pairs_are_scored_once_and_scores_are_in_order(monkeypatch):
    pairs, ends = batch()
    scorer = random_scorer()
    read, inputs = [], prm.scorer_inputs

    def counted(part, *rest):
        read.append(len(part))
        return inputs(part, *rest)
    monkeypatch.setattr(prm, "scorer_inputs", counted)
    found = prm.score_steps(scorer, tokenizer, [pairs[1], pairs[0], pairs[1], (pairs[0][0], [])])
    assert sum(read) == 2 and found[0] == found[2] and found[3] == [0.0]
    want = scorer(*inputs(pairs, ends, "cpu")).sigmoid().tolist()
    assert found[1] + found[0] == pytest.approx(want, abs=1e-5)


def test_a_prm_trains_on_steps_and_an_orm_on_the_outcome_only(monkeypatch):
    calls = []
    monkeypatch.setattr(prm, "train", lambda scorer, *given, lr: calls.append((*given, lr)))
    outcomes = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0]]
    solution = solution_of(PROBLEM, RIGHT, 1.0, outcomes)
    scorers = [prm.train_reward_model(tiny(), tokenizer, [solution], 3, 7, outcome, 1e-4)
               for outcome in (False, True)]
    ends, pairs = prm.step_ends(tokenizer, ids(RIGHT)), [(solution.prompt, ids(RIGHT))]
    assert calls == [(pairs, [ends], [[0.5, 0.0, 1.0, 1.0]], 3, 7, 1e-4),
                     (pairs, [ends[-1:]], [[1.0]], 3, 7, 1e-4)]
    assert not any(p.requires_grad for scorer in scorers for p in scorer.parameters())


def test_the_shared_beginning_of_prompts_does_not_count_towards_a_batch(monkeypatch):
    sizes, loss = [], prm.loss
    monkeypatch.setattr(prm, "loss", lambda scorer, pairs, *more: (
        sizes.append(len(pairs)), loss(scorer, pairs, *more))[1])
    for examples, most in ((100, 5), (0, 5)):
        pairs = [([5] * examples + [6 + i % 2], [9, 10, 11]) for i in range(20)]
        prm.train(random_scorer(), pairs, [[2]] * 20, [[1.0]] * 20, 1, batch_tokens=20)
        assert sizes == [most] * 4
        sizes.clear()


def test_the_samplers_cache_is_freed_before_training(run, monkeypatch):
    kept, train_reward_model = [], prm.train_reward_model
    monkeypatch.setattr(prm, "train_reward_model", lambda policy, *more: (
        kept.append("slot_pool" in policy.__dict__), train_reward_model(policy, *more))[1])
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    assert kept == [False, False]


def test_the_learning_rate_warms_up_and_decays_to_zero(monkeypatch):
    rates = []

    class Still(torch.optim.SGD):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
    monkeypatch.setattr(reward_model, "muon_and_adam",
                        lambda scorer, *_: [Still(scorer.parameters(), lr=1.0)])
    pairs, ends = batch()
    prm.train(random_scorer(), pairs * 50, ends * 50, [[1.0] * len(e) for e in ends * 50], 1,
              batch_tokens=1, lr=0.5)  # a batch a row
    assert rates == pytest.approx([0.5 * min(1, (i + 1) / 20, (100 - i) / 40) for i in range(100)])


def test_training_separates_correct_from_wrong_solutions():
    rng = random.Random(0)
    policy = tiny()
    problems = tasks.Chain(1).sample(rng, 40)
    solutions = []
    for problem in problems:  # correct solutions say yes, wrong ones no
        for correct, word in ((1.0, "yes"), (0.0, "no")):
            text = f"<think>{word}</think><answer>1</answer>"
            solutions.append(solution_of(problem, text, correct, [[correct], [correct]]))

    def trained(epochs, lr):
        scorer, some = prm.StepScorer(policy), solutions[:60]
        prm.train(scorer, [(s.prompt, s.ids) for s in some],
                  [prm.step_ends(tokenizer, s.ids) for s in some],
                  [s.step_labels() for s in some], epochs, lr=lr)
        return scorer
    found = prm.score_steps(trained(60, 0.01), tokenizer,
                            [(s.prompt, s.ids) for s in solutions[60:]])
    assert all((p[-1] > 0.5) == s.correct for p, s in zip(found, solutions[60:], strict=True))
    first, again = (list(trained(2, 0.01).parameters()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    start = tiny()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), start.parameters(),
                                                 strict=True))  # the policy is unchanged


def test_aggregates_of_step_scores():
    values = {name: how([0.5, 0.8, 0.9]) for name, how in prm.AGGREGATES.items()}
    assert values == pytest.approx({"product": 0.36, "min": 0.5, "last": 0.9})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "chain"
    with tiny_model():
        assert train.main(["--task", "chain", "--out", str(out), "--base-steps", "30", "--steps",
                           "0", "--eval-problems", "5", "--eval-samples", "2", "--max-new-tokens",
                           "48", "--device", "cpu"]) == 0
    return out


COMMAND = ["--problems", "6", "--solutions", "2", "--completions", "2", "--epochs", "1",
           "--eval-problems", "6"]


def test_step_rewards_stand_at_the_last_token_of_each_step(monkeypatch):
    policy = tiny()
    rollout = prm.generate(policy, [tokenizer.encode_prompt(q) for q in ("1 +1 =?", QUESTION)], 2,
                           20, 1.0, 0, stop=tokenizer.eos_id, pad=tokenizer.pad_id)
    asked = []

    def scores(scorer, tokenizer, pairs):
        asked.extend(pairs)
        return [[0.1 * (i + 1)] * len(prm.step_ends(tokenizer, response))
                for i, (_, response) in enumerate(pairs)]
    monkeypatch.setattr(prm, "score_steps", scores)
    rewards = prm.step_rewards(None, tokenizer, rollout)
    assert [p for p, _ in asked] == [tokenizer.encode_prompt(q)
                                     for q in ("1 +1 =?",) * 2 + (QUESTION,) * 2]
    for i, (row, response) in enumerate(zip(rewards, rollout.responses(), strict=True)):
        start = int(rollout.mask[i].argmax())
        where = [start + end for end in prm.step_ends(tokenizer, response)]
        assert row.nonzero()[:, 0].tolist() == where
        assert row[where].tolist() == pytest.approx([0.1 * (i + 1)] * len(where))
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group, rewards.sum(1),
                      step_rewards=rewards)
    assert torch.equal(ppo.token_rewards(batch, config.Options()), rewards)


def test_ppo_runs_with_a_process_reward(run, tmp_path, capsys):
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    out = tmp_path / "process"
    flags = ["--task", "chain", "--algo", "ppo", "--reward", "process", "--judge", str(run),
             "--base-steps", "3", "--steps", "2", "--critic-warmup", "1", "--prompts", "4",
             "--group-size", "2", "--eval-problems", "4", "--eval-samples", "2",
             "--max-new-tokens", "16", "--out", str(out), "--device", "cpu"]
    with tiny_model():
        assert train.main(flags) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["reward"] > 0 and math.isfinite(line["explained_variance"]) for line in lines)


@pytest.mark.parametrize("more, named", [
    (["--algo", "grpo", "--reward", "process"], "--judge"),
    (["--algo", "ppo", "--reward", "process"], "--judge"),
    (["--algo", "ppo", "--judge", "x"], "--reward"),
    (["--algo", "ppo", "--reward", "process", "--judge", "nowhere"], "nowhere")])
def test_process_reward_flags_are_checked(more, named, tmp_path, capsys):
    assert train.main([*more, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_the_command_line(run, capsys):
    capsys.readouterr()
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["steps"] >= said["solutions"] > 0 and (run / "prm.json").exists()
    policy = gpt.from_state(tensors.load(run / "checkpoint.pt"))
    scorers = prm.load(str(run), policy)
    pairs, _ = batch()
    assert set(scorers) == {"prm", "orm"}
    prm_scores, orm_scores = (prm.score_steps(scorers[name], tokenizer, pairs)
                              for name in ("prm", "orm"))
    assert prm_scores != orm_scores


def test_reward_models_of_another_policy_are_refused_in_one_sentence(tmp_path):
    tensors.save(tmp_path / "prm.pt", {"prm": {"head.weight": torch.zeros(1)}})
    with pytest.raises(ValueError, match="makes it again"):
        prm.load(str(tmp_path), tiny())


@pytest.mark.parametrize("flags, named", [
    (["--lr", "0"], "--lr"), (["--lr", "nan"], "--lr"),
    (["--problems", "0"], "--problems"), (["--completions", "0"], "--completions"),
    (["--run", "nowhere"], "nowhere")])
def test_bad_input_gives_a_one_sentence_error(run, flags, named, capsys):
    assert prm.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
