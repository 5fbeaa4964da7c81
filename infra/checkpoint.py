"""Weights in Hugging Face's format: Llama 3, SmolLM2, Qwen2.5 and Qwen3, read and written.

Both formats hold the same numbers. Hugging Face has a matrix (out, in) for each projection. Here
the projections of one input share a matrix (in, out), so each Hugging Face tensor is a view of it:

    q_proj (H d, D) = qkv[:, :H d].T          gate_proj (hidden, D) = gate_up[:, :hidden].T

Loading copies into these views, and saving writes them. A folder holds config.json and weights in
safetensors files (tensors.py). Nothing in the folder can run as code. A setting of config.json that
the GPT does not support is refused by name, never ignored.
Left out on purpose: downloads, other architectures, quantized weights, writing several files.
Tokenizers are read in bpe.py; here their files are copied.

    python -m infra.checkpoint --run runs/NAME --out DIR       exports the policy of a run
"""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import model as gpt
from infra import arguments, run_dir
from infra.tensors import (
    DTYPES,
    atomic_write,
    parse_json_object,
    read_safetensors,
    write_safetensors,
)

ARCHITECTURES = {  # -> model_type
    "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
ROPE_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SUPPORTED = {  # settings that change the model -> the only supported value
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0,
    "pretraining_tp": 1, "partial_rotary_factor": 1, "rope_interleaved": False,
    "use_sliding_window": False, "quantization_config": None, "auto_map": None}
COPIED = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
          "generation_config.json")  # files that are copied on saving
MAX_CONTEXT = 2**15  # tokens; the RoPE cache of a loaded model takes 32 MB then


def hf_tensors(model: gpt.GPT) -> dict:
    """{name: tensor} with the names, parts and orientation of Hugging Face. Each tensor is a view
    of the model's memory."""
    c, named = model.config, {"model.embed_tokens.weight": model.embedding.weight}
    qkv = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
    for i, block in enumerate(model.blocks):
        prefix, attention = f"model.layers.{i}.", block.attention
        named[f"{prefix}input_layernorm.weight"] = block.norm1
        for part, weight in zip("qkv", attention.qkv.T.split(qkv), strict=True):
            named[f"{prefix}self_attn.{part}_proj.weight"] = weight
        if c.qkv_bias:
            for part, bias in zip("qkv", attention.bias.split(qkv), strict=True):
                named[f"{prefix}self_attn.{part}_proj.bias"] = bias
        if c.qk_norm:
            named[f"{prefix}self_attn.q_norm.weight"] = attention.q_norm
            named[f"{prefix}self_attn.k_norm.weight"] = attention.k_norm
        named[f"{prefix}self_attn.o_proj.weight"] = attention.out.T
        named[f"{prefix}post_attention_layernorm.weight"] = block.norm2
        for part, weight in zip(("gate", "up"), block.gate_up.T.chunk(2), strict=True):
            named[f"{prefix}mlp.{part}_proj.weight"] = weight
        named[f"{prefix}mlp.down_proj.weight"] = block.down.T
    named["model.norm.weight"] = model.norm
    if not c.tied:
        named["lm_head.weight"] = model.lm_head.weight
    return {name: tensor.detach() for name, tensor in named.items()}


# --- config.json

def hf_config(config: gpt.Config, dtype: torch.dtype = torch.float32) -> dict:
    """The content of config.json for a Config. RoPE settings have the older form, which old and new
    versions of transformers read. Raises ValueError for a model of no known architecture."""
    if config.qkv_bias and config.qk_norm:
        raise ValueError("no architecture has both biases (Qwen2) and norms (Qwen3) of queries and "
                         "keys")
    if dtype not in DTYPES.values():
        raise ValueError(f"weights in {dtype} cannot be written; use float32, float16 or bfloat16")
    name = ("Qwen2ForCausalLM" if config.qkv_bias else "Qwen3ForCausalLM" if config.qk_norm else
            "LlamaForCausalLM")
    if name == "LlamaForCausalLM" and config.width % config.heads:
        raise ValueError(f"Llama needs a width that is a multiple of its heads; {config.width} is "
                         f"no multiple of {config.heads}")
    scaling = dict(zip(ROPE_SCALING, config.rope_scaling, strict=False)) | {"rope_type": "llama3"}
    return {
        "architectures": [name], "model_type": ARCHITECTURES[name],
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers, "hidden_size": config.width,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.hidden, "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
        "rope_theta": config.rope_theta, "rope_scaling": scaling if config.rope_scaling else None,
        "torch_dtype": str(dtype).removeprefix("torch.")}


def positive_number(settings: dict, key: str, default=None):
    """The value of a key. Raises ValueError unless it is a finite number above 0."""
    value = default if settings.get(key) is None else settings[key]
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"{key} is {value!r}, not a positive number")
    return value


def positive_int(settings: dict, key: str, default: int | None = None) -> int:
    """The value of a key. Raises ValueError unless it is a whole number above 0."""
    value = positive_number(settings, key, default)
    if type(value) is not int:
        raise ValueError(f"{key} is {value!r}, not a whole number")
    return value


