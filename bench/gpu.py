"""Everything there is to measure on a machine with a GPU, in one command and under 8 minutes.

    python bench/gpu.py
    python bench/gpu.py --part medium                   19 million parameters from nothing
    python bench/gpu.py --part smollm2 --init DIR       SmolLM2 on sums and products
    python bench/gpu.py --part gsm8k --init DIR --data FILE --eval-data FILE       real problems

Checks that sampling on the GPU is exact, times it against the memory's bandwidth and against
transformers, times the update against the bf16 peak, and runs a short R1-Zero of the `small` model
from nothing. The parts are longer runs, a quarter of an hour at most each; DIR is what
bench/fetch_smollm2.py writes. Each writes its section of bench/RESULTS.md, line by line as it goes;
what fails costs its own line alone. A GPU without bfloat16 computes in float32, as train.py does on
it. `--device cpu --quick` runs every line but the graphs on any machine, and writes nothing.
"""

import argparse
import copy
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import model as gpt  # noqa: E402
import places  # noqa: E402
import record  # noqa: E402
import sample  # noqa: E402
import tokenizer  # noqa: E402
import train  # noqa: E402
from bench.compare import write_section  # noqa: E402
from bench.sample import as_llama, heading, seconds  # noqa: E402
from bench.step import an_update  # noqa: E402
from flags import parse  # noqa: E402

BEGAN = time.perf_counter()
LIMIT = 7 * 60  # seconds, after which nothing new is begun
SHAPES = {  # random weights in the shapes of real models
    "SmolLM2-135M": dict(vocab_size=49152, layers=30, width=576, heads=9, kv_heads=3, hidden=1536),
    "Qwen2.5-0.5B": dict(vocab_size=151936, layers=24, width=896, heads=14, kv_heads=2,
                         hidden=4864),
}
STOP, PAD = 28, 29


def made(config, device, dtype="float32"):
    torch.manual_seed(0)
    with torch.device(device):
        return gpt.GPT(gpt.Config(**config)).cast(getattr(torch, dtype))


def precision(device) -> str:
    """In which train.py would compute a pretrained model there (the CPU is a stand-in)."""
    return "bfloat16" if device == "cpu" else parse(["--init", "x", "--device", device])[0].dtype


