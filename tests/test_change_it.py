"""docs/change-it.md: each change applies, is small, keeps its tests green and acts in a short run.

Each change is made in a copy of the repository. All copies share the base model of the unchanged
tree: a change makes a new base only if it changes the model or the task.
"""

import importlib.util
import json
import os
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch

import model
import ppo
from config import Options
from engine import sampler
from infra import cli
from tasks import Arithmetic
from tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
PAGE = (ROOT / "docs" / "change-it.md").read_text()
SECTIONS = re.split(r"^## \d+\. (.+)\n", PAGE, flags=re.M)[1:]
CHANGES = dict(zip(SECTIONS[::2], SECTIONS[1::2], strict=True))  # title -> text
SMALL = ("--base-steps 2 --steps 2 --prompts 4 --group-size 4 --minibatches 2 --eval-problems 20 "
         "--eval-samples 4 --max-new-tokens 24 --kl-coef 0.1 --entropy-coef 0.05 --lr 0.01 "
         "--device cpu").split()
# The tests of a change and a run, in a tree. Its verifier decides by the text alone, so that a base
# which can do nothing has a gradient. SMALL overrules the flags that make the page's run longer.
SCRIPT = """
import os, sys
import pytest, torch
log = os.open(out + ".log", os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1), os.dup2(log, 2), os.chdir(tree)
sys.path[:0] = [tree, tree + "/tests"]
torch.set_num_threads(1)
if tests and pytest.main(["-qx", "-n", "0", "--assert=plain", *tests]):
    sys.exit("the tests failed")
import model, small, tasks, train
model.SIZES["tiny"] = small.TINY
tasks.Arithmetic.correct = staticmethod(lambda problem, text: sum(text.encode()) % 2 == 0)
sys.exit(train.main(flags))
"""


# --- reading the page

def diff(title: str) -> str:
    return re.search(r"^```diff\n(.*?)^```", CHANGES[title], re.M | re.S)[1]


def command(title: str, name: str) -> list[str]:
    """The words of a command of the page: of the line "Tests" or "Try"."""
    return shlex.split(re.search(rf"^- {name}: `(.+)`$", CHANGES[title], re.M)[1])


def changed_lines(title: str) -> dict[str, int]:
    """file -> the number of its lines that are added or removed."""
    files = re.split(r"^--- .+\n\+\+\+ b/(.+)\n", diff(title), flags=re.M)[1:]
    return {name: len(re.findall(r"^[-+]", text, re.M))
            for name, text in zip(files[::2], files[1::2], strict=True)}


# --- a changed copy, and what it does

