"""Gives every program damaged command lines, files and folders. Each must be refused or handled.

    python bench/faults.py --cases 2000 --seed 0 --jobs 2 --out faults.jsonl
    python bench/faults.py --case 17                 shows one case

A case is a small valid command with up to three mutations (bench/mutations.py). It runs in a folder
and a forked process of its own, with limits of time and memory. It depends only on the seed and on
its number. There are two right outcomes: exit code 2 and one sentence, or exit code 0 and a
complete, finite output. With a damaged weight file, that output must be the one of the undamaged
command. Every other outcome is a fault.
"""

import os

os.environ["TQDM_DISABLE"] = "1"

import argparse
import functools
import inspect
import io
import json
import multiprocessing
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

import model as gpt  # noqa: E402
import prm  # noqa: E402
import sample  # noqa: E402
import search  # noqa: E402
import train  # noqa: E402
import verify  # noqa: E402
from bench import mutations  # noqa: E402
from bench.fault_rules import Case, judge, value_of  # noqa: E402
from infra import bpe, checkpoint  # noqa: E402

TINY = ("--base-steps 6 --steps 1 --prompts 2 --group-size 2 --minibatches 1 --eval-problems 2 "
        "--eval-samples 2 --max-new-tokens 12 --reward random --device cpu ")
MODEL = "--init model --base-steps 0 --level 1 "
PRM = "--run runs/a --problems 16 --solutions 4 --completions 1 --epochs 1 --eval-problems 2"
COMMANDS = [  # (entry point, valid command line, files that it reads)
    ("train.py", TINY + "--out runs/new", "runs/base-*.pt"),
    ("train.py", TINY + "--out runs/a --resume", "runs/a/*"),
    ("train.py", TINY + MODEL + "--out runs/new", "model/*"),
    ("train.py", TINY + MODEL + "--out runs/i --resume", "runs/i/*.* model/*"),
    ("train.py", TINY + MODEL + "--task file --data data.jsonl --out runs/new", "data.jsonl"),
    ("train.py", TINY.replace("random", "process") + "--algo ppo --judge runs/a --out runs/new",
     "runs/a/prm.pt runs/a/checkpoint.pt"),
    ("sample.py", "--run runs/a 1+1=?", "runs/a/*.pt runs/a/config.json"),
    ("sample.py", "--run runs/i 1+1=?", "runs/i/*.*"),
    ("sample.py", "--run runs/a --problems data.jsonl", "data.jsonl runs/a/config.json"),
    ("search.py", "--run runs/a --n 4 --count 2 --method beam --show", "runs/a/*.*"),
    ("search.py", "--run runs/i --n 4 --problems data.jsonl", "data.jsonl runs/i/*.*"),
    ("prm.py", PRM, "runs/a/*.*"),
    ("verify.py", "answers.jsonl", "answers.jsonl"),
    ("infra.checkpoint", "--run runs/a --out export", "runs/a/checkpoint.pt"),
    ("plot.py", "runs/a runs/i --out curves.png", "runs/a/*l runs/a/summary.json"),
]
TIMES = re.compile(r'"seconds\w*": [0-9.e-]+|"peak\w*": [0-9.]+|[0-9.]+ s in all|'
                   r'base model: .*\n|memory, GB: .*')
SECONDS, MEMORY = 30, 4 * 2**30  # limits of a case


def entry_points() -> dict:
    """The main function of each entry point."""
    from bench import plot
    return {"train.py": train.main, "sample.py": sample.main, "search.py": search.main,
            "prm.py": prm.main, "verify.py": verify.main, "infra.checkpoint": checkpoint.main,
            "plot.py": plot.main}


@functools.cache
def flags_of(entry: str) -> dict:
    """{name: choices or None} of the flags of an entry point, from its help."""
    code, out, _ = run(entry, ["--help"], ".")
    found = re.findall(r"^ +(?:-h, )?--([a-z-]+)(?:, --no-[a-z-]+)?(?: \{([^}]*)\})?", out, re.M)
    return {name: choices.split(",") if choices else None for name, choices in found}


# --- one process

def run(entry: str, argv: list[str], folder, encoding: str = "utf-8") -> tuple:
    """Runs an entry point in a forked process, in a folder. Returns (exit code, stdout, stderr).
    The exit code is 70 after an exception, and -N if signal N ended the process."""
    outputs = [tempfile.TemporaryFile() for _ in range(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = call(entry, argv, folder, encoding, outputs)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in outputs:
        file.seek(0)
        texts.append(file.read().decode("utf-8", "backslashreplace"))
        file.close()
    return code, *texts


def call(entry: str, argv: list[str], folder, encoding: str, outputs) -> int:
    """The child's part of `run`: limits, streams, the call."""
    for number, file in zip((1, 2), outputs, strict=True):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), encoding, errors,
                                               write_through=True)
                              for n, errors in ((1, "strict"), (2, "backslashreplace")))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    os.chdir(folder)
    main = entry_points()[entry]
    sys.argv = [entry, *argv]
    try:
        code = main(argv) if inspect.signature(main).parameters else main()
    except SystemExit as error:
        code = error.code
    return int(code or 0)


# --- the undamaged folder

