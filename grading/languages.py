"""The languages of a response: how much of its working is in the language of the question.

Pure RL on answers makes a model mix languages within a thought. DeepSeek-R1 (2501.12948, section
2.3.2) therefore adds a language consistency reward to the reward for accuracy:

    consistency = words of the working in the language of the question / all words of the working

Two languages are told apart by their script, Latin and Chinese. A word is a Latin word, a digit 0
to 9, or a Chinese character. Operators belong to no language, whether they are written + or 加.
Left out on purpose: other scripts, and languages that share a script.
"""

import re

LATIN, CHINESE = "latin", "chinese"
OPERATORS = "加减乘除得"  # plus, minus, times, divided by, equals
LATIN_WORD = re.compile(r"[A-Za-z]+|[0-9]")
CHINESE_WORD = re.compile(rf"(?![{OPERATORS}])[\u3007\u3400-\u4dbf\u4e00-\u9fff]")
TAG = re.compile(r"</?(?:think|answer)>")


def working(text: str) -> str:
    """All that a response says before its answer, without tags. Text outside of the thinking
    counts too: otherwise a policy could hide a second language there."""
    return TAG.sub(" ", text.partition("<answer>")[0])


def count_words(text: str) -> dict[str, int]:
    """The number of words of a text in each language."""
    return {LATIN: len(LATIN_WORD.findall(text)), CHINESE: len(CHINESE_WORD.findall(text))}


def language_of(problem) -> str:
    """The language of a problem: the one that has more words of its question."""
    count = count_words(problem.question)
    return CHINESE if count[CHINESE] > count[LATIN] else LATIN


def language_consistency(problem, text: str) -> float:
    """The share of words of the working that are in the language of the problem, from 0 to 1. It is
    0.0 for a working without words."""
    count = count_words(working(text))
    return count[language_of(problem)] / max(1, sum(count.values()))


def is_mixed(text: str) -> bool:
    """Whether the working has words of both languages."""
    return all(count_words(working(text)).values())
