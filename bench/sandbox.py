"""Measures the sandbox: active layers, the time of one check, HumanEval, mutants, leaks.

    python bench/sandbox.py [--data DIR] [--checks 1000]

HumanEval's own solutions should pass. With one mutation of their syntax tree each, they should
fail. Every mutant counts; those that pass are printed, because some mutations change nothing.
"""

import argparse
import ast
import copy
import functools
import gzip
import json
import os
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from grading import sandbox  # noqa: E402
from infra.terminal import echo  # noqa: E402

# --- test code with asserts, as in HumanEval and MBPP

@functools.lru_cache
def layers() -> dict[str, bool]:
    """Which layers are active on this system, tried once in a child without a program."""
    with sandbox.session("", "") as child:
        return {layer: layer in child.layers for layer in sandbox.LAYERS}


def run_asserts(program: str, entry: str, test: str, setup: str = "", *, seconds: float = 5.0,
                memory_mb: int = 256, strict: bool = False) -> bool:
    """Whether test code passes that calls `entry` and asserts, as HumanEval's and MBPP's does.

    Test code may take long and use much memory, so it runs in a sandbox of its own (ASSERTS), with
    the same limits as the program. `entry` is there a function that asks the program's sandbox
    through this process, and gets plain built-in values, so that no `==` in an assert is the
    program's. The check fails on a failed assert or any other exception, on a failed call, and
    where the program was never called. The random numbers of the tests are always the same."""
    limits = dict(seconds=seconds, memory_mb=memory_mb, strict=strict)
    with (sandbox.session(program, entry, **limits) as child,
          sandbox.session(ASSERTS, "run", **limits) as tests):
        answers = []
        while True:
            outcome = tests.call(setup, test, entry, answers)
            if not isinstance(outcome.value, tuple):
                return outcome.value is True
            answer = child.call(*outcome.value)
            if answer.kind != "value":
                return False
            answers.append(answer.value)


ASSERTS = """
import random


class Ask(BaseException):
    pass


def run(setup, test, entry, answers):
    '''Runs the tests with the answers to their first calls. Returns the arguments of the next call,
    or whether the tests have passed. Running them again leads to the same calls.'''
    calls = []

    def candidate(*args):
        calls.append(args)
        if len(calls) > len(answers):
            raise Ask
        return answers[len(calls) - 1]

    random.seed(0)
    space = {"__name__": "tests"}
    try:
        exec(compile(setup, "setup", "exec", optimize=0), space)
        space[entry] = candidate
        exec(compile(test, "test", "exec", optimize=0), space)  # python -O would drop asserts
        passed = len(calls) > 0
    except BaseException:
        passed = False
    return calls[len(answers)] if len(calls) > len(answers) else passed
"""


def check_humaneval(problem: dict, completion: str, **limits) -> bool:
    """Whether a completion of a HumanEval problem (a row of its file) passes; see `run_asserts`."""
    entry = problem["entry_point"]
    return run_asserts(problem["prompt"] + completion, entry,
                       f"{problem['test']}\ncheck({entry})\n", problem["prompt"], **limits)


