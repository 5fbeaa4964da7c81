"""Packing: sequences of different lengths share a forward pass without padding.

Tokens that are wanted stand in a row, and a prefix that several sequences share, such as the
question of a group, is computed once:

    a b c d    new  1 1 1 1    index  0 1 2 3        M = 5 tokens of (N, T) = (2, 4)
    a b e           0 0 1 0           0 1 4 .

Everything but attention works on the M tokens as if there were no sequences; attention works on
(N, T) again. Sharing a prefix changes no gradient: the shared token is one node of the graph, and
the gradient of a node is the sum over its users (chain rule). Left out on purpose: several short
sequences in one row under a block mask; attention that is computed once for a shared prefix.
Shapes: N sequences, T tokens, M tokens that are computed.
"""

import torch
import torch.nn.functional as F

from engine.attention import Causal


class Packed(Causal):
    """Causal attention of the tokens (N, T) marked by `wanted` (N, T), of each row a prefix.

    `tokens` (M,) are the ids to give to the model, at least one. `unpack_wanted` turns the model's
    output into one row per wanted token."""

    def __init__(self, tokens: torch.Tensor, wanted: torch.Tensor):
        device, wanted = tokens.device, wanted.cpu()  # sorting rows is slow on a GPU
        # 1. sort the rows: the longest shared prefix of a row is then with the row before it
        rows, row = torch.unique(tokens.cpu().where(wanted, -1), dim=0, return_inverse=True)
        shared = (rows[1:] == rows[:-1]).cumprod(1).bool()
        # 2. a token is computed unless the row before has it too
        new = (rows >= 0) & ~F.pad(shared, (0, 0, 1, 0))                      # (N', T)
        new[:1, 0] = True  # attention needs at least one token
        # 3. the index among the M tokens of each token: a shared one is found further up
        number = (new.flatten().cumsum(0) - 1).view_as(new)
        index = number.where(new, 0).cummax(0)[0]
        found = (rows.clamp(min=0), new.flatten().nonzero()[:, 0], index.flatten(),
                 index[row][wanted])
        self.rows, self.source, self.index, self.wanted = (x.to(device) for x in found)
        n, t = self.rows.shape
        super().__init__(n, t, device)
        self.tokens, self.positions = (x.flatten(0, 1).index_select(0, self.source)
                                       for x in (self.rows, self.positions))  # (M,)

    def unpack(self, x):
        """(M, heads, d) -> (N', heads, T, d); padding holds arbitrary numbers."""
        x = x.index_select(0, self.index)
        return x.view(*self.rows.shape, *x.shape[1:]).transpose(1, 2)

    def pack(self, y):
        """(N', heads, T, d) -> (M, heads, d)"""
        return y.transpose(1, 2).flatten(0, 1).index_select(0, self.source)

    def unpack_wanted(self, x):
        """(M, D) -> (number of wanted tokens, D), row by row."""
        return x.index_select(0, self.wanted)


def scatter_to_mask(x, mask):
    """A (N, T) tensor with x (number of marked tokens,) at the marked tokens of mask (N, T), of
    which the first column is ignored, and 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(F.pad(mask[:, 1:], (1, 0)).bool(), x)


def micro_batches(lengths, max_tokens: int) -> list[list[int]]:
    """Cuts rows into micro-batches of similar lengths, longest first.

    A micro-batch has at most max_tokens tokens once it is padded to its longest row, or one row.
    Returns the indices of the rows; rows of equal length stay in their order."""
    batches, width = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * width > max_tokens:
            batches.append([])
            width = lengths[i]
        batches[-1].append(i)
    return batches
