"""Sampling in turns: the policy calls a tool, the environment answers, and the policy goes on.

    prompt        347*26=?
    policy        <think><call>347*26</call>                    mask 1
    environment   <result>9022</result>                         mask 0: in no loss, no ratio
    policy        </think><answer>9022</answer>                 mask 1

A row stops at </call>. When all rows have stopped, the environment answers all calls together. The
model reads the answers in one forward pass, into the KV cache that the rows have, and sampling goes
on. Tokens stay as they were drawn: a turn is decoded for the tool alone, and never encoded again.
The policy did not choose the tokens of a result, so they have mask 0, log-prob 0 and entropy 0.
They count towards max_new_tokens.

A row's draws depend on its seed, its prompt, the position and its own results. So a row without a
call has the tokens of sample.generate. Papers: ReTool 2504.11536; Search-R1 2503.09516, which masks
the tokens of the environment. Left out on purpose: rows that go on while others wait for an answer,
shared prefixes, state that a tool keeps between two calls.
Shapes: N = prompts * group_size rows, T tokens, D width.
"""

import threading
import time
from dataclasses import dataclass, replace

import torch

from engine.request import Request, assemble, make_request
from engine.rng import sample_tokens, uniform
from model import GPT
from sample import KVCache, Rollout
from tasks.base import ERROR

CALL, END_CALL, RESULT, END_RESULT = "<call>", "</call>", "<result>", "</result>"
MAX_RESULT = 96         # tokens of a result without its tags; a longer one is cut
CUT = " ...(cut)"       # the end of a result that was cut
SECONDS = 10.0          # that the calls of a turn may take together


@dataclass
class TurnRollout(Rollout):
    """A Rollout whose responses hold results of tools, where `mask` is 0."""

    calls: torch.Tensor   # (N,) calls of each response
    errors: torch.Tensor  # (N,) calls whose result is an error
    failed: torch.Tensor  # (N, T) 1.0 at the policy's tokens in the turn of such a call

    def transcript(self, row: int) -> list[int]:
        """Token ids of a response with the results in it. A stop token is included."""
        first, last = self.mask[row].nonzero()[[0, -1], 0].tolist()  # the last one is the policy's
        return self.tokens[row, first:last + 1].tolist()


def generate(model: GPT, prompts: list[list[int]], group_size: int = 1, max_new_tokens: int = 96,
             temperature: float = 1.0, seed=0, *, stop, pad: int, stop_table, tokenizer, tools,
             top_k: int = 0, top_p: float = 1.0) -> TurnRollout:
    """Samples group_size responses to each prompt, in turns.

    tools: a tasks.Tool or None for each prompt. stop_table: that of evaluate.stop_conditions(model,
    tokenizer, END_CALL). The other arguments and the errors are those of sample.generate."""
    request = make_request(model, prompts, group_size, max_new_tokens, temperature, seed, stop,
                           stop_table, None, top_k, top_p)
    out = decode(model, request, tokenizer, [tool for tool in tools for _ in range(group_size)])
    return TurnRollout(**assemble(request, out, pad, "failed"), calls=out["calls"],
                       errors=out["errors"])


@torch.inference_mode()
def decode(model: GPT, request: Request, tokenizer, tools) -> dict:
    """Draws all rows. tools: of each row. Returns tokens, logp and entropy (N, max_new_tokens),
    where `chosen` marks the tokens that the policy drew, and `failed` those of turns whose call
    gave an error; the number of `drawn` tokens, of `calls` and of `errors` (N,), and which rows are
    `truncated` (N,)."""
    device, n, steps = request.seeds.device, len(request.seeds), request.max_new_tokens
    out = {name: torch.zeros(n, steps, device=device, dtype=dtype) for name, dtype in (
        ("tokens", torch.int64), ("logp", None), ("entropy", None), ("chosen", torch.bool),
        ("failed", None))}
    out |= {name: torch.zeros(n, dtype=torch.int64, device=device)
            for name in ("drawn", "calls", "errors")}
    out["truncated"] = torch.ones(n, dtype=torch.bool, device=device)  # until a row has its end
    # the tokens that each row has not read yet; none: the row is finished
    unread = [request.texts[row // request.group_size] for row in range(n)]
    cache = KVCache(model.config, n, max(map(len, unread)) + steps, device,
                    model.embedding.weight.dtype)
    while any(unread):
        # 1. Read: the prompts in the first turn, the results of tools in the later ones.
        hidden = read(model, cache, unread)
        active = torch.tensor([bool(ids) for ids in unread], device=device)
        # 2. Draw, until no row is active. `called` are the rows with a stop string at their end.
        began, unread = out["drawn"].clone(), [[]] * n
        called = draw(model, cache, hidden, active, out, request)
        # 3. Answer all calls together. A result that does not fit ends its row.
        texts = {row: tokenizer.decode(out["tokens"][row, began[row]:out["drawn"][row]].tolist())
                 for row in called}
        rows = [row for row in called if END_CALL in texts[row]]
        out["truncated"][[row for row in called if row not in rows]] = False
        results = answer_calls([(tools[row], texts[row], int(out["calls"][row])) for row in rows])
        for row, result in zip(rows, results, strict=True):
            out["calls"][row] += 1
            if result.startswith(ERROR):
                out["errors"][row] += 1
                out["failed"][row, began[row]:out["drawn"][row]] = 1
            unread[row] = append(out, row, encode_result(tokenizer, result))
    return out


def read(model: GPT, cache: KVCache, unread) -> torch.Tensor:
    """Reads the unread tokens of each row behind those that its cache holds. Returns the hidden
    states (N, D) of the last ones. A row without tokens is finished; what it reads is ignored."""
    device, width = cache.lengths.device, max(map(len, unread))
    counts = torch.tensor(list(map(len, unread)), device=device)
    # rows are padded on the right; later tokens overwrite the padding, or it is in the last column
    tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in unread], device=device)
    attention = cache.next_tokens(width)
    attention.positions.clamp_(max=cache.keys.shape[3] - 1)
    hidden = model(tokens, attention)                                         # (N, width, D)
    cache.lengths = cache.lengths + counts
    return hidden[torch.arange(len(unread), device=device), (counts - 1).clamp(min=0)]


