"""Common mistakes of part 4: (message, old text, new text, ...) for each function."""

TOKEN = "mask / mask.sum().clamp(min=1)"
SEQUENCE = "mask / (len(mask) * mask.sum(1, True).clamp(min=1))"
RETURN = "squares / (torch.bincount(group) - 1).clamp(min=1)).sqrt()[group]"
CENTRED = "(rewards - group_mean(rewards, group)) ** 2"
PRODUCTS = ("torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * "
            "advantages)")
BOTH = ("return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & "
        "(advantages > 0)")
SUM = '"sum": lambda mask, max_tokens: mask / len(mask)'
CONSTANT = "mask / (len(mask) * max_tokens)"
MEAN = "((logp - old_logp) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)"
PENALTY = 'options.kl_coef * kl(batch.old_logp, batch.ref_logp, "k1") * batch.mask'

MUTANTS = {
    "group_std": [
        ("your standard deviation divides by n. A group is a sample of few responses: divide by "
         "n - 1", "(torch.bincount(group) - 1)", "torch.bincount(group)"),
        ("this is the standard deviation of the whole batch: each group has its own",
         "return (" + RETURN, "return before.std().expand(len(rewards))",
         "    rewards = above", "    before = rewards\n    rewards = above"),
        ("this is the standard deviation of all rewards above their group's minimum: each group "
         "has its own", "return (" + RETURN, "return rewards.std().expand(len(rewards))"),
        ("you take neighbouring rows for a group. `group` says which rows belong together",
         "    rewards = above", "    group = torch.arange(len(rewards)) // max(1, len(rewards) // "
         "len(group.unique()))\n    rewards = above"),
        ("this is the variance: take the square root", ").sqrt()[group]", ")[group]"),
        ("you return one number per group. Return one per response, so that it can divide the "
         "rewards", ".sqrt()[group]", ".sqrt()"),
        ("you do not subtract the group's mean before squaring", CENTRED, "rewards ** 2",
         "rewards = above_minimum(rewards, group)", "rewards = rewards + 0"),
        ("a response that is alone gives NaN: n - 1 is 0 there; the result is 0",
         ".clamp(min=1)", ""),
        ("E[r^2] - E[r]^2 is a difference of nearly equal numbers. Subtract the mean, then square",
         "rewards = above_minimum(rewards, group)", "rewards = rewards + 0",
         "torch.bincount(group, " + CENTRED + ")", "torch.bincount(group) * (torch.bincount(group, "
         "rewards**2) / torch.bincount(group) - (torch.bincount(group, rewards) / "
         "torch.bincount(group))**2)"),
        ("you add 1e-6: group_advantages does that; here equal rewards give 0", ".sqrt()[group]",
         ".sqrt()[group] + 1e-6"),
        ("groups need not be neighbours: unique_consecutive counts a group twice whose rows are "
         "apart", "    rewards = above_minimum(rewards, group)", "    group = group.unique_"
         "consecutive(return_inverse=True)[1]\n    rewards = above_minimum(rewards, group)"),
    ],
    "group_advantages": [
        ("your advantages have mean 0, but they are divided by the biased standard deviation (n). "
         "Divide by the one with n - 1", "(DIVISORS[divisor](rewards.double(), group) + 1e-6)",
         "(DIVISORS[divisor](rewards.double(), group) * (((torch.bincount(group) - 1).clamp(min=1)"
         " / torch.bincount(group)).sqrt()[group] if divisor == 'std' else 1) + 1e-6)"),
        ("your advantages have mean 0 but not unit variance: is the standard deviation over the "
         "group or over the batch?", "DIVISORS[divisor]", "DIVISORS['batch-std' if divisor == 'std'"
         " else divisor]"),
        ("you divide by the standard deviation, but do not subtract the group's mean",
         "raised - BASELINES[baseline](raised, group)", "rewards.double()"),
        ("the baseline is the mean of the whole batch: use the mean of the group",
         "raised = above_minimum(rewards.double(), group)", "raised = rewards.double()",
         "BASELINES[baseline](raised, group)", "(raised.mean() if baseline == 'mean' else "
         "BASELINES[baseline](raised, group))"),
        ("a group with equal rewards, or of one response, gives NaN: add 1e-6 to the divisor (in "
         "parentheses)",
         "DIVISORS[divisor](rewards.double(), group) + 1e-6",
         "DIVISORS[divisor](rewards.double(), group)"),
        ("equal rewards must give exactly 0. The mean of sixteen 1.1 is not 1.1, and the rest is "
         "divided by 1e-6: subtract the group's minimum first (above_minimum)",
         "raised = above_minimum(rewards.double(), group)", "raised = rewards"),
        ("a response that is alone has the advantage 0: with baseline others its reward is left, "
         "divided by 1e-6. Subtract the group's minimum first (above_minimum)",
         "raised = above_minimum(rewards.double(), group)", "raised = rewards.double()"),
        ("scale_by_std=False has no effect: then the advantage is only r - baseline",
         "if scale_by_std:", "if True:"),
        ("scale_by_std is inverted: divide if it is True", "if scale_by_std:",
         "if not scale_by_std:"),
        ("without scale_by_std nothing is divided, whatever the divisor is", "if scale_by_std:",
         "if scale_by_std or divisor != 'std':"),
        ("add 1e-6 to the standard deviation, not to the variance",
         "(DIVISORS[divisor](rewards.double(), group) + 1e-6)",
         "(DIVISORS[divisor](rewards.double(), group)**2 + 1e-6).sqrt()"),
        ("the number that is added to the divisor is 1e-6; yours is larger", "+ 1e-6", "+ 1e-4"),
        ("the rewards above the group's minimum minus the baseline of the rewards themselves: use "
         "the same rewards in both", "BASELINES[baseline](raised, group)",
         "BASELINES[baseline](rewards.double(), group)"),
        ("the rewards themselves minus the baseline of the rewards above the group's minimum: use "
         "the same rewards in both", "advantages = raised -", "advantages = rewards.double() -"),
        ("no baseline is subtracted", "raised - BASELINES[baseline](raised, group)", "raised"),
        ("you never divide by the standard deviation", "if scale_by_std:", "if False:"),
        ("the option baseline has no effect: look it up in BASELINES", "BASELINES[baseline]",
         "BASELINES['mean']"),
        ("the option divisor has no effect: look it up in DIVISORS", "DIVISORS[divisor]",
         "DIVISORS['std']"),
        ("the divisor mean is that of the rewards themselves, not of the rewards above the "
         "group's minimum", "DIVISORS[divisor](rewards.double()", "DIVISORS[divisor](raised"),
        ("the signs are wrong: a reward above the baseline has a positive advantage",
         "raised - BASELINES[baseline](raised, group)",
         "BASELINES[baseline](raised, group) - raised"),
        ("you take neighbouring rows for a group. `group` says which rows belong together, in any "
         "order and of any number", "    raised =",
         "    group = torch.arange(len(rewards)) // max(1, len(rewards) // len(group.unique()))\n"
         "    raised ="),
    ],
    "surrogate": [
        ("the sign is wrong: this is the objective. The function returns a loss, to be minimised",
         "return -gain", "return gain"),
        ("you take the larger of the two terms of the gain. The clip is a lower bound of the gain: "
         "take the smaller one", "torch.minimum(ratio * advantages, ratio",
         "torch.maximum(ratio * advantages, ratio"),
        ("you take the smaller ratio, then multiply by A. Take the smaller of the two products: "
         "where A < 0 it is the one of the larger ratio", PRODUCTS,
         "torch.minimum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high)) * advantages"),
        ("you clip the log-ratio: clip the ratio", "ratio.clamp(1 - clip_low, 1 + clip_high)",
         "clamp(logp - old_logp).clamp(-clip_low, clip_high).exp()"),
        ("clip_low and clip_high have no effect: the bounds are 1 - clip_low and 1 + clip_high",
         "clamp(1 - clip_low, 1 + clip_high)", "clamp(0.8, 1.2)"),
        ("nothing is clipped", "torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + "
         "clip_high) * advantages)", "ratio * advantages"),
        ("the clipped term alone: compare it with the plain term, or a bad token far outside the "
         "bounds has no gradient back", "torch.minimum(ratio * advantages, ratio.clamp(1 - "
         "clip_low, 1 + clip_high) * advantages)",
         "ratio.clamp(1 - clip_low, 1 + clip_high) * advantages"),
        ("both bounds use clip_low: the upper one is 1 + clip_high", "1 + clip_high",
         "1 + clip_low"),
        ("the two bounds are exchanged: 1 - clip_low below, 1 + clip_high above",
         "ratio.clamp(1 - clip_low, 1 + clip_high)", "ratio.clamp(1 - clip_high, 1 + clip_low)"),
        ("the ratio is upside down: it is exp(logp - old_logp)", "policy_ratio(logp, old_logp)",
         "policy_ratio(old_logp, logp)"),
        ("the ratio is a difference of log-probs: take its exponential",
         "policy_ratio(logp, old_logp)", "clamp(logp - old_logp)"),
        ("no gradient reaches logp: the ratio must not be detached or computed with floats",
         "policy_ratio(logp, old_logp)", "policy_ratio(logp, old_logp).detach()"),
        ("exp overflows for a large log-ratio, and infinity times 0 is NaN: clamp the log-ratio "
         "(policy_ratio does)", "policy_ratio(logp, old_logp)", "(logp - old_logp).exp()"),
        ("this is the plain policy gradient -A logp: the ratio to the old policy is missing",
         "return -gain", "return -advantages * logp"),
        ("dual_clip has no effect", "if dual_clip:", "if False:"),
        ("dual_clip = 0 means no bound; yours bounds the loss at 0", "if dual_clip:", "if True:"),
        ("dual_clip acts on tokens with A > 0 too: it bounds the loss where A < 0 alone",
         "torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)",
         "torch.maximum(gain, dual_clip * advantages)"),
        ("dual_clip acts on tokens with A > 0 too: it bounds the loss where A < 0 alone",
         "torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), gain)",
         "torch.where(advantages < 0, torch.maximum(gain, dual_clip * advantages), "
         "torch.minimum(gain, dual_clip * advantages))"),
        ("the bound of dual_clip is dual_clip times |A|, not dual_clip",
         "torch.maximum(gain, dual_clip * advantages)",
         "torch.maximum(gain, -dual_clip * torch.ones_like(advantages))"),
        ("dual_clip bounds the loss from below: the loss of a token with A < 0 is AT MOST "
         "dual_clip |A|", "torch.maximum(gain, dual_clip", "torch.minimum(gain, dual_clip"),
        ("you return the mean over the tokens. Return the loss of each token: the weights average "
         "later", "return -gain", "return -gain.mean()"),
    ],
    "clipped": [
        ("the sign of the advantage plays no part for you. Below the lower bound only a token with "
         "A < 0 loses its gradient, above the upper one only a token with A > 0",
         " & (advantages < 0)", "", " & (advantages > 0)", ""),
        ("the signs of the advantages are exchanged: the upper bound acts where A > 0",
         "advantages < 0", "advantages > 0 ", "clip_high) & (advantages > 0)",
         "clip_high) & (advantages < 0)"),
        ("the sign of the advantage plays no part below the lower bound: only a token with A < 0 "
         "loses its gradient there", " & (advantages < 0)", ""),
        ("the sign of the advantage plays no part above the upper bound: only a token with A > 0 "
         "loses its gradient there", " & (advantages > 0)", ""),
        ("you compare the log-ratio with -clip_low and clip_high: compare the ratio with 1 - "
         "clip_low and 1 + clip_high", "ratio = policy_ratio(logp, old_logp)",
         "gap = clamp(logp - old_logp)", "ratio < 1 - clip_low", "gap < -clip_low",
         "ratio > 1 + clip_high", "gap > clip_high"),
        ("clip_low = 1 is allowed, and log(1 - clip_low) is -inf then: math.log raises an error",
         "ratio < 1 - clip_low", "logp - old_logp < __import__('math').log(1 - clip_low)"),
        ("a ratio that is equal to a bound is not clipped: compare with < and >",
         "ratio < 1", "ratio <= 1", "ratio > 1", "ratio >= 1"),
        ("the two bounds are exchanged: 1 - clip_low below, 1 + clip_high above",
         "ratio < 1 - clip_low", "ratio < 1 - clip_high", "ratio > 1 + clip_high",
         "ratio > 1 + clip_low"),
        ("clip_low and clip_high have no effect: the bounds are 1 - clip_low and 1 + clip_high",
         "ratio < 1 - clip_low", "ratio < 0.8", "ratio > 1 + clip_high", "ratio > 1.2"),
        ("you compare the ratio with clip_low and clip_high: the bounds are 1 - clip_low and "
         "1 + clip_high", "ratio < 1 - clip_low", "ratio < clip_low", "ratio > 1 + clip_high",
         "ratio > clip_high"),
        ("the two results are exchanged: return (below, above)",
         "return (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & "
         "(advantages > 0)",
         "return (ratio > 1 + clip_high) & (advantages > 0), (ratio < 1 - clip_low) & "
         "(advantages < 0)"),
        ("the ratio is upside down: it is exp(logp - old_logp)", "policy_ratio(logp, old_logp)",
         "policy_ratio(old_logp, logp)"),
        ("both bounds use clip_low: the upper one is 1 + clip_high", "ratio > 1 + "
         "clip_high", "ratio > 1 + clip_low"),
        ("advantages of 0 count as clipped: there was no gradient to lose",
         "advantages < 0", "advantages <= 0", "advantages > 0", "advantages >= 0"),
    ],
    "kl": [
        ("k1 has the wrong sign: KL(policy || reference) is the mean of logp - ref_logp, and "
         "log_ratio is ref_logp - logp", "lambda log_ratio: -log_ratio,",
         "lambda log_ratio: log_ratio,"),
        ("k1 is signed; without the sign it is biased upwards", "lambda log_ratio: -log_ratio,",
         "lambda log_ratio: log_ratio.abs(),"),
        ("k2 is half of the squared log-ratio", "log_ratio * log_ratio / 2",
         "log_ratio * log_ratio"),
        ("k3 has the ratio upside down: it is exp(log_ratio) - 1 - log_ratio with log_ratio = "
         "ref_logp - logp", "torch.expm1(log_ratio) - log_ratio", "torch.expm1(-log_ratio) + "
         "log_ratio"),
        ("k3 lacks the -1: it must be 0 where the two policies agree", "torch.expm1(log_ratio) - "
         "log_ratio", "torch.exp(log_ratio) - log_ratio"),
        ("k3 adds log_ratio: subtract it, so that the estimate is never negative",
         "torch.expm1(log_ratio) - log_ratio", "torch.expm1(log_ratio) + log_ratio"),
        ("k3 weighs by the ratio and uses the wrong log-ratio: this estimates another KL",
         "torch.expm1(log_ratio) - log_ratio", "torch.exp(log_ratio) * log_ratio - "
         "torch.expm1(log_ratio)"),
        ("k2 and k3 are exchanged", "log_ratio * log_ratio / 2", "(torch.expm1(log_ratio) - "
         "log_ratio )", "lambda log_ratio: torch.expm1(log_ratio) - log_ratio,",
         "lambda log_ratio: log_ratio * log_ratio / 2,"),
        ("no gradient reaches logp: do not detach, and no floats", "(clamp(ref_logp - logp))",
         "(clamp(ref_logp - logp).detach())"),
        ("no gradient reaches logp in k1", "lambda log_ratio: -log_ratio,",
         "lambda log_ratio: -log_ratio.detach(),"),
        ("no gradient reaches logp in k2", "log_ratio * log_ratio / 2",
         "log_ratio.detach() ** 2 / 2"),
        ("you return the mean over the tokens. Return an estimate for each token: the weights "
         "average later", "KL[estimator](clamp(ref_logp - logp))",
         "KL[estimator](clamp(ref_logp - logp)).mean()"),
        ("no gradient reaches logp in k3", "torch.expm1(log_ratio) - log_ratio",
         "torch.expm1(log_ratio.detach()) - log_ratio.detach()"),
    ],
    "token_weights": [
        ("token: a mean over rows of the mean over tokens is `sequence`. Here each token of the "
         "batch weighs the same", TOKEN, SEQUENCE),
        ("token: you divide by the number of all columns; padding and prompt do not count",
         TOKEN, "mask / mask.numel()"),
        ("token: without any token the weights are NaN", "mask.sum().clamp(min=1)", "mask.sum()"),
        ("sequence: each row's weights add up to 1: divide by the number of rows too",
         SEQUENCE, "mask / mask.sum(1, True).clamp(min=1)"),
        ("sequence: you divide by the number of columns; a row is averaged over its own tokens",
         SEQUENCE, "mask / mask.numel()"),
        ("sequence: a row without tokens gives NaN", "mask.sum(1, True).clamp(min=1)",
         "mask.sum(1, True)"),
        ("sequence: this is `token`: every row must weigh the same, whatever its length",
         SEQUENCE, TOKEN),
        ("sum: divide by the number of rows", SUM, SUM.removesuffix(" / len(mask)")),
        ("sum: you divide by the number of columns: divide by the number of rows", SUM,
         SUM.replace("len(mask)", "mask.shape[1]")),
        ("sum: rows without tokens count too: divide by the number of all rows", SUM,
         SUM.replace("len(mask)", "(mask.sum(1) > 0).sum().clamp(min=1)")),
        ("sum: tokens outside the mask have the weight 0", SUM,
         SUM.replace("mask / len", "torch.ones_like(mask) / len")),
        ("token: tokens outside the mask have the weight 0", TOKEN,
         TOKEN.replace("mask /", "torch.ones_like(mask) /")),
        ("sequence: tokens outside the mask have the weight 0", SEQUENCE,
         SEQUENCE.replace("mask /", "torch.ones_like(mask) /")),
        ("sum and sequence are exchanged", SUM, SUM.replace("mask / len(mask)", SEQUENCE + " "),
         '"sequence": lambda mask, max_tokens: ' + SEQUENCE,
         '"sequence": lambda mask, max_tokens: mask / len(mask)'),
        ("constant: rows without tokens count too: divide by the number of all rows", CONSTANT,
         CONSTANT.replace("len(mask)", "(mask.sum(1) > 0).sum()")),
        ("constant: divide by the number of rows too", "mask / (len(mask) * max_tokens)",
         "mask / max_tokens"),
        ("sequence: rows without tokens count too: divide by the number of all rows",
         SEQUENCE, "mask / ((mask.sum(1) > 0).sum() * mask.sum(1, True).clamp(min=1))"),
        ("sequence: you sum over the rows of a column: sum over the tokens of a row",
         "mask.sum(1, True)", "mask.sum(0, True)"),
        ("constant: tokens outside the mask have the weight 0", "mask / (len(mask) * max_tokens)",
         "torch.ones_like(mask) / (len(mask) * max_tokens)"),
        ("constant: you divide by the longest row of the batch. Divide by max_tokens, which is the "
         "same in every batch", "mask / (len(mask) * max_tokens)",
         "mask / (len(mask) * mask.sum(1).max())"),
        ("constant: you divide by the width of the batch. Divide by max_tokens, which is the same "
         "in every batch", "mask / (len(mask) * max_tokens)", "mask / mask.numel()"),
    ],
    "sequence_log_ratio": [
        ("this is the sum over the tokens. GSPO takes the mean, so that long and short responses "
         "are clipped alike", " / mask.sum(1, keepdim=True).clamp(min=1)", ""),
        ("you divide by the number of columns: divide by the row's number of tokens",
         "mask.sum(1, keepdim=True).clamp(min=1)", "mask.shape[1]"),
        ("tokens outside the mask take part in the sum", "((logp - old_logp) * mask)",
         "(logp - old_logp)"),
        ("a row without tokens gives NaN: the result is 0 there", ".clamp(min=1)", ""),
        ("the shape is (N,): it must be (N, 1), so that it is added to (N, T)",
         "return ((logp - old_logp) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)",
         "return ((logp - old_logp) * mask).sum(1) / mask.sum(1)"),
        ("the sign is wrong: logp - old_logp", "logp - old_logp)", "old_logp - logp)"),
        ("no gradient reaches logp: do not detach, and no floats", "((logp - old_logp)",
         "((logp.detach() - old_logp)"),
        ("this is the logarithm of the mean ratio: take the mean of the log-ratios", MEAN,
         MEAN.replace("(logp - old_logp)", "(logp - old_logp).exp()").join(("(", ").log()"))),
        ("this is the mean over the batch: each row has its own", MEAN,
         "(((logp - old_logp) * mask).sum() / mask.sum()).expand(len(mask), 1)"),
        ("the log-ratio is clamped: the mean is over the log-ratios as they are",
         "(logp - old_logp) ", "(logp - old_logp).clamp(-20, 20) "),
        ("this is the ratio: return its logarithm", "return ((logp",
         "return (((logp", ".clamp(min=1)", ".clamp(min=1)).exp()"),
    ],
    "token_rewards": [
        ("every token gets the response's reward: it belongs to the last token alone, or a long "
         "response is paid more", " * (tokens_left == 1)", ""),
        ("the reward is at the first token of the response: it comes at the last one",
         "batch.mask * (tokens_left == 1)",
         "batch.mask * (batch.mask.cumsum(1) == 1)"),
        ("the reward is at the last column. Rows end at different places: use the last token with "
         "mask 1", "batch.mask * (tokens_left == 1)",
         "(torch.arange(batch.mask.shape[1]) == batch.mask.shape[1] - 1)"),
        ("the last token is not at the sum of the mask minus 1: the columns before the response "
         "come first", "batch.mask * (tokens_left == 1)",
         "at_sum(batch.mask)", "    if batch.step_rewards is None:",
         "    def at_sum(mask):\n        last = mask.sum(1).long() - 1\n"
         "        return (torch.arange(mask.shape[1]) == last[:, None]).float()\n"
         "    if batch.step_rewards is None:"),
        ("a mask may have gaps: the last token is the last one with mask 1, not the end of the "
         "first run", "batch.mask * (tokens_left == 1)",
         "first_end(batch.mask)",
         "    if batch.step_rewards is None:",
         "    def first_end(mask):\n        after = torch.cat((mask[:, 1:], mask[:, :1] * 0), 1)\n"
         "        ends = mask * (1 - after)\n        return ends * (ends.cumsum(1) == 1)\n"
         "    if batch.step_rewards is None:"),
        ("a row without tokens has no reward: all its entries are 0", "batch.mask * (tokens_left "
         "== 1)", "(torch.arange(batch.mask.shape[1]) == batch.mask.cumsum(1).argmax(1)[:, None])"),
        ("a row without tokens has no reward: all its entries are 0", "batch.mask * (tokens_left "
         "== 1)", "(torch.arange(batch.mask.shape[1]) == ((batch.mask * torch.arange(1, 1 + "
         "batch.mask.shape[1])).amax(1).long() - 1)[:, None] % batch.mask.shape[1])"),
        ("the reward is one column too far to the right", "batch.mask * (tokens_left == 1)",
         "torch.nn.functional.pad(batch.mask * (tokens_left == 1), (1, 0))[:, :-1]"),
        ("with kl_coef 0 there is no KL, and ref_logp may be None: test for kl_coef > 0 too",
         "if options.kl_coef and", "if"),
        ("with step_rewards the KL is missing: it is subtracted from them too",
         "rewards = batch.step_rewards", "return batch.step_rewards"),
        ("the KL stands only at the last token: subtract it at each token with mask 1", PENALTY,
         PENALTY.replace("batch.mask", "(batch.mask * (batch.mask.flip(1).cumsum(1).flip(1) == "
                         "1))")),
        ("the KL of all tokens is summed at the last one: subtract it at each token with mask 1",
         PENALTY, f"({PENALTY}).sum(1, keepdim=True) * batch.mask * "
         "(batch.mask.flip(1).cumsum(1).flip(1) == 1)"),
        ("k1 is signed: it may be negative, so take no absolute value",
         'batch.ref_logp, "k1")', 'batch.ref_logp, "k1").abs()'),
        ("the KL is not multiplied by kl_coef", "options.kl_coef * kl(", "kl("),
        ("batch.step_rewards replace the rewards; you add the two",
         "rewards = batch.step_rewards", "rewards = batch.step_rewards + batch.rewards[:, None] * "
         "batch.mask * (batch.mask.flip(1).cumsum(1).flip(1) == 1)"),
        ("the reward is shared out over the tokens of the response: it belongs to the last one",
         "(tokens_left == 1)", "(1 / batch.mask.sum(1, keepdim=True))"),
        ("the KL penalty has the wrong sign: it lowers the reward", "rewards - options.kl_coef",
         "rewards + options.kl_coef"),
        ("the KL penalty is also at tokens outside the mask", '"k1") * batch.mask', '"k1")'),
        ("the KL is subtracted though kl_in is \"loss\": then it is in the loss, and counts twice",
         ' and options.kl_in == "reward"', ""),
        ("the KL is never subtracted: it should be if kl_in is \"reward\"",
         'if options.kl_coef and options.kl_in == "reward"', "if False"),
        ("step_rewards are ignored: they replace the rewards", "if batch.step_rewards is None:",
         "if True:"),
        ("the KL penalty is the estimate k3. In the reward it is k1", '"k1")', '"k3")'),
    ],
}
