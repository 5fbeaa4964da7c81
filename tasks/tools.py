"""Tasks with a tool: a calculator, a database, Python. The policy calls, reads and goes on.

    347*26+8=?                     <call>347*26+8</call><result>9030</result>
    db 4127: coins of owner of hat?   <call>owner hat</call><result>ann</result>
                                      <call>coins ann</call><result>7</result>
    total of i*i, i below 9, i%2==1   <call>sum(i*i for i in range(9) if i%2==1)</call>...

engine/turns.py samples such responses. The base knows the tool, but mostly guesses. Some of its
calls are malformed or wrong, and a tool may be busy at the first call. After an error the base
gives up or tries again.
Left out on purpose: tools that change a state, a choice between several tools.
"""

import random
from functools import lru_cache

from grading import sandbox
from grading.expression import expression
from tasks.base import ERROR, Problem, Task, Tool
from tasks.corpus import NO_WORKING, near_miss, tagged

GUESS_RATE = 0.6     # share of the documents without a call
SLIP_RATE = 0.25     # of the calls in documents: malformed, or with another digit
GIVE_UP_RATE = 0.5   # after an error, in documents
BUSY_RATE = 0.15     # of the problems: their first call gives an error
EASY_RATE = 0.3      # of the problems of the calculator: they need no tool
EASY, HARD = "easy", "hard"  # categories of its problems


class WithTool:
    """What the tasks of this file share: the corpus. A problem's `steps` are its right calls."""

    has_tool = True
    words = "call result error busy no such key not an expression"
    default_max_new_tokens = 128
    base_steps = 450
    min_base_pass16 = 0.0

    def document(self, rng, problem, drill=False):
        """A response of the base model's corpus. The drill calls correctly, never gives up, and
        answers without a call only where the answer is known by heart."""
        if rng.random() < GUESS_RATE and (not drill or problem.category == EASY):
            return tagged(NO_WORKING, self.guess(rng, problem))
        text, turn, results = "", 0, []
        for call in problem.steps:
            result = ERROR
            while result.startswith(ERROR):
                # 1. the call and its result
                wrong = not drill and rng.random() < SLIP_RATE
                written = self.slip(rng, call) if wrong else call
                result = self.result(problem, written, turn)
                text += f"<call>{written}</call><result>{result}</result>"
                turn += 1
                # 2. after an error: give up, or write the call again
                if result.startswith(ERROR) and (turn >= problem.tool.max_calls or not drill
                                                 and rng.random() < GIVE_UP_RATE):
                    return tagged(text, self.guess(rng, problem))
            results.append(result)
        return tagged(text, self.conclude(results))

    def slip(self, rng, call: str) -> str:
        """A call with a mistake: its end is missing, or a character is another one of the call."""
        if rng.random() < 0.5:
            return call[:rng.randint(1, len(call) - 1)]
        i = rng.randrange(len(call))
        return call[:i] + rng.choice(call) + call[i + 1:]

    def result(self, problem, call: str, turn: int) -> str:
        """The result of a call in a document."""
        return problem.tool.result(call, turn)

    def conclude(self, results) -> str:
        """The answer that follows from the results of all calls."""
        return results[-1]

    def guess(self, rng, problem) -> str:
        """An answer without the tool."""
        return str(near_miss(rng, int(problem.answer)))


class Calculator(WithTool, Task):
    """Level 1: products of two-digit numbers. Level 2: three numbers, with brackets. Three in ten
    problems are small sums, which the base knows by heart."""

    prompt_template = ("{question} You can use a calculator: write <call>12*34+5</call> "
                       "and read the result.")
    levels = range(1, 3)

    def sample_problem(self, rng, held_out):
        if rng.random() < EASY_RATE:
            x, y = rng.randint(1, 99), rng.randint(1, 9)
            text, category = f"{x}+{y}", EASY
        else:
            x, y, z = (rng.randint(12, 99) for _ in range(3))
            text = f"{x}*{y}" if self.level == 1 else rng.choice((f"{x}*{y}+{z}", f"{x}*({y}+{z})"))
            category = HARD
        return Problem(f"{text}=?", str(expression(text)[0]), (text,), category=category,
                       tool=Tool(busy_at_first(text, calculator)))

    def guess(self, rng, problem):
        """Easy answers are right; hard ones have the right length and first digit."""
        if problem.category == EASY:
            return problem.answer
        digits = [str(rng.randint(0, 9)) for _ in problem.answer[1:]]
        return problem.answer[0] + "".join(digits)


