"""A reward model, trained on pairs of responses of which people prefer one.

No program can check an open request, but people can say which of two responses they prefer. The
Bradley-Terry model explains their choices by a reward r, which maximum likelihood trains:

    P(chosen preferred to rejected) = sigmoid(r(chosen) - r(rejected))
    loss = -mean over pairs of log sigmoid(r(chosen) - r(rejected))

The network is a copy of the policy (the trunk) with a scalar head at the last token. A policy that
is paid by r finds what r overrates (recipes/overoptimization.py). The members of an ensemble
disagree there, so it pays their mean - spread_coef * their standard deviation. A Judge adds up
ensembles. In R1, helpfulness reads the final answer, and harmlessness the whole response.
Papers: InstructGPT 2203.02155, ensembles 2310.02743 (their spread is the variance), R1 2501.12948.
Left out on purpose: ties and margins between the responses of a pair.

    python reward_model.py --run RUN --pairs FILE.jsonl    FILE has prompt, chosen and rejected
Shapes: P pairs, N responses, T tokens, D width.
"""

import infra.openmp  # noqa: F401  (before torch)

import copy
import math
import random
import sys
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import model as gpt
import verify
from engine import packing
from engine.muon import muon_and_adam
from sft import padded

READS = ("whole", "answer")  # the whole response, or the text between its answer tags


# --- the loss and its measures

def pair_loss(chosen, rejected):
    """-log sigmoid(chosen - rejected), mean over pairs. chosen and rejected are rewards (P,)."""
    return -F.logsigmoid(chosen - rejected).mean()


def accuracy(chosen, rejected) -> float:
    """The share of pairs whose chosen response has the higher reward. A tie counts half."""
    return float((0.5 + 0.5 * (chosen - rejected).sign()).mean())


def calibration(chosen, rejected, bins: int = 5) -> dict:
    """Predicted against observed preferences. The confidence of a pair is the predicted probability
    of the response with the higher reward, 0.5 to 1; it is right if that one was chosen.

    "bins": (mean confidence, share right, pairs) of each bin with pairs. "ece": the mean over
    pairs of |confidence - share right| of their bins (1706.04599)."""
    margins = (chosen - rejected).double()                                       # (P,)
    confidence, right = margins.abs().sigmoid(), 0.5 + 0.5 * margins.sign()
    number = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    rows = [(float(confidence[number == i].mean()), float(right[number == i].mean()),
             int((number == i).sum())) for i in number.unique().tolist()]
    return {"ece": sum(n * abs(c - r) for c, r, n in rows) / len(margins), "bins": rows}


# --- the networks

class RewardModel(nn.Module):
    """Gives each response a number. `reads` is one of READS."""

    def __init__(self, policy: gpt.GPT, reads: str = "whole", seed: int = 0):
        super().__init__()
        width, generator = policy.config.width, torch.Generator().manual_seed(seed)
        self.trunk, self.head, self.reads = copy.deepcopy(policy), nn.Linear(width, 1), reads
        self.head.weight.data = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
        nn.init.zeros_(self.head.bias)  # the head begins as in 2009.01325
        self.to(policy.embedding.weight.device)

    def forward(self, tokens, mask):
        """Rewards (N,) of responses: tokens (N, T), and mask (N, T), 1 at tokens of a response."""
        tokens, mask = tokens.to(self.head.weight.device), mask.to(self.head.weight.device)
        real = mask.flip(1).cumsum(1).flip(1) > 0                   # (N, T) all but the padding
        last = real & ~F.pad(real[:, 1:], (0, 1))                   # (N, T) one token a row
        hidden = self.trunk.packed(tokens, real)                    # (number of real tokens, D)
        return self.head(hidden[last[real]]).squeeze(1)

    def encode(self, tokenizer, question: str, text: str) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids) that the model reads. A response without one complete answer
        has an empty answer."""
        text = (verify.extract(text) or "") if self.reads == "answer" else text
        return tokenizer.encode_prompt(question), [*tokenizer.encode(text), tokenizer.eos_id]


class Ensemble(nn.Module):
    """Reward models of the same pairs with other seeds. One member is a plain reward model."""

    def __init__(self, members: list[RewardModel], spread_coef: float = 0.0):
        super().__init__()
        self.members, self.spread_coef = nn.ModuleList(members), spread_coef

    def scores(self, tokenizer, questions, texts) -> torch.Tensor:
        """Rewards (N,) of N responses (texts) to questions, on the CPU."""
        asked = list(zip(questions, texts, strict=True))
        number = {row: i for i, row in enumerate(dict.fromkeys(asked))}  # equal ones count once
        rows = [self.members[0].encode(tokenizer, *row) for row in number]
        rewards = torch.stack([scores(member, rows) for member in self.members])   # (members, N)
        spread = rewards.std(0) if self.spread_coef else 0.0
        total = rewards.mean(0) - self.spread_coef * spread
        return total[[number[row] for row in asked]]


class Judge(nn.Module):
    """The sum of the rewards of ensembles. Models.reward_model with --reward preference is one."""

    def __init__(self, *ensembles: Ensemble):
        super().__init__()
        self.ensembles = nn.ModuleList(ensembles)

    def scores(self, tokenizer, questions, texts) -> torch.Tensor:
        """Rewards (N,) of N responses to questions, on the CPU."""
        return sum(ensemble.scores(tokenizer, questions, texts) for ensemble in self.ensembles)

    def set_rewards(self, batch, samples, rollout, tokenizer) -> None:
        """Adds the rewards of open requests (problems with answer "") to a Batch and to its samples
        (problem, text, verify.Reward), on top of what the task pays for the form. Other problems
        keep the verifier's."""
        rows = [i for i, (problem, *_) in enumerate(samples) if not problem.answer]
        questions, texts = [samples[i][0].question for i in rows], [samples[i][1] for i in rows]
        batch.rewards[rows] += self.scores(tokenizer, questions, texts).to(batch.rewards)
        for i in rows:
            given = replace(samples[i][2], total=float(batch.rewards[i]))
            samples[i] = (*samples[i][:2], given)


