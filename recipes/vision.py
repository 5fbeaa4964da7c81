"""Images: a tiny vision encoder before the GPT, and RL on questions about drawings.

    [25 patches] how many squares   ->   <think>square circle square</think><answer>2</answer>

The base (tasks/diagrams.py) can write what it sees, but in two of three responses it guesses. GRPO
pays for the answer alone. Five kinds of questions: count shapes, compare bars, read digits, follow
arrows, add two digits. The held-out problems have drawings that no training problem has.

Does the policy look at all? Each policy also answers when the images are exchanged between the
problems of a kind (shuffled), and when they are white (blank). `RL, blank` is trained on white
images: it can learn the best guess of each kind, and nothing else.

engine/vision.py has the encoder and its papers. Left out on purpose: photographs, pretrained
encoders.
"""
# ruff: noqa: E402

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: F401  (before torch)

from dataclasses import replace
from textwrap import fill

import numpy as np

import evaluate
from engine.watch import attention_to_patches
from recipes import page, runs
from tasks.diagrams import CELL, GRID, SIZE, Diagrams

FLAGS = "--task diagrams --level 2 --size tiny --prompts 16 --group-size 16 --lr 8e-4"
BLANK = ("." * SIZE,) * SIZE
HELD_OUT = 400     # problems
PAIRS = (("RL", "base"), ("RL", "RL, blank"), ("RL", "RL, shown shuffled images"),
         ("RL", "RL, shown blank images"))


class Blank(Diagrams):
    """The same questions with white images, for the control."""

    def sample_problem(self, rng, held_out):
        return replace(super().sample_problem(rng, held_out), image=BLANK)


def shuffled(problems) -> list:
    """The problems with the image of the next problem of the same kind."""
    kinds = {kind: [p for p in problems if p.category == kind] for kind in Diagrams.kinds[2]}
    following = {p: of_kind[(i + 1) % len(of_kind)] for of_kind in kinds.values()
                 for i, p in enumerate(of_kind)}
    return [replace(p, image=following[p].image) for p in problems]


def blank(problems) -> list:
    return [replace(p, image=BLANK) for p in problems]


SHOWN = {"": list, ", shown shuffled images": shuffled, ", shown blank images": blank}


# --- a seed

def measure(policy, tokenizer, task, options, problems) -> dict:
    """Accuracies on the problems: greedy, of each kind, and at temperature 1; and the share of
    responses that write what they see."""
    limit = options.max_new_tokens
    greedy = evaluate.greedy_accuracy(policy, tokenizer, task, problems, limit)
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, seed=1, max_new_tokens=limit)
    right = [bool(task.correct(p, t)) for p, t in zip(problems, texts, strict=True)]
    return {"greedy": greedy["value"], "sampled": sum(right) / len(right),
            "looks": sum("<think>easy" not in text for text in texts) / len(texts),
            **{kind: part["value"] for kind, part in greedy["by_kind"].items()}}


def examples(policy, tokenizer, problems, options) -> list[dict]:
    """Of the first problem of each kind: its image, the greedy response, and where the policy looks
    while it writes the answer's last token, as a share for each patch."""
    chosen = [next(p for p in problems if p.category == kind) for kind in
              sorted({p.category for p in problems})]
    rollout, texts = evaluate.sample_responses(policy, tokenizer, chosen, temperature=0,
                                               max_new_tokens=options.max_new_tokens)
    looks = attention_to_patches(policy, rollout.tokens)                      # (N, T, patches)
    ends = [int(mask.nonzero()[-1, 0]) for mask in rollout.mask]
    return [{"question": p.question, "answer": p.answer, "image": p.image, "text": text,
             "attention": looks[i, max(0, end - 2)].tolist()}
            for i, (p, text, end) in enumerate(zip(chosen, texts, ends, strict=True))]


def work(seed: int, folder: Path, args) -> dict:
    """The measures of each policy and of each way to show the images; "examples" of the policy."""
    flags = f"{FLAGS} --steps {args.steps} {args.flags}"
    base, task, tokenizer, options = runs.start(flags, seed, folder)
    problems, result = task.held_out(args.held_out), {}
    trained = {"RL": task, "RL, blank": Blank(task.level)}
    policies = {"base": base}
    for name, of_run in trained.items():
        policies[name], history = runs.reinforced(folder / f"{name}.pt", base, of_run, tokenizer,
                                                  options)
        result[f"{name} curve"] = [line["accuracy"] for line in history]
    for name in ("base", "RL"):
        for how, change in SHOWN.items():
            result[name + how] = measure(policies[name], tokenizer, task, options, change(problems))
    result["RL, blank"] = measure(policies["RL, blank"], tokenizer, task, options, blank(problems))
    return result | {"examples": examples(policies["RL"], tokenizer, problems, options)}


# --- the page

def tables(results: list[dict]) -> list[tuple]:
    """The tables of the page."""
    kinds = Diagrams.kinds[2]
    keys = ("greedy", *kinds, "sampled", "looks")
    names = [name for name in results[0] if "curve" not in name and name != "examples"]
    columns = ["policy", "greedy, %", *(f"{kind}, %" for kind in kinds), "temperature 1, %",
               "writes what it sees, %"]
    shown = [[x["question"], x["answer"], f"`{x['text']}`"] for x in results[0]["examples"]]
    return [("Held-out drawings", columns,
             [[name, *(page.cell(results, name, key) for key in keys)] for name in names]),
            ("Greedy accuracy, compared", page.DIFFERENCES,
             page.differences(results, PAIRS, "greedy")),
            ("Greedy responses of the first seed", ["question", "answer", "response"], shown)]


def draw(results: list[dict], figure) -> None:
    """The accuracy in training, and a drawing of each kind with where the policy looks."""
    axes, *others = figure.subplots(1, 1 + len(results[0]["examples"]),
                                    width_ratios=[2, *[1] * len(results[0]["examples"])])
    for name in ("RL", "RL, blank"):
        page.draw_steps(axes, name, [[100 * share for share in x[f"{name} curve"]]
                                     for x in results])
    axes.set(xlabel="step", ylabel="accuracy in training, %")
    axes.legend()
    for panel, x in zip(others, results[0]["examples"], strict=True):
        ink = np.array([[pixel == "#" for pixel in line] for line in x["image"]])
        look = np.kron(np.array(x["attention"]).reshape(GRID, GRID), np.ones((CELL, CELL)))
        panel.imshow(look, cmap="Oranges")
        panel.imshow(np.ma.masked_where(~ink, ink), cmap="gray", vmin=1, vmax=2)
        panel.set(xticks=[], yticks=[], title=x["question"])
        panel.title.set_size(7)
        thought, _, answer = x["text"].removeprefix("<think>").partition("</think>")
        panel.set_xlabel(f"{fill(thought, 24)}\n{answer}", size=6)


def main(argv=None) -> int:
    numbers = [("--steps", 30, "steps of each run"),
               ("--held-out", HELD_OUT, "held-out problems")]
    return page.main("vision", "Images", __doc__, work, tables, draw, argv, numbers, seeds="0,1,2")


if __name__ == "__main__":
    sys.exit(main())
