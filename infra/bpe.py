"""The tokenizers of real models, read from their tokenizer.json into a `tiktoken.Encoding`.

Their merges were learned (minbpe shows how). The ids are those of Hugging Face's tokenizers to the
last one, or the file is refused. The two libraries differ in one rule: theirs merges the pairs of a
list, in the list's order; tiktoken any two neighbours that spell a token, in the order of rank.
`merge_order` shows how that comes to the same. Left out on purpose: everything that is not
byte-level BPE, and chat templates, which are programs.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import tiktoken

# The pre-tokenizers that are understood. A text is cut by them before any merge.
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")  # each digit alone
# SmolLM2 cuts out each digit first and then uses GPT-2's pattern on what lies between. So a run of
# white space before a digit ends a text, and keeps the last space that it would leave to a word.
# (The digits of two scripts of Unicode 17, U+11DE0 to 9 and U+16FF4 to 6, are digits there only.)
SMOLLM = CONTRACTIONS + r"|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = BYTES | {"use_regex": True}  # the same cuts by GPT-2's pattern first
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
PATTERNS = [([WORDS], GPT2), ([DIGITS, WORDS], SMOLLM)] + [
    ([SPLIT | {"pattern": {"Regex": pattern}}, BYTES], pattern) for pattern in (LLAMA3, QWEN2)]

# Hugging Face composes characters by the tables of Unicode 9, in which the marks of later scripts
# do not exist and so neither move nor join. Python's tables are newer and know them.
AFTER_UNICODE9 = re.compile(
    "([\u07fd\u0897-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1aff\u1df6-\u1dfa\ua82c"
    "\U00010d00-\U00010fff\U00011070\U0001133b\U00011380-\U000113ff\U0001145e"
    "\U00011800-\U00011aff\U00011d00-\U00011fff\U00016100-\U0001613f\U00016d40-\U00016d7f"
    "\U00016ff0\U00016ff1\U0001e030-\U0001e7ff]+)")

NO_MERGE = float("inf")


@dataclass(frozen=True)
class Pretrained:
    """A model's own tokenizer, by `from_json`. `encode` and `decode` speak the model's ids."""
    encoding: tiktoken.Encoding = field(repr=False)  # speaks ranks: ids[rank] is the id, since the
    ids: list[int] = field(repr=False)               # merges need not be in the order of the ids
    texts: dict[int, bytes] = field(repr=False)      # id -> the bytes it stands for
    missing: frozenset[int] = field(repr=False)      # bytes that no token stands for
    n_vocab: int             # largest id + 1; the model's own may be larger, as its rows are padded
    specials: dict[str, int]  # the ids of the added tokens, be they special or not
    bos: int | None          # what the file's template begins every text with
    nfc: bool                # whether characters are composed first
    early: re.Pattern | None = field(repr=False)     # added tokens that are looked for before that
    late: re.Pattern | None = field(repr=False)      # and after it

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of a text. With `specials`, an added token in it becomes its id, as in Hugging Face's
        encode(add_special_tokens=False). Without, a typed tag stays plain text, even one that
        Hugging Face would see there (Qwen3's <think> is added but not special). Never adds bos.
        Raises ValueError for a character with a byte that the vocabulary lacks, for half of a
        surrogate pair, and for white space by the hundred thousand."""
        pieces = cut([text], self.early, self.specials) if specials else [text]
        if self.nfc:
            pieces = [compose(p) if isinstance(p, str) else p for p in pieces]
        if specials:
            pieces = cut(pieces, self.late, self.specials)
        return [i for p in pieces for i in (self._plain(p) if isinstance(p, str) else [p])]

    def _plain(self, text: str) -> list[int]:
        lacking = self.missing.intersection(text.encode())
        if lacking:  # tiktoken would panic, and Hugging Face leaves the character out
            char = next(c for c in text if lacking.intersection(c.encode()))
            byte = min(lacking.intersection(char.encode()))
            raise ValueError(f"the character {char!r} (U+{ord(char):04X}) needs the byte "
                             f"0x{byte:02X}, for which this vocabulary has no token; take it out")
        try:
            return [self.ids[rank] for rank in self.encoding.encode_ordinary(text)]
        except BaseException as error:  # Rust's panic is not an Exception
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"a text of {len(text)} characters has a run of white space that is "
                             "too long for tiktoken; shorten it") from None

    def decode_bytes(self, ids) -> bytes:
        """What the ids stand for, added tokens included; an id that is nobody's adds nothing."""
        return b"".join(self.texts.get(int(i), b"") for i in ids)

    def decode(self, ids) -> str:
        """Text of ids, whatever was sampled: bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def compose(text: str) -> str:
    """The text with letter and accent as one character (NFC), by the tables of Unicode 9."""
    parts = AFTER_UNICODE9.split(text)
    return "".join(p if i % 2 else unicodedata.normalize("NFC", p) for i, p in enumerate(parts))


def cut(pieces: list, tags: re.Pattern | None, ids: dict[str, int]) -> list:
    """The texts among `pieces` cut at the tags, each of which is replaced by its id."""
    if tags is None:
        return pieces
    parts = [tags.split(p) if isinstance(p, str) else ["", p] for p in pieces]
    return [ids.get(p, p) if i % 2 else p for ps in parts for i, p in enumerate(ps) if p != ""]


def tags_of(tokens: list[str]) -> re.Pattern | None:
    """Finds the first of the tokens in a text, and where several begin there, the longest."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if tokens else None


