"""The adapters of Stanford's CS336, assignment 5 (alignment), over this project's functions.

Copy this file over tests/adapters.py of github.com/stanford-cs336/assignment5-alignment, with this
repository on PYTHONPATH, and their tests grade this project's code. Names, arguments and results
are theirs; each function is a few lines over one of ours.

Differences: `model` and `lm` are a model.GPT where theirs are transformers models. Left out on
purpose: packed SFT data sets, which have no equivalent here.
Shapes: N responses, T tokens, V vocabulary.
"""

import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import dpo  # noqa: E402
import grpo  # noqa: E402
import ppo  # noqa: E402
import verify  # noqa: E402
from engine.rng import sample_tokens  # noqa: E402
from sft import padded  # noqa: E402

# --- SFT

def run_tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict:
    """input_ids, labels and response_mask, each (N, T - 1), of prompts and outputs side by side.
    response_mask is True where the label is a token of the output."""
    pad_id = getattr(tokenizer, "pad_token_id", None)  # of transformers
    pairs = [(tokenizer.encode(prompt), tokenizer.encode(output))
             for prompt, output in zip(prompt_strs, output_strs, strict=True)]
    tokens, mask = padded(pairs, tokenizer.pad_id if pad_id is None else pad_id)
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:],
            "response_mask": mask[:, 1:].bool()}


def run_compute_entropy(logits):
    """Entropies (N, T), in nats, of logits (N, T, V)."""
    flat = logits.flatten(0, -2)
    _, _, entropy = sample_tokens(flat, torch.full((len(flat),), 0.5), 1.0)
    return entropy.view(logits.shape[:-1])


def run_get_response_log_probs(model, input_ids, labels, return_token_entropy: bool) -> dict:
    """log_probs (N, T) of the labels, and token_entropy (N, T) if wanted. Nothing is masked."""
    hidden = model(input_ids).flatten(0, 1)                                   # (N * T, D)
    logp, entropy = model.logprobs_of(hidden, labels.flatten(), 1.0, return_token_entropy)
    found = {"log_probs": logp.view(labels.shape)}
    return found | {"token_entropy": entropy.view(labels.shape)} if return_token_entropy else found


def run_masked_normalize(tensor, mask, dim=None, normalize_constant: float = 1.0):
    """The sum over the marked elements, along dim or of all, divided by a constant."""
    marked = tensor * mask
    return (marked.sum() if dim is None else marked.sum(dim)) / normalize_constant


def run_masked_mean(tensor, mask, dim=None):
    """The mean of the marked elements, along dim or of all; NaN where none is marked."""
    return run_masked_normalize(tensor, mask, dim, mask.sum() if dim is None else mask.sum(dim))


def run_sft_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps,
                                  normalize_constant=1.0):
    """The SFT loss of a micro-batch, and its gradients: token sums divided by a constant."""
    weights = ppo.token_weights(response_mask.float(), "constant", normalize_constant)
    loss = -(weights * policy_log_probs).sum() / gradient_accumulation_steps
    loss.backward()
    return loss, {}


# --- policy gradients and GRPO

def run_compute_group_normalized_rewards(reward_fn, rollout_responses, repeated_ground_truths,
                                         group_size: int, advantage_eps: float,
                                         normalize_by_std: bool):
    """Advantages (N,), rewards (N,), and statistics of the rewards."""
    rewards = torch.tensor([reward_fn(response, truth)["reward"] for response, truth in
                            zip(rollout_responses, repeated_ground_truths, strict=True)])
    group = torch.arange(len(rewards)) // group_size
    advantages = grpo.group_advantages(rewards, group, scale_by_std=False)
    if normalize_by_std:
        advantages = advantages / (grpo.group_std(rewards, group) + advantage_eps)
    return advantages, rewards, {"mean": float(rewards.mean()), "max": float(rewards.max()),
                                 "min": float(rewards.min())}


def run_compute_naive_policy_gradient_loss(raw_rewards_or_advantages, policy_log_probs):
    """-A * logp per token (N, T), of rewards or advantages (N, 1)."""
    return -raw_rewards_or_advantages * policy_log_probs


def run_compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange: float):
    """The clipped loss per token (N, T), and which tokens the clip has cut."""
    terms = policy_log_probs, old_log_probs, advantages, cliprange, cliprange
    below, above = ppo.clipped(*terms)
    return ppo.surrogate(*terms), {"clipped": below | above}


def run_compute_policy_gradient_loss(policy_log_probs, loss_type: str, raw_rewards=None,
                                     advantages=None, old_log_probs=None, cliprange=None):
    """The loss per token (N, T) of no_baseline, reinforce_with_baseline or grpo_clip, and its
    metadata. Raises ValueError for another name."""
    if loss_type == "grpo_clip":
        return run_compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange)
    signals = {"no_baseline": raw_rewards, "reinforce_with_baseline": advantages}
    if loss_type not in signals:
        raise ValueError(f"unknown loss_type {loss_type!r}: choose grpo_clip, "
                         f"{', '.join(signals)}")
    return run_compute_naive_policy_gradient_loss(signals[loss_type], policy_log_probs), {}


def run_grpo_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps,
                                   loss_type: str, raw_rewards=None, advantages=None,
                                   old_log_probs=None, cliprange=None):
    """The loss of a micro-batch, and its gradients: a mean over rows of the mean over tokens."""
    per_token, metadata = run_compute_policy_gradient_loss(
        policy_log_probs, loss_type, raw_rewards, advantages, old_log_probs, cliprange)
    weights = ppo.token_weights(response_mask.float(), "sequence")
    loss = (weights * per_token).sum() / gradient_accumulation_steps
    loss.backward()
    return loss, metadata


# --- the optional part

def run_parse_gsm8k_response(model_output: str) -> str | None:
    """The last number of a text, or its marked answer."""
    return verify.extract_any(model_output, last_number=True)


def run_parse_mmlu_response(mmlu_example: dict, model_output: str) -> str | None:
    """The first letter from A to D that stands alone in a text. (This project has no such task.)"""
    found = re.search(r"\b[ABCD]\b", model_output)
    return found and found[0]


def run_compute_per_instance_dpo_loss(lm, lm_ref, tokenizer, beta: float, prompt: str,
                                      response_chosen: str, response_rejected: str):
    """The DPO loss (a scalar) of a pair of responses, each with the end-of-text token."""
    prompt_ids = tokenizer.encode(prompt)
    tokens, mask = padded([(prompt_ids, tokenizer.encode(response) + [tokenizer.eos_id])
                           for response in (response_chosen, response_rejected)])
    with torch.no_grad():
        ref_logp = lm_ref.logp(tokens, mask)
    chosen, rejected = dpo.implicit_rewards(lm.logp(tokens, mask), ref_logp, mask, beta)
    return -F.logsigmoid(chosen - rejected)
