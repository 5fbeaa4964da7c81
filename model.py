"""The GPT: a Llama-family decoder, small enough to read in one sitting.

Token embeddings pass through layers of attention and SwiGLU. Each layer adds its output to the
residual stream after an RMSNorm of its input. RoPE rotates queries and keys by their position, and
several query heads share one key/value head (grouped-query attention), so the KV cache is small:

    x <- x + Wo . softmax(q k^T / sqrt(d)) v        q, k, v = rope(Wq n), rope(Wk n), Wv n
    x <- x + Wdown . (silu(Wgate n) * Wup n)        n = x / rms(x) * g

`GPT.forward(tokens, attention)` is the only forward pass. Its second argument says which tokens see
each other: all of a padded batch, those in a KV cache, or packed rows (engine/attention.py).

Papers: Llama 2302.13971, RoPE 2104.09864, GQA 2305.13245, SwiGLU 2002.05202, RMSNorm 1910.07467,
QK-norm 2302.05442. Options for released models (infra/checkpoint.py): RoPE scaling of Llama 3
(2407.21783), biases of Qwen2.5 (2412.15115), QK-norm of Qwen3 (2505.09388).
Left out on purpose: dropout, sliding windows, mixtures of experts.
Shapes: N sequences, T tokens, D width, H query heads, K key/value heads, d head dimension, V
vocabulary; M tokens that are computed: N * T, or fewer (engine/packing.py).
"""

import functools
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine import kernels, products
from engine.attention import Causal
from engine.logprob import MAX_LOGITS, ChosenLogp
from engine.packing import Packed, scatter_to_mask
from engine.products import cast
from engine.vision import PatchEncoder

# Denormal numbers (below 1e-38) become 0: sharp attention has many, and products with them take up
# to three times as long on some CPUs. The setting holds for this thread and its later children.
torch.set_flush_denormal(True)
torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for each shape, and shapes vary
# A base reaches the same loss with a third of the tokens. The low RoPE base suits short texts.
TOY = dict(qk_norm=True, rope_theta=100.0)
SIZES = {  # the choices of --size
    "nano": dict(layers=3, width=64, heads=4, kv_heads=2, hidden=176, **TOY),  # a quarter of tiny
    "tiny": dict(layers=3, width=128, heads=4, kv_heads=2, hidden=352, **TOY),
    "wide": dict(layers=3, width=192, heads=6, kv_heads=2, hidden=528, **TOY),  # twice tiny
    "small": dict(layers=8, width=384, heads=6, kv_heads=2, hidden=1024, **TOY),
    "medium": dict(layers=12, width=384, heads=6, kv_heads=2, hidden=1024, **TOY),  # 19 million
}


@dataclass
class Config:
    vocab_size: int
    context: int = 2048        # longest prompt and response together, in tokens
    layers: int = 3
    width: int = 128           # D
    heads: int = 4             # H
    kv_heads: int = 2          # K; H for multi-head attention, 1 for multi-query attention
    hidden: int = 352          # width of the SwiGLU
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True          # lm_head shares the weight of the embedding
    head_dim: int = 0          # d; 0: width / heads
    qkv_bias: bool = False     # biases of queries, keys and values (Qwen2.5)
    qk_norm: bool = False      # RMSNorm of each query and key before RoPE (Qwen3)
    rope_scaling: tuple = ()   # arguments of inv_freq's scaling, or () for none
    image: bool = False        # ids from vocab_size on are patches of images (engine/vision.py)

    def __post_init__(self):
        self.head_dim = self.head_dim or self.width // self.heads


@functools.cache
def norm_constants(d: int, eps: float):
    """sqrt(eps * d) and sqrt(d) as tensors, made once: making them at each call costs a small batch
    a measurable share of its time."""
    with torch.inference_mode(False):  # the sampler may call first, and training needs them too
        return torch.tensor((eps * d) ** 0.5), torch.tensor(d**0.5)


