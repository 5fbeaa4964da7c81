"""--init: a pretrained model is prompted, trained, saved and loaded; mistakes are reported."""

import json
import random
import re
import shutil
from dataclasses import replace

import pytest
import torch

import config
import evaluate
import model as gpt
import prm
import sample
import search
import tasks
import train
from engine import rng, slots
from engine.request import states_after
from infra import bpe, checkpoint, cli, memory, run_dir, tensors
from tasks import prompts
from tokenizer import Tokenizer

SMALL = ("--task arithmetic --level 1 --prompts 2 --group-size 4 --minibatches 1 --steps 2 "
         "--eval-every 1 --eval-problems 4 --eval-samples 4 --max-new-tokens 12 "
         "--reward random").split()
TAGS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def pretrained(path, merges=(), gain=1.0):
    """A random Llama whose tokens are single bytes, three tags and merged pairs."""
    torch.manual_seed(0)
    texts = [*bpe.unicode_to_byte(), *(a + b for a, b in merges)]
    vocab = {text: i for i, text in enumerate(texts)}
    size = len(vocab)
    tags = [dict(id=size + i, content=tag, single_word=False, lstrip=False, rstrip=False,
                 normalized=False, special=True) for i, tag in enumerate(TAGS)]
    model = gpt.GPT(gpt.Config(len(vocab) + 5, context=1024, layers=2, width=32, heads=4,
                               kv_heads=2, hidden=48))
    model.norm.data *= gain
    checkpoint.save_pretrained(model, path)
    written = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(written | {"eos_token_id": [size, size + 2]}))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    (path / "tokenizer.json").write_text(json.dumps(dict(
        version="1.0", added_tokens=tags, pre_tokenizer=byte_level, decoder=byte_level,
        model=dict(type="BPE", vocab=vocab, merges=[list(pair) for pair in merges]))))
    return path


@pytest.fixture
def folder(tmp_path):
    return pretrained(tmp_path / "init")


@pytest.fixture
def talkative(tmp_path):
    """A run whose policy samples at random. A fourth of its tokens begin with a line end, another
    fourth end with a 7."""
    signs = [chr(i) for i in range(33, 127) if chr(i) != "7"]
    folder = pretrained(tmp_path / "init", [*(("\u010a", x) for x in signs),
                                            *((x, "7") for x in signs)], gain=0.1)
    assert run(folder, "--steps", "0") == 0
    return tmp_path / "run"


def run(folder, *more):
    return train.main([*SMALL, "--init", str(folder), "--out", str(folder.parent / "run"), *more])


def test_a_run_from_a_pretrained_model(folder, capsys):
    assert run(folder, "--few-shot", "2") == 0
    out = capsys.readouterr().out
    assert "memory, GB: weights" in out and "run/model" in out
    made = folder.parent / "run"
    policy, tokenizer, settings = evaluate.load_run(str(made))
    assert settings["lr"] == config.PRETRAINED_LR and settings["prompt"] == "r1"
    assert tokenizer.stop_ids == [256, 258] and tokenizer.stop_strings == [prompts.END]
    assert tokenizer.decode(tokenizer.encode_prompt("1+1=?")).endswith(
        "User: Compute 1+1=?\nAssistant:")
    again = checkpoint.load_pretrained(made / "model")
    tokens = torch.randint(0, 256, (2, 20))
    with torch.no_grad():
        assert torch.equal(again.lm_head(again(tokens)), policy.lm_head(policy(tokens)))
    first = checkpoint.load_pretrained(folder)
    assert not torch.equal(first.embedding.weight, policy.embedding.weight)
    assert bpe.from_json(made / "model").n_vocab == 259
    metrics = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["logp_diff"] < 1e-4 and metrics[0]["kl"] < 1e-6


