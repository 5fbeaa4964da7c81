"""Right solutions of part 6, written in other ways. They run with the names of the true modules."""

import torch


def informative_by_mean(correct, group):
    out = torch.zeros(len(group), dtype=torch.bool)
    for g in group.unique():
        out[group == g] = bool(0 < correct[group == g].mean() < 1)
    return out


def overlong_penalty_where(lengths, limit, buffer):
    begin = limit - buffer
    inside = torch.where(lengths > limit, -torch.ones_like(lengths), (begin - lengths) / buffer)
    return torch.where(lengths <= begin, torch.zeros_like(lengths), inside)


def prompts_to_sample_steps(prompts, sampled, kept):
    missing = prompts - kept
    if missing <= 0:
        return 0
    if kept == 0:
        return prompts
    count = 0
    while count * kept < missing * sampled and count < prompts:
        count += 1
    return count


SOLUTIONS = {"informative": [informative_by_mean], "overlong_penalty": [overlong_penalty_where],
             "prompts_to_sample": [prompts_to_sample_steps]}
