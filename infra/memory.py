"""The memory of a run, estimated before it starts and compared with the free memory.

Bytes for a model of P parameters, trained in float32 and computed in a precision of b bytes:

    weights 4 P, gradients 4 P, Adam moments 8 P      divided by the processes with --shard
    reference b P      sampler b P                    no sampler where the policy samples itself
    old policies (K + 2) b P                          with --sampler-lag K
    casts 2 P          bfloat16 copies of the weights, which autocast keeps for the backward pass
    gathered 8 V D     with --shard: embedding and head are full tensors during an update
    critic 16 P        PPO with --critic own
    cache 2 L K d b per row and token (layers L, key/value heads K of width d)
    activations        of one micro-batch; of one block with --gradient-checkpointing
    logits             of a part of a micro-batch, and their gradient (engine/logprob.py)

A tenth is added for libraries and fragments. If the cache does not fit, the sampler decodes fewer
rows at once; all else must fit.
"""

from dataclasses import replace

import torch

import model as gpt
from config import needs_critic
from engine import attention, slots
from engine.slots import DECODE_CONFIGS, free_memory
from infra import distributed
from infra.run_dir import UserError, count_parameters

OVERHEAD = 1.1            # memory in use over memory in the estimate
RESPONSE_BYTES = 64       # of a sampled token: its id, log-prob and entropy, copies, Python's ints
PROMPT_TOKENS = 128       # assumed length of a prompt
MAX_MICRO_TOKENS = 32768  # on a GPU


def estimate(config: gpt.Config, options) -> dict[str, int]:
    """Bytes by purpose, on one device."""
    p, b = count_parameters(config), bytes_per_value(options)
    shards = distributed.world_size() if options.shard else 1
    own_sampler = options.shard or options.compile or b == 2
    own_critic = needs_critic(options.algo) and options.critic == "own"
    return {
        "weights": 4 * p // shards, "gradients": 4 * p // shards, "moments": 8 * p // shards,
        "reference": b * p, "sampler": b * p if own_sampler else 0,
        "old policies": old_weight_bytes(config, options), "casts": 2 * p if b == 2 else 0,
        "critic": 16 * p if own_critic else 0, "judge": 4 * p if options.judge else 0,
        "gathered": 8 * config.vocab_size * config.width if options.shard else 0,
        "cache": cache_bytes(config, options),
        "activations": activation_bytes(config, options),
        "logits": logit_bytes(config, options),
    }


def checkpoint_bytes(config: gpt.Config, options) -> int:
    """The size of a checkpoint on the disk: weights, moments, reference, those of a critic with a
    network of its own, and older weights (--sampler-lag). A run without checkpoints ends with the
    weights alone."""
    if not options.checkpoints:
        return 4 * count_parameters(config)
    own_critic = needs_critic(options.algo) and options.critic == "own"
    return old_weight_bytes(config, options) + count_parameters(config) * (
        12 + bytes_per_value(options) + (12 if own_critic else 0))


def old_weight_bytes(config: gpt.Config, options) -> int:
    """Weights of the policy that samples the rollouts, with --sampler-lag K or --sampler-dtype: one
    network, and K + 1 copies of weights in a queue."""
    if not options.sampler_lag and options.sampler_dtype == options.dtype:
        return 0
    each = 2 if options.sampler_dtype == "bfloat16" else 4
    return (options.sampler_lag + 2) * each * count_parameters(config)


def cache_bytes(config: gpt.Config, options) -> int:
    """Keys and values of the rows that are sampled at once."""
    samples = max(options.prompts * options.group_size, options.eval_problems,
                  options.eval_problems // 5 * options.eval_samples)
    rows = min(DECODE_CONFIGS[device_type(options)].max_rows, samples)
    columns = min(config.context, options.max_new_tokens + PROMPT_TOKENS)
    per_token = 2 * config.layers * config.kv_heads * config.head_dim * bytes_per_value(options)
    return per_token * rows * columns


def activation_bytes(config: gpt.Config, options) -> int:
    """Tensors that autograd keeps for the backward pass of a micro-batch."""
    # per token of a block: norms; q, k, v and their rotated copies; k and v repeated for every
    # query head; attention; gate, up and their product
    values = (4 * config.width + (5 * config.heads + 4 * config.kv_heads) * config.head_dim
              + 4 * config.hidden)
    if device_type(options) == "cpu":  # plain attention keeps its scores
        values += config.heads * attention.SHORT
    residual = 4 * 2 * config.width  # twice, in float32
    block = bytes_per_value(options) * values + residual
    if options.gradient_checkpointing:
        return options.micro_tokens * (4 * config.width * config.layers + block)
    return options.micro_tokens * block * config.layers


def logit_bytes(config: gpt.Config, options) -> int:
    """Logits of the part of a micro-batch that is computed at once."""
    device = device_type(options)
    # on a CPU logits, log-softmax and gradient in float32; else logits, and a gradient in b bytes
    each = 12 if device == "cpu" else 4 + bytes_per_value(options)
    return each * min(gpt.MAX_LOGITS[device], options.micro_tokens * config.vocab_size)


def bytes_per_value(options) -> int:
    """Of the computation."""
    return 2 if options.dtype == "bfloat16" else 4


def device_type(options) -> str:
    """cpu or cuda."""
    return torch.device(options.device or "cpu").type


def default_micro_tokens(config: gpt.Config, options) -> int:
    """Tokens of a micro-batch where the user has not set any: 1024 on a CPU. A GPU is faster with
    more: up to 32768 tokens, as long as their activations take a third of the free memory."""
    if not options.device.startswith("cuda"):
        return 1024
    free, tokens = free_memory(torch.device(options.device)), MAX_MICRO_TOKENS
    while tokens > 2048 and activation_bytes(
            config, replace(options, micro_tokens=tokens)) > free / 3:
        tokens //= 2
    return tokens


def check_responses(rows: int, max_new_tokens: int, mend: str) -> None:
    """Raises UserError where the memory cannot hold so many responses. `mend` ends the message."""
    needed = RESPONSE_BYTES * rows * (PROMPT_TOKENS + max_new_tokens)
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise UserError(f"{rows} responses of up to {max_new_tokens} tokens need "
                        f"{needed / 1e9:.0f} GB of memory, and {free / 1e9:.0f} GB are free; "
                        f"{mend}")


def check(config: gpt.Config, options) -> str:
    """Sets options.micro_tokens if it is 0, and gives the sampler the memory that is left. Returns
    the estimate in words. Raises UserError if all but the cache does not fit."""
    check_responses(max(options.prompts * options.group_size, options.eval_problems,
                        options.eval_samples), options.max_new_tokens,
                    "change --prompts, --group-size, --eval-problems or --eval-samples")
    options.micro_tokens = options.micro_tokens or default_micro_tokens(config, options)
    bytes_of = estimate(config, options)
    free = free_memory(torch.device(options.device))
    needed = OVERHEAD * (sum(bytes_of.values()) - bytes_of["cache"])
    parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in bytes_of.items() if size)
    words = (f"memory, GB: {parts}; {sum(bytes_of.values()) / 1e9:.2f} in all of "
             f"{free / 1e9:.1f} free")
    if needed > free:
        raise UserError(f"too little memory ({words}): try --gradient-checkpointing, a smaller "
                        "--micro-tokens, --dtype bfloat16, or --shard on several GPUs")
    slots.MEMORY_BUDGET = free - int(needed)
    return words
