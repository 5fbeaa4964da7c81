"""The tokenizers of pretrained models: a tokenizer.json becomes a `tiktoken.Encoding`.

The ids are equal to those of Hugging Face's tokenizers for every text, or the file is refused.
The two libraries differ in one rule. Hugging Face merges the pairs of a list, in the order of the
list. tiktoken merges any two neighbours that spell a token, in the order of its rank. `merge_order`
finds ranks with which both give the same tokens. Byte-level BPE: GPT-2; minbpe shows how merges are
learned. Left out on purpose: all tokenizers that are not byte-level BPE, and chat templates, which
are programs.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import tiktoken

# The supported pre-tokenizers, as patterns that split a text before any merge.
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")  # each digit alone
# SmolLM2 splits off each digit, then applies GPT-2's pattern to the texts between the digits. So
# white space before a digit ends a text, and keeps the last space that a word would take.
# (The digits U+11DE0 to U+11DE9 and U+16FF4 to U+16FF6, of Unicode 17, are not split off here.)
SMOLLM = CONTRACTIONS + r"|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = BYTES | {"use_regex": True}  # splits by GPT-2's pattern first
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
PATTERNS = [([WORDS], GPT2), ([DIGITS, WORDS], SMOLLM)] + [  # (pre-tokenizer, its pattern)
    ([SPLIT | {"pattern": {"Regex": pattern}}, BYTES], pattern) for pattern in (LLAMA3, QWEN2)]

# Hugging Face composes characters (NFC) with the tables of Unicode 9. Python's tables are newer.
# These are the combining marks that came later: Unicode 9 neither moves nor composes them.
AFTER_UNICODE9 = re.compile(
    "([\u07fd\u0897-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1aff\u1df6-\u1dfa\ua82c"
    "\U00010d00-\U00010fff\U00011070\U0001133b\U00011380-\U000113ff\U0001145e"
    "\U00011800-\U00011aff\U00011d00-\U00011fff\U00016100-\U0001613f\U00016d40-\U00016d7f"
    "\U00016ff0\U00016ff1\U0001e030-\U0001e7ff]+)")

NO_MERGE = float("inf")


@dataclass(frozen=True)
class Pretrained:
    """The tokenizer of a pretrained model, made by `from_json`. All ids are those of the model."""

    encoding: tiktoken.Encoding = field(repr=False)  # its ids are ranks
    ids: list[int] = field(repr=False)               # rank -> the model's id
    texts: dict[int, bytes] = field(repr=False)      # id -> bytes
    missing: frozenset[int] = field(repr=False)      # bytes without a token
    n_vocab: int              # largest id + 1; the model may have more rows, as padding
    specials: dict[str, int]  # added token -> id
    bos: int | None           # the token before every text, if the file names one
    nfc: bool                 # whether characters are composed (NFC) first
    raw_tags: re.Pattern | None = field(repr=False)         # added tokens, found before NFC
    normalized_tags: re.Pattern | None = field(repr=False)  # added tokens, found after NFC

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """The ids of a text, without bos. With `specials`, an added token in the text becomes its
        id, as in Hugging Face's encode(add_special_tokens=False). Without, it stays plain text.
        Raises ValueError for a character that needs a missing byte, for half of a surrogate pair,
        and for a hundred thousand white spaces in a row."""
        pieces = split_tags([text], self.raw_tags, self.specials) if specials else [text]
        if self.nfc:
            pieces = [compose(p) if isinstance(p, str) else p for p in pieces]
        if specials:
            pieces = split_tags(pieces, self.normalized_tags, self.specials)
        return [i for p in pieces for i in (self._encode_plain(p) if isinstance(p, str) else [p])]

    def _encode_plain(self, text: str) -> list[int]:
        missing = self.missing.intersection(text.encode())
        if missing:  # tiktoken would panic, and Hugging Face would drop the character
            char = next(c for c in text if missing.intersection(c.encode()))
            byte = min(missing.intersection(char.encode()))
            raise ValueError(f"the character {char!r} (U+{ord(char):04X}) needs the byte "
                             f"0x{byte:02X}, which has no token in this vocabulary; remove it")
        try:
            return [self.ids[rank] for rank in self.encoding.encode_ordinary(text)]
        except BaseException as error:  # a panic of Rust is no Exception
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"a text of {len(text)} characters has more white space in a row than "
                             "tiktoken can encode; shorten it") from None

    def decode_bytes(self, ids) -> bytes:
        """The bytes of ids, added tokens included. Unknown ids are skipped."""
        return b"".join(self.texts.get(int(i), b"") for i in ids)

    def decode(self, ids) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


# --- encoding

def compose(text: str) -> str:
    """The text in normal form C (NFC), by the tables of Unicode 9."""
    parts = AFTER_UNICODE9.split(text)
    return "".join(p if i % 2 else unicodedata.normalize("NFC", p) for i, p in enumerate(parts))


def split_tags(pieces: list, tags: re.Pattern | None, ids: dict[str, int]) -> list:
    """Splits the texts in `pieces` at the tags, and replaces each tag by its id."""
    if tags is None:
        return pieces
    parts = [tags.split(p) if isinstance(p, str) else ["", p] for p in pieces]
    return [ids.get(p, p) if i % 2 else p for ps in parts for i, p in enumerate(ps) if p != ""]


def tag_pattern(tokens: list[str]) -> re.Pattern | None:
    """A pattern that finds any of the tokens; of several at one position, the longest."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if tokens else None


