"""R1-Zero's figure: thinking grows over the whole training, and accuracy with it.

    python -m recipes.r1_zero                   three seeds

The responses of R1-Zero grow for thousands of steps, under a reward for right answers alone. Its
paper (2501.12948, section 2.2.4) says that reflection and the search for other ways emerge. Here
the task is a search (tasks/trial.py). The base gives up after each failed try with the same
probability h, and a try succeeds with probability p. Of a search without mistakes:

    tries = 1 / (1 - (1 - p) (1 - h))        accuracy = p * tries

RL lowers h step by step, so the curve needs no new ability. Three runs start from the same base
and differ in the reward alone:

    truth     1 for a right answer, 0 for a wrong one
    random    1 for one response in two, whatever its text
    length    1 - |length - L| / L, at least 0; L is the mean length at the end of `truth`

The algorithm is PPO with lambda 0.9, so most of the credit goes to the last tokens before the end,
where a response gives up. GRPO gives all tokens of a response the same advantage.
All measures are those of sampled responses to held-out problems. Dropped tries and checks are
counted from the facts that a response computes, not from its words. Left out on purpose: greedy
accuracy, since a greedy search repeats its tries.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from dataclasses import replace

import numpy as np
import torch

import evaluate
from infra import arguments
from infra.metrics import means
from infra.terminal import echo
from recipes import page, runs
from tasks.trial import Trial, chance

FLAGS = ("--task trial --size nano --algo ppo --gae-lambda 0.9 --prompts 32 --group-size 4 "
         "--minibatches 2 --lr 4.5e-4")
ARMS = {"truth": "accuracy", "random": "random", "length": "accuracy"}  # name -> --reward
COLOURS = dict(zip(ARMS, ("#0072B2", "#999999", "#D55E00"), strict=True))
POINTS, WINDOW = 10, 10  # of a curve, after that of the base; steps of the running mean of lengths
SHOWN = 1500             # characters of a response on the page
MEASURES = {  # name -> (title, scale of the table)
    "accuracy": ("right answers, %", 100), "length": ("length, tokens", 1),
    "truncated": ("cut off at the limit, %", 100), "tries": ("tries", 1),
    "backtracks": ("dropped tries", 1), "repeated": ("tries that repeat an earlier one, %", 100),
    "checked": ("results that are computed again, %", 100),
    "changed": ("checks that change the result, %", 100),
    "true_facts": ("facts that are right, %", 100),
    "sampled": ("tokens sampled in training, thousands", 1e-3)}


class PaidByLength(Trial):
    """The control at equal length: the reward is closeness to `wanted` tokens."""

    wanted = 0.0  # run_seed sets it

    def score(self, problem, text, reward="correct", uniform=0.0, tokens=(), group=()):
        scored = super().score(problem, text, reward, uniform, tokens, group)
        distance = abs(len(tokens) - self.wanted) / self.wanted
        return replace(scored, total=max(0.0, 1 - distance))


# --- measuring

def measure(policy, tokenizer, task, problems, max_new_tokens: int, samples: int) -> dict:
    """The MEASURES of `samples` responses to each problem at temperature 1, and the first
    response as "text"."""
    problems = [problem for problem in problems for _ in range(samples)]
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1,
                                               max_new_tokens=max_new_tokens)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    return means(task.measures, problems, texts) | {
        "accuracy": sum(right) / len(right), "text": texts[0],
        "length": float(rollout.mask.sum(1).mean()),
        "truncated": float(rollout.truncated.float().mean())}


def growth_share(lengths) -> float:
    """The share of the steps over which the length grows: the steps between 5% and 95% of the gain
    of its running mean over WINDOW steps, from its first value to its largest one."""
    smooth = np.convolve(lengths, np.ones(WINDOW) / WINDOW, mode="valid")
    gain = smooth.max() - smooth[0]
    passed = [int(np.argmax(smooth >= smooth[0] + share * gain)) for share in (0.05, 0.95)]
    return (passed[1] - passed[0]) / len(lengths)


def run_seed(seed: int, folder: Path, args) -> dict:
    """Of each arm the mean lengths of all steps, and a curve of MEASURES on held-out problems."""
    torch.set_num_threads(1)
    base, task, tokenizer, options = runs.start(f"{FLAGS} --steps {args.steps} {args.flags}", seed,
                                                folder)
    problems, wanted = sorted(task.held_out(args.held_out), key=chance), 0.0  # hardest first

    def measured(policy, samples: int) -> dict:
        return measure(policy, tokenizer, task, problems, options.max_new_tokens, samples)

    def on_step(policy, metrics):
        """Measures the policy POINTS times, the last time with more samples."""
        step, steps = metrics["step"], options.steps
        if step * POINTS // steps > (step - 1) * POINTS // steps:
            found = measured(policy, args.samples if step == steps else max(1, args.samples // 4))
            echo(f"step {step}: {found['length']:.0f} tokens, {found['accuracy']:.0%} right")
            metrics["held_out"] = found

    result = {"question": problems[0].question, "limit": options.max_new_tokens,
              "base": {"step": 0} | measured(base, args.samples)}
    for name, reward in ARMS.items():
        kind = type("Paid", (PaidByLength,), {"wanted": wanted}) if name == "length" else Trial
        _, history = runs.reinforced(folder / f"{name}.pt", base, kind(options.level), tokenizer,
                                     replace(options, reward=reward), on_step)
        curve = [result["base"], *({"step": line["step"]} | line["held_out"]
                                   for line in history if "held_out" in line)]
        result[name] = curve[-1] | {
            "curve": curve, "lengths": [line["length"] for line in history],
            "sampled": sum(line["tokens"] for line in history)}
        wanted = wanted or curve[-1]["length"]
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The bars of the run on right answers, and the measures of the base and of each arm's end."""
    def values(name, key):
        return [result[name][key] for result in results]
    truth = [result["truth"] for result in results]
    bars = page.bars([
        ("length, end / base", np.divide(values("truth", "length"), values("base", "length")), 1,
         "at least", 5),
        ("share of the steps with growth, %", [growth_share(run["lengths"]) for run in truth], 100,
         "at least", 60),
        ("length at the end, tokens", values("truth", "length"), 1, "at least", 300),
        ("accuracy of the base, %", values("base", "accuracy"), 100, "below", 15),
        ("accuracy at the end, %", values("truth", "accuracy"), 100, "above", 85),
        ("cut off at the limit, the most of all points, %",
         [max(point["truncated"] for point in run["curve"]) for run in truth], 100, "below", 5)])
    rows = [[title, *(page.cell(results, name, key, scale) for name in ("base", *ARMS))]
            for key, (title, scale) in MEASURES.items()]
    return [("The bars, of the run on right answers", page.BARS, bars),
            ("What the responses do, on held-out problems", ["measure", "base", *ARMS],
             rows)]


