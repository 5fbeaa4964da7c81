"""infra/rewards.py: verify.py's rewards as TRL and verl call them."""

import importlib
import random
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import config
import train
import verify
from infra import checkpoint, rewards
from tasks import Arithmetic
from tokenizer import PATTERN, toy_encoding

ROOT = Path(__file__).parents[1]
TOY = toy_encoding()
RIGHT, WRONG = "<think>t</think><answer>4</answer>", "<think>t</think><answer>5</answer>"
SMALL = ("--task arithmetic --level 1 --base-steps 2 --steps 1 --prompts 2 --group-size 4 "
         "--minibatches 1 --eval-problems 4 --eval-samples 4 --max-new-tokens 12 --reward random "
         "--device cpu").split()


def given(completions, answers, name="correct", prompts=None, columns=(), **options):
    prompts = prompts or ["2+2"] * len(completions)
    return rewards.trl_reward(name, **options)(
        prompts=prompts, completions=completions, answer=answers, trainer_state=object(),
        log_metric=print, completion_ids=[[1] * i for i in range(len(completions))],
        **dict(columns))


def test_plain_and_conversational_completions_are_paid_alike():
    texts = [RIGHT, WRONG, "4", "<answer>4</answer>"]
    expected = pytest.approx([1.1, 0.1, 0.0, 1.0])
    assert given(texts, ["4"] * 4) == expected
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    prompt = [{"role": "user", "content": "2+2"}]
    assert given(chats, ["4"] * 4, prompts=[prompt] * 4) == expected
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in texts]
    assert given(parts, [4] * 4) == expected
    tools = [[{"role": "assistant", "content": None, "tool_calls": []}],
             [{"role": "assistant", "content": "<answer>5</answer>"},
              {"role": "tool", "content": "x"}, {"role": "assistant", "content": RIGHT}]]
    assert given([[]], ["4"]) == [0.0]
    assert given(tools, ["4"] * 2) == pytest.approx([0.0, 1.1])


def test_answers_in_any_form_and_prompts_that_open_the_thinking():
    texts = [r"so \boxed{\frac{8}{2}}", "#### 4", RIGHT, "4", r"\boxed{4} or \boxed{5}"]
    assert given(texts, ["4"] * 5, "sign", form="any") == [1, 1, 1, -1, -1]
    assert given(texts, ["4"] * 5, "sign", form="bare") == [1, 1, 1, 1, -1]
    assert given(["<think>t</think>4", "<think>4"], ["4"] * 2, "sign", form="bare") == [1, -1]
    assert given(texts, ["4"] * 5, "sign") == [-1, -1, 1, -1, -1]
    assert given(["#### 1,000"], ["work\n#### 1000"], "sign", form="any") == [1]
    assert given([RIGHT.removeprefix("<think>")], ["4"], opened=True) == [pytest.approx(1.1)]
    assert given([RIGHT.removeprefix("<think>")], ["4"]) == [1.0]


def test_a_reward_sees_tokens_the_group_and_the_other_columns(monkeypatch):
    seen = []
    monkeypatch.setitem(verify.REWARDS, "mine", lambda sample: seen.append(sample) or 0.5)
    prompts = ["a", "a", "b"]
    assert given([RIGHT, WRONG, "x"], ["4", "4", "7"], "mine", prompts,
                 {"numbers": [[1], [1], [2]]}) == [0.5] * 3
    assert [s.problem.question for s in seen] == prompts
    assert [s.problem.numbers for s in seen] == [[1], [1], [2]]
    assert [s.correct for s in seen] == [1.0, 0.0, 0.0] and len(set(s.uniform for s in seen)) == 3
    assert seen[1].tokens == [1] and [text for text, _ in seen[1].group] == [RIGHT, WRONG]
    assert seen[2].group == [("x", [1, 1])]


def test_what_cannot_be_paid_is_an_error(monkeypatch):
    monkeypatch.setitem(verify.REWARDS, "broken", lambda sample: float("nan"))
    with pytest.raises(verify.RewardError, match="broken returned nan"):
        given([RIGHT], ["4"], "broken")
    for form in rewards.FORMS:
        with pytest.raises(ValueError, match="gold"):
            given([RIGHT], [""], form=form)
    for options in dict(name="shrot"), dict(form="box"):
        with pytest.raises(ValueError, match="rewards are correct, .* forms tags, any, bare"):
            given([RIGHT], ["4"], **options)
    with pytest.raises(TypeError, match="answer"):
        rewards.trl_reward()(prompts=["a"], completions=[RIGHT])


