"""Right solutions of part 1, written in other ways. They run with the names of the true modules."""

# ruff: noqa: F821
# (keep_top and the others are names of those modules)

import torch


def inverse_cdf_loop(cumulative, u, slot=None):
    found = []
    for i in range(len(u)):
        row = cumulative[i] if slot is None else cumulative[slot[i]]
        found.append(int((row > u[i] * row[-1]).nonzero()[0]))
    return torch.tensor(found)


def sample_tokens_by_softmax(logits, u, temperature, top_k=0, top_p=1.0, slot=None):
    scaled = logits.double() / (temperature or 1.0)
    if top_k > 0 or top_p < 1:
        scaled = keep_top(scaled, top_k, top_p)
    if slot is not None:
        scaled = scaled[slot]
    p = torch.softmax(scaled, dim=1)
    entropy = torch.distributions.Categorical(probs=p).entropy()
    token = p.argmax(1) if temperature == 0 else inverse_cdf(p.cumsum(1), u.double())
    return token, torch.log_softmax(scaled, 1)[torch.arange(len(token)), token], entropy


def rotate_halves(x, cos, sin, d):
    a, b = x[..., :d // 2], x[..., d // 2:]
    c, s = cos[..., :d // 2], sin[..., d // 2:]
    return torch.cat((a * c - b * s, a * s + b * c), dim=-1)


def next_tokens_loop(self, t):
    n, capacity = len(self.lengths), self.keys.shape[3]
    positions = [[int(self.lengths[i]) + j for j in range(t)] for i in range(n)]
    self.positions = torch.tensor(positions)
    self.visible = torch.zeros(n, 1, t, capacity, dtype=torch.bool)
    for i in range(n):
        for j in range(t):
            self.visible[i, 0, j, :positions[i][j] + 1] = True
    return self


def call_loop(self, layer, q, k, v):
    n, t = self.positions.shape
    heads, kv_heads, d = q.shape[1], k.shape[1], q.shape[2]
    q, k, v = q.view(n, t, heads, d), k.view(n, t, kv_heads, d), v.view(n, t, kv_heads, d)
    out = torch.zeros(n, t, heads, d)
    for i in range(n):
        for j in range(t):
            self.keys[layer, i, :, self.positions[i, j]] = k[i, j]
            self.values[layer, i, :, self.positions[i, j]] = v[i, j]
        for j in range(t):
            seen = self.visible[i, 0, j]
            for h in range(heads):
                keys = self.keys[layer, i, h * kv_heads // heads, seen]
                p = (keys @ q[i, j, h] / d**0.5).softmax(0)
                out[i, j, h] = p @ self.values[layer, i, h * kv_heads // heads, seen]
    return out.view(n * t, heads, d)


@torch.inference_mode()
def decode_row_by_row(model, request, on_token):
    n, steps = len(request.seeds), request.max_new_tokens
    tokens = torch.zeros(n, steps, dtype=torch.long)
    logp, entropy = torch.zeros(n, steps), torch.zeros(n, steps)
    drawn, truncated = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool)
    for i in range(n):
        p = i // request.group_size
        cache = KVCache(model.config, 1, len(request.texts[p]) + steps)
        new, state = request.texts[p], request.stop_states[p:p + 1]
        for step in range(steps):
            hidden = model(torch.tensor([new]), cache.next_tokens(len(new)))[:, -1]
            cache.lengths = cache.lengths + len(new)
            u = uniform(request.seeds[i:i + 1], request.offsets[p] + step)
            token, a, b = sample_tokens(model.logits(hidden), u, *request.sampling)
            tokens[i, step], logp[i, step], entropy[i, step] = token[0], a[0], b[0]
            drawn[i] += 1
            if on_token:
                on_token(int(token))
            new = [int(token)]
            over = new[0] in request.stop_ids
            if request.stop_table is not None:
                state = request.stop_table[token, state]
                over = over or int(state) == request.stop_table.shape[1] - 1
            if over:
                truncated[i] = False
                break
    return {"tokens": tokens, "logp": logp, "entropy": entropy, "drawn": drawn,
            "truncated": truncated}


SOLUTIONS = {
    "inverse_cdf": [inverse_cdf_loop], "sample_tokens": [sample_tokens_by_softmax],
    "rotate": [rotate_halves], "KVCache.next_tokens": [next_tokens_loop],
    "KVCache.__call__": [call_loop], "decode": [decode_row_by_row]}