def apart(f, *args):
    """f(*args) of a process of its own: after some errors a GPU refuses a process all else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(f, *args).result()


def small_world(device, dtype=torch.float32):
    """A model far from uniform whose rows end at many lengths, and prompts for it."""
    policy = made(dict(vocab_size=30, context=512, layers=2, width=64, heads=4, kv_heads=2,
                       hidden=96, tied=False), "cpu")
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(5 if p.dim() == 2 else 1)
        policy.head.weight[STOP] *= 0.3
    rng = torch.Generator().manual_seed(1)
    lengths = [int(n) for n in torch.randint(1, 60, (24,), generator=rng)]
    prompts = [torch.randint(0, 28, (n,), generator=rng).tolist() for n in lengths]
    return policy.to(device).cast(dtype), prompts


def checks(device) -> list[str]:
    """Each line says what was compared and what came out."""
    lines = []

    def line(name, good, found=""):
        lines.append(f"- {'ok' if good else '**FAILED**'}: {name}{found and f' ({found})'}")
    policy, prompts = small_world(device)
    how = dict(stop=STOP, pad=PAD)
    first = sample.generate(policy, prompts, 8, 150, seed=3, **how)
    whole = first.responses()
    again = sample.generate(policy, prompts, 8, 150, seed=3, **how)   # by now all are graphs
    [(_, batch)] = places.KEPT[policy].values()
    graphs = sum(map(callable, batch.recorded.values()))
    line("the same again, graphs captured", whole == again.responses(), f"{graphs} graphs")
    kept, record.AS_IT_IS[device] = record.AS_IT_IS[device], math.inf
    plain = sample.generate(copy.deepcopy(policy), prompts, 8, 150, seed=3, **how)
    record.AS_IT_IS[device] = kept
    line("the same without graphs", whole == plain.responses())
    lengths = [len(ids) for ids in whole]
    line("rows end at many lengths", len(set(lengths)) > 20, f"{min(lengths)} to {max(lengths)}")
    few = sample.generate(policy, prompts, 8, 150, seed=3, max_rows=40, **how)
    line("few places, retired and refilled", few.responses() == whole)
    letters = [bytes([97 + token]) for token in range(30)]  # as if each token were a letter
    table = tokenizer.stop_table(letters, ["ab", "cad", "e"]).to(device)
    for _ in range(2):  # the second time all are graphs, which hold the automaton
        cut = sample.generate(policy, prompts, 8, 150, seed=3, strings=table, **how).responses()
    texts = [b"".join(letters[token] for token in ids) for ids in whole]
    want = [ids[:re.search(b"ab|cad|e|$", text).end()]
            for ids, text in zip(whole, texts, strict=True)]
    line("stop strings", cut == want, f"{sum(map(int.__ne__, lengths, map(len, want)))} rows cut")
    with torch.no_grad():
        off = (policy.logp(first.tokens, first.mask) - first.logp).abs()
    line("fp32 log-probs are the trainer's to 1e-4", off.max() < 1e-4, f"at most {off.max():.1e}")
    greedy = sample.generate(policy, prompts, 1, 40, 0, **how).responses()
    line("greedy equals an uncached loop", greedy == [uncached(policy, p, 40) for p in prompts])
    on_cpu, _ = small_world("cpu")
    other = sample.generate(on_cpu, prompts, 8, 150, seed=3, **how).responses()
    same = sum(a == b for a, b in zip(other, whole, strict=True)) / len(other)
    line("draws what the CPU draws, up to rounding", same > 0.9, f"{same:.1%} of the rows")
    policy, prompts = small_world(device, torch.bfloat16)
    out = sample.generate(policy, prompts, 8, 150, seed=3, **how)
    with torch.no_grad():
        off = (policy.logp(out.tokens, out.mask) - out.logp).abs().sum() / out.mask.sum()
    lines.append(f"- bf16: mean absolute difference of sampler's and trainer's log-probs {off:.1e}")
    return lines


@torch.no_grad()
def uncached(policy, prompt, new):
    ids = list(prompt)
    while len(ids) < len(prompt) + new and STOP not in ids[len(prompt):]:
        tokens = torch.tensor([ids], device=policy.embedding.weight.device)
        ids.append(int(policy.head(policy(tokens))[0, -1].argmax()))
    return ids[len(prompt):]


def bandwidth(device, size=2**31) -> float:
    """Bytes a second read and written by a large copy."""
    a, b = torch.empty(2, size, dtype=torch.uint8, device=device)
    return 2 * size / statistics.median(seconds(lambda: b.copy_(a), device) for _ in range(6))


def sampling(device, name, shape, rows, prompt, new, size) -> tuple[str, float]:
    """A row of the table, and tokens a second."""
    speed = bandwidth(device, size)
    policy = made(shape, device, precision(device))
    prompts = torch.randint(0, 1000, (rows, prompt)).tolist()

    def run(count):
        return sample.generate(policy, prompts, 1, count, seed=0, stop=[], pad=0, max_rows=rows)
    capture = seconds(lambda: [run(new), run(new)], device)  # the second call captures the rest
    rounds = 3 if capture < 40 else 1  # a slow GPU
    prefill = statistics.median(seconds(lambda: run(1), device) for _ in range(rounds))
    whole = statistics.median(seconds(lambda: run(new), device) for _ in range(rounds))
    c, b = policy.config, policy.embedding.weight.element_size()
    kv = 2 * c.layers * c.kv_heads * c.head * b
    weights = b * sum(p.numel() for p in policy.parameters())
    step = (weights + rows * (prompt + new / 2) * kv) / speed
    decode = (whole - prefill) / (new - 1)
    at_once = len(places.places_for(policy, 1, 1, 1).row)  # fewer where memory is short
    return (f"| {name} | {rows}, {at_once} | {rows * new / whole:,.0f} | {decode * 1e3:.2f} ms "
            f"| {step / decode:.0%} of {speed / 1e9:,.0f} GB/s | {prefill:.2f} s "
            f"| {max(0, capture - 2 * whole):.1f} s "), rows * new / whole


def transformers_rate(device, shape, rows, prompt, new) -> float:
    llama = as_llama(made(shape, device, precision(device)))
    ids = torch.randint(0, 1000, (rows, prompt), device=device)

    def run(count):
        llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, top_k=0,
                       do_sample=True, temperature=1.0, pad_token_id=0, eos_token_id=None)
    run(8)
    return rows * new / seconds(lambda: run(new), device)


def update_share(device, shape, rows, width) -> str:
    """One update's products against a large one: fp32 weights, products in bf16 where there is."""
    dtype = precision(device)
    options = train.Options(minibatches=1, micro_tokens=8 * width, device=device, dtype=dtype)
    run, flop = an_update(made(shape, device), options, rows, width, width // 4)
    run()
    spent = statistics.median(seconds(run, device) for _ in range(3))
    n = 8192 if device == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=getattr(torch, dtype))
    peak = 2 * n**3 / statistics.median(seconds(lambda: a @ a, device) for _ in range(10))
    return (f"{rows} rows of {width} tokens: {spent:.2f} s, {rows * width / spent:,.0f} tokens a "
            f"second, {flop / spent / peak:.0%} of the {peak / 1e12:.0f} TFLOP/s of a large "
            f"product in {dtype}.")


