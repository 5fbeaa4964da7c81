"""Common mistakes of part 3: (message, old text, new text, ...) for each function."""

MARK = "mask[i, len(prompt):end] = 1.0"
LOGITS = "logits = self.logits(hidden, dtype)"
ENTROPY = "-(logp.exp() * logp).sum(-1) if"
LOW, HIGH = "(centre - half) / (1 + z2 / n)", "(centre + half) / (1 + z2 / n)"
ESTIMATE = "1.0 - math.comb(n - c, k) / math.comb(n, k)"

MUTANTS = {
    "padded": [
        ("the mask covers the prompt too: SFT would learn to write questions. Only the response "
         "counts", "mask[i, len(prompt):end]", "mask[i, :end]"),
        ("the last token of the response is not in the mask. It is the end-of-text token: without "
         "it the model never learns to stop", "mask[i, len(prompt):end]",
         "mask[i, len(prompt):end - 1]"),
        ("the mask is one place too far left: here mask[t] belongs to token t, not to the logits "
         "that predict it", "mask[i, len(prompt):end]", "mask[i, len(prompt) - 1:end - 1]"),
        ("you pad on the left: pad behind the response", "tokens[i, :end]", "tokens[i, width - end:"
         "]", "mask[i, len(prompt):end]", "mask[i, width - len(response):]"),
        ("the padding is in the mask", "mask[i, len(prompt):end]", "mask[i, len(prompt):]"),
        ("a token of the response equals pad_id and is missing from the mask: take the mask from "
         "the lengths, not from the tokens", MARK,
         "mask[i, len(prompt):] = (tokens[i, len(prompt):] != pad_id).float()"),
        ("the mask of each row begins where the first prompt ends: each row has its own prompt",
         MARK, "mask[i, len(pairs[0][0]):end] = 1.0"),
        ("the first token of the response is not in the mask", MARK,
         "mask[i, len(prompt) + 1:end] = 1.0"),
        ("pad_id is not used", "(len(pairs), width), pad_id)", "(len(pairs), width), 0)"),
    ],
    "GPT.logprobs_of": [
        ("the temperature has no effect: the log-probs must be of the distribution that was "
         "sampled from, softmax(logits / temperature)", "if temperature != 1:", "if False:"),
        ("you multiply the logits by the temperature: divide", "logits / temperature",
         "logits * temperature"),
        ("you divide the log-probs by the temperature, after the softmax: divide the logits",
         "if temperature != 1:", "if False:", "logp = logits.log_softmax(-1)",
         "logp = logits.log_softmax(-1) / temperature"),
        ("dtype has no effect: pass it on to self.logits", LOGITS, "logits = self.logits(hidden)"),
        ("the softmax is over the rows, not over the vocabulary", "logits.log_softmax(-1)",
         "logits.log_softmax(0)"),
        ("the entropy is that at temperature 1: it must be of the same distribution as the "
         "log-probs", ENTROPY, "-(self.logits(hidden, dtype).softmax(-1) * self.logits(hidden, "
         "dtype).log_softmax(-1)).sum(-1) if"),
        ("the entropy has no gradient: no torch.no_grad and no detach", ENTROPY,
         "-(logp.exp() * logp).sum(-1).detach() if"),
        ("your entropy is in bits; the natural logarithm gives nats", ENTROPY,
         "-(logp.exp() * logp).sum(-1) / 0.6931471805599453 if"),
        ("a small number in the logarithm changes the log-prob of an unlikely token: use "
         "log_softmax", "logits.log_softmax(-1)", "(logits.softmax(-1) + 1e-8).log()"),
        ("with entropy False the second entry must be None", ".sum(-1) if entropy else None",
         ".sum(-1)"),
        ("your log-probs are positive: nll_loss is the negative log-prob", "-F.nll_loss",
         "F.nll_loss"),
        ("your entropy is the negative log-prob of the chosen token. The entropy is the mean of it "
         "over the vocabulary", "-(logp.exp() * logp).sum(-1) if", "-chosen_logp if"),
        ("your entropy is negative: entropy = -sum p log p", "-(logp.exp() * logp).sum",
         "(logp.exp() * logp).sum"),
        ("your entropy is averaged over the vocabulary: it is a sum weighted by p",
         "-(logp.exp() * logp).sum(-1)", "-(logp.exp() * logp).mean(-1)"),
        ("log(softmax(x)) is -inf where the probability is too small for float32: use log_softmax",
         "logits.log_softmax(-1)", "logits.softmax(-1).log()"),
        ("no gradient reaches the hidden states: do not detach, and no torch.no_grad",
         "logits = self.logits(hidden, dtype)", "logits = self.logits(hidden, dtype).detach()"),
        ("you return the log-probs of the most likely tokens, not of the chosen ones",
         "F.nll_loss(logp, chosen,", "F.nll_loss(logp, logp.argmax(-1),"),
    ],
    "wilson": [
        ("this is the plain interval p +- z s. Near 0 and 1 it is too short; use Wilson's",
         "(centre - half) / (1 + z2 / n)", "p - z * math.sqrt(p * (1 - p) / n)",
         "(centre + half) / (1 + z2 / n)", "p + z * math.sqrt(p * (1 - p) / n)"),
        ("the ends may be outside of [0, 1] by a rounding error: use max(0.0, ...) and "
         "min(1.0, ...)", f"max(0.0, {LOW})", LOW, f"min(1.0, {HIGH})", HIGH),
        ("the term in the square root is z^2 / (4 n^2): you divide by 4 n", "(4 * n * n)",
         "(4 * n)"),
        ("the square root is not divided by 1 + z^2 / n: the whole is", LOW,
         "centre / (1 + z2 / n) - half", HIGH, "centre / (1 + z2 / n) + half"),
        ("p (1 - p) is divided by n, not by n - 1", "p * (1 - p) / n", "p * (1 - p) / (n - 1)"),
        ("the square root lacks the term z^2 / (4 n^2)", " + z2 / (4 * n * n)", ""),
        ("the interval is not divided by 1 + z^2 / n", "(centre - half) / (1 + z2 / n)",
         "centre - half", "(centre + half) / (1 + z2 / n)", "centre + half"),
        ("the centre is p: it must move towards 1/2 by z^2 / (2 n)", "p + z2 / (2 * n)", "p"),
        ("for n = 0 there is no proportion: the interval is (0, 1)", "return 0.0, 1.0",
         "return 0.0, 0.0"),
        ("z has no effect", "p, z2 = successes / n, z * z",
         "z = 1.96\n    p, z2 = successes / n, z * z"),
    ],
    "pass_at_k": [
        ("1 - (1 - c/n)^k draws with replacement, and is biased: use combinations",
         "1.0 - math.comb(n - c, k) / math.comb(n, k)", "1.0 - (1 - c / n) ** k"),
        ("this is the accuracy c/n, whatever k is", "1.0 - math.comb(n - c, k) / math.comb(n, k)",
         "c / n"),
        ("this is the probability that all k samples are correct. Asked for: at least one",
         "1.0 - math.comb(n - c, k) / math.comb(n, k)", "math.comb(c, k) / math.comb(n, k)"),
        ("this counts draws that are all right, and subtracts them from 1: use n - c", ESTIMATE,
         "1.0 - math.comb(c, k) / math.comb(n, k)"),
        ("bad arguments do not raise ValueError: see the docstring", "if not 1 <= k <= n or not 0 "
         "<= c <= n:", "if False:"),
        ("this is the probability that no sample is correct: subtract it from 1",
         "1.0 - math.comb(n - c, k)", "math.comb(n - c, k)"),
        ("impossible counts must raise ValueError", "raise ValueError(", "return float("
         "'nan') and str("),
        ("k above n must raise ValueError: there are only n samples",
         "if not 1 <= k <= n or", "if not 1 <= k or"),
        ("any correct sample counts as pass@k, even if it is not among the k", "1.0 - math.comb("
         "n - c, k) / math.comb(n, k)", "float(c > 0)"),
    ],
}
