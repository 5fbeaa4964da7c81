"""Common mistakes of part 7: (message, old text, new text, ...) for each function."""

FOUND = """    ends = {bisect.bisect_left(byte_ends, match.end())
            for match in STEP_END.finditer(b"".join(pieces))}"""
BUFFERED = """    ends, text = set(), b""
    for i, piece in enumerate(pieces):
        text += piece
        if STEP_END.search(text):
            ends.add(i)
            text = b"" """
CROSS_ENTROPY = 'F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")'
LAST = "prefixes, greedy=True, max_new_tokens=32)"
FORCED = "text if completer.tokenizer.has_stop_string(text) else text + insertion"

MUTANTS = {
    "step_ends": [
        ("the last token of the response is missing: the answer is the last step",
         "ends | {len(ids) - 1}", "ends"),
        ("the end of the thinking ends a step too: search for </think>", "STEP_END.finditer",
         're.compile(rb"\\n").finditer'),
        ("line ends do not end a step for you", "STEP_END.finditer",
         're.compile(rb"</think>").finditer'),
        ("you look at one token at a time: several tokens may spell one tag. Search in the bytes "
         "of the whole response",
         "{bisect.bisect_left(byte_ends, match.end())\n            for match in "
         'STEP_END.finditer(b"".join(pieces))}',
         "{i for i, piece in enumerate(pieces) if STEP_END.search(piece)}"),
        ("only a token that is nothing but a line end or tag ends a step for you: a token may hold "
         "a line end in its middle",
         "{bisect.bisect_left(byte_ends, match.end())\n            for match in "
         'STEP_END.finditer(b"".join(pieces))}',
         "{i for i, piece in enumerate(pieces) if STEP_END.fullmatch(piece)}"),
        ("you return the token after the step's end: return the last token of the step",
         "bisect.bisect_left(byte_ends, match.end())",
         "min(bisect.bisect_left(byte_ends, match.end()) + 1, len(ids) - 1)"),
        ("you return the first token of the line end or tag; it may have several tokens: return "
         "the last one", "match.end()", "match.start() + 1"),
        ("match.end() is one byte behind the match: the token that holds the last byte ends the "
         "step",
         "bisect.bisect_left(byte_ends, match.end())",
         "min(bisect.bisect_right(byte_ends, match.end()), len(ids) - 1)"),
        ("a tag may begin in the token in which a step ends: keep the rest of its bytes", FOUND,
         BUFFERED),
        ("you count characters, but the search is over bytes: a letter may have several bytes",
         "map(len, pieces)", "(len(piece.decode()) for piece in pieces)"),
        ("a token is listed twice when two steps end in it", "sorted(ends | {len(ids) - 1})",
         "sorted([bisect.bisect_left(byte_ends, m.end()) for m in STEP_END.finditer(b''.join("
         "pieces))] + [len(ids) - 1] * (len(ids) - 1 not in ends))"),
    ],
    "loss": [
        ("this is the mean over the steps. Return the sum: `train` divides by the number of steps "
         "of the batch", 'reduction="sum"', 'reduction="mean"'),
        ("a sigmoid of a large logit is exactly 1, and log(1 - 1) is infinite: compute the loss "
         "from the logits", "F.binary_cross_entropy_with_logits(logits, targets, "
         'reduction="sum")', "-(targets * logits.sigmoid().log() + (1 - targets) * "
         "(1 - logits.sigmoid()).log()).sum()"),
        ("exp of a large logit is infinite: use logsigmoid, softplus or "
         "binary_cross_entropy_with_logits", CROSS_ENTROPY,
         "((1 + logits.exp()).log() - targets * logits).sum()"),
        ("return a tensor: the loss needs a gradient", CROSS_ENTROPY, CROSS_ENTROPY + ".item()"),
        ("return a scalar, the sum over the steps", 'reduction="sum"', 'reduction="none"'),
        ("the labels are rounded to 0 and 1. A label is a proportion: use it as it is",
         "label for row", "float(round(label)) for row"),
        ("labels and predictions are exchanged: the sign of the logits is wrong",
         "logits = scorer", "logits = -scorer"),
        ("this is the squared error. Use the cross-entropy of the labels",
         "F.binary_cross_entropy_with_logits(logits, targets, ",
         "F.mse_loss(logits.sigmoid(), targets, "),
        ("only the part of the label counts: the part (1 - label) log(1 - p) is missing",
         "F.binary_cross_entropy_with_logits(logits, targets, "
         'reduction="sum")', "-(targets * F.logsigmoid(logits)).sum()"),
        ("the sigmoid is taken twice: the scorer returns logits, and so does the loss want them",
         "binary_cross_entropy_with_logits(logits,",
         "binary_cross_entropy_with_logits(logits.sigmoid(),"),
        ("the labels of each solution belong to its steps in order; yours are reversed",
         "for row in labels for label in row", "for row in labels[::-1] for label in row[::-1]"),
    ],
    "group_by_answer": [
        ("samples without an answer (None) form a group: leave them out",
         "if answer is not None:", "if True:", "same_answer(given[g[0]], answer)",
         "(given[g[0]] is None) == (answer is None) and (answer is None or "
         "same_answer(given[g[0]], answer))"),
        ("answers are compared as texts. 1/2 and 0.5 are the same: use same_answer",
         "same_answer(given[g[0]], answer)", "given[g[0]] == answer"),
        ("answers that cannot be compared are not equal: use same_answer",
         "same_answer(given[g[0]], answer)", "answers.equal(given[g[0]], answer) is not False"),
        ("you return the answers; return their indices", "return groups",
         "return [[given[i] for i in g] for g in groups]"),
        ("the groups are sorted by size: keep the order of their first occurrence",
         "return groups", "return sorted(groups, key=len, reverse=True)"),
        ("only neighbours are grouped: equal answers may stand anywhere",
         "(g for g in groups if", "(g for g in groups[-1:] if"),
        ("the indices count the samples with an answer only: count all samples",
         "groups = []", "groups, given = [], [a for a in given if a is not None]"),
    ],
    "vote": [
        ("you take the last sample of the largest group: take the first one",
         "max(groups, key=len)[0]", "max(groups, key=len)[-1]"),
        ("of equally large groups you take the last one: take the first one",
         "max(groups, key=len)", "max(reversed(groups), key=len)"),
        ("the seed is not passed on", "sampled(completer, problems, n, seed)",
         "sampled(completer, problems, n, 0)"),
        ("the largest group needs no majority of the samples", "if groups:",
         "if groups and 2 * len(max(groups, key=len)) > len(result.samples):"),
        ("max(groups) compares the lists of indices: use key=len", "max(groups, key=len)",
         "max(groups)"),
        ("return the SearchResults, not their texts", "return results",
         "return [result.text for result in results]"),
        ("you take the smallest group", "max(groups", "min(groups"),
        ("you take the first group, whatever its size", "max(groups, key=len)", "groups[0]"),
        ("samples without an answer vote together: leave them out",
         "verify.extract(text) for", "verify.extract(text) or text for"),
        ("the answers are compared as texts. 1/2 and 0.5 vote together: use group_by_answer",
         "groups = group_by_answer([verify.extract(text) for text in result.samples])",
         "given = [verify.extract(text) for text in result.samples]\n"
         "        groups = [[i for i, b in enumerate(given) if b == a] for a in "
         "dict.fromkeys(given) if a is not None]"),
        ("whole responses are compared: two ways of thinking to one answer must vote together",
         "verify.extract(text) for", "verify.extract(text) and text for"),
        ("you return the answer; the result's text is the whole response",
         "result.samples[max(groups, key=len)[0]]",
         "verify.extract(result.samples[max(groups, key=len)[0]])"),
    ],
    "prune": [
        ("beams are ranked by their last step: the minimum of the steps counts",
         "-min(result.scores[j])", "-result.scores[j][-1]"),
        ("beams are ranked by their best step: the minimum of the steps counts",
         "-min(result.scores[j])", "-max(result.scores[j])"),
        ("beams are ranked by the mean of their steps: the minimum counts",
         "-min(result.scores[j])", "-sum(result.scores[j]) / len(result.scores[j])"),
        ("beams are ranked by the product of their steps: the minimum counts",
         "-min(result.scores[j])", "-prm.AGGREGATES['product'](result.scores[j])"),
        ("ended beams are ranked like the others", "-min(result.scores[j])",
         "(ended[j], -min(result.scores[j]))"),
        ("of beams with equal scores you take the later one: the earlier one comes first",
         "-min(result.scores[j])", "(-min(result.scores[j]), -j)"),
        ("your blocks are not neighbours: block k has the beams from k * (n // beams) on",
         "range(k * width, (k + 1) * width)", "range(k, n, beams)"),
        ("there are `beams` blocks of n // beams neighbours; yours have another size",
         "range(k * width, (k + 1) * width)", "range(k * beams, min(n, (k + 1) * beams))",
         "for k in range(beams)]", "for k in range(width)]"),
        ("the order of the blocks is lost: keep it", "    source =",
         "    kept.sort(key=lambda j: -min(result.scores[j]))\n    source ="),
        ("too few beams remain: where there are too few distinct texts, duplicates fill up",
         " + [j for j in order if j not in first]", ""),
        ("equal texts need not be neighbours in the ranking",
         "first = list({result.samples[j]: j for j in reversed(order)}.values())",
         "first = [j for i, j in enumerate(order) if not i or result.samples[j] != "
         "result.samples[order[i - 1]]]"),
        ("you change a new result: change the given one in place", "    n = len(ended)",
         "    result = SearchResult('', 0, list(result.samples), list(result.scores))\n"
         "    n = len(ended)"),
        ("the worst beams are kept", "-min(result.scores[j])", "min(result.scores[j])"),
        ("two beams with the same text are both kept while another text is dropped: prefer "
         "distinct texts", "sorted(first, key=order.index) + [j for j in order if j not in first]",
         "order"),
        ("the flags `ended` do not move with their beams: they are replaced in place too",
         "ended[:] = (", "_ = ("),
        ("the scores do not move with their beams", "result.samples, result.scores, ended[:] = (",
         "result.samples, _, ended[:] = ("),
        ("the copies of a beam must be neighbours: a a b b, not a b a b",
         "[j for j in kept for _ in range(width)]", "kept * width"),
        ("`subtrees` has no effect: keep the best beam of each block of neighbours",
         "if subtrees else [range(n)]", "if False else [range(n)]",
         "order[:1 if subtrees else beams]", "order[:beams]"),
        ("if all beams have ended, nothing may change", "if all(ended):", "if False:"),
        ("only the kept beams remain: continue each of them in n // beams copies",
         "[j for j in kept for _ in range(width)]", "kept"),
    ],
    "decode_with_budget": [
        ("at the last end of the thinking ANSWER must be written, or no answer follows",
         "[*insertions, ANSWER]", "insertions"),
        ("the insertions are written in reverse order", "[*insertions, ANSWER]",
         "[*insertions[::-1], ANSWER]"),
        ("the last call has no stop: it writes the answer", LAST,
         LAST.replace("greedy", 'stop="</think>", greedy')),
        ("the last call needs max_new_tokens=32", LAST, LAST.replace(", max_new_tokens=32", "")),
        ("the last call must be greedy too", LAST, LAST.replace("=True", "=False")),
        ("a response may end by any stop string: ask completer.tokenizer.has_stop_string",
         FORCED, "text if '</answer>' in text else text + insertion"),
        ("the insertions are not written", "for insertion in [*insertions, ANSWER]:",
         "for insertion in [ANSWER]:"),
        ("the text is inserted into responses that have ended too: leave them as they are",
         FORCED, "text + insertion"),
        ("only the tokens of the last call are counted: add up all calls",
         "spent = [before + tokens for", "spent = [tokens for"),
        ("the tokens of the answer are not counted", "SearchResult(text, before + tokens,",
         "SearchResult(text, before,"),
        ("max_thinking has no effect", "max_new_tokens=max_thinking",
         "max_new_tokens=0"),
        ("you sample; decoding must be greedy", 'stop="</think>", greedy=True',
         'stop="</think>", greedy=False'),
        ("the thinking is not stopped at </think>: pass stop", 'stop="</think>", ', ""),
        ("each round starts from an empty response: pass the prefixes on",
         'prefixes, stop="</think>"', 'None, stop="</think>"'),
    ],
}
