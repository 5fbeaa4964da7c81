"""Test-time compute: accuracy against tokens of every method of search.py, and pass@k of the base
against the policy that reinforcement learning makes of it.

    python bench/ttc.py --work DIR      bases, judges, searches, three seeds: bench/runs/ttc.jsonl

Then bench/results.py makes the tables and bench/plot.py the figure.

The methods that choose among samples choose among the first n of the same 64; trees are grown live.
Budget forcing is measured on the chain and on task wait, whose base knows what "wait" is for. The
difficulty of a problem is how many of the facts on its way are often told wrong. Since an answer is
one digit, which a guess finds one time in ten, answers are also counted that are right by true
steps, all of them. Processes have one thread each, two at a time; what is there is not made again.
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
import evaluate  # noqa: E402
import prm  # noqa: E402
import search  # noqa: E402
import tasks  # noqa: E402
import verify  # noqa: E402
from bench.stats import RUNS, write_jsonl  # noqa: E402
from infra import run_dir  # noqa: E402
from tasks import chain  # noqa: E402

SEEDS, PROBLEMS, MOST = range(3), 500, 64
CHOOSERS = ["vote", "orm", "prm", "prm-product", "prm-last", "weighted", "weighted-orm", "verifier"]
TREES = [(method, n) for method in ("beam", "dvts", "lookahead") for n in (2, 4, 8, 16, 32, 64)]
FIRST = [("beam", 4), ("beam", 16), ("dvts", 4), ("dvts", 16)]  # of the trees; the rest comes last
CUTS = [12, 24, 36, 48]  # tokens of thinking
KS = [2**i for i in range(9)]


class Replay(search.Player):
    """A player that has played: its samples and what the judges said of them are looked up."""

    def __init__(self, player, problems, n: int, seed: int):
        super().__init__(player.policy, player.longest, player.temperature, player.judges)
        questions = [p.question for p in problems]
        self.made = dict(zip(questions, player.complete(questions, n, seed), strict=True))
        pairs = [(q, text) for q in questions for text, _ in self.made[q]]
        self.said = {name: dict(zip(pairs, player.judge(name, *zip(*pairs, strict=True)),
                                    strict=True)) for name in player.judges}

    def complete(self, questions, n, *_):
        return [self.made[q][:n] for q in questions]

    def judge(self, name, questions, texts, ended=True):
        return [self.said[name][pair] for pair in zip(questions, texts, strict=True)]


def difficulty(problem) -> int:
    return min(4, sum(chain.belief(x, op, y)[1] > 0 for x, op, y, _ in problem.steps))


def call(script: str, *arguments) -> None:
    done = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], cwd=ROOT,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")


def player_of(name: str, run: Path, seed: int, *flags, judged: bool = False) -> search.Player:
    """The policy of a run, with its judges or without; what is not there yet is made."""
    if not (run / "summary.json").exists():
        call("train.py", "--task", name, "--seed", seed, "--out", run, "--eval-problems", 100,
             "--eval-samples", 4, *flags, *["--resume"] * (run / "config.json").exists())
    if judged and not (run / "prm.pt").exists():
        call("prm.py", "--run", run, "--seed", seed)
    policy, settings = evaluate.trained(str(run))
    return search.Player(policy, settings["max_new_tokens"],
                         judges=prm.load(str(run), policy) if judged else None)


def row(result, found, task, problems, seed) -> dict:
    """A line of ttc.jsonl: a method's result, the share that is worked out (chain.worked), and its
    accuracy by difficulty."""
    right, worked = defaultdict(list), 0
    for problem, one in zip(problems, found, strict=True):
        texts = one.samples if result["method"] == "verifier" else [one.text]
        right[difficulty(problem)].append(any(task.correct(problem, text) for text in texts))
        worked += any(chain.worked(problem, text) for text in texts)
    return {"kind": "search", "seed": seed, **result, "worked": worked / len(problems),
            "by_difficulty": {k: [sum(right[k]), len(right[k])] for k in sorted(right)}}


def searched(player, plan, name: str, seed: int) -> list[dict]:
    """Lines of a plan [(method, n)] on the held-out problems of a task."""
    task = tasks.TASKS[name]()
    problems = task.held_out(PROBLEMS)
    return [row(*search.evaluate_method(player, task, problems, method, n, seed), task, problems,
                seed) for method, n in plan]


def search_all(work: Path, seed: int) -> list[dict]:
    """Labels and judges of one seed's base, and every method on it but for most of the trees."""
    run = work / f"chain-{seed}"
    player = player_of("chain", run, seed, "--steps", 0, judged=True)
    replay = Replay(player, tasks.Chain().held_out(PROBLEMS), MOST, seed)
    return [{"kind": "judges", "seed": seed, **json.loads((run / "prm.json").read_text())},
            *searched(replay, [(method, 2**i) for i in range(7) for method in CHOOSERS], "chain",
                      seed),
            *searched(player, FIRST, "chain", seed), *forced("chain", player, seed)]


