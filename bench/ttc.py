"""Test-time compute: accuracy against tokens of every method of search.py, and pass@k of the base
against the policy that reinforcement learning makes of it.

    python bench/ttc.py --work DIR          bases, judges, searches, three seeds; table and plots
    python bench/ttc.py --work DIR --draw   table and plots from bench/runs/ttc.jsonl

The methods that choose among samples choose among the first n of the same 64; trees are grown live.
Budget forcing is measured on the chain and on task wait, whose base knows what "wait" is for. The
difficulty of a problem is how many of the facts on its way are often told wrong. Since an answer is
one digit, which a guess finds one time in ten, answers are also counted that are right by true
steps, all of them. Processes have one thread each, two at a time; what is there is not made again.
Needs matplotlib.
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
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from compare import keep, shown, write_section  # noqa: E402

import evaluate  # noqa: E402
import prm  # noqa: E402
import search  # noqa: E402
import tasks  # noqa: E402
import verify  # noqa: E402
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
    return min(4, sum(chain.fact_as_told(x, op, y)[1] > 0 for x, op, y, _ in problem.steps))


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
    """A line of ttc.jsonl: a method's result, the share that is worked out
    (chain.correct_with_working), and its accuracy by difficulty."""
    right, worked = defaultdict(list), 0
    for problem, one in zip(problems, found, strict=True):
        texts = one.samples if result["method"] == "verifier" else [one.text]
        right[difficulty(problem)].append(any(task.correct(problem, text) for text in texts))
        worked += any(chain.correct_with_working(problem, text) for text in texts)
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
            counts["worked_at_k"][at] += chain.correct_with_working(problems[at], text)
    found = []
    for level in ("all", *range(5)):
        some = [i for i, p in enumerate(problems) if level in ("all", difficulty(p))]
        found += [{"kind": "pass", "seed": seed, "policy": name, "difficulty": level,
                   "n": len(some)} | {
            count: {k: sum(verify.pass_at_k(KS[-1], c[i], k) for i in some) / len(some)
                    for k in KS} for count, c in counts.items()}] if some else []
    return found


def cell(rows, of="accuracy", **wanted) -> str:
    values = [r[of] for r in rows if all(r.get(k) == v for k, v in wanted.items())]
    return shown(values) if values else ""


def tokens(rows, **wanted) -> float:
    values = [r["tokens_per_problem"] for r in rows
              if all(r.get(k) == v for k, v in wanted.items())]
    return sum(values) / max(1, len(values))


def judge_table(rows) -> list[str]:
    """Markdown: labels and judges of each seed against the oracle."""
    judges = [r for r in rows if r["kind"] == "judges"]
    lines = ["| | " + " | ".join(f"seed {r['seed']}" for r in judges) + " |",
             "|" + "---|" * (len(judges) + 1)]

    def line(name, value):
        lines.append(f"| {name} | " + " | ".join(value(r) for r in judges) + " |")
    line("different solutions, steps, thousand tokens for labels", lambda r: (
        f"{r['solutions']}, {r['steps']}, {r['tokens_for_labels'] / 1000:.0f}"))
    for n in judges[0]["labels"]:
        line(f"labels of {n} completions: AUC; hard ones wrong", lambda r, n=n: (
            f"{r['labels'][n]['auc']:.3f}; {r['labels'][n]['hard_wrong']:.1%}"))
    for name in ("prm", "orm"):
        line(f"{name.upper()}: step AUC; up to the first error", lambda r, name=name: (
            f"{r[name]['auc']:.3f}; {r[name]['auc_to_first_error']:.3f}"))
        line("… accuracy; first error found (by fall); calibration error", lambda r, name=name: (
            f"{r[name]['accuracy']:.1%}; {r[name]['first_error_found']:.1%} "
            f"({r[name]['first_error_by_fall']:.1%}); {r[name]['calibration_error']:.3f}"))
    line("seconds: labels, PRM, ORM", lambda r: (
        f"{r['seconds_label']:.0f}, {r['seconds_prm']:.0f}, {r['seconds_orm']:.0f}"))
    return [*lines, ""]


def tables(rows) -> list[str]:
    """Markdown: the judges; methods by n; the best method at a budget by difficulty; pass@k."""
    found = [r for r in rows if r["kind"] == "search"
             or (r.get("task"), r.get("method")) == ("chain", "greedy")]
    sizes = [2**i for i in range(7)]
    lines = judge_table(rows)
    for title, of in (("accuracy", "accuracy"), ("right by true steps, all of them", "worked")):
        lines += [f"| {title}, % | " + " | ".join(f"n = {n}" for n in sizes) + " |",
                  "|" + "---|" * (len(sizes) + 1)]
        lines += [f"| {method} | " + " | ".join(
            cell(found, of, method=method, n=n) for n in sizes) + " |"
            for method in (*CHOOSERS, *dict(TREES))] + [""]
    lines += ["tokens a problem: " + ", ".join(
        f"{method} {n}: {tokens(found, method=method, n=n):.0f}" for method, n in
        (("prm", 1), ("prm", 16), ("beam", 16), ("dvts", 16), ("lookahead", 16), ("prm", 64)))]
    lines += ["", *force_table([r for r in rows if r["kind"] == "force"])]
    lines += ["", "The best method that spends at most so many tokens a problem, by how many facts "
              "on the way are often told wrong (accuracy, %; mean of the seeds):",
              "", "| tokens | " + " | ".join(f"{d} facts" for d in range(4)) + " | 4 or more |",
              "|" + "---|" * 6]
    for budget in (60, 250, 900, 3500):
        lines.append(f"| {budget} | " + " | ".join(
            best_choice(found, budget, str(d)) for d in range(5)) + " |")
    passes = [r for r in rows if r["kind"] == "pass"]
    for title, of in (("pass@k", "pass_at_k"), ("… by true steps, all of them", "worked_at_k")):
        lines += ["", f"| {title}, % | problems | " + " | ".join(f"k = {k}" for k in KS) + " |",
                  "|" + "---|" * (len(KS) + 2)]
        if of == "pass_at_k":
            lines.append("| a guess | | " + " | ".join(
                f"{100 * (1 - 0.9**k):.1f}" for k in KS) + " |")
        for level in ("all", *range(5)):
            for policy in ("base", "RL"):
                some = [r for r in passes if (r["policy"], r["difficulty"]) == (policy, level)]
                if some:
                    lines.append(
                        f"| {policy}, {'all' if level == 'all' else f'{level} facts'} | "
                        f"{some[0]['n']} | " + " | ".join(
                            shown([r[of][str(k)] for r in some]) for k in KS) + " |")
    spent = [f"{kind} " + ", ".join(f"{r['seconds_all']:.0f}" for r in rows
                                    if "seconds_all" in r and r["part"] == kind) for kind in PARTS]
    lines += ["", f"Seconds of each part, one thread: {'; '.join(spent)}. " + "".join(
        f"All of it: {r['seconds']:.0f} s." for r in rows if r["kind"] == "time")]
    return lines


def force_table(rows) -> list[str]:
    """Markdown: accuracy, and tokens a problem, where thinking is cut off or made to go on."""
    rounds = range(1, 6)
    columns = [*(f"cut at {n}" for n in CUTS), *(f"replaced {k - 1} times" for k in rounds)]
    lines = ["| the end of thinking | " + " | ".join(columns) + " |",
             "|" + "---|" * (len(columns) + 1)]
    for task in ("chain", "wait"):
        for method, word in (("force", "wait"), ("force-neutral", "apples")):
            cells = [dict(task=task, method="cut", n=n) for n in CUTS if method == "force"]
            cells += [None] * (len(CUTS) - len(cells))
            cells += [dict(task=task, method=method, n=k) for k in rounds]
            lines.append(f"| task {task}, by `{word}` | " + " | ".join(
                f"{cell(rows, **c)}, {tokens(rows, **c):.0f} tokens" if c else ""
                for c in cells) + " |")
    return lines


def best_choice(found, budget: float, level: str) -> str:
    choices = {}
    for r in found:
        if r["method"] != "verifier" and r["tokens_per_problem"] <= budget * 1.05:
            right, n = r["by_difficulty"].get(level, (0, 0))
            choices.setdefault((r["method"], r["n"]), []).append(right / max(1, n))
    if not choices:
        return ""
    name, values = max(choices.items(), key=lambda item: sum(item[1]) / len(item[1]))
    return f"{name[0]} {name[1]}: {100 * sum(values) / len(values):.0f}"


def draw(rows) -> None:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    found = [r for r in rows if r["kind"] == "search"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2))
    for method in ("vote", "orm", "weighted-orm", "prm", "weighted", "beam", "dvts", "lookahead",
                   "verifier"):
        some = sorted({r["n"] for r in found if r["method"] == method})
        x = [tokens(found, method=method, n=n) for n in some]
        y = [sum(v) / len(v) for n in some
             if (v := [r["accuracy"] for r in found if (r["method"], r["n"]) == (method, n)])]
        left.plot(x, y, marker="o", markersize=3, label=method,
                  linestyle=":" if method == "verifier" else "-")
    left.set(xscale="log", xlabel="tokens a problem", ylabel="accuracy", ylim=(0, 1))
    left.legend(fontsize=7)
    forces = [r for r in rows if r["kind"] == "force"]
    for task, colour in (("chain", "tab:blue"), ("wait", "tab:orange")):
        for name, methods, line in (("wait", ("cut", "greedy", "force"), "-"),
                                    ("apples", ("greedy", "force-neutral"), ":")):
            points = defaultdict(list)
            for r in forces:
                if r["task"] == task and r["method"] in methods:
                    points[r["method"], r["n"]].append((r["tokens_per_problem"], r["accuracy"]))
            mean = sorted(tuple(sum(x) / len(x) for x in zip(*some, strict=True))
                          for some in points.values())
            middle.plot(*zip(*mean, strict=True), marker="o", markersize=3, color=colour,
                        linestyle=line, label=f"task {task}, {name}")
    middle.set(xlabel="tokens a problem", ylabel="accuracy, thinking cut off or made to go on",
               ylim=(0, 1))
    middle.legend(fontsize=7)
    for r in (r for r in rows if r["kind"] == "pass" and r["difficulty"] == "all"):
        for of, name, line in (("worked_at_k", "true steps", "-"), ("pass_at_k", "answer", ":")):
            right.plot(KS, [r[of][str(k)] for k in KS], line,
                       label=None if r["seed"] else f"{r['policy']}, {name}",
                       color={"base": "tab:blue", "RL": "tab:orange"}[r["policy"]])
    right.plot(KS, [1 - 0.9**k for k in KS], ":", color="grey", label="a guess")
    right.set(xscale="log", xlabel="k", ylabel="pass@k", ylim=(0, 1))
    right.legend()
    figure.tight_layout()
    figure.savefig(ROOT / "bench" / "ttc.png", dpi=110)


PARTS = {"search": search_all, "force": forced_all, "trees": trees_all, "pass": passed_all}


def measure(work: Path, seed: int, kind: str) -> None:
    """A part of one seed, into work/KIND-SEED.jsonl."""
    run_dir.keep_freed_memory()
    began = time.perf_counter()
    rows = PARTS[kind](work, seed)
    rows[0] |= {"part": kind, "seconds_all": time.perf_counter() - began}
    keep(work / f"{kind}-{seed}.jsonl", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", required=True, type=Path, help="where the runs are kept")
    parser.add_argument("--draw", action="store_true", help="draw what has been measured")
    parser.add_argument("--only", nargs=2, metavar=("KIND", "SEED"),
                        help="one part alone: search 0, or pass 2")
    args = parser.parse_args()
    path = ROOT / "bench" / "runs" / "ttc.jsonl"
    if args.only:
        return measure(args.work, int(args.only[1]), args.only[0])
    if not args.draw:
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
        keep(path, rows)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_section("Test-time compute (`python bench/ttc.py`)", tables(rows))
    draw(rows)


if __name__ == "__main__":
    main()
