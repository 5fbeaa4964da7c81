"""Where a policy looks: the attention weights of a forward pass, for the page of a run.

    seen[t, s] = mean over layers and heads of softmax(q[t] k[s] / sqrt(d))

Left out on purpose: layers and heads one by one, which differ much. Attention is no proof of use:
blank or exchange the image to see whether the answer changes (recipes/vision.py).
"""

import torch
import torch.nn.functional as F

from engine.attention import Causal
from engine.vision import N_PATCHES


class Watched(Causal):
    """Causal attention of N sequences that also keeps where the tokens look: `seen` (N, T, T), the
    attention weights as a mean over the layers and heads so far."""

    def __init__(self, n: int, t: int, device=None):
        super().__init__(n, t, device)
        self.total, self.layers = torch.zeros(n, t, t, device=device), 0

    def attend(self, q, k, v):
        heads, t, d = q.shape[1:]
        keys = k.repeat_interleave(heads // k.shape[1], 1)                    # (N, H, T, d)
        later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ keys.mT * d**-0.5).masked_fill(later, -torch.inf)
        self.total += scores.softmax(-1).mean(1)
        self.layers += 1
        return super().attend(q, k, v)

    @property
    def seen(self):
        return self.total / self.layers


@torch.no_grad()
def attention_to_patches(model, tokens) -> torch.Tensor:
    """Where the model looks before it writes a token: for each token of tokens (N, T), whose rows
    begin with an image, the attention to the N_PATCHES patches, (N, T, N_PATCHES). It is that of
    the token before, a mean over layers and heads. 0 for the first token."""
    watched = Watched(*tokens.shape, tokens.device)
    model(tokens, watched)
    return F.pad(watched.seen[:, :-1, :N_PATCHES], (0, 0, 1, 0))