def copy_tree(folder: Path) -> Path:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.split("\0")
    for name in filter(None, names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def apply(folder: Path, title: str) -> None:
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # of any repository
    done = subprocess.run(["git", "apply"], cwd=folder, input=diff(title), text=True, env=outside,
                          capture_output=True)
    assert not done.returncode, done.stderr


def run(tree: Path, out: Path, tests=(), flags=()) -> SimpleNamespace:
    """SCRIPT in a tree, in a process of its own. Returns the content of the run's files."""
    flags = [*flags, *SMALL, "--out", str(out)]
    exit_code = forked.run(SCRIPT, tree=str(tree), out=str(out), tests=tests, flags=flags)
    assert not exit_code, Path(f"{out}.log").read_text()
    metrics, samples = ([json.loads(line) for line in (out / name).read_text().splitlines()]
                        for name in ("metrics.jsonl", "samples.jsonl"))
    metrics = [{k: v for k, v in step.items() if not k.startswith("seconds")} for step in metrics]
    samples = [line | response for line in samples for response in line.get("responses", ())]
    return SimpleNamespace(metrics=metrics, samples=samples, bases=set(out.parent.glob("base-*")),
                           summary=json.loads((out / "summary.json").read_text()))


def load(path: Path, monkeypatch):
    """A changed file as a module. The modules that it imports are those of the unchanged tree."""
    spec = importlib.util.spec_from_file_location("changed", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed", module)
    spec.loader.exec_module(module)
    return module


# --- what each change does: the changed file, its run, and the run of the unchanged tree

def length_penalty(verify, run, unchanged):
    def pay(correct, n):
        return verify.REWARDS["short"](verify.Sample(None, "", correct, 1.0, tokens=[0] * n))
    assert 1 > pay(1.0, 10) > pay(1.0, 90) > pay(1.0, 200) == pay(1.0, 500) == 0.5
    assert pay(0.0, 1) == pay(0.0, 90) == pay(0.0, 500) == 0
    assert all(0.5 <= s["reward"] < 1 if s["parts"]["correct"] else s["reward"] == 0
               for s in run.samples)
    first, before = run.metrics[0], unchanged.metrics[0]
    assert first["correct"] == before["correct"] > first["reward"] > 0


def kl_estimator(changed, run, unchanged):
    logp = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)

    def value_and_gradient(kind):
        value = changed.kl(logp, torch.tensor([-1.5, -1.0, -3.0]), kind)
        return value.detach(), torch.autograd.grad(value.sum(), logp)[0]
    value, gradient = value_and_gradient("k3+")
    assert torch.allclose(value, value_and_gradient("k3")[0])
    assert torch.allclose(gradient, value_and_gradient("k2")[1])
    assert run.metrics[0]["reward"] == unchanged.metrics[0]["reward"]
    assert run.metrics[1]["grad_norm"] != unchanged.metrics[1]["grad_norm"]


def new_task(sort, run, unchanged):
    [problem] = sort.Sort(2).sample(random.Random(0), 1)
    digits = problem.question.removeprefix("sort ")
    assert len(digits) == 5 and problem.answer == "".join(sorted(digits)) != digits
    assert sort.Sort.correct(problem, f"<answer>{problem.answer}</answer>")
    assert not sort.Sort.correct(problem, f"<answer>{digits}</answer>")
    assert all(sample["question"].startswith("sort ") for sample in run.samples)


def rope_base(changed, run, unchanged):
    found = changed.inv_freq(changed.Config(9, **changed.SIZES["tiny"]))
    before = model.inv_freq(model.Config(9, **model.SIZES["tiny"]))
    assert found[0] == before[0] == 1
    assert torch.allclose(found[1:].log() / before[1:].log(), torch.tensor(2.0))  # 10000 = 100^2
    assert run.metrics[0]["entropy"] != unchanged.metrics[0]["entropy"]


def top_p(evaluate, run, unchanged):
    asked = []

    def generate(*args, **how):
        asked.append(how.get("top_p", 1.0))
        return sampler.generate(*args, **how)
    policy = model.GPT(model.Config(Tokenizer.toy().n_vocab, layers=1, width=32, heads=2))
    task = Arithmetic(1)
    evaluate.measure(policy, Tokenizer.toy(), task, task.held_out(2), 0, 4, 1, 2, generate)
    assert asked == [1.0, 0.95, 0.95]  # greedy, one sample, pass@k
    names = ("accuracy_sampled_before", "pass_at_k_before", "length_before")
    assert any(run.summary[name] != unchanged.summary[name] for name in names)
    assert run.summary["accuracy_before"] == unchanged.summary["accuracy_before"]
    assert run.metrics == unchanged.metrics


def median_baseline(grpo, run, unchanged):
    groups = [[0.0, 1.0, 1.1, 1.1], [0.0, 0.1, 1.1], [0.1, 0.1]]
    found = grpo.group_advantages(torch.tensor(sum(groups, [])), torch.tensor(
        [i for i, rewards in enumerate(groups) for _ in rewards]), True, "median")
    assert found.tolist() == pytest.approx([
        (r - statistics.median(rewards)) / (statistics.stdev(rewards) + 1e-6)
        for rewards in groups for r in rewards], abs=1e-5)
    assert run.metrics[0]["reward"] == unchanged.metrics[0]["reward"]
    assert run.metrics[0]["grad_norm"] != unchanged.metrics[0]["grad_norm"]


def entropy_schedule(entropy, run, unchanged):
    options = Options(entropy_coef=0.4, entropy_schedule="half")
    found = [entropy.coefficient({}, options, step / 8) for step in range(8)]
    assert found == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0])
    assert run.metrics[0] == unchanged.metrics[0]
    assert run.metrics[1]["loss"] != unchanged.metrics[1]["loss"]


