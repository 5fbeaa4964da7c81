"""prm.py: labels against enumeration, the loss against a loop, scores, measures, the command."""

import json
import math
import random

import pytest
import torch

import collect
import config
import evaluate
import model as gpt
import ppo
import prm
import tasks
import tokenizer
import train
from engine import slots
from infra import tensors
from tasks import chain, oracle


def tiny(seed=0):
    torch.manual_seed(seed)
    return gpt.GPT(gpt.Config(tokenizer.encoding.n_vocab, layers=2, width=32, heads=2, kv_heads=1,
                              hidden=48))


def ids(text):
    return tokenizer.encode(text) + [tokenizer.EOT]


QUESTION, RIGHT = "3 +6 *9 -2 =?", "<think>3+6=9\n9*9=1\n1-2=9</think><answer>9</answer>"
PROBLEM = tasks.Problem(QUESTION, "9", ((3, "+", 6, 9), (9, "*", 9, 1), (1, "-", 2, 9)),
                        noisy_facts=True)


def test_a_judge_is_where_the_policy_is():
    assert {p.device.type for p in prm.Judge(tiny().to("meta")).parameters()} == {"meta"}


def test_steps_end_at_lines_at_the_thinking_and_at_the_answer():
    response = ids(RIGHT)
    ends = prm.step_ends(response)
    assert [tokenizer.decode([response[e]]) for e in ends] == ["\n", "\n", "</think>",
                                                               "<|endoftext|>"]
    assert prm.step_ends(ids("x")[:1]) == [0]  # cut off in the first step
    assert prm.step_ends(tokenizer.encode("1\n")) == [1]


def test_lines_end_steps_within_the_answer_too():
    response = ids("<think>1\n</think><answer>\n9</answer>")
    assert [tokenizer.decode([response[e]]) for e in prm.step_ends(response)] == [
        "\n", "</think>", "\n", "<|endoftext|>"]


def test_steps_end_within_tokens_and_where_a_tag_is_spelled(monkeypatch):
    """As real models cut it: a token may hold a line's end and what comes after it, or two ends
    of lines, and of a tag the token counts that completes it."""
    pieces = [b"1+", b"1=2\nso", b" 3\n\n", b"4", b"</", b"think", b"><answer", b">3", b"\n4"]
    monkeypatch.setattr(tokenizer, "decode_bytes", lambda ids: b"".join(pieces[i] for i in ids))
    assert prm.step_ends(list(range(9))) == [1, 2, 6, 8]
    assert prm.step_ends(list(range(8))) == [1, 2, 6, 7]
    assert prm.step_ends([4, 5]) == [1] and prm.step_ends([1, 1]) == [0, 1]


@pytest.mark.parametrize("text, truths", [
    (RIGHT, [True, True, True, True]),
    (RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a"),
     [True, False, False, False]),
    (RIGHT.replace("<answer>9", "<answer>8"), [True, True, True, False]),
    (RIGHT.replace("9*9=1", "9*9=2"), [True, False, False, False]),
    ("<think>3+6=9\n9*9=1</think><answer>9</answer>", [True, True, True]),
    ("<think>3+6=9\n", None), ("9", None)])
def test_the_oracle_of_a_chain(text, truths):
    assert chain.steps_true(PROBLEM, text) == truths


def test_a_wrong_line_stays_wrong_even_if_a_later_one_repairs_it():
    text = "<think>3+6=8\n9*9=1\n1-2=9</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [False, False, False, False]


def test_after_wait_the_oracle_begins_anew():
    right = RIGHT.removeprefix("<think>")
    text = f"<think>3+6=8\nwait\n{right}"
    assert chain.steps_true(PROBLEM, text) == [False, True, True, True, True, True]
    text = f"<think>{right.partition('</think>')[0]}\nwait\n3+6=8</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [True, True, True, True, False, False]
    text = f"<think>{right.partition('</think>')[0]}\nwait</think><answer>9</answer>"
    assert chain.steps_true(PROBLEM, text) == [True, True, True, True, True]


