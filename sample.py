"""Batched sampling with a KV cache: prompts of different lengths in, tokens and their log-probs
out.

Prompts are padded on the left, so that all rows write the same cache column at each step; a mask
hides the padding and each row counts its own positions. A prompt that is shared by the G samples of
a group is read once and its cache copied. A row that has ended gives its place to a living one from
the end of the batch, and the batch shrinks, so finished rows stop costing.

    token[t] ~ softmax(logits[t-1] / temperature)         logp[t] = log of that softmax at token[t]

A row draws by inverting the cumulative distribution at one uniform number, a hash of its own seed
and position: what it draws does not depend on who shares the batch. Left out on purpose: refilling
a shrunken batch with waiting rows, CUDA graphs, paged caches, top-p.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from model import GPT, Cache, from_state, load


@dataclass
class Rollout:
    """N = prompts x group_size sequences; row i answers prompt group[i]. T is the longest's
    length."""

    tokens: torch.Tensor     # (N, T) int64: prompt, response, then padding
    logp: torch.Tensor       # (N, T) of each token of the response when it was drawn; else 0
    entropy: torch.Tensor    # (N, T) of the distribution it was drawn from, nats; else 0
    mask: torch.Tensor       # (N, T) 1.0 where the policy chose the token, end of text included
    group: torch.Tensor      # (N,) index of the prompt
    truncated: torch.Tensor  # (N,) True where max_new_tokens came before the end of text

    def responses(self) -> list[list[int]]:
        """Token ids of each response, the end of text included."""
        return [t[m].tolist() for t, m in zip(self.tokens, self.mask.bool(), strict=True)]


def mix(x: torch.Tensor) -> torch.Tensor:
    """splitmix64's finalizer: int64 -> well-mixed int64, the same on every device."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def uniform(seeds: torch.Tensor, position: int) -> torch.Tensor:
    """One number in [0, 1) with 24 random bits for each of seeds (N,): a pure function of both."""
    return ((mix(seeds + (position + 1) * 0x9E3779B97F4A) >> 40) & (2**24 - 1)).float() / 2**24


def draw(logits: torch.Tensor, u: torch.Tensor, temperature: float):
    """Tokens (N,), their log-probs (N,) and the entropies (N,) of softmax(logits / temperature),
    for logits (N, V) and uniform numbers u (N,). Temperature 0 is greedy, its log-prob that of the
    untempered distribution."""
    logp = F.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    probs = logp.exp()
    entropy = -(probs * logp).sum(-1)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        cdf = probs.cumsum(-1)
        token = torch.searchsorted(cdf, (u * cdf[:, -1])[:, None], right=True).squeeze(-1)
    return token, logp.gather(-1, token[:, None]).squeeze(-1), entropy