def draw(model: GPT, cache: KVCache, hidden, active, out: dict, request: Request) -> list[int]:
    """Draws tokens from the hidden states (N, D), until no row is active. Records them in `out`.
    Returns the rows that stopped at a stop string. The last token of a row is not in the cache."""
    state = torch.zeros_like(out["drawn"])
    called, last_state = torch.zeros_like(active), request.stop_table.shape[1] - 1
    stop_ids = torch.tensor(request.stop_ids, dtype=torch.int64, device=active.device)
    while True:
        # 1. the next token of each active row, at the end of its response
        u = uniform(request.seeds, out["drawn"])
        token, logp, entropy = sample_tokens(model.logits(hidden), u, *request.sampling)
        rows = active.nonzero()[:, 0]
        at = rows, out["drawn"][rows]
        for name, x in (("tokens", token), ("logp", logp), ("entropy", entropy)):
            out[name][at] = x[rows]
        out["chosen"][at] = True
        out["drawn"] += active
        # 2. a row stops at a stop token, at a stop string such as END_CALL, or at the limit
        state = request.stop_table[token, state]
        at_end, at_string = torch.isin(token, stop_ids), state == last_state
        out["truncated"] &= ~(active & at_end)
        called |= active & at_string & ~at_end
        active = active & ~at_end & ~at_string & (out["drawn"] < request.max_new_tokens)
        if not active.any():
            return called.nonzero()[:, 0].tolist()
        # 3. read the new tokens
        hidden = model(token[:, None], cache.next_tokens(1))[:, 0]            # (N, D)
        cache.lengths = cache.lengths + active


def append(out: dict, row: int, ids: list[int]) -> list[int]:
    """Puts a result behind the tokens of a row, if a token fits behind it. Returns the tokens that
    the row has to read: its last one, and the result. [] where the result does not fit."""
    end = int(out["drawn"][row])
    if end + len(ids) >= out["tokens"].shape[1]:
        return []
    last = int(out["tokens"][row, end - 1])
    out["tokens"][row, end:end + len(ids)] = torch.tensor(ids)
    out["drawn"][row] += len(ids)
    return [last, *ids]


def add_turn_credit(batch, penalty: float):
    """The ppo.Batch with `penalty` taken from the advantages at the tokens of failed turns. So a
    call that gave an error is worse than the rest of its response, whatever the answer is."""
    return replace(batch, advantages=batch.advantages - penalty * batch.failed)


def metrics(rollouts: list[TurnRollout]) -> dict:
    """Metrics of a step: calls of a response, and the share of calls that gave an error."""
    calls, errors = (sum(int(getattr(rollout, name).sum()) for rollout in rollouts)
                     for name in ("calls", "errors"))
    return {"calls": calls / sum(len(rollout.calls) for rollout in rollouts),
            "call_errors": errors / max(1, calls)}


# --- the environment

def encode_result(tokenizer, text: str) -> list[int]:
    """Ids of a result in its tags. A tag that the tool wrote stays plain text."""
    before, ids, cut, after = map(tokenizer.encode_ordinary, (
        RESULT, text[:64 * MAX_RESULT], CUT, END_RESULT))
    if len(ids) > MAX_RESULT:
        ids = ids[:MAX_RESULT] + cut
    return before + ids + after


def answer_calls(calls: list[tuple]) -> list[str]:
    """The result of each call (tool, text of the turn, number of earlier calls). The calls work at
    the same time. One that is not done after SECONDS is left alone, and its result is an error."""
    results = [f"{ERROR}no answer after {SECONDS:g} s"] * len(calls)

    def work(i):
        results[i] = answer(*calls[i])
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(results)


def answer(tool, text: str, turn: int) -> str:
    """The result of the last call in a text, which ends at END_CALL."""
    _, tag, call = text.partition(END_CALL)[0].rpartition(CALL)
    if tool is None:
        return f"{ERROR}there is no tool"
    return tool.result(call, turn) if tag else f"{ERROR}no {CALL} before {END_CALL}"
