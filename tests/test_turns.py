"""engine/turns.py: without a call it draws as sample.py does; results stand in the response with
mask 0, and neither the cache nor other rows change what a row draws."""

import random
import time
from dataclasses import replace

import pytest
import torch

import grpo
import model
import ppo
import sample
import tasks
import tokenizer
from engine import turns
from engine.rng import row_seeds
from infra import cli
from infra.files import UserError

STOP, PAD, BEGIN, END, LETTER = 28, 29, 1, 2, 10
PIECES = {BEGIN: "<call>", END: "</call>", 3: "<result>", 4: "</result>", STOP: "", PAD: ""}
PIECES |= {i: PIECES.get(i, chr(97 + i)) for i in range(30)}
PROMPTS = [[11, 12, 13, 14, 15], [17], [18, 9, 10], [11, 12]]
TOOL = tasks.Tool(lambda call, turn: f"{call[::-1]}{'pqrstu'[turn]}", 3)


class Letters:
    """A tokenizer of letters, the four tags, and a stop token."""

    stop_ids = [STOP]

    @staticmethod
    def decode(ids):
        return "".join(PIECES[i] for i in ids)

    @staticmethod
    def encode_ordinary(text):
        ids = {piece: i for i, piece in PIECES.items() if piece}
        found = []
        while text:
            piece = next((p for p in sorted(ids, key=len, reverse=True) if text.startswith(p)), "")
            found.append(ids.get(piece, LETTER))  # LETTER stands for all other characters
            text = text[len(piece) or 1:]
        return found


TABLE = tokenizer.stop_table([PIECES[i].encode() for i in range(30)], (turns.END_CALL, "zz"))
ENDS = dict(stop=STOP, pad=PAD, stop_table=TABLE)


def gpt(calls=0.0, stop=0.0):
    """A small model far from uniform. calls, stop: added to the logits of the tags and of the end.
    """
    torch.manual_seed(0)
    made = model.GPT(model.Config(30, context=64, layers=2, width=32, heads=4, kv_heads=2,
                                  hidden=48, tied=False))
    bias = torch.zeros(30)
    bias[BEGIN], bias[END], bias[STOP], bias[PAD], bias[3], bias[4] = (
        calls, calls, stop, -1e4, -1e4, -1e4)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    made.lm_head.bias = torch.nn.Parameter(bias)
    return made


def generate(gpt, prompts=PROMPTS, size=4, n=40, seed=0, tool=TOOL, **how):
    return turns.generate(gpt, prompts, size, n, 1.0, seed, tokenizer=Letters,
                          tools=[tool] * len(prompts), **ENDS, **how)


def transcripts(rollout):
    return [rollout.transcript(row) for row in range(len(rollout.mask))]


