"""The samples of a search as a tree of their steps: in the terminal (search.py --show) and as a
page (search.py --show-html). Left out on purpose: the order in which the steps were sampled.
"""

import itertools
import re

from infra import html_page
from infra.terminal import visible

SCRIPTS = ("core.js", "tree.js")
STEP = re.compile(r"(?<=\n)(?!\n)|(?<=</think>)")  # between two steps


def tree_of(result) -> list[dict]:
    """The first steps of all samples, each a node {"text", "score", "count", "chosen", "pruned",
    "below"}. Samples that begin with the same steps share nodes; `count` is their number. A node is
    pruned if the search went on with none of its samples."""
    root = {}
    kept = itertools.zip_longest(result.samples, result.scores, fillvalue=())
    for text, scores, pruned in [(*sample, False) for sample in kept] + [
            (text, scores, True) for text, scores in result.pruned.items()]:
        level = root
        for step, score in itertools.zip_longest(steps_of(text), scores):
            if step is None:  # more scores than steps
                break
            node = level.setdefault(step, {"text": step.strip(), "score": score, "count": 0,
                                           "chosen": False, "pruned": True, "below": {}})
            node["count"] += not pruned
            node["pruned"] = node["pruned"] and pruned
            level = node["below"]
    level = root
    for step in steps_of(result.text):
        if step not in level:
            break
        level[step]["chosen"] = True
        level = level[step]["below"]
    return listed(root)


def steps_of(text: str) -> list[str]:
    """The steps of a response: lines, and the answer."""
    return [step for step in STEP.split(text) if step]


def listed(level: dict) -> list[dict]:
    """The nodes of a level as a list, at all depths."""
    return [node | {"below": listed(node["below"])} for node in level.values()]


def render_tree(result) -> str:
    """The tree for a terminal, indented. The colour shows the step's score; the number of samples
    and what was pruned stand at the end of the line."""
    def lines(nodes, depth):
        for node in nodes:
            score = node["score"]
            colour = 0 if score is None else 31 if score < 1 / 3 else 33 if score < 2 / 3 else 32
            mark = "" if score is None else f"  {score:.2f}"
            count = f"  x{node['count']}" if node["count"] > 1 else ""
            pruned = "  pruned" if node["pruned"] else ""
            yield (f"{'  ' * depth}\x1b[{colour}m{visible(node['text'])}\x1b[0m{mark}{count}"
                   f"{pruned}")
            yield from lines(node["below"], depth + 1)
    return "\n".join(lines(tree_of(result), 0))


def write_tree_page(path, result, problem, method: str, n: int, correct: bool) -> None:
    """Writes the tree of a problem as one HTML file. correct: whether the chosen response is."""
    html_page.write_page(path, {
        "title": f"{method}: {problem.question}", "question": problem.question,
        "answer": str(problem.answer), "method": method, "n": n, "tokens": result.tokens,
        "correct": bool(correct), "chosen": result.text, "tree": tree_of(result)}, SCRIPTS)
