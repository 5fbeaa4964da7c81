"""The samples of a search as a tree of their steps, for the terminal (search.py --show)."""

import itertools
import re

from infra.terminal import visible


def render_tree(result) -> str:
    """The samples of a problem as an indented tree of their steps, for a terminal. Shared steps are
    printed once, with the number of samples; the colour shows the step's score."""
    def add(node, parts, scores):
        if parts:
            branch = node.setdefault(parts[0], [0, scores[0] if scores else None, {}])
            branch[0] += 1
            add(branch[2], parts[1:], scores[1:])

    def lines(node, depth):
        for part, (count, score, below) in node.items():
            colour = 0 if score is None else 31 if score < 1 / 3 else 33 if score < 2 / 3 else 32
            mark = "" if score is None else f"  {score:.2f}"
            yield (f"{'  ' * depth}\x1b[{colour}m{visible(part.strip())}\x1b[0m{mark}"
                   + (f"  x{count}" if count > 1 else ""))
            yield from lines(below, depth + 1)
    root = {}
    for text, scores in itertools.zip_longest(result.samples, result.scores, fillvalue=()):
        add(root, [p for p in re.split(r"(?<=\n)(?!\n)|(?<=</think>)", text) if p], scores)
    return "\n".join(lines(root, 0))
