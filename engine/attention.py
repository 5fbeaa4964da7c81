"""How the tokens of one forward pass see each other: the second argument of `GPT.forward`.

An attention object says at which position each token stands, for RoPE, and computes

    softmax(q k^T / sqrt(d) + bias) v                  bias: 0 for a visible key, else -inf

for the queries, keys and values of a layer:

    Causal      N sequences of T tokens, padded on the right; a token sees itself and earlier ones
    Cached      the same, after keys and values that a cache already holds; new ones are written
    Packed      Causal, but padding is not computed and shared prefixes once (engine/packing.py)
    Decode      one new token per slot of the fast sampler (engine/slots.py)

`sample.KVCache` is one more, and the simplest to read. Left out on purpose: sliding windows.
Shapes: N sequences, T new tokens, S cached and new ones, H query heads, K key/value heads, d head
dimension; M tokens that are computed, in a row.
"""

import math

import torch
import torch.nn.functional as F

from engine.products import cast

SHORT = 128  # queries up to which plain attention is faster on a CPU than PyTorch's fused kernel


def attend(q, k, v, bias, d: int, t: int) -> torch.Tensor:
    """Grouped-query attention: (N, K, R, d) of q (N, K, R, d) over k and v (N, K, S, d).

    The R queries of a key/value head are t tokens of each of the H / K heads that share it. bias is
    (N or 1, 1, R or 1, S), or None where every key is visible. t and d are given because a shape is
    no number while a decode step is recorded (engine/graphs.py)."""
    if q.device.type != "cpu" or t > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * d**-0.5) @ k.mT                                             # (N, K, R, S)
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ v


def visibility_bias(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `visible` is True, -inf elsewhere."""
    return cast(torch.where(visible, 0.0, -math.inf), dtype)


class Causal:
    """N sequences of T tokens, padded on the right, at positions start, start + 1, ..."""

    applies_rope = False  # True: the object rotates queries and keys itself

    def __init__(self, n: int, t: int, device=None, start: int = 0):
        self.positions = torch.arange(start, start + t, device=device).expand(n, t)
        self.bias = None

    def __call__(self, layer: int, q, k, v) -> torch.Tensor:
        """Attention output (M, H, d) of q (M, H, d), k and v (M, K, d); M = N * T."""
        return self.pack(self.attend(*map(self.unpack, (q, k, v))))

    def unpack(self, x):
        """(M, heads, d) -> (N, heads, T, d)"""
        return x.view(*self.positions.shape, *x.shape[1:]).transpose(1, 2)

    def pack(self, y):
        """(N, heads, T, d) -> (M, heads, d)"""
        return y.transpose(1, 2).flatten(0, 1)

    def attend(self, q, k, v):
        """The T tokens q (N, H, T, d), the last of k and v (N, K, S, d) -> (N, H, T, d)"""
        n, heads, t, d = q.shape
        kv_heads, s = k.shape[1:3]
        if s == t and (q.device.type != "cpu" or t > SHORT):
            # PyTorch's own grouped form (enable_gqa) may fall back to a slow kernel on CUDA
            k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.bias is None:  # the first layer makes it for all
            columns = torch.arange(s, device=k.device)
            visible = columns <= columns[s - t:, None]                        # (T, S)
            visible = visible.repeat(heads // kv_heads, 1)                    # (R, S)
            self.bias = visibility_bias(visible[None, None], q.dtype)
        q = q.reshape(n, kv_heads, -1, d)
        return attend(q, k, v, self.bias, d, t).reshape(n, heads, t, d)


class Cached(Causal):
    """T new tokens of N sequences, after the tokens that a cache holds.

    keys and values (layers, N, K, S, d) are views of the cache. The new tokens' keys and values are
    written into the last T columns; all earlier columns hold tokens that every new token sees."""

    def __init__(self, keys, values, t: int):
        self.keys, self.values, self.start = keys, values, keys.shape[3] - t
        super().__init__(keys.shape[1], t, keys.device, self.start)

    def __call__(self, layer: int, q, k, v):
        q, k, v = map(self.unpack, (q, k, v))
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.start:], values[:, :, self.start:] = k, v
        return self.pack(self.attend(q, keys, values))
