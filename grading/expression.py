"""Arithmetic expressions: read by recursive descent, evaluated with exact fractions.

    expression("8/(3-8/3)") == (24, [8, 3, 8, 3])        the value, and the numbers used

Python's `eval` is never called. Left out on purpose: decimals, signs, powers, variables.
"""

import re
from fractions import Fraction

MAX_CHARS = 200


def expression(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an arithmetic expression and the numbers that it uses, in order. The grammar has
    whole numbers, + - * /, brackets, and spaces between them:

        sum = product (('+' | '-') product)*    product = atom (('*' | '/') atom)*
        atom = digits | '(' sum ')'

    None for everything else (decimals, `//`, `**`, signs, `=`, other white space), for division by
    zero, and for more than MAX_CHARS characters.
    """
    if len(text) > MAX_CHARS or not re.fullmatch(r"[-+*/()0-9 ]*", text):
        return None
    tokens = re.findall(r"[0-9]+|[-+*/()]", text)[::-1]  # a stack: the last item is the next token
    used = []

    def atom():
        token = tokens.pop()  # IndexError at the end of the text
        if token == "(":
            value = chain("+-", lambda: chain("*/", atom))
            if tokens.pop() != ")":
                raise ValueError
            return value
        used.append(int(token))  # ValueError for an operator
        return Fraction(used[-1])

    def chain(operators, operand):
        """Operands with operators of one precedence between them, from left to right."""
        value = operand()
        while tokens and tokens[-1] in operators:
            value = calculate(value, tokens.pop(), operand())
        return value

    try:
        value = chain("+-", lambda: chain("*/", atom))
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return None if tokens else (value, used)


def calculate(x, op: str, y):
    """x op y, exact for integers and fractions. Raises ZeroDivisionError, and ValueError unless op
    is one of + - * /."""
    if op == "/":
        return Fraction(x, 1) / y
    if op not in ("+", "-", "*"):
        raise ValueError(f"{op!r} is not an operation; the operations are + - * /")
    return x + y if op == "+" else x - y if op == "-" else x * y
