"""Task arithmetic: the value of an expression, such as (47+8)*6.

Level L has L + 1 numbers with + - * and brackets. Up to level 2 the operations go from left to
right. A product has one factor in 2..9, and every intermediate value is in 0..999.
"""

import verify
from grading.expression import calculate
from tasks.base import EQUATION, MAX_VALUE, Problem, Task

LEVEL_1_DIGITS = "0123456789", (3, 1, 1, 1, 1, 1, 1, 1, 1, 2)  # digits, weights: carries need 0, 9


class Arithmetic(Task):
    prompt_template = "Compute {question}"
    working = EQUATION
    correct = staticmethod(verify.written_correct)

    def sample_problem(self, rng, held_out):
        try:
            _, text, value, steps = self.random_expression(rng, self.level + 1)
        except OverflowError:
            return None
        return Problem(text + "=?", str(value), tuple(steps))

    def random_expression(self, rng, n: int):
        """A random expression over n numbers: (precedence, text, value, steps), with each step
        (x, op, y, result). Precedence: 1 sum, 2 product, 3 number. Raises OverflowError when a
        value leaves 0..MAX_VALUE."""
        if n == 1:
            value = self.random_number(rng)
            return 3, str(value), value, []
        # 1. the operation and its two operands
        op = rng.choice("+-*")
        if op == "*":  # one factor is a single digit, on either side
            small = rng.randint(2, 9)
            operands = [self.random_expression(rng, n - 1), (3, str(small), small, [])]
            if self.level > 2:
                rng.shuffle(operands)
        else:
            k = rng.randint(1, n - 1) if self.level > 2 else n - 1
            operands = [self.random_expression(rng, k), self.random_expression(rng, n - k)]
        # 2. the value
        (left, left_text, x, left_steps), (right, right_text, y, right_steps) = operands
        value = calculate(x, op, y)
        if not 0 <= value <= MAX_VALUE:
            raise OverflowError
        # 3. the text, with brackets where the precedence of an operand needs them
        precedence = 2 if op == "*" else 1
        left_text = left_text if left >= precedence else f"({left_text})"
        right_text = right_text if right > precedence else f"({right_text})"
        return (precedence, left_text + op + right_text, value,
                left_steps + right_steps + [(x, op, y, value)])

    def random_number(self, rng) -> int:
        """A number of two digits; at level 1 of one to three."""
        value = rng.randint(10, 99)
        if self.level == 1:
            digits = rng.choices(*LEVEL_1_DIGITS, k=3)
            value = int("".join(digits[:rng.randint(1, 3)]))
        return value
