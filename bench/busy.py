"""A short training run on an idle machine, and beside one and two busy processes.

    python bench/busy.py [--rounds 5] [--write bench/runs/busy.json]

OpenMP's own spinning (300,000 times) is compared with that of infra/openmp.py. The two alternate.
The runs beside busy processes with OpenMP's own spinning take minutes, so there are two rounds.
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

SPINS = {"OpenMP's default": "300000", "infra/openmp.py": openmp.SPINS}
RUN = ("train.py --algo grpo --base-steps 400 --steps 3 --eval-problems 20 --eval-samples 1 "
       "--eval-every 9").split()


def seconds_of_a_step(folder: Path, name: str, spins: str) -> float:
    """The median over the steps of a run. The base model in `folder` is trained once."""
    out = folder / name
    environment = os.environ | {"GOMP_SPINCOUNT": spins, "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, *RUN, "--out", str(out)], cwd=ROOT, env=environment, check=True,
                   stdout=subprocess.DEVNULL)
    steps = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return median(sum(v for k, v in step.items() if k.startswith("seconds_")) for step in steps)


def measure(folder: Path, busy: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, for both settings, beside `busy` busy processes."""
    found = {name: [] for name in SPINS}
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for i in range(rounds):
            for name, spins in SPINS.items():
                run = f"{busy}-{spins}-{i}"
                found[name].append(seconds_of_a_step(folder, run, spins))
                print(busy, name, f"{found[name][-1]:.2f} s", file=sys.stderr)
    finally:
        for process in load:
            process.kill()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds on the idle machine")
    parser.add_argument("--write", type=Path, help="a JSON file, such as bench/runs/busy.json")
    args = parser.parse_args()
    report = new_report("A busy machine", "python bench/busy.py", [])
    with tempfile.TemporaryDirectory() as folder:
        seconds_of_a_step(Path(folder), "base", openmp.SPINS)
        found = {busy: measure(Path(folder), busy, args.rounds if not busy else 2)
                 for busy in (0, 1, 2)}
    idle = median(found[0]["OpenMP's default"])
    rows = [[name, busy, " ".join(f"{x:.2f}" for x in values[name]),
             f"{median(values[name]) / idle:.2f}"]
            for name in SPINS for busy, values in found.items()]
    report["tables"].append({
        "caption": "Seconds of a step, each the median of a run of three steps with two threads.",
        "columns": ["spinning", "busy processes", "seconds", "median, relative to idle"],
        "rows": rows})
    write(report, args.write)


if __name__ == "__main__":
    main()
