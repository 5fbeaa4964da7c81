"""How fast sample.py is, on this machine: against transformers, against simpler loops, and against
the machine's own floor.

    python bench/sample.py [--run runs/NAME] [--write]

One process, the same weights and prompts, the competitors alternating, medians of five. A token
counts when it belongs to a response, up to and with its end. --run takes a trained policy for the
rows with the end of text on (else the prompts' own base is trained for a minute). sample.py runs
twice: as it is, where samples of a prompt share what they have in common, which is the more the
surer the policy is; and with every row a prompt of its own, so that nothing is shared. The floor is
the matrix products and the cache reads of the latter's decode steps, timed alone.
"""

import argparse
import copy
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

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import model as gpt  # noqa: E402
import sft  # noqa: E402
import tasks  # noqa: E402
import tokenizer  # noqa: E402
import train  # noqa: E402
from engine import (
    graphs,  # noqa: E402
    sampler,  # noqa: E402
    slots,  # noqa: E402
)
from infra import (
    checkpoint,  # noqa: E402
    run_dir,  # noqa: E402
    tensors,  # noqa: E402
)

ALONE = "sample.py, nothing shared"


def as_llama(model):
    """The same weights as a model of transformers: a LlamaForCausalLM, for the models made here."""
    from transformers import AutoConfig, AutoModelForCausalLM
    state, weight = checkpoint.hf_tensors(model), model.embedding.weight
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(**checkpoint.hf_config(model.config, weight.dtype), **special)
    made = AutoModelForCausalLM.from_config(config)
    made.load_state_dict({"lm_head.weight": weight} | state)
    return made.to(weight.device).eval()  # their angles stay in fp32, as ours do


