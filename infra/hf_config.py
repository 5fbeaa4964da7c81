"""config.json of a Hugging Face model: its content becomes a Config of the GPT, and back.

A setting that the GPT does not support is refused by name, never ignored. A number that no model
has is refused too. Left out on purpose: architectures other than Llama, Qwen2 and Qwen3, and
quantized weights.
"""

from pathlib import Path

import torch

import model as gpt
from infra.files import read_json
from infra.tensors import DTYPES

ARCHITECTURES = {  # -> model_type
    "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
ROPE_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
SUPPORTED = {  # settings that change the model -> the only supported value
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0,
    "pretraining_tp": 1, "partial_rotary_factor": 1, "rope_interleaved": False,
    "use_sliding_window": False, "quantization_config": None, "auto_map": None}
MAX_CONTEXT = 2**15  # tokens; the RoPE cache of a loaded model takes 32 MB then
MAX_LAYERS = 1000  # a larger number is a slip, and its model would take minutes to describe
MAX_NUMBER = 1e12  # theta of Llama 3 is 500,000


def hf_config(config: gpt.Config, dtype: torch.dtype = torch.float32) -> dict:
    """The content of config.json for a Config. RoPE settings have the older form, which old and new
    versions of transformers read. Raises ValueError if no architecture in ARCHITECTURES fits."""
    if config.image:
        raise ValueError("no architecture here reads images")
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


def positive_number(settings: dict, key: str, default=None, below: float = MAX_NUMBER):
    """The value of a key. Raises ValueError unless it is a number above 0 and less than `below`."""
    value = default if settings.get(key) is None else settings[key]
    if type(value) not in (int, float) or not 0 < value < below:
        raise ValueError(f"{key} is {value!r}, not a positive number below {below:g}")
    return value


def positive_int(settings: dict, key: str, default: int | None = None, most: int = 2**20) -> int:
    """The value of a key. Raises ValueError unless it is a whole number from 1 to `most`."""
    value = positive_number(settings, key, default)
    if type(value) is not int or value > most:
        raise ValueError(f"{key} is {value!r}, not a whole number of at most {most}")
    return value


def parse_rope(settings: dict) -> tuple:
    """(rope_theta, Config's rope_scaling) of a config.json. Older files have rope_theta and
    rope_scaling, newer ones have both in rope_parameters."""
    if settings.get("rope_scaling") and settings.get("rope_parameters"):
        raise ValueError("rope_scaling and rope_parameters are both given")
    parts = [settings.get(key) for key in ("rope_scaling", "rope_parameters")]
    if any(part is not None and not isinstance(part, dict) for part in parts):
        raise ValueError(f"the rope parameters are {parts[0] or parts[1]!r}, no object")
    given = parts[0] or parts[1] or {}
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
    """The Config of a config.json's content. Raises ValueError, which names a setting that the GPT
    does not support. Ignored are ids of special tokens, and keys that transformers does not read
    for these models."""
    # architecture
    names, model_type = settings.get("architectures"), settings.get("model_type")
    if [names, model_type] not in [[[name], kind] for name, kind in ARCHITECTURES.items()]:
        raise ValueError(f"architectures is {names!r} and model_type {model_type!r}; supported are "
                         f"{', '.join(ARCHITECTURES)}")
    layers = positive_int(settings, "num_hidden_layers", most=MAX_LAYERS)
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
    context = min(positive_int(settings, "max_position_embeddings", most=10**12), MAX_CONTEXT)
    theta, scaling = parse_rope(settings)
    config = gpt.Config(
        positive_int(settings, "vocab_size"), context, layers, width, heads, kv_heads,
        positive_int(settings, "intermediate_size"), theta,
        positive_number(settings, "rms_norm_eps", below=1), tied,
        0 if head_dim == width // heads else head_dim,
        qkv_bias=model_type == "qwen2", qk_norm=model_type == "qwen3", rope_scaling=scaling)
    with torch.device("cpu"):  # whatever the caller's
        angles = gpt.inv_freq(config) * context
    if not angles.isfinite().all():
        raise ValueError("the rope parameters give angles that are not finite")
    return config


def read_config(folder: Path) -> tuple[dict, gpt.Config]:
    """The content of a folder's config.json, and its Config. Raises ValueError as parse_config."""
    settings = read_json(folder / "config.json")
    try:
        return settings, parse_config(settings)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None


def shorten(names) -> str:
    """The first three names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