def test_train_says_the_reward_that_is_no_number_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(verify.REWARDS, "random", lambda sample: float("nan"))
    assert train.main([*SMALL, "--out", str(tmp_path / "run")]) == 2
    [said] = [line for line in capsys.readouterr().err.splitlines() if "train.py" in line]
    assert "the reward function random returned nan" in said and "=?" in said


def test_verl_s_compute_score():
    """Loaded as verl loads it: by the path of the file, in another folder."""
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("custom_module_1", {str(ROOT / "infra/rewards.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.compute_score(data_source="gsm8k", solution_str={RIGHT!r}, ground_truth="4",
                           extra_info={{"question": "2+2", "num_turns": None}}, more=1))
import sys
print([name for name in ("torch", "trl", "verl", "transformers") if name in sys.modules])
"""
    made = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert made.stdout == "{'score': 1.1, 'acc': 1.0, 'format': 1.0}\n[]\n", made.stderr
    score = rewards.compute_score
    assert score("x", r"\boxed{4}", 4)["score"] == 0.0
    assert score("x", r"\boxed{4}", 4, None, form="any") == {
        "score": 1.0, "acc": 1.0, "format": 0.0}
    assert score("x", WRONG, "4", {}, reward="sign")["score"] == -1


def table_of_flags():
    """The rows of the table in docs/scaling.md: (names here, in TRL, in verl)."""
    page = (ROOT / "docs" / "scaling.md").read_text().partition("## Beyond one machine")[2]
    lines = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", page.partition("\n## ")[0], re.M)
    return [[re.findall("`([^`]+)`", cell) for cell in line] for line in lines[1:]]


def test_the_flags_in_the_table_exist():
    known = {"--" + f.name.replace("_", "-") for f in fields(config.Options)}
    rows = table_of_flags()
    assert len(rows) > 25
    for here, _, _ in rows:
        for flag in (text.split()[0] for text in here if text.startswith("--")):
            assert flag.replace("--no-", "--") in known, flag


def test_the_names_of_trl_in_the_table_exist():
    trl = pytest.importorskip("trl")
    known = {f.name for f in fields(trl.GRPOConfig)} | {"RLOOTrainer", "P*G/M", "accelerate"}
    assert hasattr(trl, "RLOOTrainer")
    for _, theirs, _ in table_of_flags():
        for name in (text.split("=")[0] for text in theirs):
            module, _, function = name.rpartition(".")
            assert name in known or hasattr(importlib.import_module(module), function), name


def toy_tokenizer(transformers):
    """The toy vocabulary as a tokenizer of transformers."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    letters = bytes_to_unicode()
    vocab = {"".join(letters[b] for b in piece): i for piece, i in TOY._mergeable_ranks.items()}
    made = Tokenizer(models.BPE(vocab, [], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN.replace("?s", "?m")), "isolated"),  # dot matches \n
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(sorted(TOY._special_tokens, key=TOY._special_tokens.get))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|pad|>", padding_side="left")


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_a_run_s_policy_by_these_rewards(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    transformers = pytest.importorskip("transformers")
    datasets = pytest.importorskip("datasets")
    # a run, and its policy in the format of transformers
    assert train.main([*SMALL, "--out", str(tmp_path / "run")]) == 0
    assert checkpoint.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "model")]) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = toy_tokenizer(transformers)
    assert tokenizer(RIGHT).input_ids == TOY.encode(RIGHT, allowed_special="all")
    # two steps of TRL; the reward depends on the text, so that there is a gradient
    monkeypatch.setitem(verify.REWARDS, "letters", lambda s: len(set(s.text)) + s.problem.level)
    problems = Arithmetic(1).sample(random.Random(0), 4)
    data = datasets.Dataset.from_list([{"prompt": p.question + "\n", "answer": p.answer, "level": 1}
                                       for p in problems])
    before = {name: p.clone() for name, p in model.named_parameters()}
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=2, per_device_train_batch_size=4,
        num_generations=4, max_completion_length=8, learning_rate=1e-3, bf16=False, use_cpu=True,
        logging_steps=1, save_strategy="no", report_to="none", gradient_checkpointing=False,
        disable_tqdm=True)
    paid = [rewards.trl_reward("letters"), rewards.trl_reward()]
    trainer = trl.GRPOTrainer(model, paid, settings, train_dataset=data,
                              processing_class=tokenizer)
    trainer.train()
    logs = [row for row in trainer.state.log_history if "rewards/reward_letters/mean" in row]
    assert len(logs) == 2 and all(row["rewards/reward_letters/mean"] > 1 for row in logs)
    assert all(0 <= row["rewards/reward_correct/mean"] <= 1.1 for row in logs)
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())