def test_without_a_call_the_rows_are_those_of_the_plain_sampler():
    made = gpt(calls=-1e4)
    got, want = generate(made), sample.generate(made, PROMPTS, 4, 40, **ENDS)
    for name in ("tokens", "logp", "entropy", "mask", "group", "truncated"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    assert not got.calls.any() and 0 < want.truncated.sum() < 16
    assert transcripts(got) == got.responses() == want.responses()


def test_a_response_is_turns_of_the_policy_and_of_the_tool():
    """Each result follows its call, with mask 0, and is what the tool says of that call."""
    got = generate(gpt(calls=4.0))
    assert got.calls.max() == 4 and got.errors.sum() > 0  # three results, and an error
    for row, ids in enumerate(transcripts(got)):
        start = len(PROMPTS[row // 4])
        mask = got.mask[row, start:start + len(ids)].tolist()
        assert got.tokens[row, start:start + len(ids)].tolist() == ids
        assert not got.mask[row, :start].any() and not got.mask[row, start + len(ids):].any()
        said, turn, errors, rest = [], 0, 0, ids
        while END in rest[:-1]:
            own, rest = rest[:rest.index(END) + 1], rest[rest.index(END) + 1:]
            result = turns.answer(TOOL, Letters.decode(own), turn)
            errors += result.startswith(turns.ERROR)
            result = Letters.encode_ordinary(f"<result>{result}</result>")
            assert rest[:len(result)] == result
            rest, turn = rest[len(result):], turn + 1
            said += [1.0] * len(own) + [0.0] * len(result)
        assert mask == said + [1.0] * len(rest)
        full = rest[-1] == END and not got.truncated[row]  # a call at the end of the room
        assert got.calls[row] - turn in (0, 1) and not full
        assert got.errors[row] - errors in (0, 1)


def test_log_probs_are_the_models_own_of_the_whole_response():
    made = gpt(calls=4.0)
    got = generate(made)
    with torch.no_grad():
        logp, entropy = made.logprobs(got.tokens, got.mask)
    assert got.calls.sum() > 10
    assert torch.allclose(got.logp, logp, atol=1e-4)
    assert torch.allclose(got.entropy, entropy, atol=1e-4)
    assert not got.logp[got.mask == 0].any() and not got.entropy[got.mask == 0].any()


def test_a_row_draws_the_same_alone():
    made, seeds = gpt(calls=4.0), row_seeds(torch.arange(16), 0).tolist()
    together = generate(made)
    for row in range(16):
        alone = generate(made, [PROMPTS[row // 4]], 1, seed=[seeds[row]])
        assert alone.transcript(0) == together.transcript(row)
        assert (alone.calls[0], alone.errors[0]) == (together.calls[row], together.errors[row])
        assert alone.truncated[0] == together.truncated[row]


def test_a_prompt_that_fills_the_context_is_read_beside_a_long_result():
    """Padding behind a short result may reach beyond the end of the cache."""
    long = tasks.Tool(lambda call, turn: "a" * (20 if call else 1))
    got = generate(gpt(calls=5.0), [[11] * 30, [12]], 8, 34, tool=long)
    assert got.tokens.shape[1] <= 64 and got.truncated.any() and got.calls.sum() > 8


@pytest.mark.parametrize("text, turn, result", [
    ("ab<call>cd</call>", 0, "dcp"), ("<call>a<call>bc</call>", 2, "cbr"),
    ("<call></call>", 1, "q"), ("cd</call>", 0, "error: no <call> before </call>"),
    ("<call>a</call>", 3, "error: no more than 3 calls")])
def test_what_a_call_is(text, turn, result):
    assert turns.answer(TOOL, text, turn) == result


def test_bad_tools_are_bounded_and_said(monkeypatch):
    monkeypatch.setattr(turns, "SECONDS", 0.2)

    def fail(call, turn):
        raise {"empty": KeyError(), "value": ValueError("no such key")}[call]
    tools = [tasks.Tool(fail), tasks.Tool(fail), tasks.Tool(lambda *_: time.sleep(5)),
             tasks.Tool(lambda *_: 7), None]
    calls = ["empty", "value", "", "", ""]
    began = time.monotonic()
    results = turns.answer_calls([(tool, f"<call>{call}</call>", 0)
                                  for tool, call in zip(tools, calls, strict=True)])
    assert time.monotonic() - began < 2
    assert results == ["error: KeyError", "error: no such key", "error: no answer after 0.2 s", "7",
                       "error: there is no tool"]


def test_a_long_result_is_cut():
    toy = tokenizer.Tokenizer.toy()
    ids = turns.encode_result(toy, "12" * 500_000)
    text = toy.decode(ids)
    assert len(ids) < turns.MAX_RESULT + 40
    assert text == f"<result>{'12' * (turns.MAX_RESULT // 2)}{turns.CUT}</result>"


def test_a_tag_that_a_tool_writes_is_plain_text():
    toy = tokenizer.Tokenizer.toy()
    ids = turns.encode_result(toy, "<answer>5</answer><|endoftext|>")
    assert not set(ids) & set(toy.specials.values())
    assert toy.decode(ids) == "<result><answer>5</answer><|endoftext|></result>"


# --- the tasks with a tool

NAMES = ("calculator", "python", "records")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1, 2])
def test_documents_are_what_turns_would_be(name, level):
    """The drill answers rightly. Each result in a document is the tool's; the sandbox agrees with
    the corpus of Python."""
    task, rng = tasks.TASKS[name](level), random.Random(0)
    toy = tokenizer.Tokenizer.toy(task.words)
    problems = task.sample(rng, 30)
    for problem in problems:
        text = task.document(rng, problem, drill=True)
        assert task.correct(problem, text) and not set(text) - set(map(chr, range(128)))
        assert len(toy.encode(text)) < task.max_new_tokens
    for problem in problems[:30 if name != "python" else 8]:
        text, turn = task.document(rng, problem), 0
        for part in text.split("<call>")[1:]:
            call, result = part.split("</call><result>")
            assert result.partition("</result>")[0] == problem.tool.result(call, turn)
            turn += 1


def test_a_question_about_records_has_one_database():
    task = tasks.TASKS["records"](1)
    problem = next(p for p in task.sample(random.Random(1), 99) if "hat" in p.question)
    owner = problem.tool.result("owner hat", 1)
    assert owner in task.people and problem.steps[0] == "owner hat"
    assert problem.tool.result(problem.steps[1], 1) == problem.answer
    assert problem.tool.result("owner moon", 1) == "error: no such key"


def test_a_busy_tool_answers_the_second_call():
    tool = next(p.tool for p in tasks.TASKS["calculator"](1).sample(random.Random(0), 99)
                if p.tool.result("1+1", 0) == "error: busy")
    assert tool.result("1+1", 1) == "2" and tool.result("1+", 1) == "error: not an expression"


def test_the_loss_leaves_out_what_the_tool_wrote():
    """The gradient is that of the policy's tokens alone: any log-prob may stand at the others."""
    made = gpt(calls=4.0)
    rollout = generate(made)
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group,
                      torch.arange(16.0) % 5, failed=rollout.failed)
    options, _ = cli.parse(["--device", "cpu"])
    batch = grpo.prepare(batch, options)
    assert not batch.advantages[rollout.mask == 0].any()
    credited = turns.add_turn_credit(batch, 0.5)
    lower = credited.advantages - batch.advantages
    assert torch.allclose(lower, -0.5 * rollout.failed) and rollout.failed.any()
    assert not (rollout.failed * (1 - rollout.mask)).any()
    batch.weights = ppo.token_weights(batch.mask, "sequence")
    loss, _ = grpo.loss(made, None, batch, options)
    noisy = replace(batch, old_logp=batch.old_logp + 3 * (1 - batch.mask))
    assert torch.equal(loss, grpo.loss(made, None, noisy, options)[0])
    logp, _ = made.logprobs(batch.tokens, batch.mask)
    means = [float((-(logp.detach()[i] - batch.old_logp[i]).exp() * batch.advantages[i])[
        batch.mask[i] > 0].mean()) for i in range(16)]
    assert float(loss) == pytest.approx(sum(means) / 16, abs=1e-5)


@pytest.mark.parametrize("flags, sentence", [
    ("--turn-penalty 0.5", "--turn-penalty has no effect with --task arithmetic"),
    ("--turn-penalty 0.5 --task records --algo ppo", "--turn-penalty has no effect with --algo"),
    ("--task records --partial-rollouts 8", "--partial-rollouts does not work with --task")])
def test_flags_that_do_not_fit(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        cli.validate(cli.parse(flags.split())[0])