def parse_rope(settings: dict) -> tuple:
    """(rope_theta, Config's rope_scaling) of a config.json. Older files have rope_theta and
    rope_scaling, newer ones have both in rope_parameters."""
    if settings.get("rope_scaling") and settings.get("rope_parameters"):
        raise ValueError("rope_scaling and rope_parameters are both given")
    given = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise ValueError(f"the rope parameters are {given!r}, no object")
    given = {key: value for key, value in given.items() if value is not None}
    # type and theta
    rope_types = [given.pop(key) for key in ("rope_type", "type") if key in given] or ["default"]
    rope_type = rope_types[0]
    theta = positive_number({"rope_theta": given.pop("rope_theta", settings.get("rope_theta"))},
                            "rope_theta", default=10000.0)  # the default of transformers
    if given.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("partial_rotary_factor is not 1: the GPT rotates whole heads")
    if rope_type not in ("default", "llama3"):
        raise ValueError(f"rope_type is {rope_type!r}; the GPT supports default and llama3")
    # the parameters of llama3
    expected = set()
    if rope_type == "llama3":
        given.setdefault(ROPE_SCALING[3], settings.get("max_position_embeddings"))
        expected = set(ROPE_SCALING)
    if unknown := given.keys() - expected:
        raise ValueError(f"rope_type {rope_type} has no parameter {shorten(unknown)}")
    if missing := expected - given.keys():
        raise ValueError(f"rope_type {rope_type} lacks {shorten(missing)}")
    scaling = tuple(positive_number(given, key) for key in ROPE_SCALING if given)
    if scaling and scaling[1] >= scaling[2]:
        raise ValueError("low_freq_factor is not below high_freq_factor")
    return theta, scaling


def parse_config(settings: dict) -> gpt.Config:
    """The Config of a config.json's content. Raises ValueError that names a setting which the GPT
    does not support. Keys that transformers does not read for these models, and ids of special
    tokens, are ignored."""
    # architecture
    names, model_type = settings.get("architectures"), settings.get("model_type")
    if [names, model_type] not in [[[name], kind] for name, kind in ARCHITECTURES.items()]:
        raise ValueError(f"architectures is {names!r} and model_type {model_type!r}; supported are "
                         f"{', '.join(ARCHITECTURES)}")
    layers = positive_int(settings, "num_hidden_layers")
    # settings with one supported value
    supported = SUPPORTED | {"layer_types": ["full_attention"] * layers}
    if model_type == "llama":  # Qwen has use_sliding_window in its place
        supported["sliding_window"] = None
    for key, value in supported.items():
        if settings.get(key) not in (None, value):
            raise ValueError(f"{key} is {settings[key]!r}, and the GPT supports only {value!r}")
    tied = settings.get("tie_word_embeddings", False)
    if type(tied) is not bool:
        raise ValueError(f"tie_word_embeddings is {tied!r}, neither true nor false")
    # sizes; an older Llama omits two of them, which then follow from the others
    width, heads = (positive_int(settings, k) for k in ("hidden_size", "num_attention_heads"))
    kv_heads = positive_int(settings, "num_key_value_heads",
                            heads if model_type == "llama" else None)
    head_dim = positive_int(settings, "head_dim",
                            None if model_type == "qwen3" else width // heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(f"{heads} heads over {kv_heads} key/value heads of width {head_dim}: the "
                         "first must be a multiple of the second, and the third must be even")
    context = min(positive_int(settings, "max_position_embeddings"), MAX_CONTEXT)
    theta, scaling = parse_rope(settings)
    return gpt.Config(
        positive_int(settings, "vocab_size"), context, layers, width, heads, kv_heads,
        positive_int(settings, "intermediate_size"), theta,
        positive_number(settings, "rms_norm_eps"), tied,
        0 if head_dim == width // heads else head_dim,
        qkv_bias=model_type == "qwen2", qk_norm=model_type == "qwen3", rope_scaling=scaling)


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}")
    return parse_json_object(path.read_bytes(), path)


def read_config(folder: Path) -> tuple[dict, gpt.Config]:
    """The content of a folder's config.json, and its Config. Raises ValueError as parse_config."""
    settings = read_json(folder / "config.json")
    try:
        return settings, parse_config(settings)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


# --- weights

def read_weights(folder: Path) -> dict:
    """{name: tensor} of model.safetensors. Without this file: of the files that the index names.
    Without an index: of all model*.safetensors. Raises ValueError."""
    # find the files
    paths, index = [folder / "model.safetensors"], folder / "model.safetensors.index.json"
    if not paths[0].exists() and index.exists():
        files = read_json(index).get("weight_map")
        files = list(files.values()) if isinstance(files, dict) else [None]
        if any(not isinstance(f, str) or Path(f).name != f for f in files):
            raise ValueError(f"{index}: weight_map does not give the names of files in this folder")
        paths = [folder / f for f in sorted(set(files))]
    elif not paths[0].exists():
        paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} holds no model*.safetensors")
    # read them
    tensors = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{folder} lacks {path.name}, which its index names")
        more = read_safetensors(path)
        if twice := tensors.keys() & more.keys():
            raise ValueError(f"{path}: {shorten(twice)} also in another file of the folder")
        tensors |= more
    return tensors


