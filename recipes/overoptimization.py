"""Over-optimisation of a reward model: the proxy reward rises while the gold reward falls.

    python -m recipes.overoptimization            three seeds, about 20 minutes on one core

A reward model is a proxy for what people want. A policy that is paid by it finds responses that the
proxy overrates (Goodhart's law). In the order of 2210.10760:

    1. a base answers open requests (tasks/assistant.py); noisy annotators compare its responses
    2. a reward model is trained on a few hundred of these pairs: the proxy
    3. best-of-n and GRPO raise the proxy; the gold rule, which no training sees, measures both
    4. cures: a KL coefficient, and an ensemble (mean minus spread, 2310.02743)

The x-axis is the square root of the KL to the base, in nats per response. Best-of-n has

    KL <= log n - (n - 1) / n        (equal, if no two responses are the same)
    E[gold of best of n] = sum over i of C(i - 1, n - 1) / C(N, n) * gold(i)

where i ranks the N samples of a prompt by proxy, from the lowest. The estimator is unbiased.
Left out on purpose: reward models of several sizes, and the fit of the paper's scaling laws.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import copy  # noqa: E402
import math  # noqa: E402
import random  # noqa: E402
from dataclasses import replace  # noqa: E402
from statistics import mean  # noqa: E402

import numpy as np  # noqa: E402

import evaluate  # noqa: E402
import reward_model  # noqa: E402
import train  # noqa: E402
from bench.stats import bootstrap, with_interval  # noqa: E402
from infra import arguments, cli, run_dir  # noqa: E402
from infra.base_model import base_model  # noqa: E402
from infra.judges import measure  # noqa: E402
from infra.models import make_models  # noqa: E402
from infra.terminal import echo  # noqa: E402
from recipes import page  # noqa: E402
from tasks import assistant  # noqa: E402

FLAGS = ("--task assistant --algo grpo --reward format --prompts 32 --group-size 8 "
         "--minibatches 2 --device cpu --eval-problems 1 --eval-every 1000 --no-report").split()
PROXY = dict(epochs=2, lr=3e-3)    # training of a reward model
MEMBERS, SPREAD_COEF = 5, 2.0      # of the ensemble
KL_COEF = 0.3
RUNS = {  # name -> (judge, --kl-coef)
    "no cure": ("single", 0.0), "KL": ("single", KL_COEF), "ensemble": ("ensemble", 0.0),
    "KL and ensemble": ("ensemble", KL_COEF)}
WINDOW = 5  # steps of the moving average in which the peak is looked for


# --- best of n

def best_of_n_kl(n: int) -> float:
    """The KL, in nats, of the best of n samples to one sample."""
    return math.log(n) - (n - 1) / n


def best_of_n(proxy, values, n: int) -> float:
    """The expected value of the response with the highest proxy among n, estimated from N samples
    of one prompt: proxy and values (N,). For equal proxies the order is that of the samples."""
    order, total = sorted(range(len(proxy)), key=lambda i: proxy[i]), math.comb(len(proxy), n)
    return sum(math.comb(rank, n - 1) / total * values[i] for rank, i in enumerate(order))


def best_of_n_curve(judge, problems, texts, args, tokenizer) -> dict:
    """Proxy and gold of the best of n, means over prompts with args.samples texts each."""
    proxy = judge.scores(tokenizer, [problem.question for problem in problems], texts).tolist()
    gold = [assistant.gold_reward(p, text) for p, text in zip(problems, texts, strict=True)]
    counts = [2**k for k in range(args.samples.bit_length() - 1)]  # up to half of the samples
    prompts = range(0, len(texts), args.samples)
    return {"n": counts, "kl": [best_of_n_kl(n) for n in counts]} | {
        name: [mean(best_of_n(proxy[i:i + args.samples], values[i:i + args.samples], n)
                    for i in prompts) for n in counts]
        for name, values in (("proxy", proxy), ("gold", gold))}


# --- one seed

def sample(policy, tokenizer, problems, n: int, seed: int):
    """n responses to each problem: (problem of each response, texts)."""
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, n, seed=seed,
                                         max_new_tokens=assistant.Assistant.default_max_new_tokens)
    return [problem for problem in problems for _ in range(n)], texts


def train_judges(base, tokenizer, task, seed: int, args) -> tuple[dict, dict]:
    """The judges "single" and "ensemble", and their measures on held-out pairs."""
    # 1. pairs of responses to training requests, and to held-out ones
    rng, sides = random.Random(f"annotators {seed}"), []
    for problems in (task.sample(rng, args.pairs), 5 * task.held_out(args.pairs)):
        _, texts = sample(base, tokenizer, problems, 2, rng.getrandbits(62))
        sides.append(assistant.annotated_pairs(rng, problems, texts))
    # 2. the reward models; the single one is the first of the ensemble
    ensemble = reward_model.train_ensemble(base, tokenizer, sides[0], members=args.members,
                                           spread_coef=SPREAD_COEF, seed=seed, **PROXY)
    single = reward_model.Ensemble(ensemble.members[:1])
    judges = {"single": reward_model.Judge(single), "ensemble": reward_model.Judge(ensemble)}
    # 3. their measures; no judge can agree with the annotators more often than the gold does
    measures = {name: measure(judge, tokenizer, sides[1]) for name, judge in judges.items()}
    asked = {problem.question: problem for problem in task.held_out(args.pairs)}
    golds = [[assistant.gold_reward(asked[question], text) for text in texts]
             for question, *texts in sides[1]]
    measures["gold"] = {"accuracy": mean((1 + (a > b) - (a < b)) / 2 for a, b in golds)}
    return judges, measures


def train_policy(base, tokenizer, task, judge, kl_coef: float, seed: int, args) -> dict:
    """Curves of GRPO on a judge's reward: of each step the KL to the base, in nats per response,
    the proxy reward and the gold reward."""
    options, _ = cli.parse([*FLAGS, *args.flags.split(), "--steps", str(args.steps), "--seed",
                            str(seed), "--kl-coef", str(kl_coef)])
    cli.validate(options)
    options = replace(options, reward="preference")  # the judge is given, not read from a run
    models, optimizer = make_models(copy.deepcopy(base), tokenizer, options)
    history = train.reinforce(task, models._replace(reward_model=judge), optimizer, options)
    problems = task.held_out(8)
    _, texts = sample(models.policy, tokenizer, problems, 1, seed)
    return {"kl": [step["kl"] * step["length"] for step in history],
            "proxy": [step["reward"] for step in history],
            "gold": [step["gold"] for step in history],
            "length": [step["length"] for step in history],
            "texts": [f"{p.question}: {text}" for p, text in zip(problems, texts, strict=True)]}


def work_seed(seed: int, folder: Path, args) -> dict:
    """Base, reward models, best-of-n and the four runs of one seed."""
    options, _ = cli.parse([*FLAGS, *args.flags.split(), "--seed", str(seed)])
    task, tokenizer = cli.validate(options)
    base = base_model(options, task, tokenizer, folder)
    judges, measures = train_judges(base, tokenizer, task, seed, args)
    problems, texts = sample(base, tokenizer, task.held_out(args.requests), args.samples, seed)
    curves = {name: best_of_n_curve(judge, problems, texts, args, tokenizer)
              for name, judge in judges.items()}
    runs = {}
    for name, (judge, kl_coef) in RUNS.items():
        runs[name] = train_policy(base, tokenizer, task, judges[judge], kl_coef, seed, args)
        echo(f"seed {seed}, {name}: gold {runs[name]['gold'][-1]:.2f}", flush=True)
    return {"reward models": measures, "best of n": curves, "runs": runs}


# --- the page

def smooth(curve, width: int = WINDOW) -> list[float]:
    """The moving average over `width` points, or over all points of a shorter curve."""
    width = min(width, len(curve))
    return [mean(curve[i:i + width]) for i in range(len(curve) - width + 1)]


def summary(run: dict, width: int = WINDOW) -> dict:
    """Of the curves of a run or of best-of-n: each one at the base (the first point), at the peak
    of the gold and at the end, and how far the gold has fallen since its peak."""
    curves = {name: smooth(run[name], width) for name in ("kl", "proxy", "gold", "length")
              if name in run}
    peak = max(range(len(curves["gold"])), key=lambda i: curves["gold"][i])
    found = {"gold falls by": curves["gold"][peak] - curves["gold"][-1]}
    for name in curves:
        found |= {f"{name}, base": run[name][0], f"{name}, peak": curves[name][peak],
                  f"{name}, end": curves[name][-1]}
    return found


def cell(rows, column: str) -> str:
    return with_interval([row[column] for row in rows], 1, 2) if column in rows[0] else ""


def is_below(rows, others, column: str) -> bool:
    """Whether the interval of the rows ends below that of the others."""
    found, other = (bootstrap([row[column] for row in x]) for x in (rows, others))
    return found[2] < other[1]


def tables(results) -> list[tuple]:
    """The tables of the page, from the results of the seeds."""
    found = {name: [summary(result["runs"][name]) for result in results] for name in RUNS}
    found |= {f"best of n, {judge}": [summary(result["best of n"][judge], 1) for result in results]
              for judge in ("single", "ensemble")}
    columns = ["gold, base", "gold, peak", "gold, end", "gold falls by", "proxy, base",
               "proxy, peak", "proxy, end", "kl, peak", "kl, end", "length, end"]
    fall = "gold falls by"
    rows = [[name, *(cell(rows, column) for column in columns),
             with_interval([b[fall] - a[fall] for a, b in zip(rows, found["no cure"], strict=True)],
                           1, 2), "yes" if is_below(found["no cure"], rows, "gold, end") else "no"]
            for name, rows in found.items()]
    measures = [result["reward models"] for result in results]
    judges = [[name, *(cell([m[name] for m in measures], column) for column in (
        "accuracy", "ece"))] for name in measures[0]]
    curves = [result["best of n"] for result in results]
    best = [[n, f"{best_of_n_kl(n):.2f}", *(
        with_interval([curve[judge][value][i] for curve in curves], 1, 2)
        for judge in ("single", "ensemble") for value in ("proxy", "gold"))]
        for i, n in enumerate(curves[0]["single"]["n"])]
    return [
        (f"GRPO (moving averages over {WINDOW} steps) and best of n; KL in nats per response",
         ["run", *columns, "falls less than no cure by",
          "ends above no cure, intervals apart"], rows),
        ("Reward models on held-out pairs of the annotators; gold: the rule itself",
         ["reward", "accuracy", "ECE"], judges),
        ("Best of n", ["n", "KL", "proxy, single", "gold, single", "proxy, ensemble",
                       "gold, ensemble"], best)]


def draw(results, figure) -> None:
    """Left: best-of-n. Middle: GRPO without a cure. Right: the gold of all runs. Means of seeds."""
    def smoothed(name):
        return [{part: smooth(result["runs"][name][part]) for part in ("kl", "proxy", "gold")}
                for result in results]
    best, both = [result["best of n"]["single"] for result in results], ("proxy", "gold")
    panels = {
        "best of n": [(best, value, value) for value in both],
        "GRPO without a cure": [(smoothed("no cure"), value, value) for value in both],
        "gold of all runs": [(smoothed(name), "gold", name) for name in RUNS]}
    for axis, (title, lines) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for curves, value, label in lines:
            x = np.mean([np.sqrt(curve["kl"]) for curve in curves], axis=0)
            axis.plot(x, np.mean([curve[value] for curve in curves], axis=0), ".-", label=label)
        axis.set(title=title, xlabel="sqrt(KL to the base), KL in nats", ylabel="reward")
        axis.legend()


def work(args) -> None:
    run_dir.tune_malloc()
    results = page.run_seeds(lambda seed, folder: work_seed(seed, folder, args), args)
    page.write("overoptimization", "Over-optimisation of a reward model", tables(results),
               lambda figure: draw(results, figure), args.docs)


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.overoptimization", description=__doc__.split("\n\n")[0])
    page.add_flags(parser, "overoptimization")
    for name, default, least, help in (
            ("steps", 60, 1, "steps of each run"), ("pairs", 400, 20, "annotated pairs"),
            ("members", MEMBERS, 2, "reward models of the ensemble"),
            ("requests", 16, 1, "held-out requests of best-of-n"),
            ("samples", 512, 2, "responses to each of them")):
        parser.add_argument(f"--{name}", type=arguments.integer(least), default=default,
                            help=f"{help} (default: {default})")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
