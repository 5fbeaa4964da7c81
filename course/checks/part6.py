"""Inputs of part 6: DAPO. The answers are not here."""

import torch


def informative(f):
    correct = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    yield "mixed, all right, all wrong, mixed", f, correct, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    yield "groups of 2 and 3, in any order", f, correct, torch.tensor([2, 1, 0, 2, 1, 0, 1, 2])
    yield "a response that is alone", f, correct[:3], torch.tensor([0, 0, 1])
    yield "one right answer in five", f, torch.tensor([0.0, 0, 1, 0, 0]), torch.zeros(5).long()
    yield "groups with the numbers 2 and 7", f, correct[:5], torch.tensor([2, 7, 7, 2, 2])
    yield "all right", f, torch.ones(4), torch.tensor([0, 0, 1, 1])


def overlong_penalty(f):
    lengths = torch.tensor([10.0, 80.0, 81.0, 90.0, 95.0, 99.0, 100.0, 104.0])
    yield "limit 100, buffer 20", f, lengths, 100, 20
    yield "limit 100, buffer 5", f, lengths, 100, 5
    yield "limit 100, buffer 100", f, lengths, 100, 100
    yield "lengths that are whole numbers", f, lengths.long(), 100, 20


def prompts_to_sample(f):
    for prompts, sampled, kept in ((16, 16, 8), (16, 16, 4), (16, 32, 15), (16, 16, 16),
                                   (16, 16, 0), (16, 20, 17), (8, 24, 5), (10, 10, 7),
                                   (16, 20, 10), (32, 64, 0)):
        yield (f"the batch needs {prompts} groups; of {sampled} so far {kept} were informative",
               f, prompts, sampled, kept)


CHECKS = {"informative": informative, "overlong_penalty": overlong_penalty,
          "prompts_to_sample": prompts_to_sample}
