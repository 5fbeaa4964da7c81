"""The GPT: a Llama-family decoder, small enough to read in a sitting.

Token embeddings pass through layers of attention and SwiGLU, each added to the residual stream
after an RMSNorm of its input; positions enter by rotating queries and keys (RoPE); several query
heads share one key/value head (grouped-query attention), which is what the KV cache has to keep.

    x <- x + Wo . attention(rope(Wq n), rope(Wk n), Wv n)      n = x / rms(x) * g
    x <- x + Wdown . (silu(Wgate n) * Wup n)

Papers: Llama 2302.13971, RoPE 2104.09864, GQA 2305.13245, SwiGLU 2002.05202, RMSNorm 1910.07467.
Off unless a released model needs them (see checkpoint.py): rope scaling as in Llama 3 (2407.21783),
biases as in Qwen2.5 (2412.15115), norms of queries and keys as in Qwen3 (2505.09388).
Left out on purpose: dropout, sliding windows, mixtures of experts.
Shapes: N sequences, T tokens, D width, H query heads, K key/value heads, d width of a head, V
vocabulary; M tokens computed: N * T, or fewer (packing.py).
"""

import functools
import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine import kernels, products
from engine.logprob import MOST_LOGITS, ChosenLogp
from engine.packing import Layout, place

SHORT = 128  # up to so many queries plain attention is faster on a CPU than the fused kernel
# Numbers below 1e-38, of which sharp attention has many, become 0: with them its products take some
# CPUs three times as long. This holds for this thread and those it makes from here on, so it comes
# before any work, and for Python's floats below 1e-308 too.
torch.set_flush_denormal(True)
torch.backends.cuda.enable_cudnn_sdp(False)  # it makes a plan for each new shape, and all are new
# With these a base is as good after a third of the tokens. Angles turn fast: texts are short.
SOONER = dict(qk_norm=True, rope_theta=100.0)
SIZES = {  # names for --size
    "tiny": dict(layers=3, width=128, heads=4, kv_heads=2, hidden=352, **SOONER),
    "small": dict(layers=8, width=384, heads=6, kv_heads=2, hidden=1024, **SOONER),
    "medium": dict(layers=12, width=384, heads=6, kv_heads=2, hidden=1024, **SOONER),  # 19 million
}


@dataclass
class Config:
    vocab_size: int
    context: int = 2048        # longest prompt + response, in tokens
    layers: int = 3
    width: int = 128           # D
    heads: int = 4             # H
    kv_heads: int = 2          # K; H for multi-head attention, 1 for multi-query
    hidden: int = 352          # of the SwiGLU
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True          # the head shares the embedding's weight
    head_width: int = 0        # d; 0 for width / heads
    qkv_bias: bool = False     # queries, keys and values have biases (Qwen2.5)
    qk_norm: bool = False      # an RMSNorm of each query and key, before RoPE (Qwen3)
    rope_scaling: tuple = ()   # see `rates`; or () for none

    @property
    def head(self) -> int:
        return self.head_width or self.width // self.heads


