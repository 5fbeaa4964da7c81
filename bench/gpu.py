"""Everything there is to measure on a machine with a GPU.

    python bench/gpu.py --part first             checks and micro-benchmarks, under 5 minutes
    python bench/gpu.py                          checks, decoding, update, a run: under 8 minutes
    python bench/gpu.py --part medium            19 million parameters from nothing
    python bench/gpu.py --part smollm2 --init DIR       SmolLM2 on sums and products
    python bench/gpu.py --part gsm8k --init DIR --data FILE --eval-data FILE       real problems

Each measurement is a process of its own with a time limit: what fails or hangs costs its own line
alone. Lines are printed as they come, and appended to --out FILE. What stands behind `--` goes to
train.py (`--part smollm2 --init DIR -- --steps 50`). DIR is what bench/fetch_smollm2.py writes. A
GPU without bfloat16 computes in float32, as train.py does on it. `--device cpu --quick` runs every
line in toy sizes on any machine.
"""

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402

import model as gpt  # noqa: E402
import train  # noqa: E402
from bench.sample import as_llama, cpu, seconds, version_of  # noqa: E402
from bench.step import an_update  # noqa: E402
from engine import sampler, slots  # noqa: E402
from infra.cli import parse  # noqa: E402

SHAPES = {  # random weights in the shapes of real models
    "SmolLM2-135M": dict(vocab_size=49152, layers=30, width=576, heads=9, kv_heads=3, hidden=1536),
    "Qwen2.5-0.5B": dict(vocab_size=151936, layers=24, width=896, heads=14, kv_heads=2,
                         hidden=4864),
    "toy": dict(vocab_size=1000, layers=2, width=64, heads=4, kv_heads=2, hidden=96)}
PROMPT, NEW = 128, 512  # tokens of a prompt and of an answer, in the decoding table


def made(config, device, dtype="float32"):
    torch.manual_seed(0)
    with torch.device(device):
        return gpt.GPT(gpt.Config(**config)).cast(getattr(torch, dtype))


def precision(device) -> str:
    """In which train.py would compute a pretrained model there (the CPU is a stand-in)."""
    return "bfloat16" if device == "cpu" else parse(["--init", "x", "--device", device])[0].dtype


def median_seconds(run, device, rounds: int) -> float:
    return statistics.median(seconds(run, device) for _ in range(rounds))


# --- how fast is it?

def rates(device, quick) -> tuple[float, float]:
    """Bytes a second that a large copy reads and writes; FLOP a second of a large product."""
    size, n = (2**24, 512) if quick else (2**31, 8192)
    a, b = torch.empty(2, size, dtype=torch.uint8, device=device)
    copied = 2 * size / median_seconds(lambda: b.copy_(a), device, 6)
    c = torch.randn(n, n, device=device, dtype=getattr(torch, precision(device)))
    return copied, 2 * n**3 / median_seconds(lambda: c @ c, device, 10)


def decode(args):
    """A row of the decoding table. The floor of a step is what it cannot do without: the keys and
    values of the tokens that are there, read once, and the weights, read once or multiplied."""
    device, rows, (prompt, new) = args.device, args.rows, (16, 32) if args.quick else (PROMPT, NEW)
    speed, peak = rates(device, args.quick)
    policy = made(SHAPES[args.shape], device, precision(device))
    prompts = torch.randint(0, 1000, (rows, prompt)).tolist()

    def run(count):
        return sampler.generate(policy, prompts, 1, count, seed=0, stop=[], pad=0, max_rows=rows)
    capture = seconds(lambda: [run(new), run(new)], device)  # the second call captures the rest
    rounds = 3 if capture < 20 else 1  # a slow GPU
    prefill = median_seconds(lambda: run(1), device, rounds)
    whole = median_seconds(lambda: run(new), device, rounds)
    c, b = policy.config, policy.embedding.weight.element_size()
    tokens = rows * (prompt + new / 2)  # in the cache, on average
    weights = sum(p.numel() for p in policy.parameters() if p.dim() == 2)
    floor = (tokens * 2 * c.layers * c.kv_heads * c.head_dim * b / speed
             + max(b * weights / speed, 2 * weights * rows / peak))
    step = (whole - prefill) / (new - 1)
    at_once = len(slots.slots_of(policy, 1, 1, 1).row_id)  # fewer where memory is short
    yield (f"| {args.shape} | {rows}, {at_once} | {rows * new / whole:,.0f} | {step * 1e3:.2f} ms "
           f"| {floor / step:.0%} of {floor * 1e3:.2f} ms ({speed / 1e9:,.0f} GB/s, "
           f"{peak / 1e12:.0f} TFLOP/s) | {prefill:.2f} s | {max(0, capture - 2 * whole):.1f} s |")


