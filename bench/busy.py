"""A short training run on an idle machine, and beside busy processes.

    python bench/step.py --load 2 [--rounds 5]               beside 0, 1 and 2 busy processes
    python bench/step.py --load 2 --compare [--write FILE]   and with OpenMP's own spinning

OpenMP's own spinning (300,000 times) and that of infra/openmp.py alternate. Beside busy processes a
run with OpenMP's own spinning takes minutes, so there are two rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from bench.sample import new_report, write  # noqa: E402
from infra import openmp  # noqa: E402

OURS, DEFAULT = "infra/openmp.py", "OpenMP's default"
SPINS = {DEFAULT: "300000", OURS: openmp.SPINS}
RUN = ("train.py --algo grpo --base-steps 400 --steps 3 --eval-problems 20 --eval-samples 1 "
       "--eval-every 9").split()


def seconds_of_a_step(folder: Path, name: str, spins: str) -> float:
    """The median over the steps of a run. The base model in `folder` is trained once."""
    out = folder / name
    environment = os.environ | {"GOMP_SPINCOUNT": spins, "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, *RUN, "--out", str(out)], cwd=ROOT, env=environment, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    steps = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return median(sum(v for k, v in step.items() if k.startswith("seconds_")) for step in steps)


def measure(folder: Path, busy: int, rounds: int, names) -> dict[str, list[float]]:
    """Seconds of a step in each round, for each setting, beside `busy` busy processes."""
    found = {name: [] for name in names}
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for i in range(rounds):
            for name in names:
                spins = SPINS[name]
                run = f"{busy}-{spins}-{i}"
                found[name].append(seconds_of_a_step(folder, run, spins))
                print(busy, name, f"{found[name][-1]:.2f} s", file=sys.stderr)
    finally:
        for process in load:
            process.kill()
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(prog="step.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--load", type=int, required=True, help="busy processes, at most")
    parser.add_argument("--rounds", type=int, default=5, help="rounds on the idle machine")
    parser.add_argument("--compare", action="store_true", help="measure OpenMP's own spinning too")
    parser.add_argument("--write", type=Path, help="a JSON file, such as bench/runs/busy.json")
    args = parser.parse_args(argv)
    names = [DEFAULT, OURS] if args.compare else [OURS]
    command = f"python bench/step.py --load {args.load}" + " --compare" * args.compare
    report = new_report("A busy machine", command, [])
    with tempfile.TemporaryDirectory() as folder:
        seconds_of_a_step(Path(folder), "base", openmp.SPINS)
        found = {busy: measure(Path(folder), busy, 2 if busy else args.rounds, names)
                 for busy in range(args.load + 1)}
    idle = median(found[0][names[0]])
    rows = [[name, busy, " ".join(f"{x:.2f}" for x in values[name]),
             f"{median(values[name]) / idle:.2f}"]
            for name in names for busy, values in found.items()]
    report["tables"].append({
        "caption": "Seconds of a step, each the median of a run of three steps with two threads.",
        "columns": ["spinning", "busy processes", "seconds", "median, relative to idle"],
        "rows": rows})
    write(report, args.write)