@pytest.mark.parametrize("text, worked", [
    (RIGHT, True), (f"<think>3+6=8\nwait\n{RIGHT.removeprefix('<think>')}", True),
    (RIGHT.replace("<answer>9", "<answer>8"), False),
    ("<think>3+6=9\n9*9=1</think><answer>9</answer>", False),             # a step is left out
    (RIGHT.replace("1-2=9", "1-2=9\n9+1=0"), False),                       # one too many
    ("<think>3+6=8\n8*9=1\n1-2=9</think><answer>9</answer>", False),      # two errors
    (f"{RIGHT.partition('</think>')[0]}\nwait\n3+6=9</think><answer>9</answer>", False),
    ("<think>3+6=9\n9*9=1\nwait</think><answer>9</answer>", False),       # a wait is no step
    (RIGHT.replace("<think>", "<think>3+6=9\nwait\nwait\n"), True),
    ("<think>easy</think><answer>9</answer>", False), ("9", False)])
def test_a_chain_is_worked_out_only_by_all_true_steps(text, worked):
    assert chain.correct_with_working(PROBLEM, text) is worked


def fake_rollouts(monkeypatch, endings):
    """generate, for a policy that goes on in n ways: `endings(prefix text, j)` is the j-th."""
    asked = []

    def generate(policy, prompts, group_size, max_new_tokens, temperature, seed, *, stop, pad,
                 strings, prefixes=None):
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
    monkeypatch.setattr(evaluate, "generate", generate)
    return asked


def test_labels_are_the_share_of_completions_that_reach_the_answer(monkeypatch):
    def endings(prefix, j):  # a true beginning is finished rightly in one of two ways
        good = RIGHT.startswith(prefix)
        return RIGHT[len(prefix):] if good and j % 2 else "0</think><answer>0</answer>"
    asked = fake_rollouts(monkeypatch, endings)
    wrong = RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a")
    prompt = tokenizer.encode_prompt(QUESTION)
    solutions = [prm.Solution(PROBLEM, prompt, ids(RIGHT), 1.0),
                 prm.Solution(PROBLEM, prompt, ids(wrong), 0.0)]
    drawn = prm.label(tiny(), tasks.Chain(2), solutions, 4, 96, 0)
    assert solutions[0].soft() == [0.5, 0.5, 0.5, 1.0]
    assert solutions[1].soft() == [0.5, 0, 0, 0]
    assert solutions[0].soft(1) == [0, 0, 0, 1]
    [(prompts, prefixes, *how)] = asked
    assert how == [96, 1.0, [tokenizer.EOT]] and prompts == [prompt] * 5
    assert len(prefixes) == 5  # the first step, which both share, was completed once
    assert drawn == sum(len(ids(endings(tokenizer.decode(prefix), j)))
                        for prefix in prefixes for j in range(4))
    noise = oracle.label_noise(solutions, 4)
    assert noise["4"] == {"auc": 1.0, "hard_wrong": 0.0}
    assert noise["1"] == {"auc": 0.5, "hard_wrong": pytest.approx(4 / 6)}  # first ones all fail


def test_completions_go_on_from_the_end_of_a_step_at_temperature_one(monkeypatch):
    """Two questions whose answers begin alike, and an answer that is cut by a step's end."""
    other = tasks.Problem("1 +1 =?", "2", ((1, "+", 1, 2),), noisy_facts=True)
    text = "<think>0</think><answer>\n9</answer>"
    asked = fake_rollouts(monkeypatch, lambda prefix, j: text[len(prefix):])
    solutions = [prm.Solution(p, tokenizer.encode_prompt(p.question), ids(text), c)
                 for p, c in ((PROBLEM, 1.0), (other, 0.0))]
    prm.label(tiny(), tasks.Chain(2), solutions, 2, 96, 5)
    assert [s.reached for s in solutions] == [[[1, 1], [1, 1], [1]], [[0, 0], [0, 0], [0]]]
    [(prompts, prefixes, *how)] = asked
    assert prompts == [s.prompt for s in solutions for _ in range(2)]
    assert [tokenizer.decode([p[-1]]) for p in prefixes] == ["</think>", "\n"] * 2
    assert how == [96, 1.0, [tokenizer.EOT]]


def test_solutions_without_steps_cannot_be_labelled():
    with pytest.raises(ValueError, match="no steps"):
        prm.label(tiny(), tasks.Chain(2), [prm.Solution(PROBLEM, [], ids("9"), 0.0)], 1, 9, 0)


