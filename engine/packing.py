"""Packing: rows of different lengths share a forward pass without paying for their padding.

A batch is cut into micro-batches of like length; in each the tokens that are wanted stand in a row,
and as far as rows begin alike, as the answers to one question do, they are computed once:

    a b c d    new  1 1 1 1    place  0 1 2 3        M = 5 tokens of (N, T) = (2, 4)
    a b e           0 0 1 0           0 1 4 .

Everything but attention works on the M tokens (model.py), as if there were no rows. That sharing
beginnings changes no gradient is the chain rule: what two rows have in common is one node of the
graph, and its gradient the sum of theirs. Left out on purpose: several short rows end to end in one
long one under a block mask, which padded batches of like length do not need; attention computed
once for what is shared.
Shapes: N rows, T tokens, M tokens computed.
"""

import torch
import torch.nn.functional as F


class Layout:
    """Where the M tokens that are computed stand among the tokens (N, T) of a batch. real (N, T)
    marks those that are wanted, of each row a beginning; without it all are, and none is shared."""

    def __init__(self, tokens, real: torch.Tensor | None = None):
        self.rows, self.index = tokens, None
        if real is not None:
            device, real = tokens.device, real.cpu()  # a GPU is slow to sort rows
            # sorted, so that what a row shares with any above it, it shares with the one above it
            rows, row = torch.unique(tokens.cpu().where(real, -1), dim=0, return_inverse=True)
            same = (rows[1:] == rows[:-1]).cumprod(1).bool()
            new = (rows >= 0) & ~F.pad(same, (0, 0, 1, 0))                        # (N, T)
            new[:1, 0] = True  # attention wants one at least
            number = (new.flatten().cumsum(0) - 1).view_as(new)
            place = number.where(new, 0).cummax(0)[0]  # of the last new one in the column
            found = rows.clamp(min=0), new.flatten().nonzero()[:, 0], place.flatten(), \
                place[row][real]
            self.rows, self.index, self.place, self.asked = (x.to(device) for x in found)

    def pack(self, x):
        """(N, T, ...) -> (M, ...)"""
        x = x.flatten(0, 1)
        return x if self.index is None else x.index_select(0, self.index)

    def spread(self, x):
        """(M, heads, d) -> (N, heads, T, d), with anything where there is padding."""
        x = x if self.index is None else x.index_select(0, self.place)
        return x.view(*self.rows.shape, *x.shape[1:]).transpose(1, 2)


def place(x, mask):
    """x (marked,) at the marked places of mask (N, T), the first column apart; 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(F.pad(mask[:, 1:], (1, 0)).bool(), x)


def micro_batches(lengths, max_tokens: int) -> list[list[int]]:
    """Cuts rows into micro-batches of like length, longest first, each of at most max_tokens once
    it is padded to its longest row (and of one row at least). Returns the rows' indices, those of
    equal length in their order."""
    batches, width = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = lengths[i]
        batches[-1].append(i)
    return batches
