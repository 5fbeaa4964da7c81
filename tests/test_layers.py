"""The tree of the repository: layers that import downward only, and sizes that a reader can hold.

A new file in tasks/, grading/, engine/, recipes/ or bench/ and a new algorithm (a module named in
config.ALGORITHMS) have their layer already. Any other new module needs an entry in LAYERS.
"""

import ast
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import config

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "tasks", "grading", "engine", "infra", "recipes", "bench", "course")
ALGORITHMS = " ".join(sorted({module.__name__ for module, _ in config.ALGORITHMS.values()}))
LAYERS = [  # from the bottom up; a module imports lower layers and its own, without a cycle
    "grading.* engine.kernels engine.rng infra.tensors infra.bpe infra.distributed "
    "infra.openmp infra.terminal infra.load infra.files infra.__init__ infra.arguments "
    "infra.tree infra.html_page infra.read_run infra.charts infra.text_report",
    "diagnose", "verify", "infra.verdicts",
    "tasks.*",
    "engine.vision",
    "tokenizer",
    "engine.attention engine.packing engine.products engine.logprob engine.watch",
    "model",
    "sample engine.*",
    "infra.run_dir infra.hf_config infra.checkpoint infra.forward",
    "ppo", "entropy", "grpo", "dapo", ALGORITHMS,
    "evaluate sft gkd prm reward_model infra.judges infra.completer infra.rewards "
    "infra.entropy_fit",
    "config infra.cli infra.conflicts infra.exit_code infra.memory infra.models infra.base_model "
    "infra.metrics infra.partial infra.recorder infra.progress report",
    "train search",
    "recipes.* bench.* course.*",
]
FORBIDDEN = {  # module -> what it must not import, whatever its layer
    "verify": "torch*", **dict.fromkeys(ALGORITHMS.split(), "tokenizer* verify* tasks* infra*")}
MAX_ROOT_FILES, MAX_LINES, MAX_FUNCTION_LINES = 26, 350, 50
MAX_ALGORITHM_LINES = 120  # of an algorithm other than ppo.py, on which they build

TEXTS = {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
         for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))}
TREES = {name: ast.parse(text) for name, text in TEXTS.items() if text}  # no empty __init__.py


def imports(tree) -> set[str]:
    """The names that a syntax tree imports, except in a function `main`: a command line uses the
    whole tree, whatever the layer of its file."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not (isinstance(node, ast.FunctionDef) and node.name == "main"):
            names |= imports(node)
    return names


def module_of(name: str) -> str | None:
    """The module of the repository that an imported name is, or is from."""
    parent = name.rpartition(".")[0]
    candidates = (name, f"{name}.__init__", parent, f"{parent}.__init__")
    return next((module for module in candidates if module in TREES), None)


def layer(module: str) -> int:
    found = [i for i, patterns in enumerate(LAYERS)
             if any(fnmatch(module, pattern) for pattern in patterns.split())]
    assert found, f"{module} has no layer: name it in LAYERS"
    return found[0]


def test_imports_go_downward_without_a_cycle():
    graph = {name: {module_of(other) for other in imports(tree)} - {None, name}
             for name, tree in TREES.items()}
    layers = {name: layer(name) for name in graph}
    upward = [f"{name} imports {other}, which is in a higher layer"
              for name, others in graph.items() for other in others if layers[other] > layers[name]]
    assert not upward, "\n".join(upward)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a cycle of imports: {' <- '.join(error.args[1])}") from None


def test_algorithms_know_tensors_alone_and_verify_knows_none():
    found = [f"{name} must not import {other}" for name, patterns in FORBIDDEN.items()
             for other in sorted(imports(TREES[name])) for pattern in patterns.split()
             if fnmatch(other, pattern)]
    assert not found, "\n".join(found)


def test_sizes():
    root_files = [name for name in TEXTS if "." not in name]
    assert len(root_files) <= MAX_ROOT_FILES, f"{len(root_files)} .py files at the root"
    long = [f"{name} has {len(text.splitlines())} lines" for name, text in TEXTS.items()
            if len(text.splitlines()) > MAX_LINES]
    long += [f"{name} has more than {MAX_ALGORITHM_LINES} lines" for name in ALGORITHMS.split()
             if name != "ppo" and len(TEXTS[name].splitlines()) > MAX_ALGORITHM_LINES]
    for name, tree in TREES.items():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions}
        long += [f"{name}.{function} has {lines} lines" for function, lines in lengths.items()
                 if lines > MAX_FUNCTION_LINES]
    assert not long, "\n".join(long)
