"""Weights in Hugging Face's format: Llama 3, SmolLM2, Qwen2.5 and Qwen3, read and written.

Both formats hold the same numbers. Hugging Face has a matrix (out, in) for each projection. Here
the projections of one input share a matrix (in, out), so each Hugging Face tensor is a view of it:

    q_proj (H d, D) = qkv[:, :H d].T          gate_proj (hidden, D) = gate_up[:, :hidden].T

Loading copies into these views, and saving writes them. A folder holds config.json (hf_config.py)
and weights in safetensors files (tensors.py). Nothing in the folder can run as code.
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
from infra.files import UserError, atomic_write, read_json
from infra.hf_config import hf_config, read_config, shorten
from infra.tensors import count_bytes, not_finite, read_safetensors, write_safetensors

COPIED = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
          "generation_config.json")  # files that are copied on saving


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
    placed = hf_tensors(model)
    for name, tensor in placed.items():
        tensor.copy_(found[name])
    if name := not_finite(placed):
        raise UserError(f"the weights in {folder} cannot be used: {name} holds NaN or infinity")
    return model


def save_pretrained(model: gpt.GPT, folder, like=None) -> None:
    """Writes config.json and model.safetensors for transformers. like: the folder that the model
    was loaded from; its tokenizer files are copied and its other settings are kept. Raises
    ValueError for a model without an architecture, for one that is not like `like`, and for a
    folder that holds something else."""
    folder, c = Path(folder), model.config
    dtype = model.embedding.weight.dtype
    if name := not_finite(hf_tensors(model)):
        raise UserError(f"{folder} is not written: {name} holds NaN or infinity")
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
    atomic_write(folder / "model.safetensors", partial(write_safetensors, tensors),
                 count_bytes(tensors))
    copied = {"config.json": text} | {
        name: (Path(like) / name).read_bytes() for name in COPIED
        if like is not None and (Path(like) / name).is_file()}
    for name, content in copied.items():
        atomic_write(folder / name, lambda file, content=content: file.write(content),
                     len(content))


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