# --- merges

def unicode_to_byte() -> dict[str, int]:
    """GPT-2's alphabet of 256 printable characters, each with its byte. A printable byte is its own
    character. The others follow from U+0100 on, so a space is U+0120."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def merge_alone(token: str, priority: dict) -> tuple[float, int]:
    """Merges the characters of a token as if it were a whole text. Returns the priority of the last
    merge, and the number of parts that are left: 1 if the merges make the token."""
    parts, last = list(token), NO_MERGE
    while len(parts) > 1:
        found = [priority.get(pair, NO_MERGE) for pair in zip(parts, parts[1:], strict=False)]
        best = min(found)
        if best == NO_MERGE:
            break
        i, last = found.index(best), best
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return last, len(parts)


def merge_order(tokens, merges: list[tuple[str, str]], ignore_merges: bool) -> list[str]:
    """The tokens in an order of rank with which tiktoken merges exactly as the list of merges does.

    Why it is exact: a boundary between two parts that still exists was never crossed. So the text
    between two such boundaries was merged as if it stood alone. Suppose the list makes a token from
    its letters alone, with (a, b) as the last merge. Then no other pair can ever spell the token,
    and the two rules agree if the token has the priority of (a, b) as its rank. A token that the
    list cannot make never occurs and is left out.

    With `ignore_merges`, a piece of text that is a token is taken at once, even if the list cannot
    make it. Such tokens come last. Raises ValueError if the list merges the letters of such a token
    to two parts, because tiktoken would merge these two anywhere."""
    priority = {pair: i for i, pair in enumerate(merges)}
    made, others = [], []
    for token in tokens:
        last, parts = merge_alone(token, priority)
        if parts == 1:
            made.append((last if len(token) > 1 else -1, token))
        elif ignore_merges:
            require(parts > 2, f"no merge makes the token {token!r}, but tiktoken would make it")
            others.append(token)
    return [token for _, token in sorted(made)] + others


# --- tokenizer.json

def require(condition, otherwise: str) -> None:
    """Raises ValueError unless the condition holds."""
    if not condition:
        raise ValueError(otherwise)


def from_json(path) -> Pretrained:
    """The tokenizer of a tokenizer.json, or of the folder that holds it. Supported are GPT-2,
    Llama 3, Qwen2, Qwen3, SmolLM and others with the same parts. Raises ValueError that names the
    file and the unsupported part. Ignored are `truncation` and `padding`, which are settings of a
    call, and `unk_token`, since a byte without a token is an error here."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is no tokenizer: it is nested too deeply") from None
    except ValueError as error:  # also of JSON and UTF-8
        raise ValueError(f"{path} is no supported tokenizer: {error}") from None


def parse(data) -> Pretrained:
    """`from_json` of the parsed file."""
    # parts with few supported values
    check_keys("the file", data, "version", "truncation", "padding", "added_tokens", "normalizer",
               "pre_tokenizer", "post_processor", "decoder", "model")
    require(type_of(data.get("decoder")) == "ByteLevel", f"decoder {type_of(data.get('decoder'))}")
    normalizer = type_of(data.get("normalizer"))
    require(normalizer in (None, "NFC"), f"normalizer {normalizer}")
    nfc = normalizer == "NFC"
    # vocabulary: the bytes of each token
    vocab, merges, ignore_merges = parse_model(data.get("model"))
    added = parse_added_tokens(data.get("added_tokens") or [], vocab, nfc)
    byte_of, texts, spelled = unicode_to_byte(), {}, {}
    for token, i in vocab.items():
        if all(char in byte_of for char in token):
            texts[i] = spelled[token] = bytes(byte_of[char] for char in token)
        require(token in spelled or token in added, f"the token {token!r} is not byte-level")
    require(len(set(vocab.values())) == len(vocab), "two tokens have the same id")
    for token, entry in added.items():
        require(spelled.get(token, token.encode()) == token.encode(),
                f"the added token {token!r} is also the bytes {spelled.get(token)}")
        texts[entry["id"]] = token.encode()
    # ranks
    missing = {b for char, b in byte_of.items() if char not in vocab}
    order = merge_order([t for t in spelled if not missing.intersection(spelled[t])], merges,
                        ignore_merges)
    encoding = tiktoken.Encoding(
        "pretrained", pat_str=parse_pattern(data.get("pre_tokenizer")), special_tokens={},
        mergeable_ranks={spelled[token]: rank for rank, token in enumerate(order)})
    return Pretrained(
        encoding, [vocab[token] for token in order], texts, frozenset(missing), max(texts) + 1,
        {token: entry["id"] for token, entry in added.items()},
        parse_bos(data.get("post_processor")), nfc,
        tag_pattern([token for token, entry in added.items() if not entry["normalized"]]),
        tag_pattern([token for token, entry in added.items() if entry["normalized"]]))


