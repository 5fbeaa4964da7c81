"""On-policy distillation: the student samples, and a teacher's distribution is the target of each
token.

SFT on a teacher's answers trains on texts that the student would not write. Here the student learns
on its own samples, so it also learns to go on after its own mistakes. The whole vocabulary counts,
not only the sampled token:

    loss = mean over the tokens of the responses of sum over v of p(v) (log p(v) - log q(v))

p is the student's distribution of the next token and q the teacher's. The gradient passes through p
alone, not through q or the sampling. In GKD (2306.13649) this is beta 1 and lambda 1.

    a larger model        reads the same prompt
    self-distillation     the teacher is the student, or a moving average of it, which also reads a
                          right response of the same group (SDPO 2601.20802)

Left out on purpose: forward KL and JSD, the estimate from the sampled token, feedback in words.
Shapes: n response tokens, V vocabulary.
"""

import torch

import sft
from engine.packing import micro_batches


def reverse_kl(logp, teacher_logp):
    """KL(student || teacher), (n,) in nats, of log-probs of the whole vocabulary, (n, V)."""
    return (logp.exp() * (logp - teacher_logp)).sum(-1)


def vocabulary_logp(model, pairs):
    """Log-probs (n, V) of the whole vocabulary at each of the n response tokens, row by row.
    pairs: (prompt ids, response ids)."""
    tokens, mask = (x.to(model.embedding.weight.device) for x in sft.padded(pairs))
    return model.logits(model.hidden_states(tokens, mask)).log_softmax(-1)


@torch.no_grad()
def response_kl(policy, other, pairs) -> float:
    """KL(policy || other) of whole responses, in nats, estimated from (prompt ids, response ids)
    pairs that the policy sampled: the sum over tokens of the KL over the vocabulary, and the mean
    over responses. Its variance is less than that of the mean log-ratio."""
    logp, other_logp = (vocabulary_logp(model, pairs) for model in (policy, other))
    return float(reverse_kl(logp, other_logp).sum()) / len(pairs)


def backward(student, teacher, views) -> float:
    """Adds the gradient of the loss to the student's, and returns the loss. views: for each
    response (student's pair, teacher's pair), whose prompts may differ."""
    n_tokens, total = sum(len(response) for (_, response), _ in views), 0.0
    lengths = [len(prompt) + len(response) for _, (prompt, response) in views]
    for rows in micro_batches(lengths, sft.MICRO_TOKENS[student.embedding.weight.device.type]):
        pairs, teacher_pairs = zip(*(views[i] for i in rows), strict=True)
        with torch.no_grad():  # one forward pass of the teacher scores all tokens
            teacher_logp = vocabulary_logp(teacher, teacher_pairs)
        loss = reverse_kl(vocabulary_logp(student, pairs), teacher_logp).sum() / n_tokens
        loss.backward()
        total += float(loss.detach())
    return total


def step(student, teacher, views, optimizers) -> float:
    """A step of the optimizers on the loss of the views; returns the loss before it."""
    loss = backward(student, teacher, views)
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss


def with_siblings(pairs, right, size: int) -> list:
    """The views of SDPO: (pair, the teacher's pair) of each response with a right sibling, which is
    another response of its group. The teacher's prompt is the problem, the sibling and the problem
    again. right: a bool for each pair; size: of a group."""
    views = []
    for i, (prompt, response) in enumerate(pairs):
        group = range(i // size * size, (i // size + 1) * size)
        siblings = [pairs[j][1] for j in group if right[j] and j != i]
        if siblings:
            sibling = siblings[i % len(siblings)]
            views.append(((prompt, response), (prompt + sibling + prompt, response)))
    return views


@torch.no_grad()
def move_average(average, model, rate: float) -> None:
    """Moves the weights of a moving average to the model's: by the share `rate` of the way."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, rate)
