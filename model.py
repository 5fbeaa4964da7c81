"""The GPT: a Llama-family decoder, small enough to read in a sitting.

Token embeddings pass through layers of attention and SwiGLU, each added to the residual stream
after an RMSNorm of its input; positions enter by rotating queries and keys (RoPE); several query
heads share one key/value head (grouped-query attention), which is what the KV cache has to keep.

    x <- x + Wo . attention(rope(Wq n), rope(Wk n), Wv n)      n = x / rms(x) * g
    x <- x + Wdown . (silu(Wgate n) * Wup n)

Papers: Llama 2302.13971, RoPE 2104.09864, GQA 2305.13245, SwiGLU 2002.05202, RMSNorm 1910.07467.
Left out on purpose: dropout, biases, rope scaling, pretrained weights.
Shapes: N sequences, T tokens, D width, H query heads, K key/value heads, d = D / H, V vocabulary.
"""

import os
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {  # names for --size
    "tiny": dict(layers=3, width=128, heads=4, kv_heads=2, hidden=352),
    "small": dict(layers=8, width=384, heads=6, kv_heads=2, hidden=1024),
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


class Cache:
    """Keys and values of what has been read: `length` columns of `capacity` are in use.

    keys, values: (layers, N, K, capacity, d), allocated once and written in place. A single token
    is written at `column`, `length` as a tensor, so that a CUDA graph of the step can be replayed.
    What is read is a whole number of `block` columns; a mask hides those behind `length`.
    """

    def __init__(self, config: Config, rows: int, capacity: int, device=None, dtype=None,
                 block: int = 1):
        head = config.width // config.heads
        shape = (config.layers, rows, config.kv_heads, capacity, head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.column = torch.zeros(1, dtype=torch.int64, device=device)
        self.length, self.block = 0, block

    def advance(self, columns: int) -> None:
        """After a forward pass has appended `columns` (negative: moved back)."""
        self.length += columns
        self.column += columns

    def window(self, new: int = 1) -> int:
        """How many columns are read when `new` are appended."""
        return min(-(-(self.length + new) // self.block) * self.block, self.keys.shape[3])

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor):
        """Writes k, v (N, K, T, d) after the first `length` columns; returns the window."""
        n, t = len(k), k.shape[2]
        for store, new in ((self.keys[layer, :n], k), (self.values[layer, :n], v)):
            if t == 1 and self.block > 1:  # a graph must find the column in memory
                store.index_copy_(2, self.column, new)
            else:
                store[:, :, self.length:self.length + t] = new
        end = self.window(t)
        return self.keys[layer, :n, :, :end], self.values[layer, :n, :, :end]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE: turns each pair (x[i], x[i + d/2]) of x (N, heads, T, d) by its position's angle;
    cos, sin are (N or 1, 1, T, d), the first half of sin negative. The halves are Llama's layout,
    not the paper's neighbours."""
    return (x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


def attend(q, k, v, mask):
    """Attention of q (N, K, G, d) over a cache k, v (N, K, S, d); mask (N, 1, 1, S) or None. On a
    CPU the fused kernel is slow for so few queries, and the plain products take half its time."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q / q.shape[-1] ** 0.5) @ k.mT                                  # (N, K, G, S)
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    return scores.softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head = config.width // config.heads
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x, cos, sin, layer, cache, mask):
        n, t, width = x.shape
        qkv = self.qkv(x).view(n, t, -1, self.head).transpose(1, 2)           # (N, H+2K, T, d)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        q, k = rotate(qk, cos, sin).split((self.heads, self.kv_heads), dim=1)
        if cache is not None:
            k, v = cache.append(layer, k, v)                                  # (N, K, S, d)
        if t == 1:  # decoding: a group's queries stand side by side as "positions" of one K head
            q = q.reshape(n, self.kv_heads, -1, self.head)                    # (N, K, H/K, d)
            y = attend(q, k, v, mask).reshape(n, 1, width)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                               enable_gqa=self.heads != self.kv_heads)
            y = y.transpose(1, 2).reshape(n, t, width)
        return self.out(y)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm2 = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x, cos, sin, layer, cache, mask):
        x = x + self.attention(self.norm1(x), cos, sin, layer, cache, mask)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)               # (N, T, hidden) each
        return x + self.down(F.silu(gate) * up)


class GPT(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        half = config.width // config.heads // 2
        angles = torch.outer(torch.arange(config.context).float(),
                             config.rope_theta ** (-torch.arange(half).float() / half))
        cos, sin = torch.cat((angles, angles), 1).cos(), torch.cat((-angles, angles), 1).sin()
        self.register_buffer("cos", cos, persistent=False)                    # (context, d)
        self.register_buffer("sin", sin, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # what writes into the residual stream starts smaller
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * config.layers) ** 0.5 if deep else 0.02)

    def cast(self, dtype: torch.dtype) -> "GPT":
        """Weights in another precision, in place; the angles of RoPE stay in fp32."""
        for weight in self.parameters():
            weight.data = weight.data.to(dtype)
        return self

    def forward(self, tokens, positions=None, cache=None, mask=None) -> torch.Tensor:
        """Hidden states (N, T, D) of tokens (N, T), after the last norm; `head` makes logits of
        them, so that a caller pays the vocabulary only where it needs it.

        positions (N, T) default to 0..T-1. mask (N, 1, T or 1, S) is True where a query may look;
        the default is causal. With a cache, tokens come after what it holds; the caller then
        advances it.
        """
        if mask is None and cache is not None and cache.length and tokens.shape[1] > 1:
            raise ValueError("several tokens after a filled cache need a mask of what each may see")
        if positions is None:
            cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]   # (T, d)
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (N, 1, T, d)
        x = self.embedding(tokens)
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, layer, cache, mask)
        return self.norm(x)

    def logp(self, tokens, mask, temperature: float = 1.0):
        """Log-probs (N, T) of the tokens (N, T) that `mask` marks, 0 elsewhere. Token t is scored
        by the logits at t-1, at the sampler's temperature, over the whole vocabulary; the head runs
        only where it is needed."""
        marked = mask[:, 1:].bool()
        hidden = self(tokens[:, :-1])[marked]                                 # (M, D)
        logits = self.head(hidden).float() / temperature                      # (M, V)
        logp = -F.cross_entropy(logits, tokens[:, 1:][marked], reduction="none")
        return logp.new_zeros(tokens.shape).masked_scatter(F.pad(marked, (1, 0)), logp)


def micro_batches(lengths, max_tokens: int) -> list[list[int]]:
    """Cuts rows into micro-batches of like length, longest first, each of at most max_tokens once
    it is padded to its longest row (and of one row at least). Returns the rows' indices."""
    batches, width = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = lengths[i]
        batches[-1].append(i)
    return batches


def save(path, state: dict) -> None:
    """Writes a checkpoint so that at any moment either the old or the new one is whole: to a
    neighbouring file, to the disk, then renamed over the old. Raises OSError when there is no
    space, and then leaves no scraps."""
    partial = f"{path}.{os.getpid()}.partial"  # two runs may make the same base
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        if os.path.exists(partial):
            os.remove(partial)
        raise OSError(f"{path} cannot be written: {error}") from error


def load(path, device="cpu") -> dict:
    """Reads a checkpoint; `weights_only` means that nothing in it can run as code."""
    return torch.load(path, map_location=device, weights_only=True)


def from_state(state: dict, device="cpu") -> GPT:
    """The GPT of {"config": ..., "model": weights}."""
    model = GPT(Config(**state["config"])).to(device)
    model.load_state_dict(state["model"])
    return model


def to_state(model: GPT) -> dict:
    """The inverse of `from_state`."""
    return {"config": asdict(model.config), "model": model.state_dict()}