def type_of(part):
    """The "type" of a part of the file; None for a part that is null."""
    require(part is None or isinstance(part, dict), f"{part!r} where an object should be")
    return part.get("type", "without a type") if part else None


def check_keys(name: str, part, *keys) -> None:
    """Raises ValueError unless the part is an object with no other keys than these."""
    require(isinstance(part, dict), f"{name} is not an object")
    require(set(part) <= set(keys),
            f"{name} has the unknown key {sorted(set(part) - set(keys))[:1]}")


def parse_model(model) -> tuple[dict[str, int], list[tuple[str, str]], bool]:
    """(vocabulary, merges, ignore_merges)."""
    require(type_of(model) == "BPE", f"model {type_of(model)}")
    unsupported = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    check_keys("the model", model, "type", "vocab", "merges", "ignore_merges", "unk_token",
               "fuse_unk", *unsupported)
    for key in unsupported:
        require(not model.get(key), f"{key} {model.get(key)!r}")
    vocab, merges = model.get("vocab"), model.get("merges")
    require(isinstance(vocab, dict) and vocab and isinstance(merges, list), "no vocab or no merges")
    require(all(token and type(i) is int and i >= 0 for token, i in vocab.items()),
            "a token is empty, or its id is no whole number from 0 on")
    pairs = []
    for merge in merges:  # "a b", or since 2024 ["a", "b"]
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else merge
        require(isinstance(pair, tuple | list) and len(pair) == 2 and
                all(isinstance(part, str) and part in vocab for part in pair) and
                "".join(pair) in vocab, f"the merge {merge!r} does not join two tokens to a token")
        pairs.append(tuple(pair))
    return vocab, pairs, bool(model.get("ignore_merges"))


def parse_added_tokens(entries, vocab: dict[str, int], nfc: bool) -> dict[str, dict]:
    """{text: {"id", "normalized"}} of the added tokens. Hugging Face ignores the ids in the file
    for tokens outside the vocabulary, and numbers these itself from the size of the vocabulary on.
    Raises ValueError where the two differ."""
    require(isinstance(entries, list), "added_tokens is not a list")
    added, next_id = {}, len(vocab)
    for entry in entries:
        check_keys("an added token", entry, "id", "content", "single_word", "lstrip", "rstrip",
                   "normalized", "special")
        token, i = entry.get("content"), entry.get("id")
        require(isinstance(token, str) and token and token not in added and type(i) is int,
                f"the added token {token!r} with the id {i!r} is empty, there twice or no token")
        for flag in ("single_word", "lstrip", "rstrip"):
            require(not entry.get(flag), f"the added token {token!r} has {flag}")
        expected = vocab.get(token, next_id)
        require(i == expected, f"the added token {token!r} has the id {i}, not {expected}")
        added[token] = {"id": i, "normalized": bool(entry.get("normalized"))}
        next_id = max(next_id, i + 1)
        require(not (nfc and entry.get("normalized")) or compose(token) == token,
                f"the added token {token!r} is not in NFC itself")
    taken = {i for token, i in vocab.items() if token not in added}
    require(not taken.intersection(entry["id"] for entry in added.values()),
            "an added token has the id of another token")
    return added


def parse_pattern(part) -> str:
    """The pattern of the pre-tokenizer."""
    steps = part.get("pretokenizers") if type_of(part) == "Sequence" else [part]
    require(isinstance(steps, list), "a Sequence without pretokenizers")
    names = ", ".join(str(type_of(step)) for step in steps)  # raises unless all are objects
    known = []
    for step in filter(None, steps):
        default = {"use_regex": True} if type_of(step) == "ByteLevel" else {}
        known.append({k: v for k, v in (default | step).items() if k != "trim_offsets"})
    found = [pattern for parts, pattern in PATTERNS if parts == known]
    require(found, f"pre_tokenizer {names} with settings of no supported tokenizer")
    return found[0]


def parse_bos(part) -> int | None:
    """The id that the post-processor puts before each text; None if it changes nothing."""
    steps = part.get("processors") if type_of(part) == "Sequence" else [part]
    require(isinstance(steps, list), "a Sequence without processors")
    bos = None
    for step in steps:
        if type_of(step) in (None, "ByteLevel"):  # changes offsets only
            continue
        require(type_of(step) == "TemplateProcessing", f"post_processor {type_of(step)}")
        try:
            before = [item["SpecialToken"]["id"] for item in step["single"][:-1]]
            after = step["single"][-1]["Sequence"]["id"]
            [ids] = [step["special_tokens"][name]["ids"] for name in before] or [[None]]
            [bos] = ids
        except (KeyError, IndexError, TypeError, ValueError):
            after = None
        require(after == "A", "a post_processor that does not just put one token before the text")
    return bos