def transformers_generate(llama, prompts, new, stop):
    """Real tokens that transformers' generate samples."""
    width = max(map(len, prompts))
    device = llama.device
    ids = torch.tensor([[tokenizer.PAD] * (width - len(p)) + p for p in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    out = llama.generate(ids, attention_mask=seen, max_new_tokens=new, do_sample=True, top_k=0,
                         temperature=1.0, pad_token_id=tokenizer.PAD,
                         eos_token_id=tokenizer.EOT if stop else None)[:, width:]
    ended = (out == tokenizer.EOT).cumsum(1)
    real = (ended == 0) | (ended == 1) & (out == tokenizer.EOT)
    return int(real.sum()) if stop else out.numel()


@torch.no_grad()
def simple_loop(model, prompts, new, how):
    """What a reader would write first, for prompts of one length, nothing ever ends. how: "naive"
    reads the whole text for every token; "cached" appends to a cache by concatenation; "static"
    writes into a preallocated cache and masks its unused columns; "window" reads only the used
    ones. All three expand the shared heads; sample.py does not."""
    tokens = torch.tensor(prompts)
    n, width = tokens.shape
    c, reps = model.config, model.config.heads // model.config.kv_heads
    keys, values = [None] * c.layers, [None] * c.layers
    if how in ("static", "window"):
        shape = (n, c.kv_heads, width + new, c.head)
        keys, values = ([torch.zeros(shape) for _ in range(c.layers)] for _ in range(2))
    done = 0

    def forward(ids):
        nonlocal done
        t = ids.shape[1]
        cos, sin = model.turns[done:done + t].unbind(1)
        x = model.embedding(ids)
        for i, block in enumerate(model.blocks):
            a = block.attention
            qkv = gpt.rms_norm(x, block.norm1, c.width, c.norm_eps) @ a.qkv
            qkv = qkv.view(n, t, -1, a.head).transpose(1, 2)
            q, k, v = qkv.split((a.heads, a.kv_heads, a.kv_heads), 1)
            q, k = (gpt.rotate(x, cos, sin, a.head) for x in (q, k))
            mask = None
            if how == "cached":
                keys[i] = k if keys[i] is None else torch.cat((keys[i], k), 2)
                values[i] = v if values[i] is None else torch.cat((values[i], v), 2)
                k, v = keys[i], values[i]
            elif how in ("static", "window"):
                keys[i][:, :, done:done + t], values[i][:, :, done:done + t] = k, v
                end = done + t if how == "window" else width + new
                k, v = keys[i][:, :, :end], values[i][:, :, :end]
                mask = torch.arange(end) <= torch.arange(done, done + t)[:, None]
            k, v = k.repeat_interleave(reps, 1), v.repeat_interleave(reps, 1)
            y = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None and t > 1)
            x = x + y.transpose(1, 2).reshape(n, t, -1) @ a.out
            x2 = gpt.rms_norm(x, block.norm2, c.width, c.norm_eps)
            gate, up = (x2 @ block.gate_up).chunk(2, -1)
            x = x + (torch.nn.functional.silu(gate) * up) @ block.down
        if how != "naive":
            done += t
        return model.head(gpt.rms_norm(x[:, -1], model.norm, c.width, c.norm_eps))

    logits = forward(tokens)
    for t in range(new):
        token = torch.multinomial(logits.softmax(-1), 1)
        tokens = torch.cat((tokens, token), 1)
        if t < new - 1:
            logits = forward(tokens if how == "naive" else token)
    return n * new


@torch.no_grad()
def floor(model, rows, width, new):
    """Seconds of the matrix products and cache reads alone, of `new` - 1 decode steps."""
    c = model.config
    cache = slots.Cache(c, rows, width + new)
    cache.keys.normal_(), cache.values.normal_()
    x, hidden = torch.randn(rows, c.width), torch.randn(rows, c.hidden)
    q = torch.randn(rows, c.kv_heads, c.heads // c.kv_heads, c.head)
    began = time.perf_counter()
    for end in range(width + 1, width + new):
        for i, block in enumerate(model.blocks):
            x @ block.attention.qkv
            weights = q @ cache.keys[i, :, :, :end].mT
            weights @ cache.values[i, :, :, :end]
            x @ block.attention.out
            x @ block.gate_up
            hidden @ block.down
        model.head(x)
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
    out = sampler.generate(model, prompts, group_size, new, seed=0, pad=tokenizer.PAD,
                          stop=[stop] if stop else [])
    return int(out.mask.sum())


def unrecorded(model, prompts, new):
    """The same with nothing shared, and every step as it is."""
    usual, graphs.AS_IT_IS = graphs.AS_IT_IS, {"cpu": math.inf}
    try:
        return ours(model, prompts, 1, new)
    finally:
        graphs.AS_IT_IS = usual


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
    out = sampler.generate(policy, prompts, 16, 192, stop=tokenizer.EOT, pad=tokenizer.PAD)
    return float(out.entropy.sum() / out.mask.sum())


def policy_of(run):
    """A trained policy: of a run, or a base trained for a minute, whose answers have like
    lengths."""
    if run:
        return gpt.from_state(tensors.load(Path(run) / "checkpoint.pt"))
    torch.manual_seed(0)
    made = gpt.GPT(train.config_of(train.Options()))
    sft.train(made, sft.corpus_batches(tasks.Arithmetic(), 0), 250)
    return made


def table(title, rates, base):
    lines = [f"\n{title}\n", "| | tokens a second | ratio |", "|---|---|---|"]
    return lines + [f"| {name} | {rate:,.0f} | {rate / rates[base]:.2f} |"
                    for name, rate in rates.items()]


def heading(title, command, packages, precision="fp32"):
    """Title, command, commit, machine and versions."""
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                                text=True).stdout.strip()
    except OSError:
        commit = "unknown (there is no git)"
    versions = ", ".join(f"{name} {version_of(name)}" for name in ["torch", *packages])
    return [f"\n## {title}\n", f"`{command}`, commit {commit}, {torch.get_num_threads()} CPU "
            f"threads, {cpu()}, {versions}{precision and f'; {precision}'}.\n"]


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


def write(lines, to_file: bool):
    """Prints a section that `heading` begins, and puts it into bench/RESULTS.md."""
    print("\n".join(lines))
    if to_file:
        from bench.compare import write_section
        write_section(lines[0].strip("\n# "), lines[1:])


def begin(doc, title, script, packages):
    """Reads the command line; returns it, the policy to measure and the section's heading."""
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--run", help="a trained run's folder")
    parser.add_argument("--write", action="store_true", help="into bench/RESULTS.md")
    args = parser.parse_args()
    import transformers
    transformers.logging.set_verbosity_error()
    run_dir.keep_freed_memory()  # as in training; the others have it too
    command = f"python bench/{script}" + (" --run RUN" if args.run else "")
    return args, policy_of(args.run), heading(title, command, packages)


def main():
    args, policy, lines = begin(__doc__, "Sampling", "sample.py", ["transformers"])
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
    lines.append(f"The policy's mean entropy is {entropy_of(policy, prompts[:64]):.3f} nats a "
                 "token.")
    rates, other = {}, copy.deepcopy(policy)
    for rows in (1, 16, 256):
        some, group = prompts[:max(1, rows // 16)], min(rows, 16)
        each = [p for p in some for _ in range(group)]
        rates[rows] = medians({
            "transformers generate": partial(transformers_generate, llama, each, 64, False),
            ALONE: partial(ours, policy, prompts[:rows], 1, 64),
            "sample.py": partial(ours, policy, some, group, 64)})
        prefill, share = decoding(policy, prompts[:rows], 64)
        lines += table(f"Batch {rows}, 64 new tokens, end of text off. With nothing shared "
                       f"sample.py reads the prompts in {1e3 * prefill:.1f} ms, and decodes at "
                       f"{share:.0%} of the floor.", rates[rows], "transformers generate")
    some = prompts[:16]
    each = [p for p in some for _ in range(16)]
    lines += table("Batch 256, lengths of a trained policy, at most 192.", medians({
        "transformers generate": lambda: transformers_generate(llama, each, 192, True),
        ALONE: lambda: ours(policy, prompts, 1, 192, tokenizer.EOT),
        "sample.py": lambda: ours(policy, some, 16, 192, tokenizer.EOT)}), "transformers generate")
    loops = {how: lambda how=how: simple_loop(policy, each, 64, how)
             for how in ("naive", "cached", "static", "window")}
    lines += table("What each technique brings: batch 256, 64 new tokens. naive reads all again; "
                   "cached concatenates; static preallocates and masks; window reads used columns "
                   "only; sample.py also leaves grouped heads unexpanded; then its steps are "
                   "recorded; and then samples share what they have in common.",
                   medians(loops | {"sample.py, nothing shared, nothing recorded":
                                    lambda: unrecorded(other, prompts, 64),
                                    ALONE: lambda: ours(policy, prompts, 1, 64),
                                    "sample.py": lambda: ours(policy, some, 16, 64)}), "naive")
    lines += ["", f"{len(took)} kinds of step were recorded, each in "
              f"{1e3 * statistics.median(took):.0f} ms, which is in none of the figures."]
    write(lines, args.write)


if __name__ == "__main__":
    main()