@torch.inference_mode()
def scores(model: RewardModel, rows, max_tokens: int = 8192) -> torch.Tensor:
    """Rewards (N,) of N pairs (prompt ids, response ids), on the CPU."""
    rewards = torch.zeros(len(rows))
    for part in packing.micro_batches([len(p) + len(r) for p, r in rows], max_tokens):
        rewards[part] = model(*padded([rows[i] for i in part])).cpu()
    return rewards


# --- training

def plan_batches(lengths, epochs: int, rng, batch_tokens: int) -> list[list[int]]:
    """Batches of row indices for several epochs, each of at least batch_tokens tokens if the epoch
    has as many left. A batch does not cross the end of its epoch."""
    batches = []
    for _ in range(epochs):
        order, size = rng.sample(range(len(lengths)), len(lengths)), batch_tokens
        for i in order:
            if size >= batch_tokens:
                batches.append([])
                size = 0
            batches[-1].append(i)
            size += lengths[i]
    return batches


def fit(model, batches: list[list[int]], loss, lr: float) -> float:
    """Trains a network around a `trunk` in place, by a step of Muon and Adam on loss(rows) of each
    batch. Returns the last loss. Raises FloatingPointError for a loss that is not finite."""
    optimizers = muon_and_adam(model, model.trunk.blocks, lr, lr)
    for step, rows in enumerate(tqdm(batches, desc="reward model", unit="step", disable=None)):
        # the learning rate warms up over 20 steps and falls to 0 over the last 40%
        for optimizer in optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 20,
                                                       (1 - step / len(batches)) / 0.4)
        error = loss(rows)
        error.backward()
        if not math.isfinite(error.item()):
            raise FloatingPointError("the reward model diverged: its loss is no longer finite; "
                                     "nothing is written. Try a lower --lr")
        for optimizer in optimizers:
            optimizer.step()
    return float(error.detach())


def train(model: RewardModel, pairs, epochs: int = 2, seed: int = 0, lr: float = 1e-3,
          batch_tokens: int = 2000) -> RewardModel:
    """Trains a reward model in place, on pairs (prompt ids, chosen ids, rejected ids), and freezes
    it. The mean reward of the training responses is 0 at the end: the loss does not see the mean.
    Raises ValueError for no pairs, FloatingPointError for a loss that is not finite."""
    if not pairs:
        raise ValueError("there are no pairs to train the reward model on")
    lengths = [2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in pairs]
    batches = plan_batches(lengths, epochs, random.Random(f"pairs {seed}"), batch_tokens)

    def mean_loss(rows):  # chosen and rejected responses are in one forward pass
        both = [(pairs[i][0], pairs[i][side]) for side in (1, 2) for i in rows]
        return pair_loss(*model(*padded(both)).chunk(2))
    fit(model, batches, mean_loss, lr)
    model.requires_grad_(False)
    model.head.bias -= scores(model, [(pair[0], ids) for pair in pairs for ids in pair[1:]]).mean()
    return model


def train_ensemble(policy, tokenizer, pairs, reads: str = "whole", members: int = 1,
                   spread_coef: float = 0.0, seed: int = 0, **how) -> Ensemble:
    """An Ensemble trained on pairs (question, chosen text, rejected text). Each member has its own
    head and its own order of the pairs. `how`: epochs, lr and batch_tokens of `train`."""
    models = [RewardModel(policy, reads, 1000 * seed + number) for number in range(members)]
    rows = [[models[0].encode(tokenizer, question, text) for text in texts]
            for question, *texts in pairs]
    encoded = [(prompt, chosen, rejected) for (prompt, chosen), (_, rejected) in rows]
    return Ensemble([train(model, encoded, seed=1000 * seed + number, **how)
                     for number, model in enumerate(models)], spread_coef)


def main(argv=None) -> int:
    from infra import judges  # not at the top: judges imports this file
    return judges.main(argv)


if __name__ == "__main__":
    sys.exit(main())