@functools.cache
def roots(d: int, eps: float):
    """Of eps d and of d, as tensors: a number has to be made one at each use, which a small batch
    notices."""
    with torch.inference_mode(False):  # sampling may ask first, and training wants them too
        return torch.tensor((eps * d) ** 0.5), torch.tensor(d**0.5)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in dtype. Tensor.to of the same dtype is an operator too, which a recorded step repeats."""
    return x if x.dtype == dtype else x.to(dtype)


def rms_norm(x, gain, d: int, eps: float, dtype=torch.float32) -> torch.Tensor:
    """x (..., d) over sqrt(its mean square + eps), times gain (d,), or (h, d) for x (..., h, d):
    computed in fp32, returned as dtype. On a CPU torch has no kernel for F.rms_norm, and what it
    does instead takes twice as long, forward and back. d is given, since while a step is recorded a
    shape is no number."""
    if kernels.usable(x):
        return kernels.rms_norm(x, gain, eps, dtype)
    x = cast(x, torch.float32)
    if x.device.type != "cpu":
        if gain.dim() == 1:
            return cast(F.rms_norm(x, (d,), gain, eps), dtype)
        return cast(F.rms_norm(x, (d,), None, eps) * gain, dtype)
    least, root = roots(d, eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return cast(x * (gain * root) / torch.hypot(length, least), dtype)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (M, hidden), of both side by side (M, 2 hidden)."""
    if kernels.usable(gate_up):
        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, d: int) -> torch.Tensor:
    """RoPE: turns each pair (x[i], x[i + d/2]) of x (M, heads, d) by its position's angle;
    cos, sin are (M, 1, d), the first half of sin negative. The halves are Llama's layout, not the
    paper's neighbours."""
    return torch.addcmul(x * cos, x.roll(d // 2, -1), sin)


def rates(config: Config) -> torch.Tensor:
    """By how much the angle of each pair of a head grows from token to token, (d/2,) radians.

    rope_scaling is (factor, low, high, length), Llama 3's way to a context longer than the `length`
    it was first trained at: pairs that turn less than `low` times within that length are slowed
    down by `factor`, those that turn more than `high` times stay, and between it is blended."""
    half = config.head // 2
    plain = config.rope_theta ** (-torch.arange(half).float() / half)
    if not config.rope_scaling:
        return plain
    factor, low, high, length = config.rope_scaling
    kept = ((length * plain / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return plain * (kept + (1 - kept) / factor)


def rope_table(config: Config) -> torch.Tensor:
    """What `rotate` wants at each position: (context, 2, d), the cosines and the signed sines."""
    angles = torch.outer(torch.arange(config.context).float(), rates(config))
    return torch.stack((torch.cat((angles, angles), 1).cos(),
                        torch.cat((-angles, angles), 1).sin()), 1)


def attend(q, k, v, mask, d: int, t: int):
    """Attention of t queries a head, (N, K, R, d), over keys and values (N, K, S, d). mask (N or 1,
    1, R or 1, S) is 0 where a query may look and elsewhere -inf; or None: it may look anywhere. The
    R queries are t of each head that shares the keys; scores are divided by sqrt(d)."""
    if q.device.type != "cpu" or t > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * d**-0.5) @ k.mT                                             # (N, K, R, S)
    if mask is not None:
        scores += mask
    return scores.softmax(-1) @ v


def matrix(rows: int, columns: int) -> nn.Parameter:
    """Weights for x @ W; stored so, and not transposed as by nn.Linear, they take a fifth less time
    in small batches on a CPU."""
    return nn.Parameter(torch.empty(rows, columns))


def add_product(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x + y @ weight. x, the residual stream, is fp32 whatever the weights are; where no gradient
    is wanted it may be written over."""
    if y.dtype != weight.dtype or torch.is_grad_enabled() and y.dtype != torch.float32:
        return x + y @ weight
    return products.add_product(x, y, weight)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head, self.eps = config.head, config.norm_eps
        columns = (self.heads + 2 * self.kv_heads) * self.head
        self.qkv = matrix(config.width, columns)
        self.out = matrix(self.heads * self.head, config.width)
        self.bias = nn.Parameter(torch.zeros(columns)) if config.qkv_bias else None
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(self.head)) if config.qk_norm else None
                                    for _ in range(2))

    def forward(self, x, cos, sin, layout, layer, window, mask):
        heads, groups, d = self.heads, self.kv_heads, self.head
        qkv = x @ self.qkv if self.bias is None else torch.addmm(self.bias, x, self.qkv)
        qkv = qkv.view(-1, heads + 2 * groups, d)                             # (M, H+2K, d)
        qk, v = qkv.split((heads + groups, groups), dim=1)
        if self.q_norm is not None:  # one norm for both, each head with its gain
            gain = torch.cat((self.q_norm.expand(heads, d), self.k_norm.expand(groups, d)))
            qk = rms_norm(qk, gain, d, self.eps, v.dtype)
        if window is not None and window.lengths is not None:  # decoding on CUDA
            return kernels.attend(*qk.split((heads, groups), dim=1), v, cos, sin,
                                  window.keys[layer], window.values[layer], window.lengths)
        q, k = cast(rotate(qk, cos, sin, d), v.dtype).split((heads, groups), dim=1)
        if layout is None:  # decoding, M = N
            k, v = window.append(layer, k, v)                                 # (N, K, S, d)
            q = q.reshape(-1, groups, heads // groups, d)                     # (N, K, G, d)
            return attend(q, k, v, mask, d, 1).flatten(1)
        q, k, v = layout.spread(q), layout.spread(k), layout.spread(v)        # (N, heads, T, d)
        if window is not None:
            k, v = window.append(layer, k, v)
        if mask is None:  # enable_gqa in their place may be a slow kernel on CUDA
            k, v = (x.repeat_interleave(heads // groups, 1) for x in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # query heads that share keys are further rows
            n, t = layout.rows.shape
            q = q.reshape(n, groups, -1, d)                                   # (N, K, G T, d)
            y = attend(q, k, v, mask, d, t).reshape(n, heads, t, d)
        return layout.pack(y.transpose(1, 2)).flatten(1)                      # (M, H d)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.width, self.eps = config.width, config.norm_eps
        self.norm1 = nn.Parameter(torch.ones(config.width))
        self.attention = Attention(config)
        self.norm2 = nn.Parameter(torch.ones(config.width))
        self.gate_up = matrix(config.width, 2 * config.hidden)
        self.down = matrix(config.hidden, config.width)

    def forward(self, x, *how):
        dtype = self.down.dtype
        y = self.attention(rms_norm(x, self.norm1, self.width, self.eps, dtype), *how)
        x = add_product(x, y, self.attention.out)
        y = rms_norm(x, self.norm2, self.width, self.eps, dtype)
        return add_product(x, swiglu(y @ self.gate_up), self.down)


class GPT(nn.Module):
    checkpointing = False  # keep a block's input alone and compute the rest again for the gradient

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.register_buffer("turns", rope_table(config), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # what writes into the residual stream starts smaller
                deep = name.endswith(("out", "down"))
                nn.init.normal_(weight, std=0.02 / (2 * config.layers) ** 0.5 if deep else 0.02)

    def cast(self, dtype: torch.dtype) -> "GPT":
        """Matrices and biases in another precision, in place. The gains of norms, the angles of
        RoPE and the residual stream stay in fp32."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2 or name.endswith("bias"):
                weight.data = weight.data.to(dtype)
        return self

    def forward(self, tokens, positions=None, window=None, mask=None, real=None) -> torch.Tensor:
        """Hidden states (N, T, D) of tokens (N, T), after the last norm; `logits` makes logits of
        them, so that a caller pays the vocabulary only where it needs it.

        positions (N, T) default to 0..T-1. mask (N, 1, T or 1, S) is True where a query may look;
        the default is causal. With the window of a cache, tokens come after what it holds; the
        caller then advances the cache. A single token of each row may be (N,), and so are its
        positions, and (N, D) its hidden states; this is how a sampler decodes. real (N, T) marks
        what is wanted, each row from its start on (the rest is padding, and all else is as by
        default); the hidden states are then those of the marked tokens in a row, (marked, D).
        """
        layout = None
        if tokens.dim() == 2:
            n, t = tokens.shape
            if mask is None and window is not None and window.keys.shape[3] > t:
                raise ValueError("tokens after a filled cache need a mask of what each may see")
            if real is not None and any(x is not None for x in (positions, window, mask)):
                raise ValueError("real goes with no positions, window or mask: rows are sorted")
            layout = Layout(tokens, real)
            if positions is None:
                positions = torch.arange(t, device=tokens.device)
            tokens = layout.pack(layout.rows)
            positions = layout.pack(positions.expand(len(layout.rows), t))
            if mask is None and tokens.device.type == "cpu" and t <= SHORT:
                mask = torch.ones(1, 1, t, t, dtype=torch.bool).tril()
            if mask is not None:  # query heads that share keys are further rows
                groups = self.config.heads // self.config.kv_heads
                mask = mask.expand(-1, -1, t, -1).repeat(1, 1, groups, 1)
        x = cast(self.embedding(tokens), torch.float32)                           # (M, D)
        dtype = self.head.weight.dtype
        if mask is not None:
            mask = cast(torch.where(mask, 0.0, -math.inf), dtype)
        cos, sin = self.turns[positions].split(1, dim=1)                          # (M, 1, d)
        for layer, block in enumerate(self.blocks):
            how = cos, sin, layout, layer, window, mask
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, *how, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, *how)
        x = rms_norm(x, self.norm, self.config.width, self.config.norm_eps, dtype)
        if layout is None:
            return x
        return x.view(n, t, -1) if real is None else x.index_select(0, layout.asked)

    def states(self, tokens, mask):
        """The hidden states (marked, D) that the tokens (N, T) marked by `mask` were drawn from,
        row by row: for token t that after t-1. Each row is run up to its last marked token."""
        marked = mask[:, 1:].bool()
        real = marked.flip(1).cumsum(1).flip(1) > 0                           # (N, T-1)
        hidden = self(tokens[:, :-1], real=real)                              # (M, D)
        return hidden.index_select(0, marked[real].nonzero()[:, 0])

    def score(self, tokens, mask, temperature: float = 1.0, states=None, entropy: bool = True):
        """Log-probs (N, T) of the tokens (N, T) that `mask` marks, 0 elsewhere, at the sampler's
        temperature and over the whole vocabulary; and the entropy (N, T) of what each was drawn
        from, or None. `states` are those of the method of that name, where they are at hand."""
        states = self.states(tokens, mask) if states is None else states
        chosen = tokens[:, 1:][mask[:, 1:].bool()]
        device, vocab = states.device.type, len(self.head.weight)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) \
            else states.dtype
        plain = device == "cpu" and len(states) * vocab <= MOST_LOGITS["cpu"]
        with torch.autocast(device, enabled=False):
            logp, found = (self.read if plain else self.read_in_parts)(
                states, chosen, temperature, entropy, dtype)
        return place(logp, mask), place(found, mask) if entropy else None

    def read(self, states, chosen, temperature: float, entropy: bool, dtype=None):
        """Log-probs (marked,) of the chosen tokens (marked,), drawn from states (marked, D), and
        the entropies (marked,) or None: of softmax(logits / temperature) over the vocabulary. The
        factors of the product are in dtype, all else in fp32."""
        logits = self.logits(states, dtype)                                   # (marked, V)
        if temperature != 1:
            logits = logits / temperature
        every = logits.log_softmax(-1)
        logp = -F.nll_loss(every, chosen, reduction="none")
        return logp, -(every.exp() * every).sum(-1) if entropy else None

    def read_in_parts(self, states, *how):
        """The same as `read`, but no logits are kept for the gradient."""
        return ChosenLogp.apply(states, self.head.weight, self.head.bias, *how)

    def logits(self, states, dtype: torch.dtype | None = None) -> torch.Tensor:
        """fp32 logits (M, V) of hidden states (M, D), by a product in dtype (default: that of the
        weights)."""
        dtype = dtype or self.head.weight.dtype
        if dtype == states.dtype == torch.float32:
            return self.head(states)
        return products.product(states, self.head.weight, self.head.bias, dtype)

    def logp(self, tokens, mask, temperature: float = 1.0):
        """The log-probs (N, T) of `score` alone."""
        return self.score(tokens, mask, temperature, entropy=False)[0]


def from_state(state: dict, device="cpu") -> GPT:
    """The GPT of {"config": ..., "model": weights}."""
    model = GPT(Config(**state["config"])).to(device)
    model.load_state_dict(state["model"])
    return model


def to_state(model: GPT) -> dict:
    """The inverse of `from_state`."""
    return {"config": asdict(model.config), "model": model.state_dict()}