def test_labels_ask_the_task_and_never_the_oracle(monkeypatch):
    fake_rollouts(monkeypatch, lambda prefix, j: RIGHT[len(prefix):])
    monkeypatch.setattr(chain, "steps_true", None)
    solution = prm.Solution(PROBLEM, tokenizer.encode_prompt(QUESTION), ids(RIGHT), 1.0)
    prm.label(tiny(), tasks.Chain(2), [solution], 2, 96, 0)
    assert solution.soft() == [1, 1, 1, 1]


def test_equal_solutions_are_kept_once(monkeypatch):
    fake_rollouts(monkeypatch, lambda prefix, j: RIGHT if j < 3 else "x")
    solutions = prm.solve(tiny(), tasks.Chain(2), [PROBLEM], 5, 96, 0)
    assert [(s.text, s.correct) for s in solutions] == [(RIGHT, 1.0), ("x", 0.0)]


def batch():
    pairs = [(tokenizer.encode_prompt(QUESTION), ids(RIGHT)),
             (tokenizer.encode_prompt("1 +1 =?"), ids("<think>1+1=2</think><answer>2</answer>"))]
    return pairs, [prm.step_ends(response) for _, response in pairs]


def judge_of(seed=0):
    judge = prm.Judge(tiny(seed))
    torch.nn.init.normal_(judge.head.weight)
    torch.nn.init.constant_(judge.head.bias, 0.3)
    return judge


def test_a_judge_reads_one_text_as_it_reads_many():
    pairs, ends = batch()
    judge = judge_of()
    together = judge(*prm.inputs(pairs, ends, "cpu"))
    alone = [judge(*prm.inputs([p], [e], "cpu")) for p, e in zip(pairs, ends, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_judge_is_causal_and_its_reading_is_the_least_likely_token_so_far():
    pairs, ends = batch()
    judge = judge_of()
    prompt, response = pairs[0]
    tokens = torch.tensor([prompt + response])
    logp = judge.trunk(tokens)[0] @ judge.trunk.head.weight.T
    logp = logp.log_softmax(-1)[:-1].gather(1, tokens[0, 1:, None])[:, 0]
    states = judge.trunk(tokens)[0]
    for end, said in zip(ends[0], judge(*prm.inputs(pairs[:1], ends[:1], "cpu")), strict=True):
        at = len(prompt) + end
        least = max(prm.FLOOR, float(logp[len(prompt) - 1:at].detach().min()))
        want = judge.head(states[at])[0] + judge.surprise * least
        assert torch.allclose(said, want, atol=1e-4)
    cut = [(prompt, response[:ends[0][1] + 1])]
    part = judge(*prm.inputs(cut, [ends[0][:2]], "cpu"))
    assert torch.allclose(part, judge(*prm.inputs(pairs[:1], ends[:1], "cpu"))[:2], atol=1e-5)


def test_no_token_is_told_as_less_likely_than_the_floor():
    pairs, ends = batch()
    judge = prm.Judge(tiny())  # its head says 0: what is left is the reading
    torch.nn.init.normal_(judge.trunk.head.weight, std=100)
    said = judge(*prm.inputs(pairs, ends, "cpu"))
    assert torch.equal(said, torch.full_like(said, prm.FLOOR))
    said.sum().backward()
    assert judge.surprise.grad == len(said) * prm.FLOOR and not judge.trunk.head.weight.grad.any()


def test_the_loss_is_cross_entropy_at_step_ends_alone():
    pairs, ends = batch()
    judge = judge_of()
    labels = [[0.25, 0.5, 1.0, 1.0], [0.75, 0.0]]
    logits = judge(*prm.inputs(pairs, ends, "cpu")).tolist()
    want = 0.0
    for x, y in zip(logits, [y for row in labels for y in row], strict=True):
        p = 1 / (1 + math.exp(-x))
        want -= y * math.log(p) + (1 - y) * math.log(1 - p)
    assert prm.loss(judge, pairs, ends, labels).item() == pytest.approx(want, rel=1e-4)
    # an ORM's loss does not depend on what a PRM says of earlier steps
    last = prm.loss(judge, pairs, [e[-1:] for e in ends], [[1.0], [0.0]])
    assert last.item() == pytest.approx(-math.log(1 / (1 + math.exp(-logits[3])))
                                        - math.log(1 - 1 / (1 + math.exp(-logits[5]))), rel=1e-4)


def test_a_judge_that_is_sure_and_wrong_has_a_finite_loss():
    pairs, ends = batch()
    judge = prm.Judge(tiny())
    torch.nn.init.zeros_(judge.surprise), torch.nn.init.constant_(judge.head.bias, 200.0)
    loss = prm.loss(judge, pairs, ends, [[0.0] * len(e) for e in ends])
    loss.backward()
    assert loss.item() == pytest.approx(200 * sum(map(len, ends)))
    assert judge.head.bias.grad.item() == pytest.approx(sum(map(len, ends)))


def test_equal_pairs_are_read_once_and_scores_are_in_order(monkeypatch):
    pairs, ends = batch()
    judge = judge_of()
    read, inputs = [], prm.inputs

    def counted(part, *rest):
        read.append(len(part))
        return inputs(part, *rest)
    monkeypatch.setattr(prm, "inputs", counted)
    found = prm.scores(judge, [pairs[1], pairs[0], pairs[1], (pairs[0][0], [])])
    assert sum(read) == 2 and found[0] == found[2] and found[3] == [0.0]
    want = judge(*inputs(pairs, ends, "cpu")).sigmoid().tolist()
    assert found[1] + found[0] == pytest.approx(want, abs=1e-5)


def test_a_prm_is_taught_steps_and_an_orm_the_outcome_alone(monkeypatch):
    taught = []
    monkeypatch.setattr(prm, "train", lambda judge, *given, lr: taught.append((*given, lr)))
    reached = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0]]
    solution = prm.Solution(PROBLEM, [5], ids(RIGHT), 1.0, reached)
    judges = [prm.teach(tiny(), [solution], 3, 7, which, 1e-4) for which in (False, True)]
    ends, pairs = prm.step_ends(ids(RIGHT)), [([5], ids(RIGHT))]
    assert taught == [(pairs, [ends], [[0.5, 0.0, 1.0, 1.0]], 3, 7, 1e-4),
                      (pairs, [ends[-1:]], [[1.0]], 3, 7, 1e-4)]
    assert not any(p.requires_grad for judge in judges for p in judge.parameters())


