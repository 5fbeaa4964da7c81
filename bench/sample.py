"""How fast the two samplers are on this machine, against transformers, simpler loops and the floor
of the machine.

    python bench/sample.py [--run runs/NAME] [--write FILE.json]

One process, the same weights and prompts; the competitors alternate; medians of five. A token
counts when it belongs to a response, its stop token included. --run gives a trained policy for the
rows with stop tokens; else a base is trained for a minute. engine/sampler.py runs twice: as it is,
where equal texts of a group share a slot, and with one response per prompt, so that nothing is
shared. The floor is the time of the matrix products and cache reads of the decode steps alone.
"""

import argparse
import copy
import json
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402

import model as gpt  # noqa: E402
import sample  # noqa: E402
import sft  # noqa: E402
import tasks  # noqa: E402
import train  # noqa: E402
from bench.loops import simple_loop  # noqa: E402
from bench.results import report_lines  # noqa: E402
from engine import (
    graphs,  # noqa: E402
    sampler,  # noqa: E402
    slots,  # noqa: E402
)
from infra import (
    checkpoint,  # noqa: E402
    run_dir,  # noqa: E402
)
from tokenizer import Tokenizer  # noqa: E402

ALONE = "engine/sampler.py, nothing shared"
tokenizer = Tokenizer.toy()


def as_llama(model):
    """The same weights as a model of transformers: a LlamaForCausalLM, for the models made here."""
    from transformers import AutoConfig, AutoModelForCausalLM
    state, weight = checkpoint.hf_tensors(model), model.embedding.weight
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(**checkpoint.hf_config(model.config, weight.dtype), **special)
    with weight.device:  # random weights are soon made on a GPU
        made = AutoModelForCausalLM.from_config(config)
    made.load_state_dict({"lm_head.weight": weight} | state)
    return made.eval()  # their angles stay in fp32, as ours do


