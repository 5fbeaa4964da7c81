"""Common mistakes of part 6: (message, old text, new text, ...) for each function."""

RATE = "math.ceil((prompts - kept) * sampled / max(1, kept))"
NUMBER = f"max(0, min(prompts, {RATE}))"
PENALTY = "-((lengths - (limit - buffer)) / buffer).clamp(0, 1)"

MUTANTS = {
    "informative": [
        ("you keep groups that are all right: their advantages are 0, as those of all wrong ones",
         "(counts > 0).all(0)", "(counts[0] > 0)"),
        ("you keep groups that are all wrong: their advantages are 0, as those of all right ones",
         "(counts > 0).all(0)", "(counts[1] > 0)"),
        ("you drop the informative groups and keep the others", "(counts > 0).all(0)[group]",
         "~(counts > 0).all(0)[group]"),
        ("you return one flag per group. Return one per response", ".all(0)[group]", ".all(0)"),
        ("you keep every group of more than one response: it needs a right and a wrong one",
         "(counts > 0).all(0)", "(counts.sum(0) > 1)"),
        ("you keep the right answers of the informative groups alone: keep all of their rows",
         ".all(0)[group]", ".all(0)[group] & (correct > 0)"),
        ("you ask for as many right answers as wrong ones; one of each is enough",
         "(counts > 0).all(0)", "(counts[0] == counts[1])"),
        ("the last group is missing", "return (counts > 0).all(0)[group]",
         "return (counts > 0).all(0)[group] & (group < group.max())"),
        ("no row is informative for you: whether a row is right is 0 or 1; the mean of its group "
         "tells", "(counts > 0).all(0)[group]", "(counts > 0).all(0)[group] & (correct > 0) & "
         "(correct < 1)"),
        ("the numbers of the groups may have gaps: the flags of group.unique() cannot be indexed "
         "by group; use its return_inverse", ".all(0)[group]",
         ".all(0)[group.unique()][group]"),
        ("you take neighbouring rows for a group. `group` says which rows belong together",
         "    counts =", "    group = torch.arange(len(group)) // max(1, len(group) // "
         "len(group.unique()))\n    counts ="),
    ],
    "overlong_penalty": [
        ("the penalty is positive: it is added to the rewards, so it must be negative",
         "return -((", "return (("),
        ("the penalty goes below -1 beyond the limit", ".clamp(0, 1)", ".clamp(min=0)"),
        ("short answers get a bonus: below limit - buffer the penalty is 0", ".clamp(0, 1)",
         ".clamp(max=1)"),
        ("the penalty begins at the limit. It begins at limit - buffer and is -1 at the limit",
         "(lengths - (limit - buffer))", "(lengths - limit)"),
        ("the penalty is rounded to a whole number: use /, not //", "(limit - buffer)) / buffer",
         "(limit - buffer)) // buffer"),
        ("the penalty begins at limit + buffer: lengths - (limit - buffer) needs the brackets",
         "lengths - (limit - buffer)", "lengths - limit - buffer"),
        ("beyond the limit the penalty is 0: it stays -1", PENALTY,
         PENALTY + " * (lengths <= limit)"),
        ("the penalty begins one token too early: at length = limit - buffer it is 0",
         "(lengths - (limit - buffer))", "(lengths - (limit - buffer) + 1)"),
        ("the penalty of whole-number lengths is rounded to a whole number: divide first",
         "    return -((", "    if not lengths.is_floating_point():\n        return -((lengths - "
         "(limit - buffer)) // buffer).clamp(0, 1)\n    return -(("),
        ("the penalty jumps: it must grow linearly over the buffer",
         "((lengths - (limit - buffer)) / buffer).clamp(0, 1)",
         "(lengths > limit - buffer).float()"),
        ("the penalty grows too slowly: divide by the buffer, not by the limit", "/ buffer)",
         "/ limit)"),
    ],
    "prompts_to_sample": [
        ("you sample as many prompts as groups are missing. Only a part of them will be "
         "informative: expect the same rate as before", RATE, "prompts - kept"),
        ("rounded down or to the nearest: round up (math.ceil), or the batch is not filled", RATE,
         "(prompts - kept) * sampled // max(1, kept)"),
        ("rounded down or to the nearest: round up (math.ceil), or the batch is not filled", RATE,
         "round((prompts - kept) * sampled / max(1, kept))"),
        ("you do not subtract the groups that are already kept", RATE,
         "math.ceil(prompts * sampled / max(1, kept))"),
        ("you divide by the rate of one batch, kept / prompts: the rate is kept / sampled", RATE,
         "math.ceil((prompts - kept) * prompts / max(1, kept))"),
        ("with no informative group so far the number is 0: then it is `prompts`",
         "return " + NUMBER, f"return {NUMBER} if kept else 0"),
        ("there is no upper bound: sample at most `prompts` at a time", "return " + NUMBER,
         f"return max(0, {RATE}) if kept else prompts"),
        ("you multiply by the rate kept / sampled: divide by it", "return " + NUMBER,
         "return max(0, min(prompts, math.ceil((prompts - kept) * kept / sampled))) if kept else "
         "prompts"),
        ("int(x) + 1 is one too many where x is a whole number: round up with math.ceil",
         "math.ceil((prompts - kept) * sampled / max(1, kept))",
         "int((prompts - kept) * sampled / max(1, kept)) + 1"),
        ("with no informative group so far you sample as many as before: at most `prompts`",
         "return max(0,", "return sampled if kept == 0 else max(0,"),
        ("there is no upper bound: sample at most `prompts` at a time", "min(prompts, " + RATE
         + ")", RATE),
        ("the number is negative when there are too many groups: then it is 0", "max(0, min(",
         "(min("),
        ("no informative group so far: division by zero. Then sample `prompts` again",
         "max(1, kept)", "kept"),
        ("you multiply by the rate kept / sampled: divide by it", "* sampled / max(1, kept)",
         "* kept / sampled"),
        ("you always sample a whole batch again", RATE, "prompts if kept < prompts else 0"),
    ],
}