def byte_level() -> dict[str, int]:
    """The byte of each character of GPT-2's printable alphabet: the byte's own character if it has
    a printable one, else the next from U+0100 on. (A space is written U+0120.)"""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def last_merge(token: str, priority: dict) -> tuple[float, int]:
    """Merges a token that stands alone: the priority of the last merge, and how many parts are
    left when there is none to do (1 if the merges make the token)."""
    parts, last = list(token), NO_MERGE
    while len(parts) > 1:
        found = [priority.get(pair, NO_MERGE) for pair in zip(parts, parts[1:], strict=False)]
        best = min(found)
        if best == NO_MERGE:
            break
        i, last = found.index(best), best
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return last, len(parts)


def merge_order(tokens, merges: list[tuple[str, str]], whole: bool) -> list[str]:
    """Tokens in an order of rank in which tiktoken, which merges any two neighbours that spell a
    token, merges just as the list does, which allows only its own pairs.

    A boundary that is still there was there all along, so what lies between two of them has been
    merged as if it stood alone. If the list makes a token when it stands alone, by (a, b) at last,
    then its letters are never split in any other two; so the rules agree once the token ranks as
    (a, b) does. A token that the list does not make is never produced and left out. With `whole`
    ("ignore_merges") a piece of text that is a token is taken as it is: such a token comes last,
    and ValueError if its letters come down to two parts, which tiktoken would merge anywhere."""
    priority = {pair: i for i, pair in enumerate(merges)}
    made, others = [], []
    for token in tokens:
        last, parts = last_merge(token, priority)
        if parts == 1:
            made.append((last if len(token) > 1 else -1, token))
        elif whole:
            need(parts > 2, f"no merge makes the token {token!r}, but tiktoken would")
            others.append(token)
    return [token for _, token in sorted(made)] + others


def need(truth, why: str) -> None:
    if not truth:
        raise ValueError(why)