@torch.no_grad()
def generate(model: GPT, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 96,
             temperature: float = 1.0, seed: int = 0, *, stop: int, pad: int,
             max_rows: int = 512, on_token=None) -> Rollout:
    """Samples group_size responses to each prompt, up to and with the token `stop`.

    At most max_rows rows are in memory at once. on_token(token id) is called for each token of a
    single row. Raises ValueError for no prompts, an empty prompt, one that leaves no room in the
    context, ids outside the vocabulary or a negative temperature.
    """
    check(model.config, prompts, group_size, max_new_tokens, temperature)
    device = model.embedding.weight.device
    n = len(prompts) * group_size
    seeds = mix(torch.arange(n, device=device) + mix(torch.tensor(seed, device=device)))
    out = {name: torch.zeros(n, max_new_tokens, device=device)
           for name in ("logp", "entropy", "mask")}
    out["tokens"] = torch.full((n, max_new_tokens), pad, device=device)
    per_batch = max(1, max_rows // group_size)
    for i in range(0, len(prompts), per_batch):
        rows = slice(i * group_size, (i + per_batch) * group_size)
        decode(model, prompts[i:i + per_batch], group_size, temperature, seeds[rows], stop, pad,
               {name: tensor[rows] for name, tensor in out.items()}, on_token)
    return assemble(prompts, group_size, out, stop, pad)


def check(config, prompts, group_size, max_new_tokens, temperature) -> None:
    if not prompts or not all(prompts):
        raise ValueError("there is nothing to sample from: no prompts, or an empty one")
    if group_size < 1 or max_new_tokens < 1 or temperature < 0:
        raise ValueError("group_size and max_new_tokens must be at least 1, temperature at least 0")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > config.context:
        raise ValueError(f"a prompt of {longest} tokens and {max_new_tokens} new ones do not fit "
                         f"the context of {config.context}")
    if not all(0 <= token < config.vocab_size for prompt in prompts for token in prompt):
        raise ValueError(f"a prompt holds ids outside the vocabulary of {config.vocab_size}")


def prefill(model, prompts, group_size, capacity, pad):
    """Reads each prompt once. Returns the cache of len(prompts) * group_size rows, the last hidden
    states (N, D), and how many columns of padding stand before each row (N,)."""
    device, width = model.embedding.weight.device, max(map(len, prompts))
    padding = torch.tensor([width - len(p) for p in prompts], device=device)
    tokens = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    column = torch.arange(width, device=device)
    visible = (column <= column[:, None]) & (column >= padding[:, None, None])  # (P, width, width)
    visible |= torch.eye(width, dtype=torch.bool, device=device)  # a pad sees itself: no NaN
    once = Cache(model.config, len(prompts), width, device, model.embedding.weight.dtype)
    hidden = model(tokens, (column - padding[:, None]).clamp(min=0), once, visible[:, None])
    cache = Cache(model.config, len(prompts) * group_size, capacity, device, once.keys.dtype)
    cache.keys[:, :, :, :width] = once.keys.repeat_interleave(group_size, dim=1)
    cache.values[:, :, :, :width] = once.values.repeat_interleave(group_size, dim=1)
    cache.length = width
    return (cache, hidden[:, -1].repeat_interleave(group_size, dim=0),
            padding.repeat_interleave(group_size))


def decode(model, prompts, group_size, temperature, seeds, stop, pad, out, on_token):
    """Samples all rows of one batch to their ends, writing into `out` (rows, max_new_tokens)."""
    steps = out["tokens"].shape[1]
    width = max(map(len, prompts))
    cache, hidden, padding = prefill(model, prompts, group_size, width + steps, pad)
    row = torch.arange(len(seeds), device=seeds.device)  # which row of `out` stands in each place
    alive = torch.ones_like(row, dtype=torch.bool)
    column = torch.arange(width + steps, device=seeds.device)
    for t in range(steps):
        token, logp, entropy = draw(model.head(hidden), uniform(seeds, t), temperature)
        out["tokens"][row, t] = torch.where(alive, token, pad)
        out["logp"][row, t] = torch.where(alive, logp, 0.0)
        out["entropy"][row, t] = torch.where(alive, entropy, 0.0)
        out["mask"][row, t] = alive.float()
        if on_token:
            on_token(token.item())
        alive = alive & (token != stop)
        living = int(alive.sum())
        if living == 0 or t == steps - 1:
            return
        if living <= 0.94 * len(row):
            places = retire(cache, alive, living)
            row, seeds, padding, token = (x[places] for x in (row, seeds, padding, token))
            alive = torch.ones_like(row, dtype=torch.bool)
        mask = (column[: cache.length + 1] >= padding[:, None])[:, None, None]  # (n, 1, 1, S)
        hidden = model(token[:, None], (cache.length - padding)[:, None], cache,
                       mask if bool(padding.any()) else None)[:, 0]


def retire(cache: Cache, alive: torch.Tensor, living: int) -> torch.Tensor:
    """Moves living rows from behind place `living` into the places of ended ones before it; only
    what moves is copied. Returns, for each of the `living` places, where its row stood."""
    places = torch.arange(len(alive), device=alive.device)
    holes, movers = places[:living][~alive[:living]], places[living:][alive[living:]]
    for store in (cache.keys, cache.values):
        store[:, holes, :, :cache.length] = store[:, movers, :, :cache.length]
    places[holes] = movers
    return places[:living]


def assemble(prompts, group_size, out, stop, pad) -> Rollout:
    """Puts prompts and responses side by side, padding on the right, as training wants them."""
    device, lengths = out["tokens"].device, out["mask"].sum(1).long()[:, None]
    starts = torch.tensor([[len(p)] for p in prompts], device=device)
    starts = starts.repeat_interleave(group_size, dim=0)
    width = int((starts + lengths).max())
    padded = torch.tensor([(p + [pad] * width)[:width] for p in prompts], device=device)
    source = torch.arange(width, device=device) - starts  # (N, width): column of the response
    mask = (source >= 0) & (source < lengths)
    source = source.clamp(0, out["tokens"].shape[1] - 1)
    padded = padded.repeat_interleave(group_size, dim=0)
    tokens = torch.where(mask, out["tokens"].gather(1, source), padded)
    logp, entropy = (out[name].gather(1, source) * mask for name in ("logp", "entropy"))
    group = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
    truncated = ~(out["tokens"] == stop).any(1)
    return Rollout(tokens, logp, entropy, mask.float(), group, truncated)


def main(argv=None) -> int:
    """The command line: one question, answered as it is written, or a file of problems, scored."""
    from evaluate import respond, share  # here, since they build on this file
    from tasks import read_jsonl
    from tokenizer import EOT, PAD, encode_prompt, encoding
    from verify import number_correct
    parser = argparse.ArgumentParser(description="Asks a trained run.")
    parser.add_argument("question", nargs="?", help='such as "47*6+85=?"')
    parser.add_argument("--run", required=True, help="the run's folder, such as runs/NAME")
    parser.add_argument("--problems", help="JSONL of question and answer: prints one JSON line")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--max-new-tokens", type=int, help="default: as in training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        if (args.question is None) == (args.problems is None):
            raise ValueError("give either a question or --problems FILE")
        path = Path(args.run) / "checkpoint.pt"
        if not path.exists():
            raise ValueError(f"{args.run} has no checkpoint.pt; train.py makes one")
        policy = from_state(load(path))
        settings = json.loads((path.parent / "config.json").read_text())
        longest = args.max_new_tokens or settings["max_new_tokens"]
        if args.problems and settings["task"] == "countdown":
            raise ValueError("--problems scores numbers; a countdown run answers with expressions")
        if args.question is not None:
            def show(token):
                if token != EOT:
                    text = encoding.decode_bytes([token]).decode("utf-8", "replace")
                    print(text, end="", flush=True)
            generate(policy, [encode_prompt(args.question)], 1, longest, args.temperature,
                     args.seed, stop=EOT, pad=PAD, on_token=show)
            print()
            return 0
        problems = read_jsonl(args.problems)
        rollout, texts = respond(policy, problems, 1, args.temperature, args.seed, longest)
    except ValueError as error:
        print(f"sample.py: {error}", file=sys.stderr)
        return 2
    result = share(number_correct(p, t) for p, t in zip(problems, texts, strict=True))
    print(json.dumps({"accuracy": result["value"], "ci": result["ci"], "n": result["n"],
                      "length": float(rollout.mask.sum(1).mean()),
                      "truncated": float(rollout.truncated.float().mean())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
