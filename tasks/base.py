"""Problem and Task: an endless source of problems whose answers a program can check.

A hash of the problem alone decides whether it is for training or held out. So no seed, level or
order can bring the same problem to both sides:

    held out  <=>  first byte of blake2b(key of the problem) mod 10 = 0

A new task is one file in this folder with a subclass of Task; tasks/__init__.py finds it.
tasks/countdown.py is a short example with its own verifier. Reinforcement learning sees the
question and the verdict of `correct`. Only the corpus of the base model uses the solution in a
Problem. A problem with the answer "" is an open request: no program can check it, and a reward
model pays for it (tasks/assistant.py). A problem with a `tool` is answered in turns
(engine/turns.py).
"""

import functools
import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import verify
from tasks import corpus

EQUATION = re.compile(r"[0-9]\s*[-+*/]\s*[0-9][^\n]*=\s*-?[0-9]")
MAX_VALUE = 999  # results have at most three digits
ERROR = "error: "  # the beginning of the result of a call that failed
SEEN, NEW = "seen template", "new template"  # categories of the word problems in tasks/gsm.py


@dataclass(frozen=True)
class Tool:
    """What a problem offers to the policy (engine/turns.py). answer(call, turn) returns the text of
    the result, where turn counts the calls of the response from 0. An exception becomes an error
    that the policy reads."""

    answer: Callable[[str, int], str]
    max_calls: int = 4  # of a response; a later call is answered by an error

    def result(self, call: str, turn: int) -> str:
        """The text of the result, or of the error, of a call."""
        if turn >= self.max_calls:
            return f"{ERROR}no more than {self.max_calls} calls"
        try:
            return str(self.answer(call, turn))
        except Exception as error:  # of any kind
            return f"{ERROR}{str(error) or type(error).__name__}"


@dataclass(frozen=True)
class Problem:
    """A question with its answer. A task uses few of the other fields."""

    question: str
    answer: str                # "": an open request, whose quality no program can check
    steps: tuple = ()          # the solution as (x, op, y, result) in order; op is one of + - * /
    noisy_facts: bool = False  # the corpus states some facts wrongly (tasks chain and wait)
    solution: str = ""         # the solution as text, where there are no steps
    quick_answer: str = ""     # the answer of a reader in a hurry (task code)
    tests: tuple = ()          # unit tests: ((arguments), expected) of each call (task code)
    numbers: tuple = ()        # the numbers to use (task countdown)
    category: str = ""         # accuracy is also reported by category; "": the task has only one
    key: str = ""              # problems with equal keys are the same problem; "": the question
    level: int = 0             # of a problem of --train-levels, for its success rate; else 0
    image: tuple = ()          # a drawing: the lines that engine/vision.py reads
    tool: Tool | None = None   # the response may call it (engine/turns.py)

    @property
    def identity(self) -> str:
        return self.key or self.question


def is_held_out(problem: Problem) -> bool:
    """True for one problem in ten, by its key alone, and for each problem of a new template."""
    digest = hashlib.blake2b(problem.identity.encode(), digest_size=8).digest()
    return problem.category == NEW or digest[0] % 10 == 0


