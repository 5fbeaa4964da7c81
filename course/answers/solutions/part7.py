"""Right solutions of part 7, written in other ways. They run with the names of the true modules."""

# ruff: noqa: F821
# (scorer_inputs, same_answer and the others are names of those modules)

from collections import Counter

import torch


def step_ends_by_byte(tokenizer, ids):
    text, owner = b"", []
    for i, token in enumerate(ids):
        piece = tokenizer.decode_bytes([token])
        text, owner = text + piece, owner + [i] * len(piece)
    found = {len(ids) - 1}
    for at in range(len(text)):
        if text[at:at + 1] == b"\n" or text[:at + 1].endswith(b"</think>"):
            found.add(owner[at])
    return sorted(found)


def loss_stable(scorer, pairs, ends, labels):
    logits = scorer(*scorer_inputs(pairs, ends, scorer.head.weight.device))
    total, i = 0.0, 0
    for row in labels:
        for label in row:
            x = logits[i]
            total = total + x.clamp(min=0) - x * label + torch.log1p(torch.exp(-x.abs()))
            i += 1
    return total


def group_by_answer_in_order(given):
    groups = []
    for i in range(len(given)):
        if given[i] is None or any(i in g for g in groups):
            continue
        groups.append([j for j in range(i, len(given))
                       if given[j] is not None and same_answer(given[i], given[j])])
    return groups


def vote_by_counting(completer, problems, n, seed):
    out = []
    for samples in completer.complete([p.question for p in problems], n, seed):
        texts = [text for text, _ in samples]
        groups = group_by_answer([verify.extract(text) for text in texts])
        sizes = Counter({min(g): len(g) for g in groups})
        best = min(sizes, key=lambda i: (-sizes[i], i)) if sizes else 0
        out.append(SearchResult(texts[best], sum(t for _, t in samples), texts))
    return out


def prune_in_steps(result, ended, beams, subtrees):
    if False not in ended:
        return
    n, kept = len(ended), []
    lowest = [min(scores) for scores in result.scores]
    if subtrees:
        size = n // beams
        for k in range(0, n, size):
            kept.append(max(range(k, k + size), key=lambda j: lowest[j]))
    else:
        left = list(range(n))
        while len(kept) < beams:
            texts = [result.samples[j] for j in kept]
            fresh = [j for j in left if result.samples[j] not in texts]
            best = max(fresh or left, key=lambda j: lowest[j])
            kept.append(best)
            left.remove(best)
    rows = [(result.samples[j], result.scores[j], ended[j])
            for j in kept for _ in range(n // beams)]
    result.samples, result.scores = [r[0] for r in rows], [r[1] for r in rows]
    for i, row in enumerate(rows):
        ended[i] = row[2]


def decode_with_budget_in_turn(completer, problems, insertions, max_thinking, seed):
    out = []
    for p in problems:
        text, tokens = "", 0
        for insertion in insertions + [ANSWER]:
            [[(text, new)]] = completer.complete([p.question], 1, seed, [text], "</think>", True,
                                                 max_thinking)
            tokens += new
            if not completer.tokenizer.has_stop_string(text):
                text += insertion
        [[(text, new)]] = completer.complete([p.question], 1, seed, [text], "", True, 32)
        out.append(SearchResult(text, tokens + new, [text]))
    return out


SOLUTIONS = {
    "step_ends": [step_ends_by_byte], "loss": [loss_stable],
    "group_by_answer": [group_by_answer_in_order], "vote": [vote_by_counting],
    "prune": [prune_in_steps], "decode_with_budget": [decode_with_budget_in_turn]}