def transformers_generate(llama, prompts, new, stop):
    """Real tokens that transformers' generate samples."""
    width = max(map(len, prompts))
    device = llama.device
    ids = torch.tensor([[tokenizer.pad_id] * (width - len(p)) + p for p in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    out = llama.generate(ids, attention_mask=seen, max_new_tokens=new, do_sample=True, top_k=0,
                         temperature=1.0, pad_token_id=tokenizer.pad_id,
                         eos_token_id=tokenizer.eos_id if stop else None)[:, width:]
    ended = (out == tokenizer.eos_id).cumsum(1)
    real = (ended == 0) | (ended == 1) & (out == tokenizer.eos_id)
    return int(real.sum()) if stop else out.numel()


@torch.no_grad()
def floor(model, rows, width, new):
    """Seconds of the matrix products and cache reads alone, of `new` - 1 decode steps."""
    c = model.config
    cache = slots.SlotCache(c, rows, width + new)
    cache.keys.normal_(), cache.values.normal_()
    x, hidden = torch.randn(rows, c.width), torch.randn(rows, c.hidden)
    q = torch.randn(rows, c.kv_heads, c.heads // c.kv_heads, c.head_dim)
    began = time.perf_counter()
    for end in range(width + 1, width + new):
        for i, block in enumerate(model.blocks):
            x @ block.attention.qkv
            weights = q @ cache.keys[i, :, :, :end].mT
            weights @ cache.values[i, :, :, :end]
            x @ block.attention.out
            x @ block.gate_up
            hidden @ block.down
        model.lm_head(x)
    return time.perf_counter() - began


def medians(competitors, rounds=5):
    """{name: median tokens a second} of functions that return how many tokens they made; two
    rounds to warm up, then alternating."""
    rates = {name: [] for name in competitors}
    for i in range(rounds + 2):
        for name, run in competitors.items():
            began = time.perf_counter()
            tokens = run()
            if i > 1:
                rates[name].append(tokens / (time.perf_counter() - began))
    return {name: statistics.median(r) for name, r in rates.items()}


def seconds(run, device="cpu") -> float:
    """Of run(), with all that it makes a GPU do."""
    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
    began = now()
    run()
    return now() - began


def ours(model, prompts, group_size, new, stop=None):
    out = sampler.generate(model, prompts, group_size, new, seed=0, pad=tokenizer.pad_id,
                          stop=[stop] if stop else [])
    return int(out.mask.sum())


def plain(model, prompts, new):
    """The plain sampler of sample.py, one row per prompt, no stop token."""
    return int(sample.generate(model, prompts, 1, new, seed=0, pad=tokenizer.pad_id,
                               stop=[]).mask.sum())


def unrecorded(model, prompts, new):
    """The same with nothing shared, and every step as it is."""
    usual, graphs.WARMUP_STEPS = graphs.WARMUP_STEPS, {"cpu": math.inf}
    try:
        return ours(model, prompts, 1, new)
    finally:
        graphs.WARMUP_STEPS = usual


def decoding(policy, prompts, new, rounds=9) -> tuple[float, float]:
    """Seconds of reading the prompts and drawing one token, and the share of the floor in those of
    all further steps; medians, the three alternating."""
    first, shares = [], []
    for _ in range(rounds):
        first.append(seconds(lambda: ours(policy, prompts, 1, 1)))
        least = floor(policy, len(prompts), len(prompts[0]), new)
        shares.append(least / (seconds(lambda: ours(policy, prompts, 1, new)) - first[-1]))
    return statistics.median(first), statistics.median(shares)


def entropy_of(policy, prompts) -> float:
    out = sampler.generate(policy, prompts, 16, 192, stop=tokenizer.eos_id, pad=tokenizer.pad_id)
    return float(out.entropy.sum() / out.mask.sum())


def policy_of(run):
    """A trained policy: of a run, or a base trained for a minute, whose answers have like
    lengths."""
    if run:
        return gpt.from_state(run_dir.load_checkpoint(run))
    torch.manual_seed(0)
    made = gpt.GPT(train.config_of(train.Options()))
    sft.train(made, sft.corpus_batches(tokenizer, tasks.Arithmetic(), 0), 250)
    return made


def table(caption, rates, base) -> dict:
    """Tokens a second of the competitors, and as multiples of one of them."""
    return {"caption": caption, "columns": ["", "tokens a second", "ratio"],
            "rows": [[name, f"{rate:,.0f}", f"{rate / rates[base]:.2f}"]
                     for name, rate in rates.items()]}


def new_report(title, command, packages, precision="fp32") -> dict:
    """A report for bench/results.py, as yet without tables: title, command, commit, machine."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True).stdout.strip()
    except OSError:
        commit = "unknown (there is no git)"
    versions = ", ".join(f"{name} {version_of(name)}" for name in ["torch", *packages])
    return {"title": title, "command": command, "commit": commit, "tables": [],
            "machine": f"{torch.get_num_threads()} CPU threads, {cpu()}, {versions}, {precision}"}


def version_of(package) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cpu() -> str:
    """The processor's name, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(report: dict, path: Path | None) -> None:
    """Prints a report as Markdown, and writes it to a JSON file if there is a path."""
    print("\n".join(report_lines(report)))
    if path:
        path.write_text(json.dumps([report], indent=1, ensure_ascii=False) + "\n")


def begin(doc, title, script, packages):
    """Reads the command line; returns it, the policy to measure and a new report."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--run", help="a trained run's folder")
    parser.add_argument("--write", type=Path, help="a JSON file, such as bench/runs/NAME.json")
    args = parser.parse_args()
    import transformers
    transformers.logging.set_verbosity_error()
    run_dir.tune_malloc()  # as in training; the others have it too
    command = f"python bench/{script}" + (" --run RUN" if args.run else "")
    return args, policy_of(args.run), new_report(title, command, packages)


def ladder(policy, other, prompts, each, took) -> dict:
    """The table of what each technique brings. took: seconds of each recording of a step."""
    some = prompts[:16]
    loops = {how: lambda how=how: simple_loop(policy, each, 64, how)
             for how in ("naive", "cached", "static", "window")}
    rates = medians(loops | {
        "sample.py": lambda: plain(policy, prompts, 64),
        f"{ALONE}, nothing recorded": lambda: unrecorded(other, prompts, 64),
        ALONE: lambda: ours(policy, prompts, 1, 64),
        "engine/sampler.py": lambda: ours(policy, some, 16, 64)})
    return table(
        "What each technique brings: batch 256, 64 new tokens. naive computes the whole text again "
        "for each token; cached concatenates keys and values; static preallocates the cache and "
        "masks unused columns; window reads the used ones only; sample.py is static with grouped "
        "heads unexpanded; engine/sampler.py reads a window, records its steps, shares equal "
        "texts. To record a step takes "
        f"{1e3 * statistics.median(took):.0f} ms, {len(took)} times, in none of the rates.",
        rates, "naive")


def main():
    args, policy, report = begin(__doc__, "Sampling", "sample.py", ["transformers"])
    tables = report["tables"]
    llama = as_llama(policy)
    draw = tasks.Arithmetic().sample(random.Random(0), 2000)
    prompts = [p for p in (tokenizer.encode_prompt(d.question) for d in draw) if len(p) == 11]
    prompts = list(map(list, dict.fromkeys(map(tuple, prompts))))[:256]
    trace, took = graphs.trace, []

    def timed(*args):
        began = time.perf_counter()
        made = trace(*args)
        took.append(time.perf_counter() - began)
        return made
    graphs.trace = timed
    report["machine"] += (f"; the policy's mean entropy is {entropy_of(policy, prompts[:64]):.3f} "
                          "nats a token")
    rates, other = {}, copy.deepcopy(policy)
    for rows in (1, 16, 256):
        some, group = prompts[:max(1, rows // 16)], min(rows, 16)
        each = [p for p in some for _ in range(group)]
        rates[rows] = medians({
            "transformers generate": partial(transformers_generate, llama, each, 64, False),
            ALONE: partial(ours, policy, prompts[:rows], 1, 64),
            "sample.py": partial(plain, policy, prompts[:rows], 64),
            "engine/sampler.py": partial(ours, policy, some, group, 64)})
        prefill, share = decoding(policy, prompts[:rows], 64)
        tables.append(table(
            f"Batch {rows}, 64 new tokens, no stop token. Nothing shared: prompts "
            f"{1e3 * prefill:.1f} ms, decoding at {share:.0%} of the floor.", rates[rows],
            "transformers generate"))
    some = prompts[:16]
    each = [p for p in some for _ in range(16)]
    tables.append(table("Batch 256, lengths of a trained policy, at most 192.", medians({
        "transformers generate": lambda: transformers_generate(llama, each, 192, True),
        ALONE: lambda: ours(policy, prompts, 1, 192, tokenizer.eos_id),
        "engine/sampler.py": lambda: ours(policy, some, 16, 192, tokenizer.eos_id)}),
        "transformers generate"))
    tables.append(ladder(policy, other, prompts, each, took))
    write(report, args.write)


if __name__ == "__main__":
    main()