class Task:
    """A source of problems. A subclass defines `sample_problem`. Where the defaults do not fit, a
    subclass also defines `correct` (the verifier) and `write_solution` or `document` (the corpus).
    """

    words = ""                      # further words of the vocabulary, with spaces between them
    prompt_template = "{question}"  # the question for a model that does not know the short form
    levels = range(1, 6)
    base_steps = 450                # training steps of the base model
    min_base_pass16 = 0.6           # training goes on until the base model has this pass@16
    default_max_new_tokens = 0      # 0: 64 tokens, and 64 more per level
    working: re.Pattern | None = None  # a line of working; None: nothing is counted as working
    measures: dict = {}             # further metrics: name -> function of (problem, text)
    has_tool = False                # whether its problems have a tool
    has_images = False              # whether its problems have an image
    paths: list = []                # files that the problems come from
    notes: list = []                # sentences about these files, such as rows that are left out
    left_out = 0                    # rows of these files that are no problems
    correct = staticmethod(verify.written_correct)  # (problem, text) -> bool

    def __init__(self, level: int = 2, path: str = "", eval_path: str = ""):
        """Raises ValueError for a level that the task does not have."""
        if level not in self.levels:
            raise ValueError(f"--level {level}: this task has the levels {min(self.levels)} to "
                             f"{max(self.levels)}")
        self.level = level
        self.max_new_tokens = self.default_max_new_tokens or 64 * (level + 1)

    # --- problems

    def sample_problem(self, rng: random.Random, held_out: bool) -> Problem | None:
        """A random problem, or None where the random choices gave no valid one. `sample` keeps the
        problems of the side that it wants, so most tasks need not look at `held_out`."""
        raise NotImplementedError

    def easier_task(self) -> "Task":
        """The task that half of the base model's corpus comes from."""
        return type(self)(1)

    def sample(self, rng: random.Random, n: int, held_out: bool = False) -> list[Problem]:
        """n random problems of the training side or of the held-out side. Raises ValueError where
        that side has none."""
        problems, misses = [], 0
        while len(problems) < n:
            problem = self.sample_problem(rng, held_out)
            if problem and is_held_out(problem) == held_out:
                problems.append(problem)
                misses = 0
            elif (misses := misses + 1) > 100_000:
                raise ValueError(f"{type(self).__name__} has no "
                                 f"{'held-out' if held_out else 'training'} problems")
        return problems

    @functools.cache  # noqa: B019, a task lives as long as its process
    def held_out(self, n: int) -> list[Problem]:
        """The first n different held-out problems. They are the same for every seed, so that runs
        can be compared. A level with fewer problems gives all of them, in random order."""
        rng, found = random.Random("held out"), {}
        for _ in range(20 * n):
            [problem] = self.sample(rng, 1, held_out=True)
            found.setdefault(problem.identity, problem)
            if len(found) == n:
                return list(found.values())
        # frequent problems come first in `found`: without a shuffle the first ones are not typical
        return rng.sample(list(found.values()), len(found))

    def all_problems(self) -> list[Problem]:
        """Every problem, of a task that can list them; otherwise nothing."""
        return []

    def shows_working(self, text: str) -> bool:
        """Whether working stands before the answer of a response. For a task with `working`."""
        return bool(self.working.search(text.partition("<answer>")[0]))

    def leave_out(self, misfit) -> None:
        """Raises ValueError where problems do not fit a model: misfit(problem) is a sentence, not
        "". The lengths of the first ones are typical. A task from a file leaves misfits out."""
        for said in filter(None, map(misfit, self.held_out(20))):
            raise ValueError(said)

    # --- reward

    def score(self, problem: Problem, text: str, reward: str = "correct", uniform: float = 0.0,
              tokens=(), group=()) -> verify.Reward:
        """The reward of a response by the function of that name in verify.REWARDS; the arguments
        are those of verify.reward."""
        return verify.reward(self.correct, problem, text, reward, uniform, tokens, group)

    # --- corpus

    def document(self, rng: random.Random, problem: Problem, drill: bool = False) -> str:
        """One response of the base model's corpus to a training problem; see corpus.document."""
        return corpus.document(rng, problem, drill, self.write_solution)

    def write_solution(self, rng: random.Random, problem: Problem, style: str, wrong: bool,
                       drill: bool) -> tuple[list[str], str]:
        """Lines of working and the answer, of a document; see corpus.write_solution."""
        return corpus.write_solution(rng, problem, style, wrong, drill)


def mix_levels(task: Task, levels: str) -> Task:
    """For levels such as "1,2,4" a task that samples from these levels in turn; for "" the task
    itself. Raises ValueError for levels that the task does not have."""
    if not levels:
        return task
    if task.paths or not re.fullmatch(r"[0-9](,[0-9])*", levels):
        raise ValueError(f"--train-levels {levels}: levels look like 1,2,4; a task from a file has "
                         "none")
    try:
        parts = [type(task)(int(level)) for level in levels.split(",")]
    except ValueError as error:
        raise ValueError(f"--train-levels {levels}: {error}") from None

    class MixedLevels(type(task)):
        def sample(self, rng, n, held_out=False):
            return [problem for i in range(n)
                    for problem in parts[i % len(parts)].sample(rng, 1, held_out)]
    mixed = MixedLevels(task.level)
    mixed.parts = parts  # for tasks/curriculum.py
    return mixed


def several(parts: dict[str, Task]) -> Task:
    """A task that draws its problems from several tasks in equal shares. parts: name -> task; the
    name becomes the category of its problems, so accuracy is reported for each part. An answer is
    checked, and a document written, by the task that the problem is from."""
    class Several(Task):
        words = " ".join(part.words for part in parts.values())
        default_max_new_tokens = max(part.max_new_tokens for part in parts.values())

        def sample_problem(self, rng, held_out):
            name = rng.choice(list(parts))
            problem = parts[name].sample_problem(rng, held_out)
            return problem and replace(problem, category=name)

        def easier_task(self):
            return several({name: part.easier_task() for name, part in parts.items()})

        def correct(self, problem, text):
            return parts[problem.category].correct(problem, text)

        def document(self, rng, problem, drill=False):
            return parts[problem.category].document(rng, problem, drill)
    return Several(1)
