"""Forward passes over a batch in micro-batches, whose memory is bounded by --micro-tokens.

Rows are cut by length, so that little of a micro-batch is padding. Of several processes each takes
its share of the micro-batches.
Shapes: N sequences, T tokens; n and t are those of a micro-batch.
"""

import torch

from engine import dedup, packing
from infra import distributed


def autocast(options):
    """With --dtype bfloat16: inside, matrix products are in bfloat16. Weights stay in float32."""
    return torch.autocast(options.device.partition(":")[0] or "cpu", torch.bfloat16,
                          enabled=options.dtype == "bfloat16")


def micro_batches(batch, models, options) -> list[list[int]]:
    """The rows of each micro-batch: of similar length, at most options.micro_tokens tokens.

    A row without advantage has no gradient and is left out, unless another term of the loss has
    one: the entropy bonus, a KL (also the one that --pmd-tau weighs) or the critic's loss. Rows 2i
    and 2i + 1 of a batch of pairs (dpo.py) stay together.
    """
    lengths = batch.lengths()
    if batch.pair is not None:
        longer = [max(two) for two in zip(lengths[::2], lengths[1::2], strict=True)]
        parts = split_rows([2 * length for length in longer], options)
        return [[row for i in part for row in (2 * i, 2 * i + 1)] for part in parts]
    rows = list(range(len(lengths)))
    if models.critic is None and batch.kl_cov is None and not options.entropy_coef and not (
            options.pmd_tau or options.kl_coef and options.kl_in == "loss"):
        rows = batch.advantages.abs().amax(1).nonzero().squeeze(1).tolist()
    return [[rows[i] for i in part] for part in split_rows([lengths[i] for i in rows], options)]


def split_rows(lengths: list[int], options) -> list[list[int]]:
    """The indices of each micro-batch of rows with these lengths, for all processes."""
    budget = distributed.local_token_budget(options.micro_tokens, lengths)
    return packing.micro_batches(lengths, budget)


def policy_logp(policy, batch, options):
    """Log-probs (N, T) of a batch under a policy or the reference, computed as in training."""
    return without_gradient(
        lambda micro: policy.logp(micro.tokens, micro.mask, options.temperature), batch, options)


def critic_values(models, batch, options):
    """The critic's values (N, T)."""
    def values(micro):
        hidden = None  # a critic with a network of its own needs no states of the policy
        if options.critic == "head":
            hidden = models.policy.hidden_states(micro.tokens, micro.mask)
        return models.critic(hidden, micro)
    return without_gradient(values, batch, options)


def without_gradient(f, batch, options):
    """f(micro-batch) (n, t) for all rows of a batch (N, T). Equal rows are computed once."""
    result = torch.zeros_like(batch.old_logp)
    first, inverse = dedup.unique_rows(batch)
    unique = batch.rows(first)
    with torch.no_grad(), autocast(options):
        for rows, is_own in distributed.local_batches(split_rows(unique.lengths(), options)):
            micro = unique.rows(torch.tensor(rows, device=first.device))
            values = f(micro)
            if is_own:
                result[first[rows], :micro.mask.shape[1]] = values.float()
    distributed.all_reduce(result)
    return result[first[inverse]]
