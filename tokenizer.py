"""Tokenizers: a `tiktoken.Encoding` of a few hundred tokens, made in code, nothing to download; and
those of real models (bpe.py).

Byte-pair encoders first cut the text into pieces by a pattern, then merge bytes inside each piece;
a piece that is itself in the vocabulary becomes one token at once. So a vocabulary for a toy world
needs no training: it is the 256 bytes (no input can fail), the words that the tasks use, and the
special tokens. A digit is always a token of its own: a model can only add numbers whose digits it
sees. An unknown word costs one token a byte.

    "<think>47*6=282</think>"  ->  <think> 4 7 * 6 = 2 8 2 </think>      (10 tokens)

Left out on purpose: learning merges (minbpe shows it). Source of the idea: 1508.07909, GPT-2.
"""

import functools
import json
import re
from pathlib import Path

import numpy as np
import tiktoken
import torch

from infra import bpe
from tasks import gsm

PATTERN = r" ?[A-Za-z]+|(?s:.)"  # a word with its leading space, or any one character
SPECIALS = ["<think>", "</think>", "<answer>", "</answer>", "<|endoftext|>", "<|pad|>"]
WORKING_WORDS = "easy check ok wait no yes make"


def build() -> tiktoken.Encoding:
    """The encoding; `encode_ordinary` for a user's text (a typed tag stays plain text),
    `encode(..., allowed_special="all")` for documents with tags. `decode` inverts both exactly for
    every string that UTF-8 can hold. `n_vocab` counts bytes, words and specials."""
    templates = " ".join(question for question, *_ in gsm.TEMPLATES + gsm.HELD_OUT)
    words = set(re.findall(r" ?[A-Za-z]+", templates))
    words |= {space + word for word in WORKING_WORDS.split() + gsm.NAMES + gsm.ITEMS
              for space in ("", " ")}
    ranks = {bytes([b]): b for b in range(256)}
    for word in sorted(w.encode() for w in words if len(w.encode()) > 1):
        ranks[word] = len(ranks)
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    return tiktoken.Encoding("tiny-reasoning", pat_str=PATTERN, mergeable_ranks=ranks,
                             special_tokens=specials)


# What this process speaks: the toy's tokens, until `use` says otherwise.
encoding = build()
spoken: bpe.Pretrained | None = None     # a real model's tokenizer
TEMPLATE = "{question}\n"                # of a prompt
EOT = encoding.encode_single_token("<|endoftext|>")
PAD = encoding.encode_single_token("<|pad|>")
STOPS = [EOT]                            # tokens that end a response, EOT among them
STRINGS: list[str] = []                  # and texts that do


def use(folder, template: str, stops: list[int], strings: list[str]) -> None:
    """From now on the process speaks the tokens of the model in a folder, and prompts are made by
    the template; None as the folder means the toy's own. Raises ValueError as bpe.from_json does,
    and for stops that are no tokens of it."""
    global spoken, TEMPLATE, EOT, PAD, STOPS, STRINGS
    known = bpe.from_json(folder) if folder is not None else None
    if not stops or not all(0 <= i < (known or encoding).n_vocab for i in stops):
        raise ValueError(f"{folder}: the end of text {stops} is no token of its tokenizer")
    spoken, TEMPLATE, STOPS, STRINGS = known, template, list(stops), list(strings)
    EOT, PAD = (stops[0],) * 2 if known else map(encoding.encode_single_token, SPECIALS[-2:])
    stop_strings.cache_clear()
    newline_tokens.cache_clear()


def use_toy() -> None:
    use(None, "{question}\n", [encoding.encode_single_token("<|endoftext|>")], [])


def use_of(run) -> None:
    """Speaks as a run does (run_dir.save_tokenizer)."""
    if (Path(run) / "prompt.json").exists():
        use(run, **json.loads((Path(run) / "prompt.json").read_text()))
    else:
        use_toy()


def encode(text: str) -> list[int]:
    """Ids of a document, its tags and end of text as special tokens."""
    return spoken.encode(text, True) if spoken else encoding.encode(text, allowed_special="all")


def encode_ordinary(text: str) -> list[int]:
    """Ids of a user's text: a typed tag stays plain text."""
    return spoken.encode(text) if spoken else encoding.encode_ordinary(text)


def encode_prompt(question: str) -> list[int]:
    """Ids of a prompt: the question as plain text in the template (of the toy: and a line end),
    after which the policy writes; a pretrained model's begins with what its texts begin with."""
    before, _, after = TEMPLATE.partition("{question}")
    first = [spoken.bos] if spoken and spoken.bos is not None else []
    if any(tag in question for tag in (spoken.specials if spoken else SPECIALS)):
        return first + encode(before) + encode_ordinary(question) + encode(after)
    return first + encode(before + question + after)


def decode(ids) -> str:
    """Text of ids; bytes that are not UTF-8 (a sampled policy can write any) become U+FFFD."""
    return (spoken or encoding).decode(ids)


def decode_bytes(ids) -> bytes:
    return (spoken or encoding).decode_bytes(ids)


def decode_response(ids: list[int]) -> str:
    """Text of a response, without the token that ended it."""
    return decode(ids[:-1] if ids and ids[-1] in STOPS else ids)


def has_stop_string(text: str) -> bool:
    """Whether a response has ended with a text, and so without a token of its own."""
    return any(string in text for string in STRINGS)


@functools.cache
def newline_tokens() -> list[int]:
    """The tokens that hold a line's end."""
    return [i for i in range((spoken or encoding).n_vocab) if b"\n" in decode_bytes([i])]


@functools.cache
def stop_strings(vocab_size: int, device, *more: str) -> torch.Tensor | None:
    """The `stop_table` of STRINGS and `more` for a model of so many tokens; None where there are
    none."""
    if not STRINGS and not more:
        return None
    size = (spoken or encoding).n_vocab
    pieces = [decode_bytes([i]) if i < size else b"" for i in range(vocab_size)]
    return stop_table(pieces, [*STRINGS, *more]).to(device)


def stop_table(pieces: list[bytes], strings: list[str]) -> torch.Tensor:
    """For sample.generate: to which state each of V tokens, with these bytes, moves a reader that
    looks for the first of several strings, (V, S). State i has read the i-th of all beginnings of
    the strings, 0 nothing of them, the last a whole one (Aho and Corasick's automaton)."""
    wanted = [string.encode() for string in strings]
    begun = sorted({string[:i] for string in wanted for i in range(len(string))}, key=len)
    done = len(begun)
    step = np.full((done + 1, 256), done)
    for i, text in enumerate(begun):
        for byte in range(256):
            read = text + bytes([byte])
            if not any(read.endswith(string) for string in wanted):
                step[i, byte] = max(begun.index(read[k:]) for k in range(len(read) + 1)
                                    if read[k:] in begun)
    table = np.tile(np.arange(done + 1), (len(pieces), 1))
    for k in range(max(map(len, pieces))):  # the k-th byte of all tokens that have one
        longer = [i for i, piece in enumerate(pieces) if len(piece) > k]
        table[longer] = step[table[longer], [[pieces[i][k]] for i in longer]]
    return torch.from_numpy(table)
