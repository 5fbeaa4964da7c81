"""Judges for what has no checker: a model reads a response and says why it is good or bad.

    python -m recipes.judge             three seeds

Each judge is a copy of a base that was trained on judgements (recipes/judge_model.py). It writes
its reasons, and then a verdict. The parts of the recipe:

    1. verifier   learns from verified samples of short chains, and is used on longer chains and on
                  those of another writer; the control gives no reasons (2408.15240)
    2. biases     annotators like long answers, sure ones and the first one; how much of that comes
                  out of the judge (2306.05685); the control is a judge of fair annotators
    3. calls      which of two answers is better: pairwise, pointwise or by a rubric (2507.17746)
    4. RL         GRPO on the judge's reward; gold against judge. Cures: KL, an ensemble, a judge
                  that is trained again on the policy's own answers, a rubric that is renewed by
                  what references meet and the policy does not (2510.07284). Control: gold

All runs of part 4 start from one base and sample as many tokens. Left out on purpose: judges that
are larger than the policy, and references in the prompt of a judge.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

import copy
import random
import shutil
from dataclasses import replace
from functools import partial
from statistics import mean

import numpy as np

import sft
import train
from infra import run_dir
from infra.models import make_models
from infra.terminal import echo, quote
from recipes import page, runs
from recipes.judge_measures import SAMPLES, judged, kept_model, sample, verifiers
from recipes.judge_model import RATE, Gold, Panel, train_judge, writing_lessons
from recipes.overoptimization import summary
from tasks import writing

WRITING = ("--task writing --level 2 --size nano --reward format --algo grpo --prompts 16 "
           "--group-size 8 --minibatches 2 --lr 1e-3 --no-checkpoints")
RUBRIC = {"greets": 1, "three": 2, "detailed": 3}  # it lacks three criteria of the gold
NEW_WEIGHT, WORSE = 2, -0.1                        # of `renew_rubric`
AGAIN_STEPS = 40                                   # of `train_again`
KL_COEF, HELD_OUT = 0.1, 100                       # held-out requests of a run
JUDGES = {"biased": writing.BIASED, "fair": writing.FAIR, "biased 2": writing.BIASED,
          "biased 3": writing.BIASED}


# --- the judges, and what changes in a run

def writing_judges(seed: int, folder: Path, args, base, tokenizer, task, options) -> dict:
    """The judges of JUDGES. All learn from responses of the base: first, as one, from fair
    annotators, to note what is in a response, and then from their own annotators."""
    samples = sample(base, tokenizer, task.sample(random.Random(f"judged {seed}"), args.problems),
                     4, seed, options.max_new_tokens)
    criteria = list(writing.CRITERIA)
    kinds = [*criteria, *len(criteria) * [RATE, "compare"]]  # a third each
    reader = kept_model(folder / "reader.pt", partial(
        train_judge, base, tokenizer, writing_lessons(samples, writing.FAIR, kinds),
        args.judge_steps, seed))
    steps = args.judge_steps // 4
    return {name: kept_model(folder / f"judge {name}.pt", partial(
        train_judge, reader, tokenizer, writing_lessons(samples, biases, kinds), steps,
        100 * seed + i)) for i, (name, biases) in enumerate(JUDGES.items())}


def train_again(panel, policy, task, seed: int) -> None:
    """Each judge learns from fair verdicts on the policy's own answers."""
    problems = task.sample(random.Random(f"again {seed}"), 64)
    samples = sample(policy, panel.tokenizer, problems, 4, seed, task.max_new_tokens)
    draw = writing_lessons(samples, writing.FAIR, [RATE])
    panel.judges = [train_judge(judge, panel.tokenizer, draw, AGAIN_STEPS, seed, **sft.FINE_TUNING)
                    for judge in panel.judges]


