"""Inputs of part 1: sampling with a KV cache. The answers are not here."""

import math

import torch


def inverse_cdf(f):
    quarters = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    yield "u below the first entry", f, quarters, torch.tensor([0.1])
    yield "u between two entries", f, quarters, torch.tensor([0.6])
    yield "u equal to an entry", f, quarters, torch.tensor([0.5])
    never = torch.tensor([[0.0, 0.0, 0.5, 0.5, 1.0]] * 3)
    yield "tokens of probability 0", f, never, torch.tensor([0.001, 0.499, 0.6])
    rounded = torch.tensor([[0.3, 0.6, 0.9], [0.3, 0.6, 0.9]])
    yield "a last entry below 1", f, rounded, torch.tensor([0.95, 0.65])
    rows = torch.tensor([[0.1, 0.2, 1.0], [0.7, 0.9, 1.0], [0.2, 0.8, 1.0]])
    yield "three rows", f, rows, torch.tensor([0.5, 0.5, 0.5])
    u, slot = torch.tensor([0.15, 0.95, 0.5, 0.05]), torch.tensor([0, 1, 1, 2])
    yield "four sequences that use rows 0, 1, 1 and 2 (slot)", f, rows, u, slot


def sample_tokens(f):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5], [0.0, 3.0, 2.5, 1.0, -2.0],
                           [0.3, 0.2, 0.1, 0.0, -0.1]])
    u = torch.tensor([0.7, 0.5, 0.9])
    yield "temperature 1", f, logits, u, 1.0
    yield "temperature 0.5", f, logits, u, 0.5
    yield "temperature 2", f, logits, u, 2.0
    yield "temperature 0: greedy", f, logits, u, 0
    yield "top_k = 2", f, logits, u, 1.0, 2
    yield "top_p = 0.8, temperature 0.5", f, logits, u, 0.5, 0, 0.8
    yield "logits in bfloat16", f, logits.bfloat16(), u, 1.0
    slot = torch.tensor([2, 0, 0, 1])
    more = torch.tensor([0.7, 0.1, 0.99, 0.5])
    yield "slot: four sequences that use rows 2, 0, 0 and 1", f, logits, more, 1.0, 0, 1.0, slot
    yield "slot, temperature 0", f, logits, more, 0, 0, 1.0, slot
    yield "a token that is almost certain", f, torch.tensor([[30.0, 0.0, 0.0]]), u[:1], 1.0
    yield ("a drawn token with the probability 1e-7", f, torch.tensor([[0.0, 16.1]]),
           torch.tensor([6e-8]), 1.0)


def rotate(f):
    x = torch.arange(1.0, 25.0).view(3, 2, 4) / 10

    def tables(positions):
        angles = torch.outer(torch.tensor(positions), torch.tensor([1.0, 0.3]))
        return (torch.cat((angles, angles), 1).cos()[:, None],
                torch.cat((-angles, angles), 1).sin()[:, None])
    yield "position 0", f, x, *tables([0.0, 0.0, 0.0]), 4
    yield "positions 0, 1 and 2", f, x, *tables([0.0, 1.0, 2.0]), 4
    yield "a quarter turn", f, x[:1], *tables([math.pi / 2]), 4


def tiny_cache(capacity: int, lengths: list[int]):
    """A KVCache of two rows: 2 layers, 4 query heads, 2 key/value heads, head_dim 2."""
    from model import Config
    from sample import KVCache
    cache = KVCache(Config(8, layers=2, width=8, heads=4, kv_heads=2), 2, capacity)
    cache.lengths = torch.tensor(lengths)
    return cache


def next_tokens(f):
    def positions_and_mask(capacity, lengths, t):
        made = f(tiny_cache(capacity, lengths), t)
        return {"positions": made.positions, "visible": made.visible, "lengths": made.lengths}
    yield "an empty cache, three new tokens", positions_and_mask, 4, [0, 0], 3
    yield "rows with 2 and 0 tokens, one new token", positions_and_mask, 4, [2, 0], 1
    yield "rows with 1 and 3 tokens, two new tokens", positions_and_mask, 6, [1, 3], 2


