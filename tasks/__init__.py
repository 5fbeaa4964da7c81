"""Tasks: problems whose answers can be checked, drawn without end from a random stream.

Whether a problem is for training or held out is decided by a hash of the problem itself, so that no
seed, level or order can ever bring the two together:

    held out  <=>  first byte of blake2b(key(problem)) mod 10 = 0

`steps` of a problem (how it is solved) is for the base model's corpus alone; reinforcement learning
sees the question and the verdict. Left out on purpose: answers that no program can check.
"""

import functools
import hashlib
import random
import re
from dataclasses import dataclass

import verify
from tasks import chain, code, files, gsm

LIMIT = 999  # results stay in three digits


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str
    steps: tuple = ()      # how it is solved: (x, op, y, result) in order, op of + - * /
    doubtful: bool = False  # its facts are not told alike by all (tasks chain and wait)
    again: bool = False    # a document may say "wait" and go through it again (task wait)
    solution: str = ""     # how it is solved, in words or a program, where there are no steps
    hasty: str = ""        # what one answers who does not think
    tests: tuple = ()      # code: ((arguments), expected) of each call
    numbers: tuple = ()    # countdown: what must be used
    kind: str = ""         # evaluated apart: "seen template", "new template"
    key: str = ""          # what makes it the same problem; default the question


def is_held_out(problem: Problem) -> bool:
    """One problem in ten, by its key alone, and every problem of a held-out template."""
    key = (problem.key or problem.question).encode()
    return problem.kind == NEW or hashlib.blake2b(key, digest_size=8).digest()[0] % 10 == 0


SEEN, NEW = "seen template", "new template"


class Task:
    """A source of problems. A subclass gives `propose`, and `correct` where the answer is neither a
    number nor written mathematics. To add a task, write one such class and name it in TASKS."""

    correct = staticmethod(verify.written_correct)
    paths: list = []       # files that the problems are from
    asks = "{question}"    # how a model is asked that has not learned the task's short form
    levels = range(1, 6)
    base_steps = 450       # of the base model's training
    gate = 0.6             # share of training problems that the base must solve in 16 samples
    longest = 0            # tokens of an answer; 0: 64, and 64 more a level

    def __init__(self, level: int = 2, path: str = "", eval_path: str = ""):
        """Raises ValueError for a level that the task does not have."""
        if level not in self.levels:
            raise ValueError(f"--level {level}: this task has the levels {min(self.levels)} to "
                             f"{max(self.levels)}")
        self.level = level
        self.max_new_tokens = self.longest or 64 * (level + 1)

    def propose(self, rng: random.Random, held_out: bool) -> Problem | None:
        """A random problem of either side, or None for a draw that came to nothing."""
        raise NotImplementedError

    def easier(self) -> "Task":
        """What half of the base's corpus is made of."""
        return type(self)(1)

    def draw(self, rng: random.Random, n: int, held_out: bool = False) -> list[Problem]:
        """n problems of the training side or of the held-out side, in the order of rng."""
        problems, misses = [], 0
        while len(problems) < n:
            problem = self.propose(rng, held_out)
            if problem and is_held_out(problem) == held_out:
                problems.append(problem)
                misses = 0
            elif (misses := misses + 1) > 100_000:
                raise ValueError(f"{type(self).__name__} has no "
                                 f"{'held-out' if held_out else 'training'} problems")
        return problems

    @functools.cache  # noqa: B019, a task lives as long as its process
    def held_out(self, n: int) -> list[Problem]:
        """The first n different held-out problems: the same for every seed, so that runs compare.
        Where the level has not as many, all of them in a random order, since what is drawn often
        comes first: so the first of them are like the rest."""
        rng, found = random.Random("held out"), {}
        for _ in range(20 * n):
            [problem] = self.draw(rng, 1, held_out=True)
            found.setdefault(problem.key or problem.question, problem)
            if len(found) == n:
                return list(found.values())
        return rng.sample(list(found.values()), len(found))

    def all(self) -> list[Problem]:
        """Every problem, where they can be listed."""
        return []

    def score(self, problem: Problem, text: str, kind: str = "correct", coin: float = 0.0):
        """The verify.Reward of a response."""
        return verify.reward(self.correct, problem, text, kind, coin)


