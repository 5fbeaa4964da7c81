"""tokenizer.py: exact round trips, one token a digit, tags that only documents can hold."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from infra import cli
from tasks import gsm
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()

TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*TAGS, "<|endoftext|>", "<|pad|>", "47*6=282", " apples", "Amy",
                              "\n", "é", "٣", "\x00", "😀", "wait"]), max_size=12).map("".join))
IDS = st.lists(st.integers(0, tokenizer.n_vocab - 1), max_size=40)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_documents_round_trip_exactly(text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_prompts_round_trip_exactly_without_special_tokens(text):
    ids = tokenizer.encode_prompt(text)
    assert tokenizer.decode(ids) == text + "\n"
    assert not set(ids) & tokenizer.encoding.special_tokens_set
    assert all(i < min(tokenizer.encoding._special_tokens.values()) for i in ids)


@settings(max_examples=500, deadline=None)
@given(IDS)
def test_decode_never_fails(ids):
    assert isinstance(tokenizer.decode(ids), str)


def test_every_id_decodes():
    assert all(isinstance(tokenizer.decode([i]), str) for i in range(tokenizer.n_vocab))


def test_every_byte_is_a_token():
    ids = [tokenizer.encoding.encode_single_token(bytes([b])) for b in range(256)]
    assert ids == list(range(256))


def test_vocabulary_is_a_few_hundred():
    assert 256 < tokenizer.n_vocab < 1000


@pytest.mark.parametrize("text", ["0123456789", "282", "1000000", "-5", "3.14", "a1b2"])
def test_each_character_around_digits_is_a_token(text):
    assert len(tokenizer.encode(text)) == len(text)


@pytest.mark.parametrize("tag", [*TAGS, "<|endoftext|>", "<|pad|>"])
def test_a_tag_is_one_token_in_a_document_and_plain_text_in_a_prompt(tag):
    [special] = tokenizer.encode(tag)
    typed = tokenizer.encode_prompt(tag)
    assert special not in typed
    assert len(typed) > 2 and tokenizer.decode(typed) == tag + "\n"


def test_the_example_of_the_docstring():
    assert len(tokenizer.encode("<think>47*6=282</think>")) == 10


def test_end_and_pad_are_different_special_tokens():
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.eos_id]
    assert tokenizer.encode("<|pad|>") == [tokenizer.pad_id]
    assert tokenizer.eos_id != tokenizer.pad_id


@pytest.mark.parametrize("word", [*gsm.NAMES, *gsm.ITEMS, "check", "wait", "ok", "easy"])
def test_a_word_of_the_tasks_is_one_token_with_or_without_its_space(word):
    assert len(tokenizer.encode(word)) == len(tokenizer.encode(" " + word)) == 1


def test_further_words_of_a_task_are_one_token_each_and_the_toy_vocabulary_stays():
    more = Tokenizer.toy("三 九 hello")
    assert more.n_vocab == tokenizer.n_vocab + 4  # "hello" with and without its space
    assert len(more.encode("三九")) == 2 and len(more.encode("hello hello")) == 2
    assert len(tokenizer.encode("三")) == 3  # bytes
    assert more.decode(more.encode("三九=hello 四")) == "三九=hello 四"


def test_a_run_has_the_vocabulary_of_its_task(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.Arithmetic, "words", "三 九")
    (tmp_path / "config.json").write_text(json.dumps({"task": "arithmetic"}))
    options, _ = cli.parse(["--device", "cpu"])
    _, made = cli.validate(options)
    assert made.n_vocab == Tokenizer.of_run(tmp_path).n_vocab == tokenizer.n_vocab + 2
    assert cli.config_of(options).vocab_size == made.n_vocab


def test_a_prompt_ends_with_the_line():
    assert tokenizer.encode_prompt("1+1=?")[-1] == tokenizer.encode("\n")[0]


def test_long_texts_pass():
    text = "x" * 20_000 + "<think>" * 1000
    assert tokenizer.decode(tokenizer.encode(text)) == text