def transformers_rate(args):
    device, rows, (prompt, new) = args.device, args.rows, (16, 32) if args.quick else (PROMPT, 256)
    llama = as_llama(made(SHAPES[args.shape], device, precision(device)))
    ids = torch.randint(0, 1000, (rows, prompt), device=device)

    def run(count):
        llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, top_k=0,
                       do_sample=True, temperature=1.0, pad_token_id=0, eos_token_id=None)
    run(8)
    rate = rows * new / seconds(lambda: run(new), device)
    yield f"- transformers generate, {args.shape}, batch {rows}, {new} new tokens: {rate:,.0f} " \
          "tokens a second"


def update(args):
    """One update's products against a large one: fp32 weights, products in bf16 where there is."""
    device, dtype = args.device, precision(args.device)
    rows, width = (8, 64) if args.quick else (64, 640)
    _, peak = rates(device, args.quick)
    for compiled in (False, True) if device == "cuda" else (False,):
        policy = made(SHAPES[args.shape], device)
        if compiled:
            for block in policy.blocks:
                block.compile(dynamic=True)
        options = train.Options(minibatches=1, micro_tokens=args.micro_tokens, device=device,
                                dtype=dtype)
        run, flop = an_update(policy, options, rows, width, width // 4)
        first = seconds(run, device)
        run()
        spent = median_seconds(run, device, 3)
        yield (f"- update, {args.shape}, {rows} rows of {width} tokens, micro-batches of "
               f"{args.micro_tokens}{', blocks compiled' * compiled}: {spent:.3f} s, "
               f"{rows * width / spent:,.0f} tokens a second, {flop / spent / peak:.0%} of "
               f"{peak / 1e12:.0f} TFLOP/s in {dtype}, first {first:.1f} s"
               + (f", {torch.cuda.max_memory_allocated() / 2**30:.0f} GiB" * (device == "cuda")))
        del run, policy


def run_of(args):
    """train.py with the flags of args: what came of it, or had until the time was up."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "train.py", "--algo", "grpo", "--device", args.device,
                   *args.flags]
        began, ended = time.perf_counter(), ""
        process = subprocess.Popen([*command, "--out", str(run)], cwd=ROOT,
                                   env=os.environ | {"TQDM_DISABLE": "1"}, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        alarm = threading.Timer(args.limit - 15, process.kill)  # time to tell the rest
        alarm.start()
        said = process.communicate()[0]
        alarm.cancel()
        spent = time.perf_counter() - began
        failed = process.returncode and spent < args.limit - 16
        if process.returncode:
            ended = " **failed**" if failed else " **killed at its limit**"
        yield f"- `{' '.join(command[1:])}`: {spent:.0f} s{ended}"
        yield from (f"    {line}" for line in said.splitlines()
                    if line.startswith(("before:", "after:", "memory")))
        if failed:
            yield from (f"    {line}" for line in said.splitlines()[-12:])
        if not (run / "metrics.jsonl").exists():
            return
        steps = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        summary = run / "summary.json"
        s = json.loads(summary.read_text()) if summary.exists() else {}

    def middle(name):
        return statistics.median(m[name] for m in steps)
    yield (f"    {len(steps)} steps, medians: {middle('tokens'):,.0f} tokens; seconds to "
           + ", ".join(f"{name} {middle('seconds_' + name):.2f}"
                       for name in ("sample", "verify", "score", "update")))
    yield (f"    logp_diff of step 1: {steps[0].get('logp_diff') or math.nan:.4f}; greedy by step: "
           + ", ".join(f"{m['step']}: {m['eval_accuracy']:.1%}" for m in steps
                       if "eval_accuracy" in m)
           + "; sampled by step: " + ", ".join(f"{m['step']}: {m['accuracy']:.0%}"
                                               for m in steps[::max(1, len(steps) // 8)]))
    if s:
        yield (f"    base {s['seconds_base']:.0f} s, RL {s['seconds_rl']:.0f} s, evaluations "
               f"{s['seconds_eval']:.0f} s, at most {s.get('peak_gpu_mb', 0):,.0f} MB on the GPU")


# --- what is measured, in which order, and for how long at most

def jobs(args) -> list[tuple[str, int, dict]]:
    """(what, seconds, settings) of a part."""
    arithmetic = ["--init", args.init, "--task", "arithmetic", "--level", 1, "--few-shot", 4,
                  "--lr", 2e-5, "--steps", 400, "--eval-every", 25, "--max-new-tokens", 64,
                  "--eval-samples", 4]
    real = ["--init", args.init, "--task", "file", "--data", args.data, "--eval-data",
            args.eval_data, "--few-shot", 4, "--steps", 60, "--eval-problems", 1319,
            "--eval-samples", 4, "--eval-every", 30]
    toy = ["--steps", 1, "--base-steps", 3, "--eval-problems", 10, "--eval-samples", 4] \
        if args.quick else []
    if args.part == "medium":
        return [("run", 900, dict(flags=["--size", "medium", "--level", 4, "--base-steps", 1500,
                                         *toy]))]
    if args.part == "smollm2":
        return [("run", 1200, dict(flags=[*arithmetic, *toy]))]
    if args.part == "gsm8k":
        return [("run", 1200, dict(flags=[*real, *toy]))]
    if args.part == "first":
        return [("checks", 110, {}), ("micro", 150, {})]
    shapes = ["toy"] if args.quick else [name for name in SHAPES if name != "toy"]
    cells = [("decode", 45, dict(shape=shape, rows=rows)) for shape in shapes
             for rows in ((8,) if args.quick else (256, 1024))]
    return [("checks", 60, {}), *cells,
            *(("update", 60, dict(shape=shape)) for shape in shapes),
            ("run", 110, dict(flags=toy)),
            *(("transformers_rate", 45, dict(shape=shape, rows=8 if args.quick else 256))
              for shape in shapes)]


TABLE = """
Prompts of {prompt} tokens, {new} new ones, {dtype}. The floor of a step: keys and values read once,
weights read or multiplied once.

| shape | batch, at once | tokens/s | a decode step | share of the floor | prefill | capture |
|---|---|---|---|---|---|---|
"""


def measurement(name: str):
    """The function that yields the lines of one."""
    if name in ("checks", "micro"):
        return importlib.import_module(f"bench.gpu_{name}").lines
    return {"decode": decode, "transformers_rate": transformers_rate, "update": update,
            "run": run_of}[name]


def tell(args, text: str) -> None:
    print(text, end="", flush=True)
    if args.out:
        with open(args.out, "a") as file:
            file.write(text)


def measure(args, what: str, limit: int, settings: dict) -> None:
    """Runs one measurement in a process of its own, tells its lines as they come."""
    limit = min(limit, args.limit or limit)
    given = vars(args) | settings | {"limit": limit, "only": what}
    process = subprocess.Popen([sys.executable, __file__], text=True, stdout=subprocess.PIPE,
                               env=os.environ | {"GPU_BENCH": json.dumps(given, default=str),
                                                 "PYTHONUNBUFFERED": "1"})
    alarm = threading.Timer(limit, process.kill)
    alarm.start()
    for line in process.stdout:
        tell(args, line)
    if process.wait():
        name = " ".join(str(x) for x in (what, *settings.values()))
        tell(args, f"- **{name}: {'killed' if not alarm.is_alive() else 'failed'}**\n")
    alarm.cancel()


def main():
    if "GPU_BENCH" in os.environ:  # one measurement
        args = argparse.Namespace(**json.loads(os.environ["GPU_BENCH"]))
        for line in measurement(args.only)(args):
            print(line, flush=True)
        return
    own, _, more = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--part", choices=["first", "medium", "smollm2", "gsm8k"], default="",
                        help="other measurements")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script itself")
    parser.add_argument("--out", default="", help="a file to which the lines are appended")
    parser.add_argument("--commit", default="unknown", help="to be written down")
    parser.add_argument("--micro-tokens", type=int, default=16384, help="of the update")
    parser.add_argument("--only", default="", help="only measurements of this name")
    parser.add_argument("--limit", type=int, default=0, help="seconds of a measurement at most")
    parser.add_argument("--init", default="", help="folder of SmolLM2")
    parser.add_argument("--data", default="", help="gsm8k_train.jsonl")
    parser.add_argument("--eval-data", default="", help="gsm8k_test.jsonl")
    args = parser.parse_args(own.split())
    for name in ("init", "data", "eval_data"):  # train.py runs in the checkout
        setattr(args, name, getattr(args, name) and str(Path(getattr(args, name)).resolve()))
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench/gpu.py: there is no CUDA device here")
    if args.part in ("smollm2", "gsm8k") and not args.init:
        sys.exit(f"bench/gpu.py: --part {args.part} needs --init DIR (bench/fetch_smollm2.py DIR)")
    if args.part == "gsm8k" and not (args.data and args.eval_data):
        sys.exit("bench/gpu.py: --part gsm8k needs --data and --eval-data")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    tell(args, f"\n`python bench/gpu.py {own}{more and ' -- ' + more}`, commit {args.commit}, "
         f"{name}, {cpu()}, Python {sys.version.split()[0]}, "
         + ", ".join(f"{x} {version_of(x)}" for x in ("torch", "triton", "transformers"))
         + f", CUDA {torch.version.cuda}, TF32 {torch.backends.cuda.matmul.allow_tf32}.\n\n")
    began, before = time.perf_counter(), ""
    for what, limit, settings in jobs(args):
        if args.only and what != args.only:
            continue
        if what == "run":
            settings["flags"] = [str(x) for x in settings["flags"]] + more.split()
        if what != before and "decode" in (what, before):
            tell(args, "\n" if before == "decode" else TABLE.format(
                prompt=PROMPT, new=NEW, dtype=precision(args.device)))
        measure(args, what, limit, settings)
        before = what
    tell(args, f"\nIn all {time.perf_counter() - began:.0f} s.\n")


if __name__ == "__main__":
    main()
