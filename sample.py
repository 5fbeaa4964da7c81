"""Batched sampling with a KV cache, the plain way: prompts to responses with their log-probs.

    python sample.py --run runs/NAME "47*6+85=?"          ask a trained run

The prompts are read once (prefill). Each later step reads one token per row and attends to the keys
and values of all earlier tokens, which the cache holds (decode):

    token[t] ~ softmax(logits[t-1] / temperature)         logp[t] = log of that softmax at token[t]

A row's draws depend only on its seed, its prompt and the position (engine/rng.py). They do not
depend on the batch. Training uses engine/sampler.py by default, which draws the same tokens faster;
`train.py --sampler plain` trains with this file. docs/sampler.md compares the two.
Left out on purpose: finished rows leaving the batch, shared prefixes, CUDA graphs.
Shapes: N = prompts * group_size rows, T tokens, S columns of the cache, V vocabulary, D width.
"""

import infra.openmp  # noqa: F401  (before torch)

import codecs
import json
import sys
from dataclasses import dataclass, fields

import torch

from engine.attention import attend, visibility_bias
from engine.request import Request, assemble, make_request
from engine.rng import sample_tokens, uniform
from infra import arguments
from infra.terminal import echo
from model import GPT, Config


@dataclass
class Rollout:
    """Row i is a response to prompt number group[i]. T is the length of the longest row."""

    tokens: torch.Tensor     # (N, T) int64: prompt, response, padding
    logp: torch.Tensor       # (N, T) log-prob of each response token when it was drawn; else 0
    entropy: torch.Tensor    # (N, T) of its distribution, nats (greedy: at temperature 1); else 0
    mask: torch.Tensor       # (N, T) 1.0 for tokens that the policy chose, stop token included
    group: torch.Tensor      # (N,) index of the prompt
    truncated: torch.Tensor  # (N,) True: cut off at max_new_tokens, without a stop

    def to(self, device) -> "Rollout":
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))

    def responses(self) -> list[list[int]]:
        """Token ids of each response without its fixed prefix. A stop token is included."""
        rows = zip(self.tokens.cpu(), self.mask.bool().cpu(), strict=True)
        return [tokens[mask].tolist() for tokens, mask in rows]


