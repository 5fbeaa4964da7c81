"""What the sandbox holds and what it costs: layers, one check's time, HumanEval, mutants, leaks.

    python bench/sandbox.py [--data DIR] [--checks 1000]

HumanEval's own solutions should pass; with one mutation of their syntax tree each, they should
fail. Every mutant counts, and those that pass are printed, to be looked at: some change nothing.
"""

import argparse
import ast
import copy
import gzip
import json
import os
import random
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from grading import sandbox  # noqa: E402

SWAPS = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
         ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
         ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
         ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or,
         ast.Or: ast.And}


class Mutation(ast.NodeTransformer):
    """Changes the `place`-th of the nodes that can be changed; `seen` counts them."""

    def __init__(self, place: int):
        self.place, self.seen = place, 0

    def visit(self, node):
        node = self.generic_visit(node)
        change = changed(node)
        if change is None:
            return node
        self.seen += 1
        return change if self.seen == self.place + 1 else node


def changed(node):
    """A copy of the node with one change, or None where there is none to make: an operator
    swapped, a constant altered, a condition turned round, a `not` or a call dropped."""
    new = copy.copy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new.ops = [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        new.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        new.value = not node.value
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        new.value = node.value + 1
    elif isinstance(node, ast.Constant) and type(node.value) is str:
        new.value = node.value + "x"
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.comprehension) and node.ifs:
        new.ifs = [ast.UnaryOp(ast.Not(), node.ifs[0]), *node.ifs[1:]]
    elif isinstance(node, ast.Call) and len(node.args) == 1:
        return node.args[0]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        return node.func.value
    else:
        return None
    return new


def mutants(problem: dict):
    """Completions of a HumanEval problem: its solution with one change each, in order. They define
    the function anew, after the prompt's."""
    entry = problem["entry_point"]
    tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
    [function] = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry]
    function.body = function.body[1:] or function.body  # less the docstring
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    count = Mutation(-1)
    count.visit(copy.deepcopy(function))
    for place in range(count.seen):
        other = ast.fix_missing_locations(Mutation(place).visit(copy.deepcopy(function)))
        yield "    pass\n" + ast.unparse(other) + "\n"


def census() -> tuple[int, int, int]:
    """Child processes of this one, dead or alive, its open files, its threads."""
    own, children = str(os.getpid()), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children += fields[1] == own
    return children, len(os.listdir("/proc/self/fd")), threading.active_count()


def strays() -> int:
    """Sandboxed processes anywhere on the machine."""
    found = 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += b"layer_landlock" in file.read_bytes()
        except OSError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("DATA_DIR", Path(__file__).parents[1] /
                                                         "../shared/data"), type=Path)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--mutants", type=int, default=1, help="of each problem")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print("layers", sandbox.layers())

    one = partial(sandbox.passes, "def f(x):\n    return x + 1", "f", [((1,), 2)])
    times = []
    for _ in range(50):
        start = time.perf_counter()
        assert one()
        times.append(1e3 * (time.perf_counter() - start))
    print(f"one check: median {statistics.median(times):.1f} ms, worst of 50 {max(times):.1f} ms")

    data = options.data / "HumanEval.jsonl.gz"
    if data.exists():
        humaneval([json.loads(line) for line in gzip.open(data)], options)
    else:
        print(f"no {data}: --data names the folder of HumanEval.jsonl.gz")

    if sys.platform == "linux":
        leaks(one, options.checks)


def humaneval(problems, options) -> None:
    start = time.perf_counter()
    verdicts = sandbox.check_many([partial(sandbox.check_humaneval, p, p["canonical_solution"],
                                           seconds=30.0) for p in problems], options.workers)
    print(f"HumanEval's solutions: {sum(verdicts)} of {len(problems)} pass, "
          f"{time.perf_counter() - start:.1f} s")
    rng, chosen = random.Random(0), []
    for p in problems:
        all_of_it = list(mutants(p))
        chosen += [(p, m) for m in rng.sample(all_of_it, min(options.mutants, len(all_of_it)))]
    verdicts = sandbox.check_many([partial(sandbox.check_humaneval, *pair, seconds=3.0)
                                   for pair in chosen], options.workers)
    print(f"mutants: {len(chosen) - sum(verdicts)} of {len(chosen)} fail "
          f"({1 - sum(verdicts) / len(chosen):.1%}); those that pass:")
    for (p, mutant), passed in zip(chosen, verdicts, strict=True):
        if passed:
            print(f"  {p['task_id']}\n{mutant}")


def leaks(one, checks: int) -> None:
    one()
    before = *census(), len(os.listdir(sandbox.tempfile.gettempdir())), strays()
    jobs = [one, partial(sandbox.passes, "def f(x): exit()", "f", [((1,), 2)]),
            partial(sandbox.passes, "import os\ndef f(x): os.fork()", "f", [((1,), 2)]),
            partial(sandbox.passes, "def f(x): return 'x' * 10**7", "f", [((1,), 2)])]
    start = time.perf_counter()
    sandbox.check_many([jobs[i % 4] for i in range(checks)], 4)
    seconds = time.perf_counter() - start
    after = *census(), len(os.listdir(sandbox.tempfile.gettempdir())), strays()
    print(f"{checks} checks from 4 threads: {seconds:.1f} s, {1e3 * seconds / checks:.1f} ms each")
    for name, x, y in zip(("children", "open files", "threads", "temporary files", "strays"),
                          before, after, strict=True):
        print(f"  {name}: {x} before, {y} after")


if __name__ == "__main__":
    main()
