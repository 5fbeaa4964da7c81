"""The loops that a reader would write first, for bench/sample.py to compare the samplers with."""

import torch

import model as gpt


class SimpleLoop:
    """A loop that a reader would write first, for prompts of one length and no stop token.

    how: "naive" reads the whole text for every token; "cached" appends to a cache by concatenation;
    "static" writes into a preallocated cache and masks its unused columns; "window" reads only the
    used ones. All expand the shared heads; the samplers of this repository do not."""

    def __init__(self, model, rows: int, capacity: int, how: str):
        self.model, self.how, self.done, c = model, how, 0, model.config
        self.keys, self.values = [None] * c.layers, [None] * c.layers
        if how in ("static", "window"):
            shape = (rows, c.kv_heads, capacity, c.head_dim)
            self.keys, self.values = ([torch.zeros(shape) for _ in range(c.layers)]
                                      for _ in range(2))

    def with_cache(self, i: int, k, v):
        """All keys and values of layer i, and a mask or None."""
        first, last = self.done, self.done + k.shape[2]
        if self.how == "cached":
            for store, new in ((self.keys, k), (self.values, v)):
                store[i] = new if store[i] is None else torch.cat((store[i], new), 2)
            return self.keys[i], self.values[i], None
        if self.how in ("static", "window"):
            self.keys[i][:, :, first:last], self.values[i][:, :, first:last] = k, v
            end = last if self.how == "window" else self.keys[i].shape[2]
            mask = torch.arange(end) <= torch.arange(first, last)[:, None]
            return self.keys[i][:, :, :end], self.values[i][:, :, :end], mask
        return k, v, None

    def attention(self, i: int, a, x, cos, sin):
        n, t, _ = x.shape
        qkv = (x @ a.qkv).view(n, t, -1, a.head_dim).transpose(1, 2)
        q, k, v = qkv.split((a.heads, a.kv_heads, a.kv_heads), 1)
        if a.q_norm is not None:
            q, k = (gpt.rms_norm(y, gain, a.head_dim, a.eps)
                    for y, gain in ((q, a.q_norm), (k, a.k_norm)))
        q, k = (gpt.rotate(y, cos, sin, a.head_dim) for y in (q, k))
        k, v, mask = self.with_cache(i, k, v)
        k, v = (y.repeat_interleave(a.heads // a.kv_heads, 1) for y in (k, v))
        y = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and t > 1)
        return y.transpose(1, 2).reshape(n, t, -1) @ a.out

    def logits(self, ids):
        """Of the token after the last of ids (N, t)."""
        model, c, t = self.model, self.model.config, ids.shape[1]
        cos, sin = model.rope_cache[self.done:self.done + t].unbind(1)
        x = model.embedding(ids)
        for i, block in enumerate(model.blocks):
            y = gpt.rms_norm(x, block.norm1, c.width, c.norm_eps)
            x = x + self.attention(i, block.attention, y, cos, sin)
            y = gpt.rms_norm(x, block.norm2, c.width, c.norm_eps)
            x = x + gpt.swiglu(y @ block.gate_up) @ block.down
        self.done += 0 if self.how == "naive" else t
        return model.lm_head(gpt.rms_norm(x[:, -1], model.norm, c.width, c.norm_eps))


@torch.no_grad()
def simple_loop(model, prompts, new: int, how: str) -> int:
    """Samples `new` tokens after each prompt. Returns how many tokens that are."""
    tokens = torch.tensor(prompts)
    loop = SimpleLoop(model, len(tokens), tokens.shape[1] + new, how)
    logits = loop.logits(tokens)
    for t in range(new):
        token = torch.multinomial(logits.softmax(-1), 1)
        tokens = torch.cat((tokens, token), 1)
        if t < new - 1:
            logits = loop.logits(tokens if how == "naive" else token)
    return len(tokens) * new