class Arithmetic(Task):
    """Level L: sums, differences, products and brackets over L + 1 numbers, up to level 2 worked
    from left to right. A product has one factor in 2..9; every value on the way is in 0..999."""

    asks = "Compute {question}"

    def propose(self, rng, held_out):
        try:
            _, text, value, steps = self.tree(rng, self.level + 1)
        except OverflowError:
            return None
        return Problem(text + "=?", str(value), tuple(steps))

    def tree(self, rng, n):
        """A random expression over n numbers: (how tightly it binds, text, value, steps), each step
        (x, op, y, result). Raises OverflowError when a value leaves 0..LIMIT."""
        if n == 1:
            value = rng.randint(10, 99)
            if self.level == 1:  # one to three digits, more of them 0 and 9, which carries need
                digits = rng.choices("0123456789", (3, 1, 1, 1, 1, 1, 1, 1, 1, 2), k=3)
                value = int("".join(digits[:rng.randint(1, 3)]))
            return 3, str(value), value, []
        op = rng.choice("+-*")
        if op == "*":  # one factor is a single digit, on either side
            small = rng.randint(2, 9)
            pair = [self.tree(rng, n - 1), (3, str(small), small, [])]
            if self.level > 2:
                rng.shuffle(pair)
        else:
            k = rng.randint(1, n - 1) if self.level > 2 else n - 1
            pair = [self.tree(rng, k), self.tree(rng, n - k)]
        (left, left_text, x, left_steps), (right, right_text, y, right_steps) = pair
        value = verify.apply(x, op, y)
        if not 0 <= value <= LIMIT:
            raise OverflowError
        strength = 2 if op == "*" else 1
        left_text = left_text if left >= strength else f"({left_text})"
        right_text = right_text if right > strength else f"({right_text})"
        return (strength, left_text + op + right_text, value,
                left_steps + right_steps + [(x, op, y, value)])


class Countdown(Task):
    """Reach a target with each of 3 (levels 1 to 3) or 4 numbers (4 and 5) used once. The target
    comes from a random expression, so there is always a solution; every value on its way is a
    positive integer."""

    correct = staticmethod(verify.countdown_correct)
    asks = ("Use each of the given numbers exactly once, with + - * / and brackets, and write an "
            "expression that makes the target. Numbers and target: {question}")
    base_steps = 1200
    largest = {1: 9, 2: 15, 3: 40, 4: 12, 5: 40}

    def propose(self, rng, held_out):
        numbers = [rng.randint(1, self.largest[self.level]) for _ in range(3 + (self.level > 3))]
        value = numbers[0]
        for number in numbers[1:]:
            x, y = rng.choice(((value, number), (number, value)))
            value = verify.apply(x, rng.choice("+-*/"), y) if y else 0
            if value <= 0 or value != int(value):
                return None
        rng.shuffle(numbers)
        target, shown = int(value), " ".join(map(str, numbers))
        if target > 100:
            return None
        key = f"{sorted(numbers)} {target}"
        return Problem(f"{shown} make {target}", str(target), numbers=tuple(numbers), key=key)


class Gsm(Task):
    """Word problems: level 1 of one or two steps, level 2 of one to four. Of the held-out ones half
    are trained templates with other numbers, half are templates that are never trained on."""

    levels = range(1, 3)
    base_steps = 1600
    gate = 0.4             # three times the training made the base no better

    def propose(self, rng, held_out):
        new = held_out and rng.random() < 1 / 11  # as many as the tenth of the others that stays
        question, ranges, steps = rng.choice(gsm.HELD_OUT if new else gsm.TEMPLATES)
        steps = steps.split("; ")
        if len(steps) > 2 * self.level:
            return None
        values = {}
        for name, low, high in re.findall(r"([a-e])(\d+)-(\d+)", ranges):
            values[name] = rng.randint(int(low), int(high))
        key = f"{question} {sorted(values.items())}"
        solved = []
        for step in steps:
            name, x, op, y = re.fullmatch(r"(?:(\w)=)?(\w+)([-+*/])(\w+)", step).groups()
            x, y = (int(v) if v.isdigit() else values[v] for v in (x, y))
            value = verify.apply(x, op, y)
            if not 1 <= value <= LIMIT or value != int(value):
                return None
            values[name] = int(value)
            solved.append((x, op, y, int(value)))
        n, m = rng.sample(gsm.NAMES, 2)
        x, y = rng.sample(gsm.ITEMS, 2)
        text = question.format(**{k: v for k, v in values.items() if k} | dict(n=n, m=m, x=x, y=y))
        return Problem(text, str(solved[-1][3]), tuple(solved), kind=NEW if new else SEEN, key=key)