def shorten(names) -> str:
    """The first three names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_weights(found: dict, wanted: dict, tied: bool) -> None:
    """Raises ValueError unless the tensors found have the names and shapes of those wanted. Removes
    tensors from `found` that follow from others."""
    for name in [name for name in found if name.endswith(".rotary_emb.inv_freq")]:
        del found[name]  # in old Llamas; follows from rope_theta
    if missing := wanted.keys() - found.keys():
        raise ValueError(f"no {shorten(missing)}")
    if tied and "lm_head.weight" in found:
        head, embedding = found.pop("lm_head.weight"), found["model.embed_tokens.weight"]
        if head.dtype != embedding.dtype or not torch.equal(head, embedding):
            raise ValueError("lm_head.weight is not model.embed_tokens.weight, but config.json has "
                             "tie_word_embeddings")
    if extra := found.keys() - wanted.keys():
        raise ValueError(f"the GPT has no place for {shorten(extra)}")
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {list(found[name].shape)}, but config.json "
                             f"makes it {list(tensor.shape)}")


@torch.no_grad()
def open_pretrained(folder) -> tuple[gpt.GPT, dict]:
    """The GPT of a folder, on the device "meta" (without memory), and {name: tensor} of its files.
    Raises ValueError for an unsupported model and for weights that do not fit it."""
    folder = Path(folder)
    config, found = read_config(folder)[1], read_weights(folder)
    with torch.device("meta"):
        model = gpt.GPT(config)
    try:
        check_weights(found, hf_tensors(model), config.tied)
    except ValueError as error:
        raise ValueError(f"the weights in {folder}: {error}") from None
    return model, found


def load_pretrained(folder, device="cpu", dtype: torch.dtype | None = None) -> gpt.GPT:
    """The GPT of a Hugging Face folder, in `dtype` (default: that of the files). Each tensor is
    copied from the file to its place, so no second copy of the model is made. Raises ValueError for
    an unsupported model and for weights that do not fit it."""
    model, found = open_pretrained(folder)
    config = model.config
    if dtype is None and len({tensor.dtype for tensor in found.values()}) > 1:
        raise ValueError(f"the weights in {folder} have several precisions; choose one by dtype")
    model.cast(dtype or found["model.norm.weight"].dtype)
    # allocate
    if config.tied:
        model.lm_head.weight = None  # to_empty would make two tensors of one
    model.to_empty(device=device)
    if config.tied:
        model.lm_head.weight = model.embedding.weight
    model.rope_cache = gpt.rope_cache(config).to(device)
    # copy
    for name, tensor in hf_tensors(model).items():
        tensor.copy_(found[name])
    return model


def save_pretrained(model: gpt.GPT, folder, like=None) -> None:
    """Writes config.json and model.safetensors for transformers. like: the folder that the model
    was loaded from; its tokenizer files are copied and its other settings are kept. Raises
    ValueError for a model without an architecture, for one that is not like `like`, and for a
    folder that holds something else."""
    folder, c = Path(folder), model.config
    dtype = model.embedding.weight.dtype
    # settings
    ours, theirs = hf_config(c, dtype), {}
    if like is not None:
        theirs, config = read_config(Path(like))
        if replace(config, context=c.context) != c:
            raise ValueError(f"{like} holds another kind of model than the one to save")
        ours["max_position_embeddings"] = max(theirs["max_position_embeddings"], c.context)
        theirs = {k: v for k, v in theirs.items() if k not in ("rope_parameters", "dtype")}
    # null, since a missing id of a special token means 1 or 2 to transformers
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    text = json.dumps(special | theirs | ours, indent=2).encode()
    # check the folder, before anything is written
    if (folder / "config.json").exists() and "model_type" not in read_json(folder / "config.json"):
        raise ValueError(f"{folder} holds a config.json that is no model's; name another folder")
    if (folder / "model.safetensors.index.json").exists():
        raise ValueError(f"{folder} holds a model in several files; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # write
    tensors = {name: tensor.to(dtype) for name, tensor in hf_tensors(model).items()}
    atomic_write(folder / "model.safetensors", partial(write_safetensors, tensors))
    atomic_write(folder / "config.json", lambda file: file.write(text))
    for path in (Path(like) / name for name in COPIED if like is not None):
        if path.is_file():
            atomic_write(folder / path.name, lambda file, path=path: file.write(path.read_bytes()))


def main(argv=None) -> int:
    parser = arguments.Parser(
        "infra.checkpoint",
        description="Exports the policy of a run in Hugging Face's format, without a tokenizer. A "
                    "run of --init has already done so, with the tokenizer, in runs/NAME/model.")
    parser.add_argument("--run", required=True, type=arguments.path,
                        help="folder of the run, such as runs/NAME")
    parser.add_argument("--out", required=True, type=arguments.path, help="folder to write")

    def work(args):
        save_pretrained(gpt.from_state(run_dir.load_checkpoint(args.run)), args.out)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