def check_many(jobs: list, workers: int = os.cpu_count() or 1) -> list:
    """The results, in order, of functions without arguments, such as
    `functools.partial(passes, ...)`, with so many running at once. Threads are enough, because the
    children do the work."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


# --- mutants

SWAPS = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
         ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
         ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
         ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or,
         ast.Or: ast.And}


class Mutation(ast.NodeTransformer):
    """Changes one node: the one with this index among the nodes that can be changed. `seen` counts
    these nodes."""

    def __init__(self, index: int):
        self.index, self.seen = index, 0

    def visit(self, node):
        node = self.generic_visit(node)
        change = changed(node)
        if change is None:
            return node
        self.seen += 1
        return change if self.seen == self.index + 1 else node


def changed(node):
    """A copy of the node with one change: an operator swapped, a constant altered, a condition
    negated, a `not` or a call dropped. None for a node that cannot be changed."""
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
    """Completions of a HumanEval problem: its solution with one change each, in order. Each defines
    the function again, after the definition in the prompt."""
    entry = problem["entry_point"]
    tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
    [function] = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == entry]
    function.body = function.body[1:] or function.body  # without the docstring
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    count = Mutation(-1)
    count.visit(copy.deepcopy(function))
    for index in range(count.seen):
        other = ast.fix_missing_locations(Mutation(index).visit(copy.deepcopy(function)))
        yield "    pass\n" + ast.unparse(other) + "\n"


# --- measurements

def count_resources() -> tuple[int, int, int]:
    """The child processes of this process, zombies included, its open files, its threads."""
    own, children = str(os.getpid()), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children += fields[1] == own
    return children, len(os.listdir("/proc/self/fd")), threading.active_count()


def count_sandboxed() -> int:
    """Sandboxed processes on the whole machine."""
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
    parser.add_argument("--mutants", type=int, default=1, help="mutants per problem")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print("layers", layers())

    # the time of one check
    one = partial(sandbox.passes, "def f(x):\n    return x + 1", "f", [((1,), 2)])
    times = []
    for _ in range(50):
        start = time.perf_counter()
        assert one()
        times.append(1e3 * (time.perf_counter() - start))
    print(f"one check: median {statistics.median(times):.1f} ms, worst of 50 {max(times):.1f} ms")

    # HumanEval and its mutants
    data = options.data / "HumanEval.jsonl.gz"
    if data.exists():
        humaneval([json.loads(line) for line in gzip.open(data)], options)
    else:
        print(f"there is no {data}; name the folder of HumanEval.jsonl.gz by --data")

    if sys.platform == "linux":
        leaks(one, options.checks)


def humaneval(problems, options) -> None:
    """Prints how many solutions pass and how many mutants fail."""
    start = time.perf_counter()
    verdicts = check_many([partial(check_humaneval, p, p["canonical_solution"], seconds=30.0)
                           for p in problems], options.workers)
    print(f"HumanEval's solutions: {sum(verdicts)} of {len(problems)} pass, "
          f"{time.perf_counter() - start:.1f} s")
    rng, chosen = random.Random(0), []
    for p in problems:
        candidates = list(mutants(p))
        chosen += [(p, m) for m in rng.sample(candidates, min(options.mutants, len(candidates)))]
    verdicts = check_many([partial(check_humaneval, *pair, seconds=3.0) for pair in chosen],
                          options.workers)
    print(f"mutants: {len(chosen) - sum(verdicts)} of {len(chosen)} fail "
          f"({1 - sum(verdicts) / len(chosen):.1%}); those that pass:")
    for (p, mutant), passed in zip(chosen, verdicts, strict=True):
        if passed:
            echo(f"  {p['task_id']}\n{mutant}")


def leaks(one, checks: int) -> None:
    """Prints what is left on the machine after many checks, some of them of hostile programs."""
    one()
    before = *count_resources(), len(os.listdir(sandbox.tempfile.gettempdir())), count_sandboxed()
    jobs = [one, partial(sandbox.passes, "def f(x): exit()", "f", [((1,), 2)]),
            partial(sandbox.passes, "import os\ndef f(x): os.fork()", "f", [((1,), 2)]),
            partial(sandbox.passes, "def f(x): return 'x' * 10**7", "f", [((1,), 2)])]
    start = time.perf_counter()
    check_many([jobs[i % 4] for i in range(checks)], 4)
    seconds = time.perf_counter() - start
    after = *count_resources(), len(os.listdir(sandbox.tempfile.gettempdir())), count_sandboxed()
    print(f"{checks} checks from 4 threads: {seconds:.1f} s, {1e3 * seconds / checks:.1f} ms each")
    names = "children", "open files", "threads", "temporary files", "sandboxed processes"
    for name, x, y in zip(names, before, after, strict=True):
        print(f"  {name}: {x} before, {y} after")


if __name__ == "__main__":
    main()
