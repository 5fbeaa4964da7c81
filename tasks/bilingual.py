"""Task bilingual: the chain, asked and told in two languages, Latin and Chinese.

    3 +6 *9 =?        3+6=9     9*9=1          ->  9
    三 加六 乘九 得几    三加六得九  九乘九得一   ->  一 or 1

Documents of each language state one kind of step wrongly at times: Latin ones products, Chinese
ones sums. A wrong result of a fact is always the same. So a policy becomes better in two ways: it
learns the facts, or it tells each step in the language that is surer for it. The second way is the
shorter one, so RL on the answer alone mixes languages, as in R1-Zero (2501.12948).

The corpus is messy: most thoughts are in the language of the question, some in the other one, and
some change the language from step to step. Many are hard to read. `curated` writes the readable
form, for a cold start. Left out on purpose: steps that only one language can express.
"""

import re

import verify
from grading.languages import CHINESE, LATIN, is_mixed, language_consistency, language_of
from tasks import chain
from tasks.base import EQUATION, Problem
from tasks.corpus import MALFORMED_RATE, equation, tagged

LANGUAGES = (LATIN, CHINESE)
DIGITS = "零一二三四五六七八九"
TO_CHINESE = str.maketrans("0123456789+-*=?", f"{DIGITS}加减乘得几")
UNSURE = {LATIN: "*", CHINESE: "+"}  # the kind of step that a language often states wrongly
UNSURE_RATE = 0.4                    # how often it does, at least
THOUGHTS = {"one": 0.74, "other": 0.12, "mixed": 0.14}  # shares of the documents, by their language
FORMS = {"lines": 0.3, "spaces": 0.3, "run on": 0.4}   # shares of the documents, by their form
SO = {LATIN: "so ", CHINESE: "所以"}  # begins the summary of a curated thought


class Bilingual(chain.Chain):
    """Level 1 has 1 to 4 operations, level 2 has 5 to 7, level 3 has 8 to 10."""

    base_steps = 300
    lengths = {1: (1, 4), 2: (5, 7), 3: (8, 10)}
    unsure = UNSURE
    words = " ".join(["so", *"".join(map(chr, TO_CHINESE.values())), *SO[CHINESE]])
    working = re.compile(rf"{EQUATION.pattern}|[{DIGITS}][加减乘][{DIGITS}]得[{DIGITS}]")
    measures = {"consistency": language_consistency,
                "mixed": lambda problem, text: is_mixed(text)}

    def sample_problem(self, rng, held_out):
        text, steps = chain.sample_chain(rng, *self.lengths[self.level], ops="+*")
        language = rng.choice(LANGUAGES)
        return Problem(written(text, language), str(steps[-1][3]), steps, noisy_facts=True,
                       category=language, key=text)

    @staticmethod
    def correct(problem, text: str) -> bool:
        """Whether the answer is the right digit. The answer to a Chinese question may be a Chinese
        digit or a Latin one. The answer to a Latin question is Latin."""
        if language_of(problem) == CHINESE and (
                verify.extract(text) == written(problem.answer, CHINESE)):
            return True
        return verify.number_correct(problem, text)

    def document(self, rng, problem, drill=False):
        """A response of the corpus. The drill is well formed; in it too, steps are told wrongly."""
        # 1. the language of each step
        asked = language_of(problem)
        [other] = set(LANGUAGES) - {asked}
        [kind] = rng.choices(list(THOUGHTS), THOUGHTS.values())
        languages = [rng.choice(LANGUAGES) if kind == "mixed" else other if kind == "other" else
                     asked for _ in problem.steps]
        # 2. the steps in their form, and the answer in the language of the question
        lines, value = tell(rng, problem.steps, languages, self.unsure)
        [form] = rng.choices(list(FORMS), FORMS.values())
        if form == "run on":  # 3+6=9*9=1: the left side of a step is the result before it
            lines[1:] = [line[1:] for line in lines[1:]]
        thought = {"lines": "\n", "spaces": " ", "run on": ""}[form].join(lines)
        answer = written(str(value), asked)
        # 3. the tags; outside the drill some documents break the form
        if drill or rng.random() >= MALFORMED_RATE:
            return tagged(thought, answer)
        return rng.choice((f"<think>{thought}</think>{answer}",
                           f"{thought}<answer>{answer}</answer>"))


# --- the two languages

def written(text: str, language: str) -> str:
    """A text in Latin digits and operators, in a language."""
    return text.translate(TO_CHINESE) if language == CHINESE else text


def fact_as_told(x: int, op: str, y: int, unsure: str) -> tuple[int, float]:
    """The wrong result of a fact in documents of a language whose `unsure` operation is given, and
    how often they state it."""
    wrong, rate = chain.fact_as_told(x, op, y)
    return wrong, max(rate, UNSURE_RATE) if op == unsure else 0.0


def tell(rng, steps, languages, unsure: dict) -> tuple[list[str], int]:
    """The lines of a chain, each in its language, and the final digit. unsure: language -> the
    operation that it often states wrongly; {}: all facts are right."""
    lines, value = [], steps[0][0]
    for (_, op, y, _), language in zip(steps, languages, strict=True):
        wrong, rate = fact_as_told(value, op, y, unsure.get(language, ""))
        told = wrong if rng.random() < rate else chain.last_digit(value, op, y)
        lines.append(written(equation(value, op, y, told), language))
        value = told
    return lines, value


# --- the readable form

def curated(rng, problem, unsure: dict | None = None) -> str:
    """A readable response for a cold start: in the language of the question, one line for each
    step, and a line with the result as summary. All steps are right, unless `unsure` is given, as
    for `tell`: with UNSURE they are wrong as often as in the corpus, so only the form is new."""
    language = language_of(problem)
    lines, value = tell(rng, problem.steps, [language] * len(problem.steps), unsure or {})
    digit = written(str(value), language)
    return tagged("\n".join([*lines, SO[language] + digit]), digit)


def is_readable(problem, text: str) -> bool:
    """Whether a response has the form of `curated`: well formed, in the language of the question,
    every step of the chain on its own line, each going on from the one before, and a summary that
    repeats the last result. The results need not be right."""
    language, value = language_of(problem), problem.steps[0][0]
    thought = text.partition("<think>")[2].partition("</think>")[0]
    *lines, summary = thought.strip().split("\n")
    if not verify.well_formed(text) or len(lines) != len(problem.steps):
        return False
    for line, (_, op, y, _) in zip(lines, problem.steps, strict=True):
        results = [d for d in range(10) if line == written(equation(value, op, y, d), language)]
        if not results:
            return False
        [value] = results
    return summary == SO[language] + written(str(value), language)
