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

import re

import numpy as np
import tiktoken
import torch

import gsm

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


encoding = build()
EOT = encoding.encode_single_token("<|endoftext|>")
PAD = encoding.encode_single_token("<|pad|>")


def encode(text: str) -> list[int]:
    """Ids of a document, its tags and end of text as special tokens."""
    return encoding.encode(text, allowed_special="all")


def encode_prompt(question: str) -> list[int]:
    """Ids of a prompt: the question as plain text and a line end, after which the policy writes."""
    return encoding.encode_ordinary(question + "\n")


def decode(ids) -> str:
    """Text of ids; bytes that are not UTF-8 (a sampled policy can write any) become U+FFFD."""
    return encoding.decode(ids)


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