def trees_all(work: Path, seed: int) -> list[dict]:
    """The other trees."""
    player = player_of("chain", work / f"chain-{seed}", seed, "--steps", 0, judged=True)
    return searched(player, [x for x in TREES if x not in FIRST], "chain", seed)


def forced(name: str, player, seed: int) -> list[dict]:
    """Budget forcing both ways, and greedy decoding."""
    plan = [("greedy", 1), *(("cut", n) for n in CUTS),
            *((method, k) for method in ("force", "force-neutral") for k in range(1, 6))]
    return [r | {"kind": "force", "task": name} for r in searched(player, plan, name, seed)]


def forced_all(work: Path, seed: int) -> list[dict]:
    return forced("wait", player_of("wait", work / f"wait-{seed}", seed, "--steps", 0), seed)


def passed_all(work: Path, seed: int) -> list[dict]:
    """The base, and the policy that RL makes of it."""
    base = player_of("chain", work / f"chain-{seed}", seed, "--steps", 0)
    learned = player_of("chain", work / f"learned-{seed}", seed)
    return pass_at_k(base, seed, "base") + pass_at_k(learned, seed, "RL")


def pass_at_k(player, seed: int, name: str) -> list[dict]:
    """pass@k of a policy by difficulty, k = 1 to 256, of 256 samples a problem: right answers, and
    those that are worked out."""
    task = tasks.Chain()
    problems = task.held_out(PROBLEMS)
    counts = {"pass_at_k": [0] * len(problems), "worked_at_k": [0] * len(problems)}
    for part in range(4):  # 64 at a time, to keep memory small
        _, texts = evaluate.respond(player.policy, problems, KS[-1] // 4,
                                    seed=1000 * seed + part, max_new_tokens=player.longest)
        for i, text in enumerate(texts):
            at = i // (KS[-1] // 4)
            counts["pass_at_k"][at] += task.correct(problems[at], text)
            counts["worked_at_k"][at] += chain.worked(problems[at], text)
    found = []
    for level in ("all", *range(5)):
        some = [i for i, p in enumerate(problems) if level in ("all", difficulty(p))]
        found += [{"kind": "pass", "seed": seed, "policy": name, "difficulty": level,
                   "n": len(some)} | {
            count: {k: sum(verify.pass_at_k(KS[-1], c[i], k) for i in some) / len(some)
                    for k in KS} for count, c in counts.items()}] if some else []
    return found


PARTS = {"search": search_all, "force": forced_all, "trees": trees_all, "pass": passed_all}


def measure(work: Path, seed: int, kind: str) -> None:
    """A part of one seed, into work/KIND-SEED.jsonl."""
    run_dir.tune_malloc()
    began = time.perf_counter()
    rows = PARTS[kind](work, seed)
    rows[0] |= {"part": kind, "seconds_all": time.perf_counter() - began}
    write_jsonl(work / f"{kind}-{seed}.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", required=True, type=Path, help="where the runs are kept")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "SEED"),
                        help="one part alone: search 0, or pass 2")
    args = parser.parse_args()
    if args.only:
        return measure(args.work, int(args.only[1]), args.only[0])
    began, new = time.perf_counter(), not any(args.work.glob("*"))

    def part(job):  # a process of one thread, two at a time
        kind, seed = job
        if not (args.work / f"{kind}-{seed}.jsonl").exists():
            call("bench/ttc.py", "--work", args.work, "--only", kind, seed)
            print(f"{kind} {seed}: {time.perf_counter() - began:.0f} s so far", flush=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(part, [(kind, seed) for kind in PARTS for seed in SEEDS]))
    rows = [json.loads(line) for kind in PARTS for seed in SEEDS
            for line in (args.work / f"{kind}-{seed}.jsonl").read_text().splitlines()]
    if new:
        rows.append({"kind": "time", "seconds": time.perf_counter() - began})
    write_jsonl(RUNS / "ttc.jsonl", rows)


if __name__ == "__main__":
    main()