def renew_rubric(panel, policy, task, seed: int) -> None:
    """Drops the criteria that references meet less often than the policy, by more than WORSE, and
    adds the two of CRITERIA that references meet more often than the policy, by most. The first
    judge says what is met."""
    rng = random.Random(f"renew {seed}")
    problems = task.sample(rng, 64)
    own = [texts[0] for _, texts in sample(policy, panel.tokenizer, problems, 1, seed,
                                           task.max_new_tokens)]
    references = [task.document(rng, problem, drill=True) for problem in problems]
    gap = {}
    for name in writing.CRITERIA:
        met = [mean(score for score, _ in panel.verdicts(panel.judges[0], name, problems, texts))
               for texts in (references, own)]
        gap[name] = met[0] - met[1]
    kept = {name: weight for name, weight in panel.rubric.items() if gap[name] > WORSE}
    missing = sorted((name for name in gap if name not in kept and gap[name] > 0), key=gap.get)
    panel.rubric = kept | dict.fromkeys(missing[-2:], NEW_WEIGHT) or panel.rubric


ARMS = {  # name -> judges, and what else differs: rubric, kl_coef, change of the panel in the run
    "gold": {"judges": ()},
    "judge of fair annotators": {"judges": ("fair",)},
    "judge": {"judges": ("biased",)},
    "judge, KL": {"judges": ("biased",), "kl_coef": KL_COEF},
    "judge, ensemble": {"judges": ("biased", "biased 2", "biased 3")},
    "judge, trained again": {"judges": ("biased",), "change": train_again},
    "rubric": {"judges": ("biased",), "rubric": RUBRIC},
    "rubric, renewed": {"judges": ("biased",), "rubric": RUBRIC, "change": renew_rubric},
}


def learn(folder: Path, base, task, tokenizer, options, judges, rubric=None, kl_coef=0.0,
          change=None) -> dict:
    """The curves and the measures of a run. `folder` gets its page, with the judge's words."""
    # 1. the panel, and the folder of the run
    panel = Panel(judges, tokenizer, rubric) if judges else Gold()
    shutil.rmtree(folder, ignore_errors=True)
    options = replace(options, out=str(folder), kl_coef=kl_coef, reward="preference")
    run_dir.open_run(options, 0, resume=False)
    # 2. RL; the panel changes after a third and after two thirds of the tokens
    models, optimizer = make_models(copy.deepcopy(base), tokenizer, options)
    tokens, due = [], [1 / 3, 2 / 3] if change else []

    def on_step(metrics):
        tokens.append(metrics["tokens"] + (tokens[-1] if tokens else 0))
        if due and tokens[-1] >= due[0] * options.token_budget:
            due.pop(0)
            change(panel, models.policy, task, 1000 * options.seed + len(due))
    history = train.reinforce(task, models._replace(reward_model=panel), optimizer, options,
                              run_dir=folder, on_step=on_step)
    # 3. measures of one response to each held-out problem
    problems = task.held_out(HELD_OUT)
    texts = [texts[0] for _, texts in sample(models.policy, tokenizer, problems, 1, 1,
                                             options.max_new_tokens)]
    golds = list(map(writing.gold_reward, problems, texts))
    paid = panel.pay(problems, texts)
    i = max(range(len(texts)), key=lambda i: paid[i][0] - golds[i])
    return {"tokens": tokens, "kl": [line["kl"] * line["length"] for line in history],
            "proxy": [line["reward"] for line in history],
            "gold": [line["gold"] for line in history],
            "length": [line["length"] for line in history],
            "held-out gold": mean(golds), "held-out reward": mean(score for score, _ in paid),
            "facts": mean(text.count("it ") for text in texts),
            "sure": mean("surely" in text for text in texts), "rubric": panel.rubric,
            "example": [problems[i].question, texts[i], golds[i], *paid[i]]}


def work(seed: int, folder: Path, args) -> dict:
    """The results of the four parts."""
    flags = f"{WRITING} --token-budget {args.tokens} {args.flags}"
    base, task, tokenizer, options = runs.start(flags, seed, folder)
    judges = writing_judges(seed, folder, args, base, tokenizer, task, options)
    result = {"verifier": page.kept(folder / "verifiers.json", partial(
                  verifiers, seed, folder, args)),
              "judge": page.kept(folder / "biases and calls.json", partial(
                  judged, {name: (judges[name], JUDGES[name]) for name in ("biased", "fair")},
                  tokenizer, task, RUBRIC, args.held_out)), "runs": {}}
    for name, arm in ARMS.items():
        arm = arm | {"judges": [judges[judge] for judge in arm["judges"]]}
        result["runs"][name] = page.kept(folder / f"{name}.json", partial(
            learn, folder / name, base, task, tokenizer, options, **arm))
        echo(f"seed {seed}, {name}: gold {result['runs'][name]['held-out gold']:.2f}", flush=True)
    return result