def new_algorithm(opo, run, unchanged):
    mask, rewards = torch.tensor([[0, 1.0, 1], [0, 1, 0], [0, 1, 1]]), torch.tensor([1.0, 0, 1])
    batch = ppo.Batch(mask, mask, -mask, torch.tensor([0, 0, 1]), rewards)
    found = opo.prepare(batch, Options()).advantages  # the baseline is 2/3: lengths 2 and 1
    assert found[mask > 0].tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3, 0, 0], abs=1e-6)
    assert not found[mask == 0].any()
    assert run.metrics[0]["reward"] == unchanged.metrics[0]["reward"]
    assert run.metrics[1]["grad_norm"] != unchanged.metrics[1]["grad_norm"]


def new_metric(evaluate, run, unchanged):
    for step, before in zip(run.metrics, unchanged.metrics, strict=True):
        solved = step.pop("solved_groups")
        assert step == before and step["accuracy"] <= solved <= 1 and solved * 4 == int(solved * 4)
    assert solved > step["accuracy"]


def group_reward(verify, run, unchanged):
    texts = ["<answer>7</answer>", "<answer>8</answer>", "<answer>7</answer>", "7", "7", "7"]
    group = [(text, [1]) for text in texts]
    paid = [verify.reward(lambda *_: False, None, text, "majority", group=group).total
            for text in texts]
    assert paid == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert run.metrics[0]["correct"] == unchanged.metrics[0]["correct"]
    assert run.metrics[0]["reward"] != unchanged.metrics[0]["reward"]


CHECKS = {
    "A length penalty": length_penalty, "Another KL estimator": kl_estimator,
    "A new task with its verifier": new_task, "RoPE's base": rope_base,
    "Top-p at evaluation": top_p, "A group's median as baseline": median_baseline,
    "An entropy-bonus schedule": entropy_schedule, "A new algorithm": new_algorithm,
    "A new logged metric": new_metric, "A reward that sees the group": group_reward}
# flags with a registry
CHOICES = {"--reward", "--kl", "--task", "--baseline", "--algo", "--entropy-schedule"}
NEW_BASE = {"RoPE's base", "A new task with its verifier"}


# --- the tests

@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A run of the unchanged tree. The folder of all runs holds its base model."""
    folder = tmp_path_factory.mktemp("runs")
    result = run(ROOT, folder / "unchanged")
    assert len(result.bases) == 1
    result.folder = folder
    return result


def test_each_change_is_as_small_as_the_page_says():
    assert list(CHANGES) == list(CHECKS)
    rows = re.findall(r"^\| \[(.+)\]\(.+\) \| (.+) \| (.+) \|$", PAGE, re.M)
    assert [title.lower() for title in CHANGES] == [title.lower() for title, *_ in rows]
    for (title, files, numbers), lines in zip(rows, map(changed_lines, CHANGES), strict=True):
        assert files == ", ".join(f"`{name}`" for name in lines)
        assert numbers == " + ".join(map(str, lines.values()))
        if title == "a new algorithm":
            assert lines.pop("config.py") == 1
            assert not (ROOT / lines.popitem()[0]).exists() and not lines
        else:
            assert len(lines) == 1 and sum(lines.values()) <= 15


@pytest.mark.parametrize("title", CHANGES)
def test_a_change_is_green_and_acts(title, unchanged, tmp_path, monkeypatch):
    tests, flags = command(title, "Tests")[3:], command(title, "Try")[2:]
    if CHOICES & set(flags):  # the unchanged tree does not know this choice
        with pytest.raises(SystemExit):
            cli.parse(flags)
    apply(copy_tree(tmp_path), title)
    bases = set(unchanged.folder.glob("base-*"))
    result = run(tmp_path, unchanged.folder / title.replace(" ", "-"), tests, flags)
    assert len(result.bases - bases) == (title in NEW_BASE)
    [path] = set(changed_lines(title)) - {"config.py"}
    CHECKS[title](load(tmp_path / path, monkeypatch), result, unchanged)


def test_all_changes_together_are_clean_and_keep_the_base(unchanged, tmp_path):
    """All but that of the model."""
    copy_tree(tmp_path)
    for title in CHANGES.keys() - {"RoPE's base"}:
        apply(tmp_path, title)
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=tmp_path,
                          capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    bases = set(unchanged.folder.glob("base-*"))
    result = run(tmp_path, unchanged.folder / "together", ["tests/test_layers.py"])
    assert result.bases == bases
