"""Deduplication: equal rows of a batch are computed once.

A confident policy often samples the same response twice. Equal rows have equal losses and equal
gradients, so one row stands for all of its copies and carries their weights:

    sum over rows of weight * loss  =  sum over unique rows of (copies * weight) * loss

Left out on purpose: shared beginnings of unequal rows, which engine/packing.py computes once.
"""

from collections import Counter
from dataclasses import fields, replace
from hashlib import blake2b

import torch


def unique_rows(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The index of the first row of each set of equal rows (K,), and the set of each row (N,).

    `batch` is a ppo.Batch. Rows are equal when they are equal in every field of it. The sets are
    numbered by first appearance; otherwise this is torch.unique with return_inverse.
    """
    columns = [getattr(batch, field.name) for field in fields(batch)]
    rows = torch.cat([(x if x.dim() == 2 else x[:, None]).cpu().double()
                      for x in columns if x is not None], 1)
    first, inverse = {}, []  # digest of a row -> (number of its set, index of its first row)
    for i, row in enumerate(rows.numpy()):
        number, _ = first.setdefault(blake2b(row).digest(), (len(first), i))
        inverse.append(number)
    device = batch.mask.device
    return (torch.tensor([i for _, i in first.values()], device=device, dtype=torch.int64),
            torch.tensor(inverse, device=device, dtype=torch.int64))


def merge_duplicates(batch):
    """The unique rows of a ppo.Batch, and how many rows each of them stands for, (K,).

    The weights are multiplied by the copies, so loss and gradient are those of the whole batch.
    """
    first, inverse = unique_rows(batch)
    copies = torch.bincount(inverse, minlength=len(first))
    unique = batch.rows(first)
    return replace(unique, weights=unique.weights * copies[:, None]), copies


def sum_over_tokens(stats: dict, mask, copies) -> Counter:
    """The sum of each per-token metric (K, T) over the tokens of all rows, duplicates included. A
    metric without dimensions is a sum already.

    "tokens" counts these tokens. The sums stay on the device: reading them would make it wait.
    """
    stats = stats | {"tokens": torch.ones_like(mask)}
    return Counter({name: (x * mask * copies[:, None]).sum() if x.dim() else x
                    for name, x in stats.items()})