def test_what_all_prompts_begin_with_does_not_fill_a_batch(monkeypatch):
    sizes, loss = [], prm.loss
    monkeypatch.setattr(prm, "loss", lambda judge, pairs, *more: (
        sizes.append(len(pairs)), loss(judge, pairs, *more))[1])
    for examples, most in ((100, 5), (0, 5)):
        pairs = [([5] * examples + [6 + i % 2], [9, 10, 11]) for i in range(20)]
        prm.train(judge_of(), pairs, [[2]] * 20, [[1.0]] * 20, 1, batch_tokens=20)
        assert sizes == [most] * 4
        sizes.clear()


def test_judges_are_taught_in_the_memory_of_the_sampler(run, monkeypatch):
    kept, teach = [], prm.teach
    monkeypatch.setattr(prm, "teach", lambda policy, *more: (
        kept.append(policy in slots.KEPT), teach(policy, *more))[1])
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    assert kept == [False, False]


def test_a_judges_learning_rate_warms_up_and_falls_to_the_end(monkeypatch):
    rates = []

    class Still(torch.optim.SGD):
        def step(self):
            rates.append(self.param_groups[0]["lr"])
    monkeypatch.setattr(prm, "muon_and_adam",
                        lambda judge, *_: [Still(judge.parameters(), lr=1.0)])
    pairs, ends = batch()
    prm.train(judge_of(), pairs * 50, ends * 50, [[1.0] * len(e) for e in ends * 50], 1,
              batch_tokens=1, lr=0.5)  # a batch a row
    assert rates == pytest.approx([0.5 * min(1, (i + 1) / 20, (100 - i) / 40) for i in range(100)])