class Chain(Task):
    """The last digit alone, through a chain of operations from left to right (chain.py): 1 to 5 of
    them at level 1, 6 to 8 at level 2, 9 to 12 at level 3. The base is stopped early: a policy with
    mistakes that a vote cures, and with others that it shares, for prm.py and search.py."""

    levels = range(1, 4)
    base_steps = 250
    gate = 0.0             # it is meant to be bad
    lengths = {1: (1, 5), 2: (6, 8), 3: (9, 12)}
    again, longest = False, 96

    def propose(self, rng, held_out):
        text, steps = chain.draw(rng, *self.lengths[self.level])
        return Problem(text, str(steps[-1][3]), steps, doubtful=True, again=self.again)


class Wait(Chain):
    """The chain, by a base that has also read documents which say "wait" and go through it again
    (and has read for longer, since it is more to learn): a policy that knows what to do when it is
    made to think on, for search.py's budget forcing."""

    base_steps = 900
    again, longest = True, 320


class Code(Task):
    """Write a Python function of a description: level 1 one or two steps on an integer, level 2
    up to three, or a tuple. It is right when it passes six unit tests in the sandbox."""

    correct = staticmethod(verify.program_correct)
    levels = range(1, 3)

    def propose(self, rng, held_out):
        spec = code.draw(rng, self.level)
        question = code.question(spec)
        return Problem(question, code.program(spec), hasty=code.program(spec, False),
                       solution="\n".join(code.working(spec)),
                       tests=code.tests(spec, random.Random(question)))


class File(Task):
    """Problems of a JSONL file: {"question": ..., "answer": ...} a line (or "problem"), the answer
    a number, a text ending in GSM8K's `#### number`, or mathematics as in MATH; or of a set that
    data.py knows by name. Held out are the problems of eval_path, or else one in ten."""

    gate = 0.0             # a tiny model solves next to none of GSM8K
    longest = 256

    def __init__(self, level: int = 2, path: str = "", eval_path: str = ""):
        super().__init__(level)
        if not path:
            raise ValueError("--task file needs --data PATH, a JSONL file of question and answer, "
                             f"or one of {', '.join(files.SETS)}")
        if path in files.SETS:
            path, official = files.get(path)
            eval_path = eval_path or official
        self.paths = [p for p in (path, eval_path) if p]
        problems = read_jsonl(path)
        if eval_path:
            self.eval = read_jsonl(eval_path)
            questions = {p.question for p in self.eval}
            self.train = [p for p in problems if p.question not in questions]
        else:
            self.eval = [p for p in problems if is_held_out(p)]
            self.train = [p for p in problems if not is_held_out(p)]
        if not self.train or not self.eval:
            raise ValueError(f"{path} has {len(self.train)} problems to train on and "
                             f"{len(self.eval)} held out; both are needed")

    def easier(self):
        return self

    def draw(self, rng, n, held_out=False):
        return rng.choices(self.eval if held_out else self.train, k=n)

    def held_out(self, n):
        return self.eval[:n]

    def all(self):
        return self.train + self.eval


def read_jsonl(path: str) -> list[Problem]:
    """The problems of a file. Raises ValueError as files.rows does."""
    return [Problem(question, answer, solution=solution)
            for question, answer, solution in files.rows(path)]


TASKS = {"arithmetic": Arithmetic, "countdown": Countdown, "gsm": Gsm, "chain": Chain, "wait": Wait,
         "code": Code, "file": File}


def mixed(task: Task, levels: str) -> Task:
    """The task, or, of levels such as "1,2,4", one that draws its problems from each in turn.
    Raises ValueError for what are no levels of it."""
    if not levels:
        return task
    if isinstance(task, File) or not re.fullmatch(r"[0-9](,[0-9])*", levels):
        raise ValueError(f"--train-levels {levels}: levels look like 1,2,4, and a file has none")
    try:
        parts = [type(task)(int(level)) for level in levels.split(",")]
    except ValueError as error:
        raise ValueError(f"--train-levels {levels}: {error}") from None

    class Mixed(type(task)):
        def draw(self, rng, n, held_out=False):
            return [problem for i in range(n)
                    for problem in parts[i % len(parts)].draw(rng, 1, held_out)]
    return Mixed(task.level)