class KVCache:
    """The keys and values of N rows. Row n holds tokens 0 .. lengths[n] - 1. The model calls this
    object in each layer, as its attention (engine/attention.py)."""

    applies_rope = False  # the model rotates q and k before the call

    def __init__(self, config: Config, n: int, capacity: int, device=None, dtype=None):
        shape = (config.layers, n, config.kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(n, dtype=torch.int64, device=device)

    def next_tokens(self, t: int) -> "KVCache":
        """Sets the positions (N, t) of t new tokens per row, and `visible` (N, 1, t, S): the
        columns that each of them attends to, its own included. Returns the cache. The caller
        advances `lengths`."""
        columns = torch.arange(self.keys.shape[3], device=self.lengths.device)
        self.positions = self.lengths[:, None] + columns[:t]                  # (N, t)
        self.visible = columns <= self.positions[:, None, :, None]            # (N, 1, t, S)
        return self

    def __call__(self, layer: int, q, k, v):
        """Returns attention (M, H, d) of q (M, H, d), k and v (M, K, d), where M = N * t."""
        keys, values, d = self.keys[layer], self.values[layer], q.shape[-1]
        n, t = self.positions.shape
        q, k, v = (x.view(n, t, -1, d).transpose(1, 2) for x in (q, k, v))    # (N, heads, t, d)
        # 1. write the new keys and values at their positions
        index = self.positions[:, None, :, None].expand_as(k)
        keys.scatter_(2, index, k)
        values.scatter_(2, index, v)
        # 2. H / K query heads share a key/value head: put them in the dimension of queries
        kv_heads, share = k.shape[1], q.shape[1] // k.shape[1]
        bias = visibility_bias(self.visible, q.dtype).repeat(1, 1, share, 1)
        y = attend(q.reshape(n, kv_heads, share * t, d), keys, values, bias, d, t)
        return y.reshape(n, -1, t, d).transpose(1, 2).flatten(0, 1)


def generate(model: GPT, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 96,
             temperature: float = 1.0, seed=0, *, stop, pad: int, stop_table=None, prefixes=None,
             top_k: int = 0, top_p: float = 1.0, max_rows: int = 0, on_token=None) -> Rollout:
    """Samples group_size responses to each prompt.

    stop: a token id or several; a response ends with one, or with the token that completes a stop
    string. stop_table (V, states): the automaton of stop strings (tokenizer.stop_table). seed: an
    int, or a list with a seed per row. prefixes: a fixed beginning of the responses, one per
    prompt. Its tokens are not in the mask, but positions count them. Temperature 0 is greedy.
    on_token(id): called with each token; the call must have a single row. max_rows is for the fast
    sampler. make_request raises ValueError for bad arguments."""
    request = make_request(model, prompts, group_size, max_new_tokens, temperature, seed, stop,
                           stop_table, prefixes, top_k, top_p)
    return Rollout(**assemble(request, decode(model, request, on_token), pad))


@torch.inference_mode()
def decode(model: GPT, request: Request, on_token) -> dict:
    """Draws all rows. Returns a dict: tokens, logp and entropy (N, max_new_tokens), the number of
    `drawn` tokens (N,), and which rows are `truncated` (N,). `on_token`, if given, is called in
    each step with the token of row 0, an int."""
    device, n, steps = request.seeds.device, len(request.seeds), request.max_new_tokens
    of_row = torch.arange(n, device=device) // request.group_size             # prompt of each row
    lengths = torch.tensor([len(text) for text in request.texts], device=device)[of_row]
    out = {"tokens": torch.zeros(n, steps, dtype=torch.int64, device=device),
           "logp": torch.zeros(n, steps, device=device),
           "entropy": torch.zeros(n, steps, device=device),
           "drawn": torch.zeros(n, dtype=torch.int64, device=device)}
    active = torch.ones(n, dtype=torch.bool, device=device)
    state = request.stop_states[of_row]
    stop_ids = torch.tensor(request.stop_ids, dtype=torch.int64, device=device)

    # 1. Prefill: read all prompts, padded on the right. Causal attention hides the padding from the
    #    prompt. The response later overwrites it in the cache.
    width = max(map(len, request.texts))
    texts = torch.tensor([text + [0] * (width - len(text)) for text in request.texts],
                         device=device)[of_row]                               # (N, width)
    cache = KVCache(model.config, n, width + steps, device, model.embedding.weight.dtype)
    hidden = model(texts, cache.next_tokens(width))                           # (N, width, D)
    hidden = hidden[torch.arange(n, device=device), lengths - 1]              # (N, D)
    cache.lengths = lengths

    for step in range(steps):
        # 2. Sample the next token of each row from the logits of its last token.
        u = uniform(request.seeds, request.offsets[of_row] + step)  # offsets: prefix lengths
        token, logp, entropy = sample_tokens(model.logits(hidden), u, *request.sampling)
        for name, x in (("tokens", token), ("logp", logp), ("entropy", entropy)):
            out[name][:, step] = torch.where(active, x, 0)
        out["drawn"] += active
        if on_token:
            on_token(token[0].item())
        # 3. Stop: a stop token, or the last state of the stop-string automaton.
        active = active & ~torch.isin(token, stop_ids)
        if request.stop_table is not None:
            state = request.stop_table[token, state]
            active = active & (state < request.stop_table.shape[1] - 1)
        if step + 1 == steps or not active.any():
            break
        # 4. Decode: read the new token; attention finds all earlier ones in the cache.
        hidden = model(token[:, None], cache.next_tokens(1))[:, 0]            # (N, D)
        cache.lengths = cache.lengths + 1
    return out | {"truncated": active}


def main(argv=None) -> int:
    """The command line: prints one answer token by token, or scores a file of problems."""
    import evaluate  # not at the top: evaluate imports this file
    import tasks

    parser = arguments.Parser("sample.py", description="Asks a trained run.")
    add = parser.add_argument
    add("question", nargs="?", help='such as "47*6+85=?"')
    arguments.add_run(parser)
    add("--problems", type=arguments.path, help="JSONL file of question and answer: prints the "
        "accuracy")
    add("--temperature", type=arguments.temperature, default=0.0, help="0 is greedy")
    add("--top-k", type=arguments.integer(0), default=0, help="most likely tokens kept; 0: all")
    add("--top-p", type=arguments.number(above=0, most=1), default=1.0, help="keep the smallest "
        "set of top tokens with at least this total probability; 1: all")
    add("--max-new-tokens", type=arguments.integer(1), help="default: as in training")

    def work(args):
        if (args.question is None) == (args.problems is None):
            parser.error("give either a question or --problems FILE")
        policy, tokenizer, settings = evaluate.load_run(args.run)
        longest = args.max_new_tokens or settings["max_new_tokens"]
        keep = dict(top_k=args.top_k, top_p=args.top_p)
        if args.question is not None:
            # a character may be split over up to four tokens
            reader = codecs.getincrementaldecoder("utf-8")("replace")

            def show(token):
                if token not in tokenizer.stop_ids:
                    echo(reader.decode(tokenizer.decode_bytes([token])), end="", flush=True)
            generate(policy, [tokenizer.encode_prompt(args.question)], 1, longest, args.temperature,
                     args.seed, on_token=show, **evaluate.stop_conditions(policy, tokenizer),
                     **keep)
            echo(reader.decode(b"", final=True))
            return
        problems = evaluate.read_problems(args.problems, settings)
        rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, 1,
                                                   args.temperature, args.seed, longest, **keep)
        result = evaluate.proportion(tasks.File.correct(p, t)
                                     for p, t in zip(problems, texts, strict=True))
        print(json.dumps({"accuracy": result["value"], "ci": result["ci"], "n": result["n"],
                          "length": float(rollout.mask.sum(1).mean()),
                          "truncated": float(rollout.truncated.float().mean())}))
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