def test_training_separates_what_can_be_told_apart():
    rng = random.Random(0)
    policy = tiny()
    problems = tasks.Chain(1).sample(rng, 40)
    solutions = []
    for problem in problems:  # right answers say 1, wrong ones 2
        for correct, word in ((1.0, "yes"), (0.0, "no")):
            solution = prm.Solution(problem, tokenizer.encode_prompt(problem.question),
                                    ids(f"<think>{word}</think><answer>1</answer>"), correct)
            solution.reached = [[correct], [correct]]
            solutions.append(solution)
    def taught(epochs, lr):
        judge, some = prm.Judge(policy), solutions[:60]
        prm.train(judge, [(s.prompt, s.ids) for s in some], [prm.step_ends(s.ids) for s in some],
                  [s.soft() for s in some], epochs, lr=lr)
        return judge
    found = prm.scores(taught(60, 0.01), [(s.prompt, s.ids) for s in solutions[60:]])
    assert all((p[-1] > 0.5) == s.correct for p, s in zip(found, solutions[60:], strict=True))
    first, again = (list(taught(2, 0.01).parameters()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    start = tiny()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), start.parameters(),
                                                 strict=True))  # the policy stays as it is


def test_auc_counts_pairs():
    rng = random.Random(1)
    scores = [rng.choice((0.1, 0.2, 0.5, 0.9)) for _ in range(60)]
    truths = [rng.random() < 0.4 for _ in scores]
    pairs = [(a > b) + (a == b) / 2 for a, s in zip(scores, truths, strict=True) if s
             for b, t in zip(scores, truths, strict=True) if not t
             for a, b in [(a, b)]]
    assert oracle.auc(scores, truths) == pytest.approx(sum(pairs) / len(pairs))
    assert oracle.auc([0.1, 0.2], [True, True]) is None


def test_auc_of_the_worst_and_of_one_kind():
    assert oracle.auc([0.9, 0.8, 0.1], [False, False, True]) == 0.0
    assert oracle.auc([0.1, 0.2], [False, False]) is None


def test_against_the_oracle():
    wrong = RIGHT.replace("9*9=1\n1-2=9", "9*9=2\n2-2=0").replace("9</a", "0</a")
    solutions = [prm.Solution(PROBLEM, [], ids(RIGHT), 1.0), prm.Solution(PROBLEM, [], ids(wrong),
                                                                         0.0)]
    good = oracle.measure(solutions, [[0.9, 0.8, 0.7, 0.95], [0.9, 0.3, 0.2, 0.1]])
    assert (good["auc"], good["accuracy"], good["first_error_found"]) == (1.0, 1.0, 1.0)
    assert good["calibration_error"] == pytest.approx((0.05 + 0.1) / 2) and good["steps"] == 8
    bad = oracle.measure(solutions, [[0.9, 0.8, 0.7, 0.95], [0.9, 0.9, 0.2, 0.1]])
    assert bad["first_error_found"] == 0.0 and bad["auc_to_first_error"] < 1
    assert oracle.measure([prm.Solution(PROBLEM, [], ids("x"), 0.0)], [[0.5]])["solutions"] == 0


def test_what_is_measured_against_the_oracle_by_hand(monkeypatch):
    read = [([0.8, 0.7, 1.0], [True] * 3), ([0.6, 0.25, 0.2], [True, False, False]),
            ([0.5, 0.4, 0.15], [True, True, False]), ([0.9, 0.9, 0.25], [True, False, False]),
            ([0.3, 0.6, 0.7], [False] * 3)]
    monkeypatch.setattr(oracle, "judged", lambda *_: read)
    found = oracle.measure([], [])
    assert (found["solutions"], found["steps"]) == (5, 15)
    assert found["auc"] == pytest.approx(44.5 / (7 * 8))
    assert found["auc_to_first_error"] == pytest.approx(22.5 / (7 * 4))
    assert found["accuracy"] == pytest.approx(11 / 15)
    assert found["first_error_found"] == pytest.approx(2 / 4)    # not the third's and the fourth's
    assert found["first_error_by_fall"] == pytest.approx(3 / 4)  # not the fourth's
    assert found["calibration"] == [pytest.approx(row) for row in (
        (0.15, 0, 1), (0.225, 0, 2), (0.7, 0, 1), (1, 1, 1))]
    assert found["calibration_error"] == pytest.approx((0.15 + 2 * 0.225 + 0.7) / 5)


