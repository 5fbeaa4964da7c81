"""What decides how to decode and to train on a GPU, each in milliseconds: `bench/gpu.py --part
first` runs it. Attention, the draw and the layers of a decode step in their plain forms and as
kernels; where the time of a decode step and of an update goes, kernel by kernel."""

import statistics

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import train
from bench.gpu import SHAPES, made
from bench.step import an_update
from engine import kernels, rng, sampler

BF16 = torch.bfloat16
ROUNDS = 20


def milliseconds(f) -> float:
    """Median of ROUNDS calls, by the device's own clock."""
    for _ in range(3):
        f()
    took = []
    for _ in range(ROUNDS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        f()
        ended.record()
        ended.synchronize()
        took.append(began.elapsed_time(ended))
    return statistics.median(took)


def attention(rows, kv_heads, group, d=64, longest=640, capacity=768):
    """One layer, of rows of longest / 2 to longest tokens; the layers rotate, so that nothing stays
    in the second-level cache."""
    layers, at = 8, [0]
    torch.manual_seed(0)
    keys, values = torch.randn(2, layers, rows, kv_heads, capacity, d, device="cuda", dtype=BF16)
    qkv = torch.randn(rows, kv_heads * (group + 2), d, device="cuda", dtype=BF16)
    q, k, v = qkv.split((kv_heads * group, kv_heads, kv_heads), 1)
    cos, sin = torch.randn(rows, 2, d, device="cuda").split(1, 1)
    lengths = torch.randint(longest // 2, longest, (rows,), device="cuda")
    mask = torch.where(torch.arange(longest, device="cuda") <= lengths[:, None], 0.0, -torch.inf)
    mask = mask.to(BF16)[:, None, None]
    moved = 2 * int(lengths.sum()) * kv_heads * d * 2

    def layer():
        at[0] = (at[0] + 1) % layers
        return keys[at[0]], values[at[0]]

    def masked():
        k, v = layer()
        return F.scaled_dot_product_attention(q.reshape(rows, kv_heads, group, d),
                                              k[:, :, :longest], v[:, :, :longest], attn_mask=mask)
    took = milliseconds(masked)
    yield f"masked SDPA {took:.3f} ({moved / took / 1e6:,.0f} GB/s of what is there)"
    for block, warps, stages in ((32, 1, 3), (32, 2, 3), (64, 1, 3), (64, 2, 3), (64, 4, 2),
                                 (64, 4, 3), (64, 4, 4), (128, 2, 3), (128, 4, 2), (128, 4, 3),
                                 (128, 8, 3)):
        took = milliseconds(lambda how=(block, warps, stages): kernels.decode_attention(
            q, k, v, cos, sin, *layer(), lengths, *how))
        yield f"attend {block}/{warps}/{stages} {took:.3f} ({moved / took / 1e6:,.0f} GB/s)"


def drawn(rows, vocab):
    logits, u = 3 * torch.randn(rows, vocab, device="cuda"), torch.rand(rows, device="cuda")
    yield f"kernel {milliseconds(lambda: kernels.sample_tokens(logits, u, 1.0)):.3f}"
    triton, kernels.triton = kernels.triton, None
    yield f"plain {milliseconds(lambda: rng.sample_tokens(logits, u, 1.0)):.3f}"
    kernels.triton = triton


def top(run, most=14):
    """The kernels that take the most of run()."""
    run()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    events = sorted(seen.key_averages(), key=lambda e: -e.device_time_total)
    total = sum(e.device_time_total for e in events) / 1e3
    yield f"{total:.1f} ms of kernels"
    for e in events[:most]:
        yield (f"\n    {e.device_time_total / 1e3:9.1f} ms {e.count:6d} x "
               f"{e.device_time_total / max(1, e.count):8.1f} us  {e.key[:100]}")


def where_a_step_goes(shape, rows):
    policy = made(SHAPES[shape], "cuda", "bfloat16")
    prompts = torch.randint(0, 1000, (rows, 128)).tolist()

    def run():
        sampler.generate(policy, prompts, 1, 100, seed=0, stop=[], pad=0, max_rows=rows)
    run()
    yield from top(run)


def where_an_update_goes(shape, compiled):
    policy = made(SHAPES[shape], "cuda")
    if compiled:
        for block in policy.blocks:
            block.compile(dynamic=True)
    options = train.Options(minibatches=1, micro_tokens=16384, device="cuda", dtype="bfloat16")
    run, _ = an_update(policy, options, 24, 640, 160)
    run()
    yield from top(run, 22)


def lines(args):
    def told(name, parts):
        try:
            with torch.inference_mode("update" not in name):
                return f"- {name}: " + ", ".join(parts).replace(", \n", "\n")
        except Exception as error:
            return f"- **{name} failed**: {type(error).__name__}: {str(error)[:200]}"
    for name, shape in {"SmolLM2, 256": (256, 3, 3), "SmolLM2, 1024": (1024, 3, 3),
                        "Qwen, 256": (256, 2, 7), "Qwen, 1024": (1024, 2, 7),
                        "SmolLM2, 16": (16, 3, 3)}.items():
        yield told(f"attention {name}, ms", attention(*shape))
    for rows, vocab in ((256, 49152), (1024, 49152), (256, 151936), (1024, 151936)):
        yield told(f"draw {rows} of {vocab}, ms", drawn(rows, vocab))
    yield told("where 100 steps of SmolLM2 at 1024 go", where_a_step_goes("SmolLM2-135M", 1024))
    yield told("where 100 steps of Qwen at 256 go", where_a_step_goes("Qwen2.5-0.5B", 256))
    yield told("where an update of Qwen goes", where_an_update_goes("Qwen2.5-0.5B", False))
    yield told("where a compiled update of Qwen goes", where_an_update_goes("Qwen2.5-0.5B", True))
