"""Test-time compute: accuracy against tokens for all methods of search.py, and pass@k of the base
against pass@k of the policy that reinforcement learning makes of it.

    python bench/ttc.py --work DIR         bases, reward models, searches for three seeds

It writes bench/runs/ttc.jsonl; bench/results.py and bench/plot.py make tables and figures of it.

Methods that choose among samples choose among the first n of the same 64 samples. Beam searches
sample anew. Budget forcing is measured on task chain and on task wait, whose base has learned to
continue after "wait". The difficulty of a problem is the number of its facts that the corpus often
tells wrong. An answer is one digit, and a guess is correct one time in ten, so "worked" counts the
answers whose steps are all true. Two processes of one thread each run at a time. Runs and reward
models that exist in DIR are used again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import evaluate  # noqa: E402
import prm  # noqa: E402
import search  # noqa: E402
import tasks  # noqa: E402
import verify  # noqa: E402
from infra import run_dir  # noqa: E402
from tasks import chain  # noqa: E402

SEEDS, PROBLEMS, SAMPLES = range(3), 500, 64
CHOOSING = ["vote", "orm", "prm", "prm-product", "prm-last", "weighted", "weighted-orm", "verifier"]
BEAMS = [(method, n) for method in ("beam", "dvts", "lookahead") for n in (2, 4, 8, 16, 32, 64)]
BEAMS_FIRST = [("beam", 4), ("beam", 16), ("dvts", 4), ("dvts", 16)]  # the others are measured last
EARLY_STOPS = [12, 24, 36, 48]  # tokens of thinking
KS = [2**i for i in range(9)]   # of pass@k


class Replay(search.Completer):
    """A Completer that looks up samples and scores which were made before, once for all methods."""

    def __init__(self, completer, problems, n: int, seed: int):
        super().__init__(completer.policy, completer.tokenizer, completer.max_new_tokens,
                         completer.temperature, completer.reward_models)
        questions = [p.question for p in problems]
        self.samples = dict(zip(questions, completer.complete(questions, n, seed), strict=True))
        pairs = [(q, text) for q in questions for text, _ in self.samples[q]]
        self.scores = {name: dict(zip(pairs, completer.score(name, *zip(*pairs, strict=True)),
                                      strict=True)) for name in completer.reward_models}

    def complete(self, questions, n, *_):
        return [self.samples[q][:n] for q in questions]

    def score(self, name, questions, texts, ended=True):
        return [self.scores[name][pair] for pair in zip(questions, texts, strict=True)]


def difficulty(problem) -> int:
    """The number of the problem's facts that the corpus often tells wrong, at most 4."""
    return min(4, sum(chain.fact_as_told(x, op, y)[1] > 0 for x, op, y, _ in problem.steps))


def call(script: str, *arguments) -> None:
    """Runs a script of the project in a process of one thread; exits if it fails."""
    done = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=ROOT,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")


def load_completer(task: str, run: Path, seed: int, *flags, scored: bool = False):
    """A search.Completer of a run, with its reward models if `scored`. Makes the run and the reward
    models where they are missing."""
    if not (run / "summary.json").exists():
        call("train.py", "--task", task, "--seed", seed, "--out", run, "--eval-problems", 100,
             "--eval-samples", 4, *flags, *["--resume"] * (run / "config.json").exists())
    if scored and not (run / "prm.pt").exists():
        call("prm.py", "--run", run, "--seed", seed)
    policy, tokenizer, settings = evaluate.load_run(str(run))
    return search.Completer(policy, tokenizer, settings["max_new_tokens"],
                            reward_models=prm.load(str(run), policy) if scored else None)


def search_row(measured, results, task, problems, seed) -> dict:
    """A line of ttc.jsonl: the measurements of a method, the proportion of problems that are worked
    out, and [correct, total] by difficulty."""
    correct, worked = defaultdict(list), 0
    for problem, result in zip(problems, results, strict=True):
        texts = result.samples if measured["method"] == "verifier" else [result.text]
        correct[difficulty(problem)].append(any(task.correct(problem, text) for text in texts))
        worked += any(chain.correct_with_working(problem, text) for text in texts)
    return {"kind": "search", "seed": seed, **measured, "worked": worked / len(problems),
            "by_difficulty": {k: [sum(correct[k]), len(correct[k])] for k in sorted(correct)}}


def measure_methods(completer, plan, name: str, seed: int) -> list[dict]:
    """The lines of a plan [(method, n)] on the held-out problems of a task."""
    task = tasks.TASKS[name]()
    problems = task.held_out(PROBLEMS)
    return [search_row(*search.evaluate_method(completer, task, problems, method, n, seed), task,
                       problems, seed) for method, n in plan]


