"""Common mistakes of part 1: (message, old text, new text, ...) for each function."""

GROW = "        cache.lengths = cache.lengths + 1\n"

MUTANTS = {
    "inverse_cdf": [
        ("u equal to an entry draws the token of that entry. Return the first index whose entry "
         "exceeds u, not one that reaches it: a token of probability 0 must never be drawn",
         "threshold, right=True)[:, 0]", "threshold)[:, 0]"),
        ("the last entry is 1 only up to rounding. Compare with u times the last entry; otherwise "
         "a large u gives an index behind the vocabulary",
         "u[:, None] * cumulative[:, -1:]", "u[:, None]"),
        ("with slot, the result is an index into all rows side by side, not into the row slot[i]",
         " - slot * cumulative.shape[1]", ""),
        ("with slot, sequence i must use row slot[i] of cumulative, not row i",
         "    if slot is None:\n", "    if slot is not None:\n"
         "        slot = torch.arange(len(slot)).clamp(max=len(cumulative) - 1)\n"
         "    if slot is None:\n"),
        ("you count from the end: the result is the number of entries above u, and not the index "
         "of the first one",
         "right=True)[:, 0]", "right=True)[:, 0].neg() + cumulative.shape[1]"),
    ],
    "sample_tokens": [
        ("you multiply the logits by the temperature. A temperature below 1 makes the distribution "
         "sharper: divide",
         "logits = logits / temperature", "logits = logits * temperature"),
        ("tokens are drawn at the temperature, but the log-probs are those at temperature 1. Both "
         "must be of the same distribution",
         "logits = logits.float()", "logits = raw = logits.float()",
         "return token, logp.gather", "return token, raw.log_softmax(-1).gather",
         "return token, logp[slot, token]", "return token, raw.log_softmax(-1)[slot, token]"),
        ("your entropy is the negative log-prob of the drawn token. The entropy is the mean of it "
         "over the whole distribution",
         "if slot is None:\n        return token,",
         "if slot is None:\n        entropy = -logp.gather(-1, token[:, None])[:, 0]\n"
         "        return token,", "entropy[slot]", "-logp[slot, token]"),
        ("a small number in the logarithm changes the log-prob of an unlikely token: use "
         "log_softmax", "return token, logp.gather", "return token, (probs + 1e-8).log().gather",
         "return token, logp[slot, token]", "return token, (probs + 1e-8).log()[slot, token]"),
        ("at temperature 0 log-prob and entropy are those at temperature 1; yours are 0",
         "    if slot is None:\n        return token,", "    if temperature == 0:\n"
         "        logp, entropy = logp * 0, entropy * 0\n    if slot is None:\n"
         "        return token,"),
        ("with top_k or top_p, the entropy must be of the restricted distribution too",
         "    if top_k or top_p < 1:\n", "    raw = logits.log_softmax(-1)\n"
         "    if top_k or top_p < 1:\n", "-(probs * logp).sum(-1)", "-(raw.exp() * raw).sum(-1)"),
        ("your entropy is negative: entropy = -sum p log p", "-(probs * logp)", "(probs * logp)"),
        ("your entropy is in bits; the natural logarithm gives nats", "-(probs * logp).sum(-1)",
         "-(probs * logp).sum(-1) / 0.6931471805599453"),
        ("you sample at temperature 0 too: temperature 0 is greedy, the most likely token",
         "if temperature == 0:", "if False:"),
        ("top_k and top_p have no effect on your distribution: call keep_top",
         "if top_k or top_p < 1:", "if False:"),
        ("top_k and top_p must see the logits after the division by the temperature",
         "logits = logits.float()\n", "logits = logits.float()\n    if top_k or top_p < 1:\n"
         "        logits = keep_top(logits, top_k, top_p)\n",
         "    if top_k or top_p < 1:\n        logits = keep_top(logits, top_k, top_p)\n    logp",
         "    logp"),
        ("with top_k or top_p, the log-probs are those of the whole distribution; they must be of "
         "the one that was drawn from", "    if top_k or top_p < 1:\n", "    raw = logits\n"
         "    if top_k or top_p < 1:\n", "return token, logp.gather",
         "return token, raw.log_softmax(-1).gather", "return token, logp[slot, token]",
         "return token, raw.log_softmax(-1)[slot, token]"),
        ("the softmax is computed in bfloat16, which is too coarse: call .float() first",
         "logits = logits.float()", "logits = logits + 0"),
        ("the probabilities are not summed up: inverse_cdf needs their cumulative sum",
         "probs.cumsum(-1)", "probs"),
        ("at temperature 0 your log-prob is 0: it must be that at temperature 1",
         "    if slot is None:\n        return token,", "    if temperature == 0:\n"
         "        logp = logp * 0\n    if slot is None:\n        return token,"),
        ("your entropy is averaged over the vocabulary: it is a sum weighted by p",
         "-(probs * logp).sum(-1)", "-(probs * logp).mean(-1)"),
        ("you return the probabilities of the tokens, not their logarithms",
         "return token, logp.gather", "return token, probs.gather",
         "return token, logp[slot, token]", "return token, probs[slot, token]"),
        ("with slot, the log-probs must be of row slot[i], and greedy decoding too",
         "token if slot is None else token[slot]", "token if slot is None else "
         "token[torch.arange(len(slot)).clamp(max=len(token) - 1)]"),
    ],
    "rotate": [
        ("you negate the first half of x, but the first half of sin is negative already: the two "
         "signs cancel and the pair turns into a reflection",
         "x.roll(d // 2, -1)", "torch.cat((-x[..., d // 2:], x[..., :d // 2]), -1)"),
        ("you pair neighbours, as the paper does. Here x[i] is paired with x[i + d/2]",
         "x.roll(d // 2, -1)", "x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)"),
        ("the pairs turn in the wrong direction: use sin as it is, with the negative half first",
         "x.roll(d // 2, -1), sin)", "x.roll(d // 2, -1), -sin)"),
        ("you reverse x: its two halves change places, each in its order",
         "x.roll(d // 2, -1)", "x.flip(-1)"),
        ("each number is paired with itself: the partner of x[i] is x[i + d/2]",
         "x.roll(d // 2, -1)", "x"),
        ("the second half uses the first half after it was changed: keep the old one",
         "return torch.addcmul(x * cos, x.roll(d // 2, -1), sin)",
         "first = (x * cos + x.roll(d // 2, -1) * sin)[..., :d // 2]\n"
         "    both = torch.cat((first, x[..., d // 2:]), -1)\n"
         "    return torch.cat((first, (both * cos + both.roll(d // 2, -1) * sin)"
         "[..., d // 2:]), -1)"),
        ("cos and sin are exchanged", "x * cos, x.roll(d // 2, -1), sin",
         "x * sin, x.roll(d // 2, -1), cos"),
        ("you shift x by one, but the partner of x[i] is d/2 places away",
         "x.roll(d // 2, -1)", "x.roll(1, -1)"),
    ],
    "KVCache.next_tokens": [
        ("the positions start at 0 in each call: they must go on after the tokens that a row "
         "already holds (self.lengths)", "self.lengths[:, None] + columns[:t]",
         "columns[:t].expand(len(self.lengths), t)"),
        ("a new token does not see itself: the mask must include its own position",
         "columns <= self.positions", "columns < self.positions"),
        ("the new tokens see later new tokens: the mask must be causal among them too",
         "columns <= self.positions[:, None, :, None]",
         "(columns <= self.positions[:, None, -1:, None]).expand(-1, -1, t, -1)"),
        ("the new tokens see only what the cache held before; they must also see themselves and "
         "the new ones before them",
         "columns <= self.positions[:, None, :, None]",
         "(columns < self.lengths[:, None, None, None]).expand(-1, -1, t, -1)"),
        ("your positions are those after the new tokens: the first new token stands at position "
         "self.lengths", "columns[:t] ", "columns[:t] + 1 "),
        ("all rows start at the longest row's length: each row has its own",
         "self.lengths[:, None] + columns[:t]",
         "self.lengths.max().expand(len(self.lengths), 1) + columns[:t]"),
        ("next_tokens must not change self.lengths: the caller does, when the tokens are read",
         "return self", "self.lengths = self.lengths + t\n    return self"),
        ("returns None: the model calls the object that next_tokens returns, so return self",
         "return self", "return None"),
        ("the mask has the opposite meaning: True is for a visible column",
         "columns <= self.positions", "columns > self.positions"),
    ],
    "KVCache.__call__": [
        ("new keys and values are always written to the first columns: write them at "
         "self.positions", "self.positions[:, None, :, None].expand_as(k)",
         "torch.arange(t)[None, None, :, None].expand_as(k)"),
        ("all layers write to layer 0: each layer has its own keys and values",
         "self.keys[layer], self.values[layer]", "self.keys[0], self.values[0]"),
        ("query head h uses key/value head h % K. It must use head h // (H / K): neighbours share",
         "y = attend(q.reshape(n, kv_heads, share * t, d)",
         "q = q.view(n, share, kv_heads, t, d).transpose(1, 2)\n"
         "    y = attend(q.reshape(n, kv_heads, share * t, d)",
         "y.reshape(n, -1, t, d)", "y.view(n, kv_heads, share, t, d).transpose(1, 2)"
         ".reshape(n, -1, t, d)"),
        ("hidden columns take part: add the bias of self.visible to the scores",
         "keys, values, bias, d, t)", "keys, values, None, d, t)"),
        ("the result has heads and tokens mixed up: before the flatten, the order must be rows, "
         "tokens, heads", "y.reshape(n, -1, t, d).transpose(1, 2).flatten(0, 1)",
         "y.reshape(n * t, -1, d)"),
        ("__call__ must not change self.lengths: the caller does, when all layers have run",
         "    y = attend(", "    self.lengths = self.lengths + t\n    y = attend("),
        ("right for t = 1 and wrong for more: the queries are not in the order head, token; "
         "transpose before the reshape", "y = attend(q.reshape(n, kv_heads, share * t, d)",
         "y = attend(q.transpose(1, 2).reshape(n, kv_heads, share * t, d)"),
        ("attend already divides by sqrt(d): you divide twice",
         "attend(q.reshape(n, kv_heads, share * t, d)",
         "attend(q.reshape(n, kv_heads, share * t, d) / d**0.5"),
        ("the scores are not divided by sqrt(d)", "attend(q.reshape(n, kv_heads, share * t, d)",
         "attend(d**0.5 * q.reshape(n, kv_heads, share * t, d)"),
        ("the M rows of q, k and v are rows and tokens, (N * t): you read them as heads and tokens",
         "x.view(n, t, -1, d).transpose(1, 2) for", "x.view(n, -1, t, d) for"),
        ("the bias of token j must stand at each of the heads that share a key/value head, in the "
         "order of the queries: repeat it as a block", ".repeat(1, 1, share, 1)",
         ".repeat_interleave(share, 2)"),
        ("keys are written, values are not", "    values.scatter_(2, index, v)\n", ""),
        ("the new tokens attend to the cache before they are written into it: write first",
         "keys, values, d = self.keys[layer], self.values[layer], q.shape[-1]",
         "keys, values, d = self.keys[layer], self.values[layer], q.shape[-1]\n"
         "    old_keys, old_values = keys.clone(), values.clone()",
         "keys, values, bias, d, t)", "old_keys, old_values, bias, d, t)"),
    ],
    "decode": [
        ("the first token of a short prompt comes from the last column, which is padding: take "
         "the hidden state at lengths - 1", "hidden[torch.arange(n, device=device), lengths - 1]",
         "hidden[:, -1]"),
        ("after the prefill, cache.lengths counts the padding of short prompts: set it to the "
         "prompts' own lengths", "cache.lengths = lengths", "cache.lengths = lengths * 0 + width"),
        ("cache.lengths grows before the token is read: next_tokens(1) first, then grow",
         GROW, "", "hidden = model(token[:, None], cache.next_tokens(1))",
         GROW.strip() + "\n        hidden = model(token[:, None], cache.next_tokens(1))"),
        ("cache.lengths is set before the prefill: the prompt is then written behind itself",
         "cache.lengths = lengths\n", "", "    hidden = model(texts,",
         "    cache.lengths = lengths\n    hidden = model(texts,"),
        ("a row that has stopped becomes active again: combine with the rows that were active",
         "active & ~torch.isin(token, stop_ids)", "~torch.isin(token, stop_ids)"),
        ("on_token is called after the row has ended: leave the loop when no row is active",
         " or not active.any()", ""),
        ("each row's state begins with stop_states of its own prompt, i // group_size",
         "request.stop_states[of_row]", "request.stop_states.repeat(request.group_size)"),
        ("each row's state begins with stop_states of its own prompt, i // group_size",
         "request.stop_states[of_row]", "request.stop_states[:1].expand(n)"),
        ("the prompts are padded on the left: pad on the right", "text + [0] * (width - len(text))",
         "[0] * (width - len(text)) + text", "lengths - 1]", "lengths * 0 + width - 1]"),
        ("cache.lengths does not grow: each new token overwrites the one before it",
         "cache.lengths = cache.lengths + 1", "cache.lengths = cache.lengths"),
        ("every step draws with the same uniform number: it depends on the step",
         "request.offsets[of_row] + step)", "request.offsets[of_row])"),
        ("the position of a draw must count the tokens of the fixed prefix (request.offsets)",
         "request.offsets[of_row] + step)", "step)"),
        ("the first token of a response is at position 0 (plus its prefix), not 1",
         "request.offsets[of_row] + step)", "request.offsets[of_row] + step + 1)"),
        ("the position of a draw counts the tokens of the response alone, not the prompt",
         "request.offsets[of_row] + step)", "lengths + step)"),
        ("all rows draw with the seed of row 0: each row has its own", "uniform(request.seeds,",
         "uniform(request.seeds[:1].expand(n),"),
        ("after the prefill, cache.lengths is 0: the prompt is in the cache",
         "cache.lengths = lengths\n", "cache.lengths = lengths * 0\n"),
        ("the stop string may begin in the prefix: start from request.stop_states",
         "state = request.stop_states[of_row]", "state = request.stop_states[of_row] * 0"),
        ("top_k and top_p are not passed on: sample_tokens takes all of request.sampling",
         "*request.sampling)", "request.sampling[0])"),
        ("a row that stops at the very last step is not truncated: it has ended by itself",
         '{"truncated": active}', '{"truncated": out["drawn"] == steps}'),
        ("on_token must get an int, not a tensor", "on_token(token[0].item())",
         "on_token(token[0])"),
        ("the stop token is left out of the response: a row that stops now has still drawn it",
         '        out["drawn"] += active\n', "",
         "        if step + 1 == steps or", '        out["drawn"] += active\n'
         "        if step + 1 == steps or"),
        ("truncated is the opposite: True for the rows that have NOT stopped",
         '{"truncated": active}', '{"truncated": ~active}'),
        ("the responses are in the wrong order: row i belongs to prompt i // group_size, not "
         "i % P", "torch.arange(n, device=device) // request.group_size ",
         "torch.arange(n, device=device) % len(request.texts) "),
        ("a stop string does not end a row: follow request.stop_table, and keep the state of each "
         "row from step to step",
         "if request.stop_table is not None:", "if False:"),
        ("no row stops at a stop token", "active & ~torch.isin(token, stop_ids)", "active"),
        ("all rows end when the first one stops: go on while any row is active",
         "or not active.any()", "or not active.all()"),
    ],
}