def rms_norm(x, gain, d: int, eps: float, dtype=torch.float32) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension d, computed in fp32.

    gain is (d,), or (h, d) for x (..., h, d). The result is in dtype. On a CPU this form takes half
    the time of F.rms_norm. d is given because a shape is no number while a step is recorded."""
    if kernels.usable(x):
        return kernels.rms_norm(x, gain, eps, dtype)
    x = cast(x, torch.float32)
    if x.device.type != "cpu":
        if gain.dim() == 1:
            return cast(F.rms_norm(x, (d,), gain, eps), dtype)
        return cast(F.rms_norm(x, (d,), None, eps) * gain, dtype)
    sqrt_eps_d, sqrt_d = norm_constants(d, eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return cast(x * (gain * sqrt_d) / torch.hypot(length, sqrt_eps_d), dtype)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, (M, hidden), of gate and up side by side, (M, 2 hidden)."""
    if kernels.usable(gate_up):
        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, d: int) -> torch.Tensor:
    """RoPE: rotates each pair (x[i], x[i + d/2]) of x (M, heads, d) by the angle of its position.

    cos and sin are (M, 1, d); the first half of sin is negative. Llama pairs the two halves; the
    paper pairs neighbours."""
    return torch.addcmul(x * cos, x.roll(d // 2, -1), sin)


def inv_freq(config: Config) -> torch.Tensor:
    """Angle in radians by which each pair of a head rotates from one token to the next, (d/2,).

    rope_scaling is (factor, low, high, length): Llama 3's extension of a context of `length`
    tokens. A pair with fewer than `low` turns within `length` slows down by `factor`; a pair with
    more than `high` turns stays; between the two the rates are blended."""
    half = config.head_dim // 2
    plain = config.rope_theta ** (-torch.arange(half).float() / half)
    if not config.rope_scaling:
        return plain
    factor, low, high, length = config.rope_scaling
    kept = ((length * plain / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / factor)


def rope_cache(config: Config) -> torch.Tensor:
    """Cosines and signed sines of each position, (context, 2, d), for `rotate`."""
    angles = torch.outer(torch.arange(config.context).float(), inv_freq(config))
    return torch.stack((torch.cat((angles, angles), 1).cos(),
                        torch.cat((-angles, angles), 1).sin()), 1)


def weight(rows: int, columns: int) -> nn.Parameter:
    """A matrix for x @ W. Small batches on a CPU take a fifth less time than with nn.Linear, which
    stores the transpose."""
    return nn.Parameter(torch.empty(rows, columns))


def add_product(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x + y @ w. The residual stream x is fp32 whatever the dtype of w. Without gradients x may be
    overwritten."""
    if y.dtype != w.dtype or torch.is_grad_enabled() and y.dtype != torch.float32:
        return x + y @ w
    return products.add_product(x, y, w)


class SelfAttention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim, self.eps = config.head_dim, config.norm_eps
        columns = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = weight(config.width, columns)
        self.out = weight(self.heads * self.head_dim, config.width)
        self.bias = nn.Parameter(torch.zeros(columns)) if config.qkv_bias else None
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(self.head_dim)) if config.qk_norm
                                    else None for _ in range(2))

    def forward(self, x, cos, sin, attention, layer: int):
        """(M, H d) of x (M, D). `out` is applied by the block, together with its addition."""
        h, k, d = self.heads, self.kv_heads, self.head_dim
        # queries, keys and values by one product
        qkv = x @ self.qkv if self.bias is None else torch.addmm(self.bias, x, self.qkv)
        qkv = qkv.view(-1, h + 2 * k, d)                                      # (M, H + 2K, d)
        qk, values = qkv.split((h + k, k), dim=1)
        if self.q_norm is not None:  # one call normalises queries and keys, each with its gain
            gain = torch.cat((self.q_norm.expand(h, d), self.k_norm.expand(k, d)))
            qk = rms_norm(qk, gain, d, self.eps, values.dtype)
        if attention.applies_rope:  # one kernel rotates, appends to the cache and attends
            return attention(layer, *qk.split((h, k), dim=1), values, cos, sin)
        # positions enter here; `attention` computes softmax(q k^T / sqrt(d)) v
        queries, keys = cast(rotate(qk, cos, sin, d), values.dtype).split((h, k), dim=1)
        return attention(layer, queries, keys, values).flatten(1)             # (M, H d)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.width, self.eps = config.width, config.norm_eps
        self.norm1 = nn.Parameter(torch.ones(config.width))
        self.attention = SelfAttention(config)
        self.norm2 = nn.Parameter(torch.ones(config.width))
        self.gate_up = weight(config.width, 2 * config.hidden)
        self.down = weight(config.hidden, config.width)

    def forward(self, x, cos, sin, attention, layer: int):
        dtype = self.down.dtype
        y = rms_norm(x, self.norm1, self.width, self.eps, dtype)
        y = self.attention(y, cos, sin, attention, layer)
        x = add_product(x, y, self.attention.out)
        y = rms_norm(x, self.norm2, self.width, self.eps, dtype)
        return add_product(x, swiglu(y @ self.gate_up), self.down)


class GPT(nn.Module):
    checkpointing = False  # True: keep the inputs of blocks only, recompute the rest for gradients

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embedding.weight
        self.register_buffer("rope_cache", rope_cache(config), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # matrices that write into the residual stream start smaller
                into_stream = name.endswith(("out", "down"))
                std = 0.02 / (2 * config.layers) ** 0.5 if into_stream else 0.02
                nn.init.normal_(parameter, std=std)
        self.patches = PatchEncoder(config.width) if config.image else None

    def cast(self, dtype: torch.dtype) -> "GPT":
        """Converts matrices and biases to dtype, in place. Gains of norms, RoPE's angles and the
        residual stream stay in fp32."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 or name.endswith("bias"):
                parameter.data = parameter.data.to(dtype)
        return self

    def forward(self, tokens, attention=None) -> torch.Tensor:
        """Hidden states after the last norm: (N, T, D) of tokens (N, T), (M, D) of tokens (M,).

        attention: an object of engine/attention.py, or sample.KVCache; by default each token sees
        itself and the earlier tokens of its row. `logits` turns hidden states into logits, so that
        a caller pays for the vocabulary only where logits are needed."""
        if attention is None:
            attention = Causal(*tokens.shape, tokens.device)
        ids, positions = tokens, attention.positions
        if tokens.dim() == 2:
            ids, positions = tokens.flatten(), positions.flatten()            # (M,)
        # 1. embed; the residual stream is fp32
        x = cast(self.embed(ids), torch.float32)                              # (M, D)
        cos, sin = self.rope_cache[positions].split(1, dim=1)                 # (M, 1, d)
        # 2. the blocks
        for layer, block in enumerate(self.blocks):
            args = x, cos, sin, attention, layer
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*args)
        # 3. the last norm, in the dtype that lm_head multiplies in
        dtype = self.lm_head.weight.dtype
        x = rms_norm(x, self.norm, self.config.width, self.config.norm_eps, dtype)
        return x.view(*tokens.shape, -1) if tokens.dim() == 2 else x

    def embed(self, ids):
        """Embeddings (M, D) of ids (M,): of text, or of patches of images."""
        if self.patches is None:
            return self.embedding(ids)
        codes = ids - self.config.vocab_size
        return torch.where(codes[:, None] < 0, self.embedding(ids.where(codes < 0, 0)),
                           self.patches(codes.clamp(min=0)))

    def packed(self, tokens, wanted):
        """Hidden states (number of wanted tokens, D) of the tokens (N, T) marked by `wanted`, of
        each row a prefix; padding and shared prefixes cost nothing (engine/packing.py)."""
        packed = Packed(tokens, wanted)
        return packed.unpack_wanted(self(packed.tokens, packed))

    def hidden_states(self, tokens, mask):
        """Hidden states (marked tokens, D) that predict the tokens (N, T) marked by `mask`, row by
        row: that of token t is computed from tokens 0 .. t-1."""
        marked = mask[:, 1:].bool()
        wanted = marked.flip(1).cumsum(1).flip(1) > 0  # up to the last marked token: (N, T-1)
        hidden = self.packed(tokens[:, :-1], wanted)
        return hidden.index_select(0, marked[wanted].nonzero()[:, 0])

    def logprobs(self, tokens, mask, temperature: float = 1.0, hidden=None, entropy: bool = True):
        """Log-probs (N, T) of the tokens (N, T) that `mask` marks, 0 elsewhere, and entropies
        (N, T) in nats of the distributions they were drawn from, or None.

        Both are of softmax(logits / temperature) over the whole vocabulary, as the sampler draws.
        hidden: the result of `hidden_states`, where the caller already has it."""
        hidden = self.hidden_states(tokens, mask) if hidden is None else hidden
        chosen = tokens[:, 1:][mask[:, 1:].bool()]
        device, vocab = hidden.device.type, len(self.lm_head.weight)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) \
            else hidden.dtype
        fits = device == "cpu" and len(hidden) * vocab <= MAX_LOGITS["cpu"]
        with torch.autocast(device, enabled=False):
            logp, found = (self.logprobs_of if fits else self.logprobs_of_in_parts)(
                hidden, chosen, temperature, entropy, dtype)
        return (scatter_to_mask(logp, mask),
                scatter_to_mask(found, mask) if entropy else None)

    def logprobs_of(self, hidden, chosen, temperature: float, entropy: bool, dtype=None):
        """Log-probs (m,) of the chosen tokens (m,) under hidden states (m, D), and entropies (m,)
        or None; gradients flow through both. `logits` gets dtype; everything else is fp32."""
        logits = self.logits(hidden, dtype)                                   # (m, V)
        if temperature != 1:
            logits = logits / temperature
        logp = logits.log_softmax(-1)
        chosen_logp = -F.nll_loss(logp, chosen, reduction="none")
        return chosen_logp, -(logp.exp() * logp).sum(-1) if entropy else None

    def logprobs_of_in_parts(self, hidden, *args):
        """The same as `logprobs_of` without keeping logits for the gradient (engine/logprob.py)."""
        return ChosenLogp.apply(hidden, self.lm_head.weight, self.lm_head.bias, *args)

    def logits(self, hidden, dtype: torch.dtype | None = None) -> torch.Tensor:
        """fp32 logits (M, V) of hidden states (M, D), by a product in dtype (default: the dtype of
        the weights)."""
        dtype = dtype or self.lm_head.weight.dtype
        if dtype == hidden.dtype == torch.float32:
            return self.lm_head(hidden)
        return products.product(hidden, self.lm_head.weight, self.lm_head.bias, dtype)

    def logp(self, tokens, mask, temperature: float = 1.0):
        """The log-probs (N, T) of `logprobs` alone."""
        return self.logprobs(tokens, mask, temperature, entropy=False)[0]


def from_state(state: dict, device="cpu") -> GPT:
    """The GPT of {"config": ..., "model": weights}."""
    model = GPT(Config(**state["config"])).to(device)
    model.load_state_dict(state["model"])
    return model


def to_state(model: GPT) -> dict:
    """The inverse of `from_state`."""
    return {"config": asdict(model.config), "model": model.state_dict()}
