"""Language mixing: RL on the answer alone mixes languages, a language reward keeps them apart.

    python -m recipes.languages                 three seeds, about ten minutes on two cores

R1-Zero writes thoughts that change between languages. R1 adds a reward for the share of the thought
that is in the language of the question (2501.12948, section 2.3.2), "directly summed" with the
reward for the answer:

    alone:     r = correct + 0.1 * format
    language:  r = correct + 0.1 * format + words in the language of the question / all words

The base tells chains of sums and products in Latin and in Chinese (tasks/bilingual.py). Its Latin
products and its Chinese sums are often wrong. The two runs start from the same base and differ in
the reward only. R1 reports that the language reward costs some accuracy; the second table has its
cost here. Left out on purpose: the cold start before RL (recipes/r1.py has it).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import copy  # noqa: E402
import re  # noqa: E402

import evaluate  # noqa: E402
import train  # noqa: E402
from bench.stats import bootstrap, with_interval  # noqa: E402
from grading.languages import LATIN, count_words, working  # noqa: E402
from infra import arguments, cli  # noqa: E402
from infra.base_model import base_model  # noqa: E402
from infra.metrics import means  # noqa: E402
from infra.models import make_models  # noqa: E402
from infra.terminal import echo  # noqa: E402
from recipes import page  # noqa: E402

FLAGS = "--task bilingual --algo grpo --prompts 16 --group-size 8 --lr 8e-4 --device cpu"
REWARDS = {"alone": "correct", "language": "language"}  # run -> its --reward
EVAL_EVERY = 5  # steps between two points of a curve
CURVES = {"mixed": "share of mixed thoughts", "consistency": "language consistency",
          "accuracy": "accuracy, greedy"}
STEP = re.compile(r"([+加*乘])[0-9零一二三四五六七八九][=得]([0-9零一二三四五六七八九])")
SHOWN = 3  # thoughts in the last table


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
    """The measures of the base and of both runs, and the curve of each run."""
    # 1. the base
    flags = [*FLAGS.split(), *args.flags.split(), "--seed", str(seed), "--steps", str(args.steps),
             "--eval-every", str(EVAL_EVERY)]
    options, _ = cli.parse(flags)
    task, tokenizer = cli.validate(options)
    base = base_model(options, task, tokenizer, folder)
    problems, limit = task.held_out(args.held_out), options.max_new_tokens
    result = {"base": measure(base, tokenizer, task, problems, limit)}
    # 2. two runs from it
    for name, reward in REWARDS.items():
        options, _ = cli.parse([*flags, "--reward", reward])
        cli.validate(options)
        models, optimizer = make_models(copy.deepcopy(base), tokenizer, options)
        history = train.reinforce(task, models, optimizer, options)
        # its curve: greedy accuracy, and the task's measures at temperature 1
        curve = [{"step": 0} | {key: result["base"][key] for key in CURVES}]
        curve += [{"step": line["step"]} | {key: line[f"eval_{key}"] for key in CURVES}
                  for line in history if "eval_accuracy" in line]
        result[name] = measure(models.policy, tokenizer, task, problems, limit) | {"curve": curve}
    # 3. some thoughts
    for i, problem in enumerate(problems[:SHOWN]):
        echo(f"\nseed {seed}: {problem.question}   (answer {problem.answer})")
        for name in ("base", *REWARDS):
            echo(f"{name:>10}: {result[name]['thoughts'][i]!r}")
    return result | {"questions": [problem.question for problem in problems[:SHOWN]]}


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page: the policies, what the language reward does, and some thoughts."""
    columns = {"mixed thoughts": "mixed", "consistency": "consistency",
               "steps in the surer language": "surer", "accuracy, temperature 1": "sampled",
               "accuracy, greedy": "accuracy"}
    names = {"base": "base", "alone": "RL, answer alone", "language": "RL, with language reward"}
    policies = [[title, *(with_interval([r[name][key] for r in results])
                          for key in columns.values()),
                 *(with_interval([r[name]["by language"][language] for r in results])
                   for language in results[0]["base"]["by language"])]
                for name, title in names.items()]

    # the difference of two policies, seed by seed
    def difference(key, policy, other):
        return with_interval([r[policy][key] - r[other][key] for r in results])
    ratio = [r["language"]["mixed"] / max(r["alone"]["mixed"], 1e-9) for r in results]
    met = "met" if bootstrap(ratio)[2] <= 0.1 else "not met"
    speed = [sum(a["accuracy"] - b["accuracy"] for a, b in zip(
        r["language"]["curve"], r["alone"]["curve"], strict=True)) / len(r["alone"]["curve"])
        for r in results]
    effects = [
        ["mixed thoughts: language reward / answer alone", with_interval(ratio),
         f"at most 10: {met}"],
        ["mixed thoughts: answer alone - base", difference("mixed", "alone", "base"),
         "above 0, as R1-Zero"],
        ["steps in the surer language: answer alone - base", difference("surer", "alone", "base"),
         "above 0: mixing pays"],
        ["accuracy, temperature 1: language reward - answer alone",
         difference("sampled", "language", "alone"), "the cost at the end"],
        ["accuracy, greedy, mean over the curve: language reward - answer alone",
         with_interval(speed), "the cost during training"]]
    # thoughts of the first seed
    first = results[0]
    thoughts = [[question, *(f"`{first[name]['thoughts'][i]!r}`" for name in names)]
                for i, question in enumerate(first["questions"])]
    return [(f"Policies, in percent, mean and interval of {len(results)} seeds",
             ["policy", *columns, *(f"accuracy, {language}, temperature 1" for language in
                                    results[0]["base"]["by language"])], policies),
            ("The language reward, in percent", ["what", "mean and interval", "bar"], effects),
            ("Responses of the first seed, temperature 1", ["question", *names.values()],
             thoughts)]


def draw(results: list[dict], figure) -> None:
    """The curves of both runs: a thin line for each seed, a thick one for their mean."""
    colours = {"alone": "#D55E00", "language": "#0072B2"}
    labels = {"alone": "answer alone", "language": "with the language reward"}
    for axis, (key, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
        for name, colour in colours.items():
            curves = [[point[key] for point in r[name]["curve"]] for r in results]
            steps = [point["step"] for point in results[0][name]["curve"]]
            for curve in curves:
                axis.plot(steps, curve, color=colour, alpha=0.3, linewidth=0.8)
            axis.plot(steps, [sum(x) / len(x) for x in zip(*curves, strict=True)], color=colour,
                      label=labels[name])
        axis.set(title=title, xlabel="step", ylim=(-0.02, 1.02))
    figure.axes[0].legend()


def work(args) -> None:
    results = page.run_seeds(lambda seed, folder: run_seed(seed, folder, args), args.work,
                             args.seeds)
    page.write("languages", "Language mixing and the language reward", tables(results),
               lambda figure: draw(results, figure), args.docs)


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.languages", description=__doc__.split("\n\n")[0])
    page.add_flags(parser, "languages")
    add = parser.add_argument
    add("--steps", type=arguments.integer(1), default=60, help="steps of each run (default: 60)")
    add("--held-out", type=arguments.integer(1), default=1000,
        help="held-out problems of each measurement (default: 1000)")
    add("--flags", default="", help="further flags of train.py, for base and runs")
    add("--docs", type=Path, default=page.DOCS, help="folder of the page (default: docs)")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