# --- the page

def part(results: list[dict], name: str) -> list[dict]:
    return [result[name] for result in results]


def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    verifier, judge, arms = (part(results, name) for name in ("verifier", "judge", "runs"))
    runs_of = {name: [summary(run) | run for run in part(arms, name)] for name in arms[0]}
    by_name = [{name: rows[i] for name, rows in runs_of.items()} for i in range(len(results))]
    columns = ["proxy, base", "proxy, end", "gold, base", "gold, peak", "gold, end",
               "held-out gold", "sure", "kl, end", "facts"]
    return [
        ("1. A verifier learns from short chains", ["verifier", "verdicts right, %", "AUC, %",
         f"best of {SAMPLES}, %", "a random one, %"],
         [[name, *(page.cell(verifier, name, key)
                   for key in ("accuracy", "auc", "best", "sampled"))] for name in verifier[0]]),
        ("2. How often the liked one of two equal answers wins", ["bias", "mean probability, %",
         "pairs above 1/2, %"],
         [[name, *(page.cell(judge, name, key) for key in ("mean", "above"))]
          for name in judge[0] if "mean" in judge[0][name]]),
        ("3. Pairs of answers in which judge and gold agree", ["method", "calls", "agree, %",
         "winner changes with the order, %"],
         [[name, judge[0][name]["calls"], *(page.cell(judge, name, key)
                                            for key in ("accuracy", "changed"))]
          for name in judge[0] if "calls" in judge[0][name]]),
        ("4. RL: proxy (the judge's reward) and gold in %, KL in nats and facts per response",
         ["run", *columns],
         [[name, *(page.cell(by_name, name, key, 1 if key in columns[-2:] else 100)
                   for key in columns)] for name in runs_of]),
        ("Held-out gold, compared", page.DIFFERENCES, page.differences(
            by_name, [(name, "rubric" if "rubric" in name else "judge") for name in runs_of
                      if name not in ("judge", "rubric")], "held-out gold")),
        ("The judge's words on the response that is overpaid most, first seed",
         ["run", "request", "response", "gold", "reward", "words"],
         [[name, question, f"`{quote(text, 160)}`", f"{gold:.2f}", f"{reward:.2f}",
           f"`{quote(words, 160)}`"]
          for name, (question, text, gold, reward, words) in (
              (name, run["example"]) for name, run in arms[0].items()) if words])]


def draw(results: list[dict], figure) -> None:
    """Reward and gold of two runs, and the gold of all runs."""
    arms = part(results, "runs")
    both = [("proxy", "the judge's reward"), ("gold", "gold")]
    panels = {"judge": [("judge", *line) for line in both],
              "rubric": [("rubric", *line) for line in both],
              "gold of all runs": [(name, "gold", name) for name in arms[0]]}
    for axes, (title, lines) in zip(figure.subplots(1, 3, sharey=True), panels.items(),
                                    strict=True):
        for name, key, label in lines:
            curves = part(arms, name)
            xs = np.linspace(0, min(run["tokens"][-1] for run in curves), 100)
            ys = np.array([np.interp(xs, run["tokens"], run[key]) for run in curves])
            page.draw_seeds(axes, label, xs / 1000, ys)
        axes.set(title=title, xlabel="thousand sampled tokens", ylim=(0, 1))
        axes.legend(loc="lower left", fontsize="x-small", ncols=2)


def main(argv=None) -> int:
    numbers = [("--tokens", 80_000, "tokens that each run of part 4 samples"),
               ("--judge-steps", 800, "training steps that the judges share; then a quarter each"),
               ("--verifier-steps", 800, "training steps of a verifier"),
               ("--problems", 400, "problems whose responses a judge learns from", 20),
               ("--held-out", 60, "held-out problems of parts 1 to 3")]
    return page.main("judge", "Judges", __doc__, work, tables, draw, argv, numbers, seeds="0,1,2")


if __name__ == "__main__":
    sys.exit(main())