def numbers(seed: int, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention_of_cache(f):
    def call(layer, positions, visible, *qkv):
        cache = tiny_cache(4, [0, 0])
        cache.keys[:], cache.values[:] = numbers(7, 2, 2, 2, 4, 2), numbers(8, 2, 2, 2, 4, 2)
        cache.positions = torch.tensor(positions)
        cache.visible = torch.tensor(visible, dtype=torch.bool)[:, None]
        out = f(cache, layer, *qkv)
        return {"cache keys": cache.keys.sum((2, 4)), "cache values": cache.values.sum((2, 4)),
                "attention": out, "cache lengths": cache.lengths}      # keys: (layers, N, S)

    def new(t):
        return [numbers(seed, 2 * t, heads, 2) for seed, heads in ((1, 4), (2, 2), (3, 2))]
    yield ("one new token at position 0", call, 0, [[0], [0]], [[[1, 0, 0, 0]]] * 2, *new(1))
    yield ("one new token at positions 2 and 1, layer 1", call, 1, [[2], [1]],
           [[[1, 1, 1, 0]], [[1, 1, 0, 0]]], *new(1))
    triangle = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    yield "three new tokens", call, 0, [[0, 1, 2]] * 2, [triangle] * 2, *new(3)
    yield ("two new tokens at positions 1, 2 and 2, 3", call, 1, [[1, 2], [2, 3]],
           [triangle[1:], [[1, 1, 1, 0], [1, 1, 1, 1]]], *new(2))


def tiny_gpt():
    """A GPT of 8 words with large random weights, so that its logits differ."""
    from model import GPT, Config
    made = GPT(Config(8, context=32, layers=2, width=8, heads=4, kv_heads=2, hidden=12,
                      rope_theta=100.0))
    for i, parameter in enumerate(made.parameters()):
        if parameter.dim() == 2:
            parameter.data = numbers(i, *parameter.shape)
    return made


def decode(f):
    from engine.request import make_request
    table = torch.zeros(8, 3, dtype=torch.int64)  # the automaton of the string "3 3"
    table[3, 0], table[3, 1], table[:, 2] = 1, 2, 2

    def call(prompts, group_size=1, steps=6, temperature=1.0, stop=(), stop_table=None,
             prefixes=None, top_k=0):
        request = make_request(tiny_gpt(), prompts, group_size, steps, temperature, 5, stop,
                               stop_table, prefixes, top_k, 1.0)
        heard = []
        made = f(tiny_gpt(), request, heard.append if len(request.seeds) == 1 else None)
        inside = torch.arange(steps) < made["drawn"][:, None]  # behind it a row may hold anything
        return {"drawn": made["drawn"], "truncated": made["truncated"],
                "tokens": made["tokens"] * inside, "logp": made["logp"] * inside,
                "entropy, summed": (made["entropy"] * inside).sum(1),
                "on_token": [x if isinstance(x, int) else "no int" for x in heard]}
    yield "one prompt, greedy", call, [[1, 2, 3]], 1, 6, 0
    yield "one prompt, temperature 1", call, [[1, 2, 3]]
    yield "one prompt, temperature 0.7", call, [[4, 1]], 1, 6, 0.7
    yield "prompts of 1, 4 and 2 tokens", call, [[1], [1, 2, 3, 4], [5, 6]], 1, 5
    yield "two prompts, three responses to each", call, [[1, 2], [3]], 3, 4
    yield "rows that stop at different steps", call, [[1, 2], [3], [4]], 2, 5, 1.0, [2, 5]
    yield "a stop string", call, [[1, 2], [3], [4]], 2, 5, 1.0, [], table
    yield "fixed prefixes", call, [[1, 2], [3]], 1, 4, 1.0, [], None, [[7, 7], [6]]
    yield "prefixes, of which the second ends inside the stop string", call, [[1], [2]], 3, 3, \
        1.0, [], table, [[6], [6, 3]]
    yield "prefixes, of which the first ends inside the stop string", call, [[2], [1]], 3, 3, \
        1.0, [], table, [[6, 3], [6]]
    yield "one row that stops early", call, [[1, 2, 3]], 1, 6, 1.0, [0]
    yield "any of four stop tokens, at most 2 tokens", call, [[1, 2], [3], [4]], 2, 2, 1.0, \
        [1, 2, 5, 7]
    yield "top_k = 2", call, [[1, 2], [3]], 2, 4, 1.0, [], None, None, 2


CHECKS = {"inverse_cdf": inverse_cdf, "sample_tokens": sample_tokens, "rotate": rotate,
          "KVCache.next_tokens": next_tokens, "KVCache.__call__": attention_of_cache,
          "decode": decode}