def measure_search(work: Path, seed: int) -> list[dict]:
    """The reward models of one seed's base, and every method on it except most beam searches."""
    run = work / f"chain-{seed}"
    completer = load_completer("chain", run, seed, "--steps", 0, scored=True)
    replay = Replay(completer, tasks.Chain().held_out(PROBLEMS), SAMPLES, seed)
    plan = [(method, 2**i) for i in range(7) for method in CHOOSING]
    return [{"kind": "judges", "seed": seed, **json.loads((run / "prm.json").read_text())},
            *measure_methods(replay, plan, "chain", seed),
            *measure_methods(completer, BEAMS_FIRST, "chain", seed),
            *measure_forcing("chain", completer, seed)]


def measure_beams(work: Path, seed: int) -> list[dict]:
    """The other beam searches."""
    completer = load_completer("chain", work / f"chain-{seed}", seed, "--steps", 0, scored=True)
    return measure_methods(completer, [x for x in BEAMS if x not in BEAMS_FIRST], "chain", seed)


def measure_forcing(name: str, completer, seed: int) -> list[dict]:
    """Greedy decoding, early stopping and budget forcing."""
    plan = [("greedy", 1), *(("cut", n) for n in EARLY_STOPS),
            *((method, k) for method in ("force", "force-neutral") for k in range(1, 6))]
    return [row | {"kind": "force", "task": name}
            for row in measure_methods(completer, plan, name, seed)]


def measure_forcing_wait(work: Path, seed: int) -> list[dict]:
    """The same on task wait."""
    completer = load_completer("wait", work / f"wait-{seed}", seed, "--steps", 0)
    return measure_forcing("wait", completer, seed)


def measure_pass(work: Path, seed: int) -> list[dict]:
    """pass@k of the base, and of the policy after reinforcement learning."""
    base = load_completer("chain", work / f"chain-{seed}", seed, "--steps", 0)
    learned = load_completer("chain", work / f"learned-{seed}", seed)
    return pass_rows(base, seed, "base") + pass_rows(learned, seed, "RL")


def pass_rows(completer, seed: int, policy: str) -> list[dict]:
    """pass@k by difficulty, k = 1 to 256, from 256 samples per problem: of correct answers, and of
    answers that are worked out."""
    task = tasks.Chain()
    problems = task.held_out(PROBLEMS)
    counts = {"pass_at_k": [0] * len(problems), "worked_at_k": [0] * len(problems)}
    n = KS[-1] // 4
    for part in range(4):  # a quarter of the samples at a time, to bound the memory
        _, texts = evaluate.sample_responses(completer.policy, completer.tokenizer, problems, n,
                                             seed=1000 * seed + part,
                                             max_new_tokens=completer.max_new_tokens)
        for i, text in enumerate(texts):
            counts["pass_at_k"][i // n] += task.correct(problems[i // n], text)
            counts["worked_at_k"][i // n] += chain.correct_with_working(problems[i // n], text)
    rows = []
    for level in ("all", *range(5)):
        chosen = [i for i, p in enumerate(problems) if level in ("all", difficulty(p))]
        if chosen:
            rows.append({"kind": "pass", "seed": seed, "policy": policy, "difficulty": level,
                         "n": len(chosen)} | {
                name: {k: sum(verify.pass_at_k(KS[-1], c[i], k) for i in chosen) / len(chosen)
                       for k in KS} for name, c in counts.items()})
    return rows


PARTS = {"search": measure_search, "force": measure_forcing_wait, "trees": measure_beams,
         "pass": measure_pass}


def write_jsonl(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure_part(work: Path, seed: int, kind: str) -> None:
    """Writes one part of one seed to work/KIND-SEED.jsonl."""
    run_dir.tune_malloc()
    start = time.perf_counter()
    rows = PARTS[kind](work, seed)
    rows[0] |= {"part": kind, "seconds_all": time.perf_counter() - start}
    write_jsonl(work / f"{kind}-{seed}.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", required=True, type=Path, help="folder for the runs")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "SEED"),
                        help=f"one part of one seed: {', '.join(PARTS)}, and a seed")
    args = parser.parse_args()
    if args.only:
        return measure_part(args.work, int(args.only[1]), args.only[0])
    args.work.mkdir(parents=True, exist_ok=True)
    start, new = time.perf_counter(), not any(args.work.iterdir())

    def run_part(job):
        kind, seed = job
        if not (args.work / f"{kind}-{seed}.jsonl").exists():
            call("bench/ttc.py", "--work", args.work, "--only", kind, seed)
            print(f"{kind} {seed}: {time.perf_counter() - start:.0f} s so far", flush=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_part, [(kind, seed) for kind in PARTS for seed in SEEDS]))
    rows = [json.loads(line) for kind in PARTS for seed in SEEDS
            for line in (args.work / f"{kind}-{seed}.jsonl").read_text().splitlines()]
    if new:  # nothing was there before, so the seconds are those of everything
        rows.append({"kind": "time", "seconds": time.perf_counter() - start})
    write_jsonl(ROOT / "bench" / "runs" / "ttc.jsonl", rows)


if __name__ == "__main__":
    main()
