"""The same weights in Hugging Face's form: Llama 3, SmolLM2, Qwen2.5 and Qwen3, in and out.

Both sides hold the same numbers. Theirs has a matrix (out, in) for each projection, ours a matrix
(in, out) for all projections of one input, so each tensor of theirs is a view of ours:

    q_proj (H d, D) = qkv[:, :H d].T          gate_proj (hidden, D) = gate_up[:, :hidden].T

To load is to copy into these views, to save is to write them. A folder holds config.json and
weights in safetensors files (tensors.py). Nothing in it can run as code, and what config.json asks
for that the GPT does not do is refused by name, never ignored.
Left out on purpose: downloads, tokenizers (their files are copied), other architectures, quantized
weights, several files when writing.

    python checkpoint.py --run runs/NAME --out DIR       exports a run's policy
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import model as gpt
from infra.tensors import (
    DTYPES,
    json_object,
    load,
    read_safetensors,
    replace_file,
    write_safetensors,
)

MODELS = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NEUTRAL = {  # what would change the model, and the only value at which it does not
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0,
    "pretraining_tp": 1, "partial_rotary_factor": 1, "rope_interleaved": False,
    "use_sliding_window": False, "quantization_config": None, "auto_map": None}
BESIDE = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
          "generation_config.json")
CONTEXT = 2**15           # of a loaded model at most: its table of angles is 32 MB then


def hf_tensors(model: gpt.GPT) -> dict:
    """{name: tensor} as Hugging Face names, cuts and orients them, each a view of the model's own
    memory."""
    c, named = model.config, {"model.embed_tokens.weight": model.embedding.weight}
    qkv = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
    for i, block in enumerate(model.blocks):
        at, a = f"model.layers.{i}.", block.attention
        named[f"{at}input_layernorm.weight"] = block.norm1
        for part, weight in zip("qkv", a.qkv.T.split(qkv), strict=True):
            named[f"{at}self_attn.{part}_proj.weight"] = weight
        if c.qkv_bias:
            for part, bias in zip("qkv", a.bias.split(qkv), strict=True):
                named[f"{at}self_attn.{part}_proj.bias"] = bias
        if c.qk_norm:
            named[f"{at}self_attn.q_norm.weight"] = a.q_norm
            named[f"{at}self_attn.k_norm.weight"] = a.k_norm
        named[f"{at}self_attn.o_proj.weight"] = a.out.T
        named[f"{at}post_attention_layernorm.weight"] = block.norm2
        for part, weight in zip(("gate", "up"), block.gate_up.T.chunk(2), strict=True):
            named[f"{at}mlp.{part}_proj.weight"] = weight
        named[f"{at}mlp.down_proj.weight"] = block.down.T
    named["model.norm.weight"] = model.norm
    if not c.tied:
        named["lm_head.weight"] = model.lm_head.weight
    return {name: tensor.detach() for name, tensor in named.items()}


# --- config.json

def hf_config(config: gpt.Config, dtype: torch.dtype = torch.float32) -> dict:
    """The config.json of a Config. RoPE is written in the older form, which old and new readers
    take. Raises ValueError where no architecture of theirs is this model."""
    if config.qkv_bias and config.qk_norm:
        raise ValueError("no architecture has both biases (Qwen2's) and norms (Qwen3's) of queries "
                         "and keys")
    if dtype not in DTYPES.values():
        raise ValueError(f"weights in {dtype} are not written, only in float32, float16, bfloat16")
    name = ("Qwen2ForCausalLM" if config.qkv_bias else "Qwen3ForCausalLM" if config.qk_norm else
            "LlamaForCausalLM")
    if name == "LlamaForCausalLM" and config.width % config.heads:
        raise ValueError(f"Llama wants a width that its heads divide: {config.heads} do not divide "
                         f"{config.width}")
    scaling = dict(zip(SCALING, config.rope_scaling, strict=False)) | {"rope_type": "llama3"}
    return {
        "architectures": [name], "model_type": MODELS[name], "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context, "num_hidden_layers": config.layers,
        "hidden_size": config.width, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.hidden, "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
        "rope_theta": config.rope_theta, "rope_scaling": scaling if config.rope_scaling else None,
        "torch_dtype": str(dtype).removeprefix("torch.")}


def number(of: dict, key: str, default=None):
    value = default if of.get(key) is None else of[key]
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"{key} is {value!r}, not a positive number")
    return value


def count(of: dict, key: str, default: int | None = None) -> int:
    value = number(of, key, default)
    if type(value) is not int:
        raise ValueError(f"{key} is {value!r}, not a whole number")
    return value


def rope(theirs: dict) -> tuple:
    """theta, and the Config's rope_scaling, of a config.json: older ones have rope_theta and
    rope_scaling, newer ones all in rope_parameters."""
    if theirs.get("rope_scaling") and theirs.get("rope_parameters"):
        raise ValueError("rope_scaling and rope_parameters are both given")
    given = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise ValueError(f"the rope parameters are {given!r}, no object")
    given = {key: value for key, value in given.items() if value is not None}
    kinds = [given.pop(key) for key in ("rope_type", "type") if key in given] or ["default"]
    theta = number({"rope_theta": given.pop("rope_theta", theirs.get("rope_theta"))},
                   "rope_theta", default=10000.0)  # their default
    if given.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("partial_rotary_factor is not 1: the GPT rotates whole heads")
    if kinds[0] not in ("default", "llama3"):
        raise ValueError(f"rope_type is {kinds[0]!r}; the GPT does default and llama3")
    if kinds[0] == "llama3":
        given.setdefault(SCALING[3], theirs.get("max_position_embeddings"))
    if other := set(given) ^ set(SCALING if kinds[0] == "llama3" else ()):
        raise ValueError(f"rope_type {kinds[0]} has no, or lacks, {some(other)}")
    scaling = tuple(number(given, key) for key in SCALING if given)
    if scaling and scaling[1] >= scaling[2]:
        raise ValueError("low_freq_factor is not below high_freq_factor")
    return theta, scaling


def config_of(theirs: dict) -> gpt.Config:
    """The Config of a config.json's content. Raises ValueError with the key that stands for what
    the GPT does not do. Keys that transformers' classes of these models do not read either, and ids
    of special tokens, are no matter."""
    names, kind = theirs.get("architectures"), theirs.get("model_type")
    if [names, kind] not in [[[name], kind] for name, kind in MODELS.items()]:
        raise ValueError(f"architectures is {names!r} and model_type {kind!r}; the GPT can be "
                         f"{', '.join(MODELS)}")
    layers = count(theirs, "num_hidden_layers")
    only = NEUTRAL | {"layer_types": ["full_attention"] * layers}
    only |= {"sliding_window": None} if kind == "llama" else {}  # Qwen has a switch for it
    for key, value in only.items():
        if theirs.get(key) not in (None, value):
            raise ValueError(f"{key} is {theirs[key]!r}, and the GPT does only {value!r}")
    tied = theirs.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise ValueError(f"tie_word_embeddings is {tied!r}, neither true nor false")
    width, heads = (count(theirs, key) for key in ("hidden_size", "num_attention_heads"))
    # without these keys older Llamas mean what follows from the others; Qwens always write them
    kv_heads = count(theirs, "num_key_value_heads", heads if kind == "llama" else None)
    head = count(theirs, "head_dim", None if kind == "qwen3" else width // heads)
    if heads % kv_heads or head % 2:
        raise ValueError(f"{heads} heads over {kv_heads} key/value heads of width {head}: the "
                         "first must be a multiple of the second, the third even")
    context = min(count(theirs, "max_position_embeddings"), CONTEXT)
    theta, scaling = rope(theirs)
    return gpt.Config(
        count(theirs, "vocab_size"), context, layers, width, heads, kv_heads,
        count(theirs, "intermediate_size"), theta, number(theirs, "rms_norm_eps"), tied,
        0 if head == width // heads else head,
        qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3", rope_scaling=scaling)


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}")
    return json_object(path.read_bytes(), path)


def read_config(folder: Path) -> tuple[dict, gpt.Config]:
    theirs = read_json(folder / "config.json")
    try:
        return theirs, config_of(theirs)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


# --- folders

def weights(folder: Path) -> dict:
    """{name: tensor} of a folder: of model.safetensors, else of the files that the index names,
    else of all model*.safetensors."""
    paths, index = [folder / "model.safetensors"], folder / "model.safetensors.index.json"
    if not paths[0].exists() and index.exists():
        files = read_json(index).get("weight_map")
        files = list(files.values()) if isinstance(files, dict) else [None]
        if any(not isinstance(f, str) or Path(f).name != f for f in files):
            raise ValueError(f"{index}: weight_map does not give the names of files of this folder")
        paths = [folder / f for f in sorted(set(files))]
    elif not paths[0].exists():
        paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} holds no model*.safetensors")
    found = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{folder} lacks {path.name}, which its index names")
        more = read_safetensors(path)
        if twice := found.keys() & more.keys():
            raise ValueError(f"{path}: {some(twice)} also in another file of the folder")
        found |= more
    return found


def some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check(found: dict, want: dict, tied: bool) -> None:
    """Whether the tensors found are those wanted; drops what need not be there."""
    for name in [name for name in found if name.endswith(".rotary_emb.inv_freq")]:
        del found[name]  # old Llamas wrote down what follows from rope_theta
    if lacking := want.keys() - found.keys():
        raise ValueError(f"no {some(lacking)}")
    if tied and "lm_head.weight" in found:
        head, embedding = found.pop("lm_head.weight"), found["model.embed_tokens.weight"]
        if head.dtype != embedding.dtype or not torch.equal(head, embedding):
            raise ValueError("lm_head.weight is not model.embed_tokens.weight, and config.json has "
                             "tie_word_embeddings")
    if extra := found.keys() - want.keys():
        raise ValueError(f"{some(extra)}, for which the GPT has no place")
    for name, tensor in want.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {list(found[name].shape)}, not "
                             f"{list(tensor.shape)} as config.json makes it")


@torch.no_grad()
def look(folder) -> tuple[gpt.GPT, dict]:
    """The GPT that a folder describes, without memory for its weights yet, and these as they lie in
    the files. Raises ValueError for what the GPT does not do and for weights that do not fit."""
    folder = Path(folder)
    config, found = read_config(folder)[1], weights(folder)
    with torch.device("meta"):  # shapes alone
        model = gpt.GPT(config)
    try:
        check(found, hf_tensors(model), config.tied)
    except ValueError as error:
        raise ValueError(f"the weights in {folder}: {error}") from None
    return model, found


def load_pretrained(folder, device="cpu", dtype: torch.dtype | None = None) -> gpt.GPT:
    """The GPT of a folder of Hugging Face's, in `dtype` (default: the file's). Each tensor goes
    from the file into its place; there is no second copy of the model. Raises ValueError for what
    the GPT does not do and for weights that do not fit."""
    model, found = look(folder)
    config = model.config
    if dtype is None and len({tensor.dtype for tensor in found.values()}) > 1:
        raise ValueError(f"the weights in {folder}: tensors of several precisions; say by dtype in "
                         "which to load them")
    model.cast(dtype or found["model.norm.weight"].dtype)
    if config.tied:
        model.lm_head.weight = None  # to_empty would make two of it
    model.to_empty(device=device)
    if config.tied:
        model.lm_head.weight = model.embedding.weight
    model.turns = gpt.rope_table(config).to(device)
    for name, tensor in hf_tensors(model).items():
        tensor.copy_(found[name])
    return model


def save_pretrained(model: gpt.GPT, folder, like=None) -> None:
    """Writes config.json and model.safetensors, each whole or not at all, as transformers reads
    them. like: the folder that the model came from; its tokenizer's files are copied and what else
    its config.json says is kept. Raises ValueError where the model is of no architecture, not one
    like `like`, or the folder is in use for something else."""
    folder, c = Path(folder), model.config
    dtype = model.embedding.weight.dtype
    ours, theirs = hf_config(c, dtype), {}
    if like is not None:
        theirs, config = read_config(Path(like))
        if replace(config, context=c.context) != c:
            raise ValueError(f"{like} holds another kind of model than the one to save")
        ours["max_position_embeddings"] = max(theirs["max_position_embeddings"], c.context)
        theirs = {k: v for k, v in theirs.items() if k not in ("rope_parameters", "dtype")}
    if (folder / "config.json").exists() and "model_type" not in read_json(folder / "config.json"):
        raise ValueError(f"the config.json in {folder} is no model's; name another folder")
    if (folder / "model.safetensors.index.json").exists():
        raise ValueError(f"{folder} holds a model in several files; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # left out, ids of special tokens would mean 1 and 2
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    text = json.dumps(special | theirs | ours, indent=2).encode()
    tensors = {name: tensor.to(dtype) for name, tensor in hf_tensors(model).items()}
    replace_file(folder / "model.safetensors", partial(write_safetensors, tensors))
    replace_file(folder / "config.json", lambda file: file.write(text))
    for path in (Path(like) / name for name in BESIDE if like is not None):
        if path.is_file():
            replace_file(folder / path.name, lambda file, path=path: file.write(path.read_bytes()))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description="Exports a run's policy in Hugging Face's form, without its tokenizer. A "
                    "run of --init has both in runs/NAME/model.")
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--out", required=True, help="the folder to write")
    args = parser.parse_args(argv)
    try:
        path = Path(args.run) / "checkpoint.pt"
        if not path.exists():
            raise ValueError(f"{args.run} has no checkpoint.pt; train.py makes one")
        try:
            policy = gpt.from_state(load(path))
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no run's checkpoint ({type(error).__name__})") from None
        save_pretrained(policy, args.out)
    except (ValueError, OSError) as error:
        print(f"checkpoint.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
