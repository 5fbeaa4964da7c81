"""Hints for PPO's critic (--critic-hints): numbers that a small network takes long to find itself.

    value = critic(state) + w . (least probability so far, probability so far, group_mean_others)

Most wrong responses contain an unlikely token, and some problems are hard for every response. The
hint about the other responses holds no reward of the response itself, so the policy gradient stays
unbiased. Off by default: textbook PPO has no such inputs.
Shapes: N sequences, T tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

HINT_SCALE = 30.0  # large inputs, so that their weights are learned in a few steps


def likelihood(old_logp, mask):
    """What the policy thought of the tokens before each token, (N, T, 2): the probability of the
    least likely one, and of all of them together. Both are 1 at the first token."""
    before = F.pad(old_logp * mask, (1, 0))[:, :-1]
    return torch.stack((before.cummin(1)[0], before.cumsum(1)), dim=-1).exp()


class HintedCritic(nn.Module):
    """A ppo.Critic whose values have a linear function of the hints added to them."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic
        self.hint_head = nn.Linear(3, 1, bias=False)
        nn.init.zeros_(self.hint_head.weight)

    def forward(self, hidden, batch):
        """Values (N, T). `hidden` and `batch` are those of ppo.Critic; batch.group_mean_others must
        be set."""
        others = batch.group_mean_others[:, None, None].expand(*batch.mask.shape, 1)
        hints = torch.cat((likelihood(batch.old_logp, batch.mask), others), dim=-1)  # (N, T, 3)
        with torch.autocast(hints.device.type, enabled=False):  # bfloat16 is too coarse for values
            hint_values = self.hint_head(HINT_SCALE * hints).squeeze(-1)
        return self.critic(hidden, batch) + hint_values * batch.mask