def from_json(path) -> Pretrained:
    """The tokenizer of a Hugging Face tokenizer.json, or of the folder that holds one, if it is of
    the families of GPT-2, Llama 3, Qwen2 and Qwen3, or SmolLM. Raises ValueError, naming the file
    and what in it is not understood. Only `truncation` and `padding` are passed over (they are
    settings of a call), and unk_token (a byte that has no token is an error here)."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return read(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is no tokenizer: it is nested too deeply") from None
    except ValueError as error:  # JSON's and UTF-8's own are ValueErrors too
        raise ValueError(f"{path} is no tokenizer that is understood here: {error}") from None


def read(data) -> Pretrained:
    """`from_json` of the parsed file."""
    expect("the file", data, "version", "truncation", "padding", "added_tokens", "normalizer",
           "pre_tokenizer", "post_processor", "decoder", "model")
    need(kind(data.get("decoder")) == "ByteLevel", f"decoder {kind(data.get('decoder'))}")
    normalizer = kind(data.get("normalizer"))
    need(normalizer in (None, "NFC"), f"normalizer {normalizer}")
    nfc = normalizer == "NFC"
    vocab, merges, whole = read_model(data.get("model"))
    added = read_added(data.get("added_tokens") or [], vocab, nfc)
    bytes_of, texts, spelled = byte_level(), {}, {}
    for token, i in vocab.items():
        if all(char in bytes_of for char in token):
            texts[i] = spelled[token] = bytes(bytes_of[char] for char in token)
        need(token in spelled or token in added, f"the token {token!r} is not byte-level")
    need(len(set(vocab.values())) == len(vocab), "two tokens have the same id")
    for token, entry in added.items():
        need(spelled.get(token, token.encode()) == token.encode(),
             f"the added token {token!r} is also the bytes {spelled.get(token)}")
        texts[entry["id"]] = token.encode()
    missing = {b for char, b in bytes_of.items() if char not in vocab}
    order = merge_order([t for t in spelled if not missing.intersection(spelled[t])], merges, whole)
    encoding = tiktoken.Encoding(
        "pretrained", pat_str=read_pattern(data.get("pre_tokenizer")), special_tokens={},
        mergeable_ranks={spelled[token]: rank for rank, token in enumerate(order)})
    return Pretrained(
        encoding, [vocab[token] for token in order], texts, frozenset(missing), max(texts) + 1,
        {token: entry["id"] for token, entry in added.items()},
        read_bos(data.get("post_processor")), nfc,
        tags_of([token for token, entry in added.items() if not entry["normalized"]]),
        tags_of([token for token, entry in added.items() if entry["normalized"]]))


def kind(part):
    """The type of a part of the file, None if it has none."""
    need(part is None or isinstance(part, dict), f"{part!r} where an object should be")
    return part.get("type", "without a type") if part else None


def expect(name: str, part, *keys) -> None:
    need(isinstance(part, dict), f"{name} is not an object")
    need(set(part) <= set(keys), f"{name} has the unknown key {sorted(set(part) - set(keys))[:1]}")


def read_model(model) -> tuple[dict[str, int], list[tuple[str, str]], bool]:
    """The vocabulary, the merges, and whether a whole piece that is a token stays one."""
    need(kind(model) == "BPE", f"model {kind(model)}")
    refused = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    expect("the model", model, "type", "vocab", "merges", "ignore_merges", "unk_token", "fuse_unk",
           *refused)
    for key in refused:
        need(not model.get(key), f"{key} {model.get(key)!r}")
    vocab, merges = model.get("vocab"), model.get("merges")
    need(isinstance(vocab, dict) and vocab and isinstance(merges, list), "no vocab or no merges")
    need(all(token and type(i) is int and i >= 0 for token, i in vocab.items()),
         "a token is empty or its id is not a number from 0 on")
    pairs = []
    for merge in merges:  # "a b", or since 2024 ["a", "b"]
        pair = tuple(merge.split(" ")) if isinstance(merge, str) else merge
        need(isinstance(pair, tuple | list) and len(pair) == 2 and
             all(isinstance(part, str) and part in vocab for part in pair) and
             "".join(pair) in vocab, f"the merge {merge!r} is not of tokens into a token")
        pairs.append(tuple(pair))
    return vocab, pairs, bool(model.get("ignore_merges"))


def read_added(entries, vocab: dict[str, int], nfc: bool) -> dict[str, dict]:
    """The entries of the added tokens by their text. Hugging Face numbers those that are not in the
    vocabulary itself, from its size on, whatever the file says; if the two differ: ValueError."""
    need(isinstance(entries, list), "added_tokens is not a list")
    added, following = {}, len(vocab)
    for entry in entries:
        expect("an added token", entry, "id", "content", "single_word", "lstrip", "rstrip",
               "normalized", "special")
        token, i = entry.get("content"), entry.get("id")
        need(isinstance(token, str) and token and token not in added and type(i) is int,
             f"the added token {token!r} with the id {i!r} is empty, there twice or no token")
        for flag in ("single_word", "lstrip", "rstrip"):
            need(not entry.get(flag), f"the added token {token!r} has {flag}")
        expected = vocab.get(token, following)
        need(i == expected, f"the added token {token!r} has the id {i}, not its due {expected}")
        added[token] = {"id": i, "normalized": bool(entry.get("normalized"))}
        following = max(following, i + 1)
        need(not (nfc and entry.get("normalized")) or compose(token) == token,
             f"the added token {token!r} is not normalized itself")
    taken = {i for token, i in vocab.items() if token not in added}
    need(not taken.intersection(entry["id"] for entry in added.values()),
         "an added token has the id of another token")
    return added


def read_pattern(part) -> str:
    """The pattern that cuts a text as the pre-tokenizer does."""
    steps = part.get("pretokenizers") if kind(part) == "Sequence" else [part]
    need(isinstance(steps, list), "a Sequence without pretokenizers")
    names = ", ".join(str(kind(step)) for step in steps)  # and each is an object
    tidy = [{k: v for k, v in (({"use_regex": True} if kind(step) == "ByteLevel" else {}) | step)
             .items() if k != "trim_offsets"} for step in steps if step]
    found = [pattern for known, pattern in PATTERNS if known == tidy]
    need(found, f"pre_tokenizer {names} with settings of no known family")
    return found[0]


def read_bos(part) -> int | None:
    """The id that the post-processor puts before a text, if it does that or nothing."""
    steps = part.get("processors") if kind(part) == "Sequence" else [part]
    need(isinstance(steps, list), "a Sequence without processors")
    bos = None
    for step in steps:
        if kind(step) in (None, "ByteLevel"):  # no more than offsets
            continue
        need(kind(step) == "TemplateProcessing", f"post_processor {kind(step)}")
        try:
            before = [item["SpecialToken"]["id"] for item in step["single"][:-1]]
            after = step["single"][-1]["Sequence"]["id"]
            [ids] = [step["special_tokens"][name]["ids"] for name in before] or [[None]]
            [bos] = ids
        except (KeyError, IndexError, TypeError, ValueError):
            after = None
        need(after == "A", "a post_processor that does other than put one token before the text")
    return bos