def test_reward_models_and_search_of_a_pretrained_policy(talkative, capsys):
    """The command lines of prm.py and search.py."""
    few = "--problems 6 --solutions 3 --completions 2 --epochs 1 --eval-problems 3"
    assert prm.main(["--run", str(talkative), *few.split()]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["steps"] > made["solutions"] and (talkative / "prm.pt").exists()
    for method in ("prm", "orm", "weighted", "beam", "dvts", "lookahead", "force", "cut"):
        assert search.main(["--run", str(talkative), "--method", method, "--n", "4", "--count",
                            "3"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["problems"] == 3 and found["tokens_per_problem"] > 0, method


def test_a_reward_model_pays_a_pretrained_policy_with_the_same_tokenizer(talkative, capsys):
    few = "--problems 2 --solutions 3 --completions 1 --epochs 1 --eval-problems 1"
    assert prm.main(["--run", str(talkative), *few.split()]) == 0
    paid = ["--algo", "ppo", "--critic-warmup", "1", "--reward", "process", "--judge",
            str(talkative), "--out", str(talkative.parent / "paid")]
    assert train.main([*SMALL, "--base-steps", "3", *paid]) == 2  # with the toy tokenizer
    assert "other tokens" in capsys.readouterr().err
    assert run(talkative.parent / "init", "--prompt", "plain", *paid) == 0
    made = talkative.parent / "paid"
    assert Tokenizer.of_run(made).template == "Compute {question}\n"  # not the reward model's
    lines = (made / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["reward"] > 0 for line in lines)


def test_a_pretrained_policy_votes(folder, capsys):
    """Its responses end as in training, at a stop token or the stop string."""
    assert run(folder) == 0
    where = str(folder.parent / "run")
    policy, tokenizer, settings = evaluate.load_run(where)
    tokenizer = replace(tokenizer, stop_strings=["7"])  # a random policy samples no </answer>
    problems = tasks.Arithmetic(1).held_out(3)
    completer = search.Completer(policy, tokenizer, settings["max_new_tokens"])
    found = search.vote(completer, problems, 40, 7)
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, 40, 1.0, 7,
                                         settings["max_new_tokens"])
    assert [text for one in found for text in one.samples] == texts
    assert sum(text.endswith("7") for text in texts) > 3
    assert not any("7" in text[:-1] for text in texts)
    capsys.readouterr()
    assert search.main(["--run", where, "--method", "vote", "--n", "2", "--count", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == 3


def test_steps_of_a_pretrained_policy_are_the_lines_of_its_response(talkative):
    """A response that is sampled step by step is equal to one that is sampled at once. It ends at
    the stop string, at the end of text or at the limit."""
    policy, tokenizer, _ = evaluate.load_run(str(talkative))
    tokenizer = replace(tokenizer, stop_strings=["7"])
    questions, n = ["1+1=?", "2*3=?"], 20
    player = search.Completer(policy, tokenizer, 30)
    whole = [text for some in player.complete(questions, n, 5) for text, _ in some]
    assert sum("7" in text for text in whole) > 5 and sum("\n" in text for text in whole) > 5
    seeds = rng.row_seeds(torch.arange(2 * n), 5).tolist()
    texts, over = [""] * 2 * n, [False] * 2 * n
    asked = [q for q in questions for _ in range(n)]
    while live := [i for i in range(2 * n) if not over[i]]:
        grown = player.next_steps([asked[i] for i in live], [texts[i] for i in live], 1,
                                  [seeds[i] for i in live])
        for i, (text, tokens, ended) in zip(live, grown, strict=True):
            assert text.startswith(texts[i]) and tokens >= 1
            assert text[len(texts[i]):].count("\n") == 1 or ended
            texts[i], over[i] = text, ended
    assert texts == whole
    cut = [text for some in player.complete(questions, n, 5, stop="\n") for text, _ in some]
    assert cut == [text.partition("\n")[0] for text in whole]
    ended = [[(text, 0)] for text in whole if text.endswith("7")]
    assert player.complete(questions[:1] * len(ended), 1, 5, [t for [(t, _)] in ended]) == ended


def test_a_reward_model_reads_no_end_of_text_after_a_stop_string(folder, monkeypatch):
    assert run(folder, "--steps", "0") == 0
    policy, tokenizer, _ = evaluate.load_run(str(folder.parent / "run"))
    monkeypatch.setattr(prm, "score_steps", lambda scorer, tokenizer, pairs: [
        ids[-1] for _, ids in pairs])
    player = search.Completer(policy, tokenizer, 30, reward_models={"prm": None})
    assert player.score("prm", ["1"] * 3, ["a</answer>", "a", "a"], [True, True, False]) == [
        tokenizer.encode(">")[0], tokenizer.eos_id, tokenizer.encode("a")[0]]


def test_it_resumes_to_the_last_bit(folder):
    assert run(folder) == 0
    whole = torch.load(folder.parent / "run" / "checkpoint.pt")
    half, save = folder.parent / "half", run_dir.save_run

    def save_and_copy(path, models, optimizer, state):
        save(path, models, optimizer, state)
        if state["step"] == 1:
            shutil.copytree(path, half)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "save_run", save_and_copy)
        assert train.main([*SMALL, "--init", str(folder), "--out",
                           str(folder.parent / "other")]) == 0
    assert train.main([*SMALL, "--init", str(folder), "--out", str(half), "--resume"]) == 0
    ended = torch.load(half / "checkpoint.pt")
    assert all(torch.equal(x, ended["model"][k]) for k, x in whole["model"].items())


def test_bfloat16_computes_and_float32_is_trained(folder):
    assert run(folder, "--dtype", "bfloat16", "--gradient-checkpointing", "--kl-coef", "0.1") == 0
    made = folder.parent / "run"
    saved = torch.load(made / "checkpoint.pt")
    assert {x.dtype for x in saved["model"].values()} == {torch.float32}
    assert {x.dtype for x in saved["reference"].values() if x.dim() == 2} == {torch.bfloat16}
    assert checkpoint.load_pretrained(made / "model").lm_head.weight.dtype == torch.bfloat16
    [first, *_] = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert 0 < first["logp_diff"] < 0.05  # sampled and trained on in two roundings
    models, _, _ = train.start(made, tasks.Arithmetic(1), Tokenizer.of_run(made), cli.parse(
        [*SMALL, "--init", str(folder), "--out", str(made), "--dtype", "bfloat16"])[0])
    assert models.sampler is not models.policy
    with torch.no_grad():
        models.policy.embedding.weight += 1
    where = models.sampler.embedding.weight.data_ptr()
    models.sync_sampler()
    assert models.sampler.embedding.weight.data_ptr() == where  # CUDA graphs point there
    assert torch.equal(models.sampler.embedding.weight,
                       models.policy.embedding.weight.bfloat16())


def test_gspo_in_bfloat16_starts_unclipped(folder):
    """GSPO clips the ratio at 1 +- 0.0003. The log-probs of sampler and trainer differ by more than
    that in bfloat16, so old_logp must be the trainer's."""
    model = checkpoint.load_pretrained(folder)
    for name, weight in model.named_parameters():  # a random model's log-probs hardly differ
        weight.data *= 5 if weight.dim() == 2 and "embedding" not in name else 1
    checkpoint.save_pretrained(model, folder, like=folder)
    assert run(folder, "--dtype", "bfloat16", "--algo", "gspo", "--group-size", "16", "--steps",
               "1") == 0
    [first] = [json.loads(line) for line in
               (folder.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    assert first["logp_diff"] > 1e-3  # the sampler's
    assert first["clipfrac_low"] + first["clipfrac_high"] < 0.02 and first["grad_norm"] > 0


def test_answers_of_a_run_end_at_the_tag(folder):
    tokenizer = Tokenizer.from_folder(folder, "{question}\n", [256, 258], [prompts.END])
    policy = checkpoint.load_pretrained(folder)
    said = tokenizer.encode_ordinary("<answer>5</answer> and more")

    def spell(self, tokens, *_):
        return torch.zeros(*tokens.shape, policy.config.width)
    step = iter(said)

    def head(hidden):
        logits = torch.zeros(len(hidden), policy.config.vocab_size)
        logits[:, next(step)] = 50.0
        return logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt.GPT, "forward", spell)
        patch.setattr(policy.lm_head, "forward", head)
        rollout, [text] = evaluate.sample_responses(
            policy, tokenizer, [tasks.Problem("2+3=?", "5")], temperature=0)
    assert text == "<answer>5</answer>" and not rollout.truncated[0]


# --- prompts

@pytest.mark.parametrize("form", ["plain", "r1", "chat"])
def test_templates_hold_the_question_once_and_end_where_the_answer_begins(form):
    made = prompts.template(form, "Compute {question}", [("1+1=?", "<think>{x}</think>")])
    assert made.count("{question}") == 1 and "Compute 1+1=?" in made and "{x}" in made
    before, after = made.split("{question}")
    assert after == {"plain": "\n", "r1": "\nAssistant:",
                     "chat": "<|im_end|>\n<|im_start|>assistant\n"}[form]
    assert before.index("<think>{x}</think>") < before.rindex("Compute")


@pytest.mark.parametrize("name", sorted(tasks.TASKS.keys() - {"file"}))
def test_examples_are_training_problems_with_right_answers(name):
    task = tasks.TASKS[name](1)
    found = prompts.examples(task, 5)
    problems = task.sample(random.Random("few shot"), 5)
    for problem, (question, response) in zip(problems, found, strict=True):
        assert question == problem.question and task.correct(problem, response)
        lines = response.removeprefix("<think>").partition("</think>")[0].split("\n")
        if problem.tool:
            calls = re.findall("<call>(.*?)</call>", response)
            assert tuple(dict.fromkeys(calls)) == problem.steps  # a busy tool is called again
        elif problem.steps:
            assert [line.rpartition("=")[2] for line in lines] == [
                str(result) for *_, result in problem.steps]
    assert found == prompts.examples(task, 5)
    asked = {p.question for p in task.held_out(200)}
    assert task.has_images or not asked & {q for q, _ in found}


def test_a_typed_tag_stays_text(folder):
    tokenizer = Tokenizer.from_folder(folder, prompts.template("chat", "{question}", []), [256],
                                      [])
    ids = tokenizer.encode_prompt("what is <|im_end|>?")
    assert ids.count(258) == 2 and ids.count(257) == 3  # from the template alone
    assert "what is <|im_end|>?" in tokenizer.decode(ids)


# --- memory

def test_the_estimate_counts_the_parameters_of_the_model():
    options = config.Options(dtype="float32", max_new_tokens=64)
    shape = cli.config_of(options)
    plan = memory.estimate(shape, options)
    parameters = sum(p.numel() for p in gpt.GPT(shape).parameters())
    assert plan["weights"] == plan["gradients"] == 4 * parameters
    assert plan["moments"] == 8 * parameters and plan["sampler"] == plan["critic"] == 0
    cache = slots.SlotCache(shape, 512, 64 + 128)
    assert plan["cache"] == 2 * cache.keys.numel() * 4
    options.dtype, options.gradient_checkpointing = "bfloat16", True
    small = memory.estimate(shape, options)
    assert small["sampler"] == small["reference"] == 2 * parameters
    assert small["activations"] < plan["activations"] / 2


def test_the_activations_are_about_those_that_autograd_keeps():
    options = config.Options(dtype="float32", micro_tokens=256)
    shape = gpt.Config(64, layers=3, width=128, heads=4, kv_heads=2, hidden=352)
    made, kept = gpt.GPT(shape), {}

    def keep(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        made(torch.randint(0, 64, (4, 64)))
    weights = {p.untyped_storage().data_ptr() for p in made.parameters()}
    bytes_kept = sum(n for at, n in kept.items() if at not in weights)
    assert 0.6 < memory.estimate(shape, options)["activations"] / bytes_kept < 1.6


# --- mistakes

@pytest.mark.parametrize("spoil, message", [
    (lambda f: shutil.rmtree(f), "config.json"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    (lambda f: (f / "tokenizer.json").write_text('{"decoder": {"type": "Replace"}}'), "Replace"),
    (lambda f: change(f, architectures=["GemmaForCausalLM"], model_type="gemma"), "emma"),
    (lambda f: change(f, eos_token_id=None), "end of text"),
    (lambda f: change(f, eos_token_id=9999), "9999"),
])
def test_an_unsupported_model_is_refused_before_any_work(folder, capsys, spoil, message):
    spoil(folder)
    assert run(folder) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder.parent / "run").exists()


@pytest.mark.parametrize("key", ["eos_token_id", "num_hidden_layers", "vocab_size", "hidden_size",
                                 "rms_norm_eps", "rope_theta", "rope_scaling", "architectures",
                                 "max_position_embeddings", "head_dim", "tie_word_embeddings"])
def test_settings_of_any_type_give_one_sentence(folder, key, capsys):
    """num_hidden_layers 1e6 would describe a model for minutes."""
    for value in ("x", "2", [[1]], [None], {"a": 1}, True, -1, 1.5, 10**6, 10**30, 1e300,
                  float("nan"), float("inf")):
        change(folder, **{key: value})
        good = (key, value) in (("max_position_embeddings", 10**6), ("rope_theta", 1e6),
                                ("rope_theta", 1.5), ("tie_word_embeddings", True))
        code, said = run(folder, "--steps", "0"), capsys.readouterr().err
        assert code == (0 if good else 2), (key, value, said)
        assert good or said.count("\n") == 1 and f"--init {folder}" in said, (value, said)
        shutil.rmtree(folder.parent / "run", ignore_errors=True)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", ["[]", "null", "", "{", '"x"', "[1]", "\xff", "[" * 10**5])
def test_files_of_any_type_give_one_sentence(folder, name, text, capsys):
    (folder / name).write_bytes(text.encode("latin1"))
    assert run(folder) == 2
    said = capsys.readouterr().err
    assert name in said and said.count("\n") == 1


def test_weights_that_are_not_finite_are_refused(folder, capsys):
    weights = {name: x.clone() for name, x in tensors.read_safetensors(
        folder / "model.safetensors").items()}
    weights["model.norm.weight"][3] = float("nan")
    with open(folder / "model.safetensors", "wb") as file:
        tensors.write_safetensors(weights, file)
    assert run(folder) == 2
    assert "model.norm.weight holds NaN or infinity" in capsys.readouterr().err
    model = checkpoint.open_pretrained(folder)[0].to_empty(device="cpu")
    model.norm.data[:] = float("inf")
    with pytest.raises(ValueError, match="is not written: .* holds NaN or infinity"):
        checkpoint.save_pretrained(model, folder.parent / "new")
    assert not (folder.parent / "new").exists()


# --- the files of a run

def test_a_run_of_a_pretrained_model_needs_its_tokenizer(folder, capsys):
    assert run(folder, "--steps", "0") == 0
    made = folder.parent / "run"
    commands = (lambda: sample.main(["--run", str(made), "1+1=?"]),
                lambda: search.main(["--run", str(made), "--n", "2", "--count", "1"]),
                lambda: prm.main(["--run", str(made), "--problems", "1"]))
    spoils = [
        ("prompt.json", None, "but holds no prompt.json"),
        ("prompt.json", b"[]", "prompt.json must hold a JSON object"),
        ("prompt.json", b"{}", "prompt.json is damaged: template is 'missing'"),
        ("prompt.json", b'{"template": "x", "stops": [1], "strings": []}', "is damaged"),
        ("prompt.json", b'{"template": "{question}", "stops": ["1"], "strings": []}', "the end"),
        ("prompt.json", b'{"template": "{question}", "stops": [1], "strings": [2]}', "damaged"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("tokenizer.json", (made / "tokenizer.json").read_bytes() + b" ", "is not the one that")]
    for name, content, says in spoils:
        good = (made / name).read_bytes()
        (made / name).unlink() if content is None else (made / name).write_bytes(content)
        for command in commands:
            capsys.readouterr()
            assert command() == 2, (name, content)
            said = capsys.readouterr().err
            assert says in said and said.count("\n") == 1, said
        (made / name).write_bytes(good)
    assert commands[0]() == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_changed_model_is_refused_when_a_run_goes_on(folder, name, capsys):
    assert run(folder) == 0 and run(folder, "--resume") == 0
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()), indent=3))
    capsys.readouterr()
    assert run(folder, "--resume") == 2
    assert f"{folder / name} has changed since the run" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused(folder, capsys):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    assert run(folder) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not (folder.parent / "run").exists()


def test_examples_that_fill_the_context_are_refused(folder, capsys):
    assert run(folder, "--few-shot", "40") == 2
    said = capsys.readouterr().err
    assert "longer than the context" in said and said.count("\n") == 1
    assert not (folder.parent / "run").exists()


def test_a_prompt_begins_as_the_model_s_texts_do(folder):
    """Llama 3's post-processor puts a token before every text."""
    path = folder / "tokenizer.json"
    parts = [{"SpecialToken": {"id": TAGS[0], "type_id": 0}},
             {"Sequence": {"id": "A", "type_id": 0}}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": {
        "type": "TemplateProcessing", "single": parts, "pair": parts,
        "special_tokens": {TAGS[0]: {"id": TAGS[0], "ids": [256], "tokens": [TAGS[0]]}}}}))
    tokenizer = Tokenizer.from_folder(folder, "Q: {question}\n", [257], [])
    for question in ("1+1=?", "what is <|im_end|>?"):
        ids = tokenizer.encode_prompt(question)
        assert ids.count(256) == 1 and ids[0] == 256
        assert tokenizer.decode(ids[1:]) == f"Q: {question}\n"


def change(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("arguments, message", [
    (["--prompt", "chat"], "--init"), (["--few-shot", "2"], "--init"), (["--shard"], "torchrun")])
def test_flags_that_need_another_flag(arguments, message, tmp_path, capsys):
    assert train.main([*SMALL, "--out", str(tmp_path / "run"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_more_examples_than_the_context_holds_are_refused_at_once(folder, capsys):
    assert run(folder, "--few-shot", str(2**40)) == 2
    assert "--few-shot" in capsys.readouterr().err and not (folder.parent / "run").exists()


def test_too_little_memory_is_reported_before_the_run(folder, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 100_000)
    assert run(folder) == 2
    assert "too little memory" in capsys.readouterr().err
    assert not (folder.parent / "run").exists()


def test_the_sampler_gets_the_memory_that_is_left(monkeypatch):
    monkeypatch.setattr(memory.slots, "MEMORY_BUDGET", 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**9)
    options = config.Options(dtype="float32", max_new_tokens=64, device="cpu")
    shape = cli.config_of(options)
    memory.check(shape, options)
    parts = memory.estimate(shape, options)
    assert memory.slots.MEMORY_BUDGET == pytest.approx(
        10**9 - 1.1 * (sum(parts.values()) - parts["cache"]), abs=2)


def test_the_cache_counts_the_rows_of_evaluations():
    options = config.Options(dtype="float32", max_new_tokens=64, eval_problems=1000, prompts=16)
    shape = cli.config_of(options)
    whole = memory.estimate(shape, options)["cache"]
    options.eval_problems = 4
    assert whole == 2 * memory.estimate(shape, options)["cache"]  # 512 rows, and a step's 256


def test_two_tokenizers_are_independent(folder, tmp_path):
    pretrained = Tokenizer.from_folder(folder, "x {question}", [256], [prompts.END])
    ids = pretrained.encode_prompt("1+1=?")
    _, toy = cli.validate(cli.parse([*SMALL, "--out", str(tmp_path)])[0])
    assert toy.encode_prompt("1+1=?") == toy.encode_ordinary("1+1=?\n")
    assert toy.stop_strings == [] and toy.pad_id != toy.eos_id
    assert toy.stop_table(600, "cpu") is None
    assert states_after(None, [[1, 2]], "cpu").tolist() == [0]
    assert pretrained.encode_prompt("1+1=?") == ids and pretrained.decode(ids) == "x 1+1=?"
    assert pretrained.stop_table(600, "cpu").shape[0] == 600
    assert pretrained.eos_id == pretrained.pad_id == 256 and len(pretrained.newline_tokens) == 1
    other = replace(pretrained, stop_strings=["7"])
    assert other.has_stop_string("7") and not pretrained.has_stop_string("7")
    assert other.stop_table(600, "cpu").shape[1] == 2 < pretrained.stop_table(600, "cpu").shape[1]
