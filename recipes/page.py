"""The results of a recipe: a result per seed on disk, and a page in docs/recipes/ with its table.

A recipe is a function work(seed, folder) -> dict of numbers. `run_seeds` calls it for each seed and
keeps each result as seed-S/result.json, so a run that was stopped goes on with the next seed.
`write` makes the page of all seeds: docs/recipes/NAME.md, and the figure docs/img/NAME.png. A cell
is bench.stats.with_interval(values of the seeds): their mean with a bootstrap interval.
"""

import json
import subprocess
import sys
from pathlib import Path

from bench.stats import markdown_table
from infra import arguments, run_dir
from infra.terminal import echo

DOCS = Path(__file__).parents[1] / "docs"


def add_flags(parser, name: str) -> None:
    """Adds the flags that recipes share to a command line."""
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2],
                        help="seeds, with a comma between them (default: 0,1,2)")
    parser.add_argument("--work", type=Path, default=Path("runs", name),
                        help=f"folder of the runs and results (default: runs/{name})")


def seeds(text: str) -> list[int]:
    """The type of --seeds."""
    return [arguments.integer(0)(seed) for seed in text.split(",")]


def run_seeds(work, folder: Path, seeds) -> list[dict]:
    """The results of work(seed, folder of the seed) for each seed; a finished one is read."""
    results = []
    for seed in seeds:
        path = folder / f"seed-{seed}" / "result.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            run_dir.write_json(path, work(seed, path.parent))
        results.append(json.loads(path.read_text()))
    return results


def write(name: str, title: str, tables: list[tuple], draw=None, docs: Path = DOCS) -> None:
    """Writes docs/recipes/NAME.md. tables: (heading, columns, rows) of each. draw(figure) fills a
    matplotlib figure, which becomes docs/img/NAME.png; without matplotlib there is none."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=DOCS.parent, text=True,
                            capture_output=True).stdout.strip()
    lines = [f"# {title}", "", f"Made by `python -m recipes.{name} "
             f"{' '.join(sys.argv[1:])}`".rstrip(" `") + f"` at commit {commit}.", ""]
    if draw and (image := save_figure(docs / "img" / f"{name}.png", draw)):
        lines += [f"![{title}](../img/{image.name})", ""]
    for heading, columns, rows in tables:
        lines += [f"## {heading}", "", *markdown_table(columns, rows)]
        echo("\n".join(["", heading, *markdown_table(columns, rows)]))
    path = docs / "recipes" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    echo(f"\n{path}")


def save_figure(path: Path, draw) -> Path | None:
    """Saves the figure that draw(figure) fills. None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    draw(figure)
    figure.savefig(path)
    return path
