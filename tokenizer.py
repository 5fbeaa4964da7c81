"""Text to token ids and back: a small vocabulary made in code, or that of a pretrained model.

A byte-pair encoder first cuts the text into pieces by a pattern, and then merges bytes inside each
piece. A piece that is itself in the vocabulary becomes one token at once. So the toy vocabulary
needs no training. It holds the 256 bytes (every input can be encoded), the words of the tasks, and
the special tokens. Each digit is a token of its own, because a model can only add numbers whose
digits it sees. A word outside the vocabulary costs one token per byte.

    "<think>47*6=282</think>"  ->  <think> 4 7 * 6 = 2 8 2 </think>      (10 tokens)

Papers: byte-pair encoding 1508.07909, byte-level GPT-2. Left out on purpose: learning the merges
(minbpe shows it).
"""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tiktoken
import torch

from engine import vision
from infra import bpe, files
from tasks import TASKS, gsm

PATTERN = r" ?[A-Za-z]+|(?s:.)"  # a word with its leading space, or any one character
SPECIALS = ["<think>", "</think>", "<answer>", "</answer>", "<|endoftext|>", "<|pad|>"]
MAX_STOP_STRING = 64  # characters; the automaton of a stop string takes its length squared
WORKING_WORDS = "easy check ok wait no yes make"


@functools.cache
def toy_encoding(more: str = "") -> tiktoken.Encoding:
    """The toy vocabulary: ids 0 to 255 are the bytes; the words and the specials follow. `more` has
    further words of a task, with a space between them."""
    templates = " ".join(question for question, *_ in gsm.TEMPLATES + gsm.HELD_OUT)
    words = set(re.findall(r" ?[A-Za-z]+", templates))
    words |= {space + word for word in WORKING_WORDS.split() + gsm.NAMES + gsm.ITEMS + more.split()
              for space in ("", " ") if word.isascii() or not space}
    ranks = {bytes([b]): b for b in range(256)}
    for word in sorted(w.encode() for w in words if len(w.encode()) > 1):
        ranks[word] = len(ranks)
    specials = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    return tiktoken.Encoding("tiny-reasoning", pat_str=PATTERN, mergeable_ranks=ranks,
                             special_tokens=specials)



