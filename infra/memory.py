"""The memory plan of a run: what it will hold, counted before it starts, against what is free.

Bytes of a model of P parameters, trained in fp32 and computed in a precision of b bytes:

    weights 4 P, gradients 4 P, Adam's moments 8 P             / processes, with --shard
    reference b P        sampler b P (none where it is the policy itself)
    casts 2 P in bfloat16: autocast keeps the weights' for the backward pass
    gathered 8 vocabulary width, with --shard: embedding and head are whole during an update
    critic 16 P (PPO)    cache 2 layers kv_heads head columns b a row; fewer rows are sampled at a
                         time where all else would not leave so much
    activations of one micro-batch, of one block alone with --gradient-checkpointing
    logits of a part of it (engine/logprob.py), and their gradient

Left out on purpose: what libraries and fragments take (a tenth is added for them).
"""

from dataclasses import replace

import torch

import model as gpt
from config import uses
from engine import attention, slots
from engine.slots import DECODE_CONFIGS, free_memory
from infra import distributed
from infra.run_dir import UserError, parameters


def plan(config: gpt.Config, options) -> dict[str, int]:
    """Bytes by what they are for, on one device."""
    p, b = parameters(config), 2 if options.dtype == "bfloat16" else 4
    parts = distributed.world() if options.shard else 1
    own = uses(options.algo, "ppo") and options.critic == "own"
    # what a token leaves in a block for the backward pass: two norms, q, k, v and their turned
    # copies, k and v for every head, attention, gate and up, their product, two sums; on a CPU also
    # what it looks at
    device = torch.device(options.device or "cpu").type
    looks = config.heads * attention.SHORT if device == "cpu" else 0
    block = b * (4 * config.width + (5 * config.heads + 4 * config.kv_heads) * config.head_dim
                 + 4 * config.hidden + looks) + 4 * 2 * config.width
    kept = 4 * config.width * config.layers + block if options.gradient_checkpointing \
        else block * config.layers
    # on a CPU logits, their log-softmax and its gradient; else logits and a gradient in b bytes
    logits = (12 if device == "cpu" else 4 + b) * min(
        gpt.MAX_LOGITS[device], options.micro_tokens * config.vocab_size)
    rows = min(DECODE_CONFIGS[device].max_rows, max(
        options.prompts * options.group_size, options.eval_problems,
        options.eval_problems // 5 * options.eval_samples))
    columns = min(config.context, options.max_new_tokens + 128)  # the prompt is a guess
    return {
        "weights": 4 * p // parts, "gradients": 4 * p // parts, "moments": 8 * p // parts,
        "reference": b * p, "sampler": b * p if options.shard or options.compile or b == 2 else 0,
        "casts": 2 * p if b == 2 else 0, "critic": 16 * p if own else 0,
        "judge": 4 * p if options.judge else 0,
        "gathered": 8 * config.vocab_size * config.width if options.shard else 0,
        "cache": 2 * config.layers * config.kv_heads * config.head_dim * b * rows * columns,
        "activations": options.micro_tokens * kept, "logits": logits,
    }


def micro_tokens(config: gpt.Config, options) -> int:
    """Tokens of a micro-batch where the user has not said: 1024 on a CPU, whose memory is small;
    on a GPU, whose kernels want many, as many up to 32768 as take a third of what is free."""
    if not options.device.startswith("cuda"):
        return 1024
    free, tokens = free_memory(torch.device(options.device)), 32768
    while tokens > 2048 and plan(config, replace(options, micro_tokens=tokens))["activations"] \
            > free / 3:
        tokens //= 2
    return tokens


def check(config: gpt.Config, options) -> str:
    """The plan in words; what it leaves is the sampler's. Raises UserError where it does not fit:
    the cache alone may be smaller."""
    options.micro_tokens = options.micro_tokens or micro_tokens(config, options)
    bytes_of = plan(config, options)
    free = free_memory(torch.device(options.device))
    need = 1.1 * (sum(bytes_of.values()) - bytes_of["cache"])
    words = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in bytes_of.items() if size)
    said = (f"memory, GB: {words}; {sum(bytes_of.values()) / 1e9:.2f} in all of "
            f"{free / 1e9:.1f} free")
    if need > free:
        raise UserError(f"too little memory ({said}): try --gradient-checkpointing, a smaller "
                        "--micro-tokens, --dtype bfloat16, or --shard on several GPUs")
    slots.MEMORY_BUDGET = free - int(need)
    return said