class Records(WithTool, Task):
    """A question about a database that stands in no prompt. Level 1 needs two calls: whose thing it
    is, then a number of that person. Level 2 is the sum of two such numbers."""

    prompt_template = ("{question} You can use a database: write <call>owner hat</call> or "
                       "<call>coins ann</call> and read the result.")
    levels = range(1, 3)
    words = WithTool.words + " db of owner plus"
    things = "hat box cup pen bag map bell lamp ring coat".split()
    people = "ann bob eve ian kim leo mia ned pam sue".split()
    numbers = "coins books cats stamps keys".split()

    def sample_problem(self, rng, held_out):
        number = rng.randint(1000, 9999)
        records = self.records(number)
        asked = [(rng.choice(self.numbers), thing) for thing in rng.sample(self.things, self.level)]
        text = " plus ".join(f"{key} of owner of {thing}" for key, thing in asked)
        calls = [call for key, thing in asked
                 for call in (f"owner {thing}", f"{key} {records[f'owner {thing}']}")]
        total = sum(int(records[call]) for call in calls[1::2])
        return Problem(f"db {number}: {text}?", str(total), tuple(calls),
                       tool=Tool(busy_at_first(str(number), lambda call, turn: look_up(
                           records, call)), max_calls=6))

    def records(self, number: int) -> dict:
        """The database of that number: "owner THING" -> person, "KIND PERSON" -> a digit."""
        rng = random.Random(f"records {number}")
        found = {f"owner {thing}": rng.choice(self.people) for thing in self.things}
        return found | {f"{key} {person}": str(rng.randint(1, 9))
                        for key in self.numbers for person in self.people}

    def conclude(self, results):
        return str(sum(int(result) for result in results if result.isdigit()))

    def guess(self, rng, problem):
        return str(sum(rng.randint(1, 9) for _ in range(self.level)))


class Python(WithTool, Task):
    """The sum of the terms of numbers that a condition keeps; at level 2 a term has two operations.
    The call is a Python expression, which runs in the sandbox."""

    prompt_template = ("{question} You can use Python: write <call>sum(i for i in range(9))</call> "
                       "and read the result.")
    levels = range(1, 3)
    words = WithTool.words + " exception total of below sum for in range if"
    terms = {1: ("i", "i*i", "i+{}", "i*{}"), 2: ("i*i+{}", "i*i*{}", "i*{}+1", "i+i*{}")}

    def sample_problem(self, rng, held_out):
        term = rng.choice(self.terms[self.level]).format(rng.randint(2, 9))
        below, divisor = rng.randint(12, 60), rng.randint(2, 7)
        condition = f"i%{divisor}=={rng.randint(0, divisor - 1)}"
        call = f"sum({term} for i in range({below}) if {condition})"
        total = sum(evaluate_term(term, i) for i in range(below)
                    if i % divisor == int(condition[-1]))
        return Problem(f"total of {term}, i below {below}, {condition}", str(total), (call,),
                       tool=Tool(lambda call, turn: run_python(call)))

    def slip(self, rng, call):
        return call[:rng.randint(1, len(call) - 1)]

    def result(self, problem, call, turn):
        """As the sandbox says, but without it: the corpus has thousands of calls."""
        return problem.answer if call == problem.steps[0] else f"{ERROR}exception"


# --- the tools

def calculator(call: str, turn: int) -> str:
    """The value of an arithmetic expression, in the grammar of grading.expression."""
    found = expression(call)
    if found is None:
        raise ValueError("not an expression")
    return str(found[0])


def look_up(records: dict, call: str) -> str:
    if call not in records:
        raise ValueError("no such key")
    return records[call]


@lru_cache(maxsize=2**14)
def run_python(call: str) -> str:
    """The value of a Python expression, from the sandbox."""
    with sandbox.session(f"def answer():\n    return {call}\n", "answer", seconds=2.0) as child:
        outcome = child.call()
    if outcome.kind != "value":
        raise ValueError(outcome.kind)
    return str(outcome.value)


def busy_at_first(key: str, answer):
    """A tool that is busy at the first call, for a share BUSY_RATE of all keys."""
    busy = random.Random(f"busy {key}").random() < BUSY_RATE

    def answer_or_busy(call, turn):
        if busy and turn == 0:
            raise ValueError("busy")
        return answer(call, turn)
    return answer_or_busy


def evaluate_term(term: str, i: int) -> int:
    """The value of a term such as i*3 for a number i."""
    return int(expression(term.replace("i", str(i)))[0])
