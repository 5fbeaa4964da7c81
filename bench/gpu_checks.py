"""Whether sampling and gradients on a GPU are exact: the comparisons of `bench/gpu.py`, each with
the same work done another way."""

import copy
import math
import re

import torch

import tokenizer
from bench.gpu import made
from engine import graphs, kernels, sampler

STOP, PAD = 28, 29


def small_world(device, dtype=torch.float32):
    """A model far from uniform whose rows end at many lengths, and prompts for it."""
    policy = made(dict(vocab_size=30, context=512, layers=2, width=64, heads=4, kv_heads=2,
                       hidden=96, tied=False), "cpu")
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(5 if p.dim() == 2 else 1)
        policy.lm_head.weight[STOP] *= 0.3
    rng = torch.Generator().manual_seed(1)
    lengths = [int(n) for n in torch.randint(1, 60, (24,), generator=rng)]
    prompts = [torch.randint(0, 28, (n,), generator=rng).tolist() for n in lengths]
    return policy.to(device).cast(dtype), prompts


@torch.no_grad()
def uncached(policy, prompt, new):
    ids = list(prompt)
    while len(ids) < len(prompt) + new and STOP not in ids[len(prompt):]:
        tokens = torch.tensor([ids], device=policy.embedding.weight.device)
        ids.append(int(policy.logits(policy(tokens)[0, -1:])[0].argmax()))
    return ids[len(prompt):]


def off(policy, rollout, bf16=False) -> torch.Tensor:
    """Absolute differences of the trainer's log-probs and the sampler's."""
    with torch.no_grad(), torch.autocast(rollout.tokens.device.type, torch.bfloat16, enabled=bf16):
        found = policy.logp(rollout.tokens, rollout.mask)
    return (found - rollout.logp).abs()[rollout.mask > 0]


def line(name: str, good: bool, found: str = "") -> str:
    return f"- {'ok' if good else '**FAILED**'}: {name}{found and f' ({found})'}"


def lines(args):
    """Of each comparison: ok or FAILED, what was compared, what came out."""
    device, how = args.device, dict(stop=STOP, pad=PAD)
    policy, prompts = small_world(device)

    def generate(policy=policy, **more):
        return sampler.generate(policy, prompts, 8, 150, seed=3, **how | more)
    first = generate()
    whole = first.responses()
    again = generate().responses()   # by now all are graphs
    [(_, batch)] = policy.slot_pool.kept.values()
    captured = sum(map(callable, batch.recorded.values()))
    yield line("the same again, graphs captured", whole == again, f"{captured} graphs, "
                    f"{'with' if kernels.triton else 'without'} Triton")
    kept, graphs.WARMUP_STEPS[device] = graphs.WARMUP_STEPS[device], math.inf
    plain = generate(copy.deepcopy(policy)).responses()
    graphs.WARMUP_STEPS[device] = kept
    yield line("the same without graphs", whole == plain)
    triton, kernels.triton = kernels.triton, None
    plain = generate(copy.deepcopy(policy)).responses()
    kernels.triton = triton
    same = sum(a == b for a, b in zip(plain, whole, strict=True)) / len(plain)
    yield line("the same without Triton's kernels", same > 0.98, f"{same:.1%} of the rows")
    lengths = [len(ids) for ids in whole]
    yield line("rows end at many lengths", len(set(lengths)) > 20,
                    f"{min(lengths)} to {max(lengths)}")
    yield line("few places, retired and refilled", generate(max_rows=40).responses() == whole)
    letters = [bytes([97 + token]) for token in range(30)]  # as if each token were a letter
    for strings in (["ab", "cad", "e"], ["bc", "d"]):  # two tables, each with graphs of its own
        table = tokenizer.stop_table(letters, strings).to(device)
        for _ in range(2):  # the second time all are graphs, which hold the automaton
            cut = generate(stop_table=table).responses()
        texts = [b"".join(letters[token] for token in ids) for ids in whole]
        pattern = "|".join((*strings, "$")).encode()
        want = [ids[:re.search(pattern, text).end()]
                for ids, text in zip(whole, texts, strict=True)]
        yield line(f"stop strings {strings}", cut == want,
                        f"{sum(map(int.__ne__, lengths, map(len, want)))} rows cut")
    far = off(policy, first).max()
    yield line("fp32 log-probs are the trainer's to 1e-4", far < 1e-4, f"at most {far:.1e}")
    greedy = sampler.generate(policy, prompts, 1, 40, 0, **how).responses()
    yield line("greedy equals an uncached loop",
                    greedy == [uncached(policy, p, 40) for p in prompts])
    other = generate(small_world("cpu")[0]).responses()
    same = sum(a == b for a, b in zip(other, whole, strict=True)) / len(other)
    yield line("draws what the CPU draws, up to rounding", same > 0.9,
                    f"{same:.1%} of the rows")
    yield line("gradients are the CPU's to 1e-4", *gradients(device))
    far = off(policy, generate(small_world(device, torch.bfloat16)[0]), True).mean()
    yield line("bf16 log-probs are the trainer's to 0.02 on average", far < 0.02, f"{far:.1e}")


def gradients(device):
    """Whether fp32 gradients of log-probs and entropies are those of a CPU; by how much not."""
    found = []
    for kind in ("cpu", device):
        policy, prompts = small_world(kind)
        tokens = torch.tensor([(p * 40)[:40] for p in prompts], device=kind)
        logp, entropy = policy.logprobs(tokens, torch.ones_like(tokens, dtype=torch.float32), 0.7)
        (logp.sum() + entropy.sum()).backward()
        found.append([p.grad.cpu() for p in policy.parameters()])
    far = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))
    return far < 1e-4, f"at most {far:.1e} of the largest"
