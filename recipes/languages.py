"""Language mixing: RL on the answer alone mixes languages, a language reward keeps them apart.

    python -m recipes.languages                 three seeds, about 15 minutes of one core

R1-Zero writes thoughts that change between languages. R1 adds a reward for the share of the thought
that is in the language of the question (2501.12948, section 2.3.2), "directly summed" with the
reward for the answer:

    alone:     r = correct + 0.1 * format
    language:  r = correct + 0.1 * format + words in the language of the question / all words

The base tells chains of sums and products in Latin and in Chinese (tasks/bilingual.py). Its Latin
products and its Chinese sums are often wrong, so mixing pays. The two runs start from the same base
and differ in the reward only. R1 reports that the language reward costs some accuracy; the second
table has its cost here. The control is RL on the answer alone where mixing does not pay: products
are wrong in both languages. There the share of mixed thoughts rises in some seeds too, so a payoff
is not the only cause. Left out on purpose: the cold start before RL (recipes/r1.py has it).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import re  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from bench.stats import bootstrap, with_interval  # noqa: E402
from grading.languages import CHINESE, LATIN, count_words, working  # noqa: E402
from infra import arguments, cli  # noqa: E402
from infra.base_model import base_model  # noqa: E402
from infra.metrics import means  # noqa: E402
from infra.models import make_models  # noqa: E402
from infra.terminal import echo  # noqa: E402
from recipes import page  # noqa: E402
from tasks.bilingual import Bilingual  # noqa: E402

FLAGS = "--task bilingual --algo grpo --prompts 16 --group-size 8 --lr 8e-4 --device cpu"
EVAL_EVERY = 5  # steps between two points of a curve
CURVES = {"mixed": "share of mixed thoughts", "consistency": "language consistency",
          "accuracy": "accuracy, greedy"}
STEP = re.compile(r"([+加*乘])[0-9零一二三四五六七八九][=得]([0-9零一二三四五六七八九])")
SHOWN = 3  # thoughts in the last table


class EquallySure(Bilingual):
    """The control: both languages state the same facts wrongly, so mixing does not pay."""

    unsure = {LATIN: "*", CHINESE: "*"}


RUNS = {  # name -> (title, task, --reward)
    "alone": ("RL, answer alone", Bilingual, "correct"),
    "language": ("RL, with language reward", Bilingual, "language"),
    "control": ("control: RL, answer alone", EquallySure, "correct"),
}
COLOURS = dict(zip(RUNS, ("#D55E00", "#0072B2", "#999999"), strict=True))


# --- what a policy does on held-out problems

def surer_share(texts) -> float:
    """The share of steps that are told in the language which is surer for them: sums in Latin and
    products in Chinese. The language of a step is that of its result."""
    steps = [step for text in texts for step in STEP.findall(working(text))]
    surer = [(op in "+加") == (count_words(result)[LATIN] == 1) for op, result in steps]
    return sum(surer) / max(1, len(surer))


def measure(policy, tokenizer, task, problems, max_new_tokens: int) -> dict:
    """The measures of a policy: of one response to each problem at temperature 1, and the greedy
    accuracy. "thoughts" has the first responses."""
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1,
                                         max_new_tokens=max_new_tokens)
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, max_new_tokens)
    right = [task.correct(p, t) for p, t in zip(problems, texts, strict=True)]
    by_language = {language: [c for c, p in zip(right, problems, strict=True)
                              if p.category == language]
                   for language in sorted({p.category for p in problems})}
    return means(task.measures, problems, texts) | {
        "sampled": sum(right) / len(right), "accuracy": greedy["value"],
        "by language": {language: sum(x) / len(x) for language, x in by_language.items()},
        "surer": surer_share(texts), "thoughts": texts[:SHOWN]}


def run_seed(seed: int, folder: Path, args) -> dict:
    """Of each run: the measures of its base ("base") and of its policy, and its curve."""
    flags = [*FLAGS.split(), *args.flags.split(), "--seed", str(seed), "--steps", str(args.steps),
             "--eval-every", str(EVAL_EVERY)]
    result = {}
    for name, (_, kind, reward) in RUNS.items():
        # 1. the base; the first run of a task trains it
        options, _ = cli.parse([*flags, "--reward", reward])
        _, tokenizer = cli.validate(options)
        task, limit = kind(options.level), options.max_new_tokens
        base, problems = base_model(options, task, tokenizer, folder), task.held_out(args.held_out)
        before = measure(base, tokenizer, task, problems, limit)
        # 2. the run
        models, optimizer = make_models(base, tokenizer, options)
        history = train.reinforce(task, models, optimizer, options)
        # 3. its curve: greedy accuracy, and the task's measures at temperature 1
        curve = [{"step": 0} | {key: before[key] for key in CURVES}]
        curve += [{"step": line["step"]} | {key: line[f"eval_{key}"] for key in CURVES}
                  for line in history if "eval_accuracy" in line]
        after = measure(models.policy, tokenizer, task, problems, limit)
        result[name] = after | {"base": before, "curve": curve}
    # 4. some thoughts
    result["questions"] = [problem.question for problem in problems[:SHOWN]]
    for i, question in enumerate(result["questions"]):
        echo(f"\nseed {seed}: {question}")
        echo(f"      base: {result['alone']['base']['thoughts'][i]!r}")
        for name in RUNS:
            echo(f"{name:>10}: {result[name]['thoughts'][i]!r}")
    return result


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page: the policies, what the language reward does, and some thoughts."""
    columns = {"mixed thoughts": "mixed", "consistency": "consistency",
               "Latin sums and Chinese products": "surer", "accuracy, temperature 1": "sampled",
               "accuracy, greedy": "accuracy"}
    languages = list(results[0]["alone"]["by language"])

    def row(title, of):
        return [title, *(with_interval([of(r)[key] for r in results]) for key in columns.values()),
                *(with_interval([of(r)["by language"][name] for r in results])
                  for name in languages)]
    policies = [row("base", lambda r: r["alone"]["base"]),
                *(row(RUNS[name][0], lambda r, name=name: r[name]) for name in RUNS)]
    policies.insert(3, row("control: base", lambda r: r["control"]["base"]))

    # differences of two policies, seed by seed
    def gain(name, key):
        return with_interval([r[name][key] - r[name]["base"][key] for r in results])

    def cost(value):
        return with_interval([value(r["language"]) - value(r["alone"]) for r in results])

    def over_curve(run):
        return sum(point["accuracy"] for point in run["curve"]) / len(run["curve"])
    ratio = [r["language"]["mixed"] / max(r["alone"]["mixed"], 1e-9) for r in results]
    met = "met" if bootstrap(ratio)[2] <= 0.1 else "not met"
    effects = [
        ["mixed thoughts, language reward / answer alone", with_interval(ratio),
         f"at most 10: {met}"],
        ["mixed thoughts, answer alone - base", gain("alone", "mixed"), "above 0, as R1-Zero"],
        ["the same in the control", gain("control", "mixed"), "mixing without a payoff"],
        ["Latin sums and Chinese products, answer alone - base", gain("alone", "surer"),
         "above 0: mixing pays"],
        ["the same in the control", gain("control", "surer"), "near 0"],
        ["accuracy, temperature 1, language reward - answer alone",
         cost(lambda run: run["sampled"]), "the cost at the end"],
        ["accuracy, greedy, mean over the curve, language reward - answer alone",
         cost(over_curve), "the cost during training"]]
    # thoughts of the first seed
    first = results[0]
    shown = {"base": first["alone"]["base"]} | {title: first[name]
                                                for name, (title, *_) in RUNS.items()}
    thoughts = [[question, *(f"`{policy['thoughts'][i]!r}`" for policy in shown.values())]
                for i, question in enumerate(first["questions"])]
    return [(f"Policies, in percent, mean and interval of {len(results)} seeds",
             ["policy", *columns, *(f"{name} questions, temperature 1" for name in languages)],
             policies),
            ("What the rewards do, in percent", ["what", "mean and interval", "bar"], effects),
            ("Responses of the first seed, temperature 1", ["question", *shown], thoughts)]


def draw(results: list[dict], figure) -> None:
    """The curves of the runs: a thin line for each seed, a thick one for their mean."""
    for axis, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for name, (label, *_) in RUNS.items():
            curves = [[point[key] for point in r[name]["curve"]] for r in results]
            steps = [point["step"] for point in results[0][name]["curve"]]
            for curve in curves:
                axis.plot(steps, curve, color=COLOURS[name], alpha=0.3, linewidth=0.8)
            axis.plot(steps, [sum(x) / len(x) for x in zip(*curves, strict=True)],
                      color=COLOURS[name], label=label)
        axis.set(title=title, xlabel="step", ylim=(-0.02, 1.02))
    figure.axes[-1].legend()


def work(args) -> None:
    results = page.run_seeds(lambda seed, folder: run_seed(seed, folder, args), args)
    page.write("languages", "Language mixing and the language reward", tables(results),
               lambda figure: draw(results, figure), args.docs)


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.languages", description=__doc__.split("\n\n")[0])
    page.add_flags(parser, "languages")
    add = parser.add_argument
    add("--steps", type=arguments.integer(1), default=60, help="steps of each run (default: 60)")
    add("--held-out", type=arguments.integer(1), default=1000,
        help="held-out problems of each measurement (default: 1000)")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