def test_ways_to_take_steps_together():
    values = {name: how([0.5, 0.8, 0.9]) for name, how in prm.AGGREGATES.items()}
    assert values == pytest.approx({"product": 0.36, "min": 0.5, "last": 0.9})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "chain"
    assert train.main(["--task", "chain", "--out", str(out), "--base-steps", "30", "--steps", "0",
                       "--eval-problems", "5", "--eval-samples", "2", "--max-new-tokens", "48",
                       "--device", "cpu"]) == 0
    return out


COMMAND = ["--problems", "6", "--solutions", "2", "--completions", "2", "--epochs", "1",
           "--eval-problems", "6"]


def test_steps_are_paid_at_their_last_tokens(monkeypatch):
    policy = tiny()
    rollout = prm.generate(policy, [tokenizer.encode_prompt(q) for q in ("1 +1 =?", QUESTION)], 2,
                           20, 1.0, 0, stop=tokenizer.EOT, pad=tokenizer.PAD)
    asked = []

    def scores(judge, pairs):
        asked.extend(pairs)
        return [[0.1 * (i + 1)] * len(prm.step_ends(response))
                for i, (_, response) in enumerate(pairs)]
    monkeypatch.setattr(collect, "judge_of", lambda *_: None)
    monkeypatch.setattr(prm, "scores", scores)
    options = config.Options(judge="somewhere", device="cpu")
    paid = collect.step_rewards(rollout, options)
    assert [p for p, _ in asked] == [tokenizer.encode_prompt(q)
                                     for q in ("1 +1 =?",) * 2 + (QUESTION,) * 2]
    for i, (row, response) in enumerate(zip(paid, rollout.responses(), strict=True)):
        start = int(rollout.mask[i].argmax())
        where = [start + end for end in prm.step_ends(response)]
        assert row.nonzero()[:, 0].tolist() == where
        assert row[where].tolist() == pytest.approx([0.1 * (i + 1)] * len(where))
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group, paid.sum(1),
                      step_rewards=paid)
    assert torch.equal(ppo.token_rewards(batch, options), paid)


def test_ppo_learns_from_a_judge(run, tmp_path, capsys):
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    out = tmp_path / "process"
    flags_ = ["--task", "chain", "--algo", "ppo", "--reward", "process", "--judge", str(run),
              "--base-steps", "3", "--steps", "2", "--critic-warmup", "1", "--prompts", "8",
              "--eval-problems", "4", "--eval-samples", "2", "--max-new-tokens", "32", "--out",
              str(out), "--device", "cpu"]
    assert train.main(flags_) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["reward"] > 0 and math.isfinite(line["explained_variance"]) for line in lines)


@pytest.mark.parametrize("more, named", [
    (["--algo", "grpo", "--reward", "process"], "--judge"),
    (["--algo", "ppo", "--reward", "process"], "--judge"),
    (["--algo", "ppo", "--judge", "x"], "--reward"),
    (["--algo", "ppo", "--reward", "process", "--judge", "nowhere"], "nowhere")])
def test_a_process_reward_needs_a_judge(more, named, tmp_path, capsys):
    assert train.main([*more, "--out", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_the_command_line(run, capsys):
    capsys.readouterr()
    assert prm.main(["--run", str(run), *COMMAND]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["steps"] >= said["solutions"] > 0 and (run / "prm.json").exists()
    policy = gpt.from_state(tensors.load(run / "checkpoint.pt"))
    judges = prm.load(str(run), policy)
    pairs, _ = batch()
    assert set(judges) == {"prm", "orm"}
    assert prm.scores(judges["prm"], pairs) != prm.scores(judges["orm"], pairs)


@pytest.mark.parametrize("flags, named", [
    (["--lr", "0"], "--lr"), (["--lr", "nan"], "--lr"),
    (["--problems", "0"], "--problems"), (["--completions", "0"], "--completions"),
    (["--run", "nowhere"], "nowhere")])
def test_bad_input_is_one_sentence(run, flags, named, capsys):
    assert prm.main(["--run", str(run), *flags]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