def make_folder(folder: Path) -> None:
    """Runs, a model and data that all commands need: `runs/a` with reward models, `runs/i` of a
    pretrained model."""
    tiny_model(folder / "model")
    rows = [{"question": f"{i}+{i}=?", "answer": str(2 * i)} for i in range(40)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"gold": gold, "pred": pred} for gold, pred in (
        ("4", "<answer>4</answer>"), ("1/2", r"so \boxed{\frac12}"), ("x+1", "1+x"), ("2", "3"))]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    for entry, words in (("train.py", TINY + "--out runs/a"), ("prm.py", PRM),
                         ("train.py", TINY + MODEL + "--out runs/i")):
        code, _, err = run(entry, words.split(), folder)
        assert code == 0, err


def tiny_model(folder: Path) -> None:
    """A random Llama in Hugging Face's format, whose tokens are single bytes and two tags."""
    torch.manual_seed(0)
    vocab = {text: i for i, text in enumerate(bpe.unicode_to_byte())}
    tags = [dict(id=256 + i, content=tag, single_word=False, lstrip=False, rstrip=False,
                 normalized=False, special=True) for i, tag in enumerate(("<|end|>", "<|pad|>"))]
    checkpoint.save_pretrained(gpt.GPT(gpt.Config(260, 1024, 2, 32, 4, 2, 48)), folder)
    settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": [256]}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps(dict(
        version="1.0", added_tokens=tags, pre_tokenizer=byte_level, decoder=byte_level,
        model=dict(type="BPE", vocab=vocab, merges=[]))))


# --- cases

def run_case(number: int, seed: int, source: Path) -> Case:
    """Makes and runs a case, and judges it."""
    rng = random.Random(f"{seed} {number}")
    entry, words, patterns = rng.choice(COMMANDS)
    case = Case(number, entry, words.split())
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "x" / "y"  # so that `..` stays inside
        mutations.copy_tree(source, folder)
        weights = False
        if rng.random() < 0.5:
            for _ in range(rng.choice([1, 1, 2, 3])):
                case.argv = mutations.damage_flags(rng, case.argv, flags_of(entry))
        else:
            weights = damage_files(rng, case, folder, patterns.split())
        encoding = rng.choice(["utf-8", "utf-8", "ascii"])
        case.code, out, err = run(entry, case.argv, folder, encoding)
        case.said = err.strip().splitlines()[-1][:300] if err.strip() else ""
        case.fault = judge(case, folder, out, err)
        if not case.fault and case.code == 0 and weights:
            case.fault = compare(case, source, encoding, result_of(case, folder, out))
    return case


def damage_files(rng, case: Case, folder: Path, patterns: list[str]) -> bool:
    """Damages one or two of the files that a command reads. Returns whether one of them holds
    weights."""
    weights = False
    for _ in range(rng.choice([1, 1, 1, 2])):
        paths = sorted(path for pattern in patterns for path in folder.glob(pattern)
                       if path.is_file())
        if not paths:
            break
        path = rng.choice(paths)
        if path.parent != folder and rng.random() < 0.05:
            what, path = mutations.damage_folder(rng, path.parent), path.parent
        else:
            what = mutations.damage_file(rng, path)
        case.damage.append(f"{path.relative_to(folder)}: {what}")
        weights |= path.suffix in (".pt", ".safetensors")
    return weights


def compare(case: Case, source: Path, encoding: str, result: str) -> str:
    """The fault, if the undamaged command has another result; otherwise ""."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "x" / "y"
        mutations.copy_tree(source, folder)
        _, out, _ = run(case.entry, case.argv, folder, encoding)
        same = result_of(case, folder, out) == result
    return "" if same else "a damaged file was used"


def result_of(case: Case, folder: Path, out: str) -> str:
    """The output of a command and its summary.json, without times and memory."""
    written = [folder / value_of(case.argv, "--out", "") / "summary.json"]
    texts = [path.read_text() for path in written if path.is_file()]
    return TIMES.sub("", "\n".join([*texts, out]))


# --- all cases

def run_cases(numbers, seed: int, jobs: int = 1) -> list[Case]:
    """The cases of these numbers, judged."""
    torch.set_num_threads(1)
    # torch loads half of itself at the first optimizer step: here, not in each case
    weight = torch.nn.Parameter(torch.ones(1))
    torch.optim.AdamW([weight]).step()
    with tempfile.TemporaryDirectory() as root:
        source = Path(root) / "source"
        source.mkdir()
        make_folder(source)
        for entry in entry_points():
            flags_of(entry)
        one = functools.partial(run_case, seed=seed, source=source)
        if jobs == 1:
            return [one(number) for number in numbers]
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            return list(pool.imap(one, numbers, chunksize=4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--out", type=Path, help="JSONL file of all cases")
    args = parser.parse_args()
    numbers = range(args.cases) if args.case is None else [args.case]
    cases = run_cases(numbers, args.seed, args.jobs)
    if args.out:
        args.out.write_text("".join(json.dumps(vars(case)) + "\n" for case in cases))
    for case in cases:
        if case.fault or args.case is not None:
            print(f"{case.number}  {case.fault or 'right'}: {case.entry} {case.argv!r:.400}\n"
                  f"    {case.damage!r:.200}\n    exit {case.code}: {case.said!r:.300}")
    codes = Counter(f"exit {case.code}" for case in cases if not case.fault)
    faults = Counter(case.fault.partition(":")[0] for case in cases if case.fault)
    print(f"{len(cases)} cases, {sum(faults.values())} faults: {dict(faults)}; "
          f"right: {dict(codes)}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