def responses(result: dict) -> str:
    """The responses of `truth` to the same problem: of the base, and at each point of the curve."""
    lines = [f"## The hardest problem at {POINTS} steps: `{result['question']}`, first seed", ""]
    for point in result["truth"]["curve"]:
        text = point["text"]
        cut = f"\n... ({len(text) - SHOWN} more characters)" if len(text) > SHOWN else ""
        lines += [f"Step {point['step']}:", "", "```", text[:SHOWN] + cut, "```", ""]
    return "\n".join(lines)


def draw(results: list[dict], figure) -> None:
    """Length of the sampled responses of each step, and the curves of some measures: a thin line
    for each seed, a thick one for their mean."""
    titles = {"length": "length in training, tokens", "accuracy": "accuracy, held out",
              "backtracks": "tries that are dropped", "checked": "share of results checked"}
    axes = figure.subplots(1, len(titles))
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name, colour in COLOURS.items():
            curves = [[(point["step"], point.get(key, np.nan)) for point in r[name]["curve"]]
                      for r in results]
            if key == "length":
                curves = [list(enumerate(r[name]["lengths"], 1)) for r in results]
            xs, ys = np.array(curves).T
            axis.plot(xs[:, 0], ys, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(xs[:, 0], ys.mean(1), color=colour, label=name)
        axis.set(title=title, xlabel="step", ylim=(0, None))
    axes[1].legend()


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.r1_zero", description=__doc__.split("\n\n")[0])
    page.add_flags(parser, "r1_zero")
    add = parser.add_argument
    add("--steps", type=arguments.integer(1), default=64, help="steps of a run (default: 64)")
    add("--held-out", type=arguments.integer(1), default=60, help="problems (default: 60)")
    add("--samples", type=arguments.integer(1), default=16, help="responses to each held-out "
        "problem, of the base and at the end; in between a quarter (default: 16)")

    def work(args):
        results = page.run_seeds(lambda seed, folder: run_seed(seed, folder, args), args)
        about = f"{__doc__.partition('three seeds')[2].strip()}\n\n{responses(results[0])}"
        page.write("r1_zero", "R1-Zero's figure: thinking grows, and accuracy with it",
                   tables(results), lambda figure: draw(results, figure), args.docs, about)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
