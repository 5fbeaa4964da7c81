"""Right solutions of part 2, written in other ways. They run with the names of the true modules."""

# ruff: noqa: F821
# (extraction, NUMBER and the others are names of those modules)

import re
from fractions import Fraction


def well_formed_pattern(text, opened=False):
    if opened:
        text = "<think>" + text
    marks = f"(?:{extraction.END_OF_TURN.pattern})"
    found = re.fullmatch(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>((?:\s|" + marks + ")*)",
                         text, re.S)
    if not found:
        return False
    inside = found[1] + found[2]
    if any(tag in inside for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return False
    return not extraction.is_empty(found[1]) and not extraction.is_empty(found[2])


def extract_by_counting(text):
    if text.count("<answer>") != 1:
        return None
    start = text.index("<answer>")
    if text.rfind("<think>", 0, start) > text.rfind("</think>", 0, start):
        return None
    rest = text[start + len("<answer>"):]
    if TAGS.findall(rest) != ["</answer>"]:
        return None
    return extraction.unbox(rest[:rest.index("</answer>")])


def number_by_hand(text):
    text = text.strip()
    if len(text) > 2 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1]
    if len(text) > MAX_DIGITS:
        return None
    found = NUMBER.fullmatch(text)
    if found is None:
        return None
    digits = found[2].replace("{,}", "").replace(",", "")
    whole, _, decimals = digits.partition(".")
    value = Fraction(int(whole or "0") * 10 ** len(decimals) + int(decimals or "0"),
                     10 ** len(decimals))
    if found[3]:
        if int(found[3]) == 0:
            return None
        value /= int(found[3])
    return value * (-1 if found[1] == "-" else 1)


def expression_with_an_index(text):
    if len(text) > MAX_CHARS or re.search(r"[^-+*/()0-9 ]", text):
        return None
    tokens, used, i = re.findall(r"\d+|[^\d ]", text), [], 0

    def peek():
        return tokens[i] if i < len(tokens) else ""

    def read():
        nonlocal i
        i += 1
        return tokens[i - 1]

    def atom():
        if peek().isdigit():
            used.append(int(read()))
            return Fraction(used[-1])
        if peek() != "(":
            raise ValueError
        read()
        value = total()
        if peek() != ")":
            raise ValueError
        read()
        return value

    def product():
        value = atom()
        while peek() and peek() in "*/":
            value = value * atom() if read() == "*" else value / atom()
        return value

    def total():
        value = product()
        while peek() and peek() in "+-":
            value = value + product() if read() == "+" else value - product()
        return value
    try:
        value = total()
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    return (value, used) if i == len(tokens) else None


SOLUTIONS = {"well_formed": [well_formed_pattern], "extract": [extract_by_counting],
             "number": [number_by_hand], "expression": [expression_with_an_index]}