def r1_zero(device, flags) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--algo", "grpo", "--device", device, *flags]
        subprocess.run([*command, "--out", f"{folder}/run"], check=True,
                       cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
        s = json.loads(Path(f"{folder}/run/summary.json").read_text())
        steps = [json.loads(line) for line in Path(f"{folder}/run/metrics.jsonl").open()]
    tokens = statistics.median(m["tokens"] / m["seconds_sample"] for m in steps)
    passes = ["/".join(f"{100 * x:.0f}" for x in s[f"pass_at_k_{when}"].values())
              for when in ("before", "after")]
    curve = ", ".join(f"{m['step']}: {m['eval_accuracy']:.1%}" for m in steps
                      if "eval_accuracy" in m)
    low, high = ([round(x, 3) for x in s[f"accuracy_ci_{when}"]] for when in ("before", "after"))
    return (f"`{' '.join(command[1:])}`: greedy accuracy {s['accuracy_before']:.1%} {low} -> "
            f"{s['accuracy_after']:.1%} {high}, pass@{'/'.join(s['pass_at_k_after'])} "
            f"{passes[0]} -> {passes[1]}, length {s['length_before']:.0f} -> "
            f"{s['length_after']:.0f}; by step {curve}; base {s['seconds_base']:.0f} s, RL "
            f"{s['seconds_rl']:.0f} s, evaluations {s['seconds_eval']:.0f} s; sampling "
            f"{tokens:,.0f} tokens a second, at most {s.get('peak_gpu_mb', 0):,.0f} MB on the GPU.")


def part_runs(args) -> list[list]:
    """The flags of train.py for each run of a part."""
    short = ("--steps 1 --eval-problems 4 --eval-samples 4 --prompts 2 --group-size 2 "
             "--minibatches 1 --size tiny --base-steps 3").split() if args.quick else []
    large = ["--micro-tokens", 16384]  # a small one takes longer to launch than to compute
    if args.part == "medium":
        return [["--size", "medium", "--task", task, "--level", level, "--base-steps", 1500, *short]
                for task, level in (("arithmetic", 3), ("countdown", 2))]
    if args.part == "smollm2":
        return [["--init", args.init, "--task", "arithmetic", "--level", 1, "--few-shot", 4,
                 "--steps", 150, "--max-new-tokens", 64, "--eval-samples", 4, *large, *short]]
    return [["--init", args.init, "--task", "file", "--data", args.data, "--eval-data",
             args.eval_data, "--few-shot", 4, "--steps", 60, "--eval-problems", 1319,
             "--eval-samples", 4, "--eval-every", 30, *large, *short]]


class Report:
    """A section of bench/RESULTS.md (unless it is a trial), of which each line is shown and written
    as it comes. What fails, or would come after the limit, becomes a line that says so."""

    def __init__(self, title, command, packages, trial: bool):
        self.title, self.trial, self.lines, self.skipped = title, trial, [], []
        self.add(*heading(title, command, packages, "")[1:])

    def add(self, *lines) -> None:
        self.lines += lines
        print("\n".join(lines), flush=True)
        if not self.trial:
            write_section(self.title, self.lines)

    def measure(self, what, f, *args, limit=math.inf, ahead=""):
        """Adds ahead and the line that f(*args) gives."""
        if time.perf_counter() - BEGAN > limit:
            self.skipped.append(what)
            return
        try:
            self.add(ahead + f(*args))
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            self.add(f"**{what} failed**: {type(error).__name__}: {said}")


def measure_part(args) -> None:
    if args.part != "medium" and not args.init:
        sys.exit(f"bench/gpu.py: --part {args.part} needs --init DIR (bench/fetch_smollm2.py DIR)")
    if args.part == "gsm8k" and not (args.data and args.eval_data):
        sys.exit("bench/gpu.py: --part gsm8k needs --data and --eval-data")
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    report = Report(f"GPU, {args.part}: {name}", f"python bench/gpu.py --part {args.part}", [],
                    args.quick)
    for run in part_runs(args):
        report.measure("a run", r1_zero, args.device, list(map(str, run)), ahead="- ")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script itself")
    parser.add_argument("--part", choices=["medium", "smollm2", "gsm8k"], help="a longer run")
    parser.add_argument("--init", help="folder of SmolLM2")
    parser.add_argument("--data", help="gsm8k_train.jsonl")
    parser.add_argument("--eval-data", help="gsm8k_test.jsonl")
    args = parser.parse_args()
    for name in ("init", "data", "eval_data"):  # train.py runs in the checkout
        setattr(args, name, getattr(args, name) and str(Path(getattr(args, name)).resolve()))
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench/gpu.py: there is no CUDA device here")
    measure_part(args) if args.part else measure(args)


def measure(args) -> None:
    device = args.device
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    report = Report(f"GPU: {name}", "python bench/gpu.py", ["transformers"], args.quick)
    shapes, batches, prompt, new, size = SHAPES, (256, 1024), 128, 512, 2**31
    flags = ["--size", "small", "--base-steps", "600", "--steps", "20"]
    if args.quick:
        shapes = {"toy": dict(vocab_size=1000, layers=2, width=64, heads=4, kv_heads=2, hidden=96)}
        batches, prompt, new, size = (4, 8), 16, 32, 2**24
        flags = ["--base-steps", "3", "--steps", "1", "--eval-problems", "4"]

    def row(shape_name, rows) -> str:
        line, rate = apart(sampling, device, shape_name, shapes[shape_name], rows, prompt, new,
                           size)
        if rows > min(batches) or time.perf_counter() - BEGAN > LIMIT:
            return line + "| not run |"
        try:
            theirs = apart(transformers_rate, device, shapes[shape_name], rows, prompt, new)
        except Exception as error:
            return line + f"| failed: {type(error).__name__} |"
        return line + f"| {rate / theirs:.1f} ({theirs:,.0f}) |"
    report.measure("checks", lambda: "The sampler's checks:\n\n" + "\n".join(apart(checks, device)))
    shape_name = next(iter(shapes))
    report.measure("the update", apart, update_share, device, shapes[shape_name], 32, 640,
                   ahead=f"\nThe update, {shape_name}: ")
    report.measure("R1-Zero", r1_zero, device, flags, ahead="\nR1-Zero from nothing: ")
    report.add(f"\nSampling, {precision(device)}, prompts of {prompt}, {new} new tokens; "
               "the roofline is a large copy's bytes a second.\n",
               "| shape | batch, at once | tokens a second | a decode step | share of the roofline "
               "| prefill | capture | over transformers |", "|---|---|---|---|---|---|---|---|")
    for rows in batches:
        for shape_name in shapes:
            report.measure(f"{shape_name} at batch {rows}", row, shape_name, rows, limit=LIMIT)
    report.add(f"\nSkipped: {', '.join(report.skipped) or 'nothing'}. In all "
               f"{time.perf_counter() - BEGAN:.0f} s.")


if __name__ == "__main__":
    main()