@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Token ids of texts, prompts of questions, and the ends of responses, for one model.

    Two tokenizers can be used side by side. `dataclasses.replace` makes one with other stops."""

    encoding: tiktoken.Encoding | bpe.Pretrained = field(repr=False)
    template: str              # of a prompt; contains {question}
    stop_ids: list[int]        # tokens that end a response; the first one is the end of text
    stop_strings: list[str]    # strings that end a response
    _stop_tables: dict = field(default_factory=dict, init=False, repr=False)  # a cache

    # --- constructors

    @classmethod
    def toy(cls, more: str = "") -> "Tokenizer":
        """The vocabulary above, with `more` words, such as a task's `words`. A prompt is the
        question and a line end."""
        toy = toy_encoding(more)
        return cls(toy, "{question}\n", [toy.encode_single_token("<|endoftext|>")], [])

    @classmethod
    def from_folder(cls, folder, template: str, stop_ids: list[int],
                    stop_strings: list[str]) -> "Tokenizer":
        """The tokenizer of a pretrained model's folder. Raises ValueError as bpe.from_json does,
        and for stop_ids outside the vocabulary."""
        encoding = bpe.from_json(folder)
        if not stop_ids or not all(type(i) is int and 0 <= i < encoding.n_vocab for i in stop_ids):
            raise ValueError(f"{folder}: its tokenizer has no token for the end of text {stop_ids}")
        return cls(encoding, template, list(stop_ids), list(stop_strings))

    @classmethod
    def of_run(cls, run) -> "Tokenizer":
        """The tokenizer that infra.run_dir.save_tokenizer saved in a run's folder, else the toy of
        the run's task. Raises ValueError for a run of a pretrained model without the tokenizer that
        it had."""
        path, config = Path(run) / "prompt.json", Path(run) / "config.json"
        if not path.exists():
            settings = files.read_json(config) if config.exists() else {}
            if settings.get("init"):
                raise ValueError(f"{run} is a run of a pretrained model, but holds no prompt.json")
            return cls.toy(getattr(TASKS.get(settings.get("task")), "words", ""))
        saved = files.read_json(path, template=str, stops=list, strings=list)
        if "{question}" not in saved["template"] or not all(
                isinstance(string, str) and 0 < len(string) <= MAX_STOP_STRING
                for string in saved["strings"]):
            raise ValueError(f"{path} is damaged: no {{question}} in the template, or a stop "
                             f"string that is no text of 1 to {MAX_STOP_STRING} characters")
        if "digest" in saved and saved["digest"] != files.digest(Path(run) / "tokenizer.json"):
            raise ValueError(f"{run}/tokenizer.json is not the one that the run had")
        return cls.from_folder(run, saved["template"], saved["stops"], saved["strings"])

    # --- the vocabulary

    @property
    def n_vocab(self) -> int:
        """Number of ids. A pretrained model's embedding may have more rows."""
        return self.encoding.n_vocab

    @functools.cached_property
    def specials(self) -> dict[str, int]:
        """The ids of the special tokens by their text."""
        if isinstance(self.encoding, bpe.Pretrained):
            return self.encoding.specials
        return {name: self.encoding.encode_single_token(name) for name in SPECIALS}

    @property
    def eos_id(self) -> int:
        """The end-of-text token, with which a document ends."""
        return self.stop_ids[0]

    @property
    def pad_id(self) -> int:
        """The token that fills rows up. Padding is masked, so eos_id will do."""
        return self.specials.get("<|pad|>", self.eos_id)

    @functools.cached_property
    def newline_tokens(self) -> list[int]:
        """The tokens that contain a line end."""
        return [i for i in range(self.n_vocab) if b"\n" in self.decode_bytes([i])]

    # --- text to ids

    def encode(self, text: str) -> list[int]:
        """Ids of a document: a tag in the text becomes its special token."""
        if isinstance(self.encoding, bpe.Pretrained):
            return self.encoding.encode(text, specials=True)
        return self.encoding.encode(text, allowed_special="all")

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a user's text: a typed tag stays plain text."""
        if isinstance(self.encoding, bpe.Pretrained):
            return self.encoding.encode(text)
        return self.encoding.encode_ordinary(text)

    def encode_prompt(self, question: str) -> list[int]:
        """Ids of a prompt: the question, as plain text, in the template. The model's
        beginning-of-text token, if it has one, comes first."""
        before, _, after = self.template.partition("{question}")
        bos_id = getattr(self.encoding, "bos", None)
        bos = [] if bos_id is None else [bos_id]
        if any(tag in question for tag in self.specials):
            return bos + self.encode(before) + self.encode_ordinary(question) + self.encode(after)
        return bos + self.encode(before + question + after)

    def encode_problem(self, problem) -> list[int]:
        """Ids of a problem: those of its image (engine/vision.py), if any, and its prompt."""
        patches = vision.patch_codes(problem.image) if problem.image else []
        return [self.n_vocab + code for code in patches] + self.encode_prompt(problem.question)

    # --- ids to text

    def decode(self, ids) -> str:
        """Text of ids. Bytes that are not UTF-8, which a policy can sample, become U+FFFD."""
        return self.encoding.decode(ids)

    def decode_bytes(self, ids) -> bytes:
        """UTF-8 bytes of ids; those of a single token may be a part of a character."""
        return self.encoding.decode_bytes(ids)

    def decode_response(self, ids: list[int]) -> str:
        """Text of a response, without its stop token."""
        return self.decode(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)

    # --- ends of responses

    def has_stop_string(self, text: str) -> bool:
        """Whether a stop string has ended this response."""
        return any(string in text for string in self.stop_strings)

    def stop_table(self, vocab_size: int, device, *more: str) -> torch.Tensor | None:
        """The `stop_table` (vocab_size, S) of the stop strings and of `more`, for a model with so
        many ids. None if there is no string."""
        strings = (*self.stop_strings, *more)
        key = vocab_size, str(device), strings
        if strings and key not in self._stop_tables:
            token_bytes = [self.decode_bytes([i]) if i < self.n_vocab else b""
                           for i in range(vocab_size)]
            self._stop_tables[key] = stop_table(token_bytes, strings).to(device)
        return self._stop_tables.get(key)


def stop_table(token_bytes: list[bytes], strings) -> torch.Tensor:
    """The automaton that finds the first of several strings in sampled tokens (Aho-Corasick), as
    int64 (V, S): entry [token, state] is the next state. token_bytes: the bytes of each token.

    State i means that the text ends with prefix i of a string. State 0 is the empty prefix, and the
    last state S - 1, which is never left, means that a whole string was found."""
    targets = [string.encode() for string in strings]
    prefixes = sorted({target[:i] for target in targets for i in range(len(target))}, key=len)
    found = len(prefixes)

    # the next state after one byte: the longest prefix that the text now ends with
    step = np.full((found + 1, 256), found)
    for state, prefix in enumerate(prefixes):
        for byte in range(256):
            text = prefix + bytes([byte])
            if not any(text.endswith(target) for target in targets):
                step[state, byte] = max(prefixes.index(text[k:]) for k in range(len(text) + 1)
                                        if text[k:] in prefixes)

    # the next state after the bytes of each token, for all tokens at once
    table = np.tile(np.arange(found + 1), (len(token_bytes), 1))
    for k in range(max(map(len, token_bytes))):
        longer = [i for i, piece in enumerate(token_bytes) if len(piece) > k]
        table[longer] = step[table[longer], [[token_bytes[i][k]] for i in longer]]
    return torch.from_numpy(table)
