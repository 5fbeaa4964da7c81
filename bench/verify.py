"""Measures the verifier: on real gold answers, on rewritten ones against the library math-verify,
on random text, and its speed.

    python verify.py --stats --data DIR [--cases FILE.jsonl] [--fuzz SECONDS] [--write FILE.json]

DIR holds math500.jsonl and gsm8k_test.jsonl. The rewrites come from rules that keep the meaning and
rules that change it, so the correct verdict on each pair is known. FILE.jsonl holds labelled pairs
of your own, {"gold", "pred", "label"}: label says whether pred must be accepted.
"""

import argparse
import gc
import json
import random
import re
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import verify  # noqa: E402
from bench.sample import new_report, write  # noqa: E402
from grading.answers import equal  # noqa: E402
from grading.expression import expression  # noqa: E402

FRAC = re.compile(r"\\d?frac\{(-?\d+)\}\{(\d+)\}")
ROOT = re.compile(r"\\sqrt\{(\d+)\}")
INTERVAL = re.compile(r"(?:\\left)?([\[(])\s*([^,()\[\]]+),\s*([^,()\[\]]+?)\s*(?:\\right)?([\])])")
NUMBER = re.compile(r"(?<![\d.{_\\])\d+(?![\d.,_}])")


def equal_rewrites(gold: str, rng) -> dict[str, str]:
    """Rewrites of a gold answer with the same meaning, by the name of the rule."""
    out = {"in dollars": f"${gold}$", "spaces": f" {gold} ", "full stop": f"{gold}.",
           "dfrac": gold.replace(r"\frac", r"\dfrac"), "wide": gold.replace(",", r",\ ")
           if "," in gold and "!" not in gold and not re.search(r"\d,\d", gold) else gold}
    if match := FRAC.search(gold):
        p, q = int(match[1]), int(match[2])
        k = rng.randint(2, 5)
        alone = FRAC.fullmatch(gold)
        out["scaled"] = gold.replace(match[0], rf"\frac{{{k * p}}}{{{k * q}}}")
        if alone:
            out["slash"] = f"{p}/{q}"
            if not 10**6 % q:
                out["decimal"] = str(p / q)
            if p > q:
                out["mixed"] = rf"{p // q}\frac{{{p % q}}}{{{q}}}" if p % q else str(p // q)
    if match := ROOT.search(gold):
        out["root"] = gold.replace(match[0], rf"\frac{{\sqrt{{{4 * int(match[1])}}}}}{{2}}")
    if re.fullmatch(r"-?\d+", gold):
        n = int(gold)
        out |= {"point": f"{n}.0", "fraction": f"{3 * n}/3", "sum": f"{n - 7}+7",
                "power": f"{n}^1", "plus": f"+{n}" if n >= 0 else gold}
        if n >= 1000:
            out["thousands"] = f"{n:,}"
    if match := re.fullmatch(r"\\text\{([A-Za-z]+)\}", gold):
        out |= {"bare word": match[1], "capitals": match[1].upper()}
    if gold.endswith(r"^\circ"):
        out |= {"degrees": gold.replace(r"^\circ", " degrees"), "no unit": gold[:-6]}
    if (match := INTERVAL.fullmatch(gold)) and not {match[1], match[4]} == {"(", ")"}:
        low = "<" if match[1] == "(" else r"\le"
        high = "<" if match[4] == ")" else r"\le"
        if "infty" not in gold:
            out["inequality"] = f"{match[2]} {low} x {high} {match[3]}"
    if re.fullmatch(r"[a-z\d ^+-]+", gold) and re.search(r"[a-z]", gold):
        terms = re.findall(r"(?:^|[+-])[^+-]+", gold.replace(" ", ""))
        out["reordered"] = "+".join(reversed(terms)).replace("+-", "-").replace("++", "+")
        out["in brackets"] = f"({gold})"
        out["doubled"] = rf"\frac{{2({gold})}}{{2}}"
    return {rule: text for rule, text in out.items() if text != gold}


def different_rewrites(gold: str, rng) -> dict[str, str]:
    """Rewrites of a gold answer with another meaning, by the name of the rule."""
    out = {}
    if match := NUMBER.search(gold):
        n = int(match[0])
        out["one more"] = gold[:match.start()] + str(n + 1) + gold[match.end():]
    if gold.startswith("-"):
        out["sign"] = gold[1:]
    elif re.fullmatch(r"[1-9]\d*|\\d?frac.*|\\sqrt.*|\d+\\sqrt.*", gold):
        out["sign"] = "-" + gold
    if (match := FRAC.fullmatch(gold)) and abs(int(match[1])) not in (0, int(match[2])):
        p, q = int(match[1]), int(match[2])
        if p > 0:
            out["upside down"] = rf"\frac{{{q}}}{{{p}}}"
        rounded = f"{p / q:.4f}"
        if Fraction(rounded) != Fraction(p, q):
            out["rounded"] = rounded
    if match := ROOT.fullmatch(gold):
        out |= {"no root": match[1], "rounded": f"{int(match[1]) ** 0.5:.4f}"}
    if r"\pi" in gold:
        out["pi rounded"] = gold.replace(r"\pi", r"\cdot 3.1416" if re.search(r"\d ?\\pi", gold)
                                         else "3.1416")
    if match := INTERVAL.fullmatch(gold):
        if match[1] == "[" or match[4] == "]":
            out["other bracket"] = f"({match[2]},{match[3]})"
        if match[2].strip() != match[3].strip():
            out["swapped"] = f"{match[1]}{match[3]},{match[2]}{match[4]}"
        out["half"] = match[2]
    if re.fullmatch(r"[^()\[\]]+,[^()\[\]]+", gold) and "!" not in gold and not re.search(
            r"\d,\d{3}", gold):
        out["one less"] = gold.rpartition(",")[0]
    if re.fullmatch(r"[a-z\d ^+-]+", gold) and (match := re.search(r"[a-z]", gold)):
        out["other variable"] = gold.replace(match[0], "w")
    if re.fullmatch(r"-?\d+", gold):
        out |= {"two answers": f"{gold} or {int(gold) + 1}", "listed": f"{gold}, {int(gold) + 2}",
                "ten times": f"{gold}0" if int(gold) else "10", "inequality": f"x > {gold}",
                "unit base": f"{abs(int(gold)) + 10}_7"}
    if match := re.fullmatch(r"\\text\{([A-Za-z]+)\}", gold):
        out["other word"] = "un" + match[1]
    return {rule: text for rule, text in out.items() if text != gold}


def math_verify_says():
    """The verdict of the library math-verify: a function (gold, answer) -> bool. None where the
    library is not installed."""
    import logging

    try:
        from math_verify import parse
        from math_verify import verify as compare
    except ImportError:
        return None
    logging.disable(logging.CRITICAL)

    def says(gold, pred):
        wrap = lambda t: t if t.startswith("$") else f"${t}$"  # noqa: E731
        return bool(compare(parse(wrap(gold)), parse(wrap(pred))))
    return says


def compare(golds, says):
    """Wrong verdicts of `says` by rule, and the number of pairs. Both are indexed by whether the
    two answers of a pair are equal."""
    rng, wrong, total = random.Random(0), {True: Counter(), False: Counter()}, Counter()
    for gold in golds:
        for same, rewrites in ((True, equal_rewrites(gold, rng)),
                               (False, different_rewrites(gold, rng))):
            for rule, text in rewrites.items():
                total[same] += 1
                if says(gold, text) != same:
                    wrong[same][rule] += 1
    return wrong, total


PIECES = [
    "1", "23", ".5", "x", r"\pi", r"\frac", r"\sqrt", "{", "}", "(", ")", "[", "]", "+", "-", "*",
    "/", "^", "_", "=", ",", "<", r"\le", r"\pm", r"\cup", "!", "%", "$", r"\{", r"\}", " ", "&",
    r"\text{a}", r"\begin{pmatrix}", r"\\", r"\end{pmatrix}", "sin", "cm", r"\boxed", "<answer>",
    "</answer>", "<think>", "</think>", "#### ", "9" * 50, "\u0664", "\n", "^9"]


HARD = [  # texts that are made to take long
    "(sin((a+b+c+d+f+g)^{4})+cos((a+b+c+d+f+g)^{4}))^{20}", "(a+b)^{40}", "(a+b+c+d)^{8}",
    "*".join(["(x+y)^3"] * 60), "+".join(["(x+y)^3"] * 60), ",".join(["(x+y)^3"] * 40),
    "+".join(rf"\frac{{1}}{{{a}+{b}}}" for a, b in zip("abcdfg", "bcdfgh", strict=True)),
    "+".join(rf"\sqrt{{{99999000 + i}}}" for i in range(36)), "9" * 590, "200!", r"\pi" * 190,
    "1/7^{600}" + "+1/7^{601}" * 50, "(" * 24 + "x+1" + ")^{2}" * 24, ",".join(["sin(x)"] * 40),
    "+".join(f"(a+b)^{{{i}/7}}" for i in range(1, 50)), r"(\cos x+\sin x)^{40}", r"\cos^{60} x",
    "+".join(f"2^{{n+{i}}}" for i in range(60)), "+".join(["1000!"] * 90), "2^{9000}+" * 60 + "1",
    r"\cup".join(rf"[\sqrt{{{i}}},\pi+{i}]" for i in range(30)), ";".join(["x=1,y=2"] * 60),
    " or ".join(f"x<{i}" for i in range(60)), r"\{" + ",".join(f"{i}/7" for i in range(40)) + r"\}",
    "=".join(["1+1"] * 100), "5 " + "km " * 150, "f(" * 24 + "x" + ")" * 24]
CHECKS = {
    "equal to x^2-1": lambda text: equal("x^2-1", text), "itself": lambda text: equal(text, text),
    "extract_any": lambda text: verify.extract_any(text, last_number=True),
    "well_formed": verify.well_formed, "number": verify.number, "expression": expression}


def fuzz(seconds: float):
    """Runs all checks on hard texts and on random texts of up to 64 KB. Returns the number of
    texts, the exceptions, and the slowest check (seconds of this thread's CPU time, name, text)."""
    rng, n, slowest, raised = random.Random(1), 0, (0.0, "", ""), Counter()
    end = time.perf_counter() + seconds
    gc.disable()  # its pauses belong to no check
    while time.perf_counter() < end:
        size = int(2 ** rng.uniform(0, 13))
        if rng.random() < 0.2:
            text = "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x3000))))
                           for _ in range(min(8 * size, 65536)))
        else:
            pieces = rng.sample(PIECES, rng.randint(1, 8))
            text = "".join(rng.choices(pieces, k=size))[:65536]
        text = HARD[n] if n < len(HARD) else text
        for name, check in CHECKS.items():
            began = time.thread_time()
            try:
                check(text)
            except Exception as error:  # noqa: BLE001
                raised[repr(error)[:80]] += 1
            slowest = max(slowest, (time.thread_time() - began, name, text[:50]))
        n += 1
    gc.enable()
    return n, raised, slowest


def hostile():
    """The number of published hostile answers, and of those that the verifier accepts."""
    path = Path(__file__).parents[1] / "tests" / "hostile.jsonl"
    rows = [json.loads(line) for line in path.open()]
    accepted = [row for row in rows
                if verify.verdict(row["gold"], verify.extract_any(row["pred"]) or row["pred"])]
    return len(rows), len(accepted)


def labelled(path: Path) -> dict:
    """The table of the verdicts on a file of labelled pairs that are not the label."""
    rows, wrong = [json.loads(line) for line in path.open(encoding="utf-8")], []
    for row in rows:
        gold, pred = row["gold"], row["pred"]
        right = verify.is_checkable(gold) and verify.verdict(
            gold, verify.extract_any(pred, bare=True)) is True
        if right != bool(row["label"]):
            wrong.append([f"{'refused' if row['label'] else 'accepted'}: {gold} <- {pred}"])
    return {"caption": f"Labelled pairs: {len(wrong)} of {len(rows)} verdicts are not the label.",
            "columns": ["verdict: gold, answer"], "rows": wrong}


def rate(pairs, check) -> float:
    """Checks per second."""
    began = time.perf_counter()
    for pair in pairs:
        check(*pair)
    return len(pairs) / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=Path, help="a JSONL file of gold, pred and label")
    parser.add_argument("--fuzz", type=float, default=300, help="seconds")
    parser.add_argument("--write", type=Path, help="a JSON file, such as bench/runs/NAME.json")
    args = parser.parse_args()
    report = new_report("The verifier", "python verify.py --stats --data DIR", ["math-verify"],
                        "one core used")
    rows = {name: [json.loads(line) for line in (args.data / name).open()]
            for name in ("math500.jsonl", "gsm8k_test.jsonl")}
    math = [row["answer"] for row in rows["math500.jsonl"]]
    gsm = [row["answer"].rpartition("####")[2].strip() for row in rows["gsm8k_test.jsonl"]]
    sets, rewritten = [], []
    for name, golds in (("MATH-500", math), ("GSM8K test", gsm)):
        own = sum(verify.verdict(gold, gold) is True for gold in golds)
        accepted = [(a, b) for a, b in zip(golds, golds[1:] + golds[:1], strict=True)
                    if a != b and verify.verdict(a, b)]
        sets.append([name, f"{own:,} of {len(golds):,}",
                     ": ".join([str(len(accepted)), *map(str, accepted)])])
    for name, says in (("verify.py", lambda g, p: verify.verdict(g, p) is True),
                       ("math-verify", math_verify_says())):
        if says is None:
            continue
        wrong, total = compare(math, says)
        cells = [f"{sum(wrong[same].values())} of {total[same]:,}"
                 + f" ({', '.join(f'{k} {v}' for k, v in wrong[same].most_common(6))})"
                 * bool(wrong[same]) for same in (True, False)]
        rewritten.append([name, *cells])
    texts = [(f"<think>a</think><answer>{g}</answer>", verify.number(g)) for g in gsm]
    integers = rate(texts * 20, lambda text, g: verify.number(verify.extract(text)) == g)
    latex = rate(list(zip(math, math, strict=True)) * 4, verify.verdict)
    published, accepted = hostile()
    n, raised, (slowest, name, text) = fuzz(args.fuzz)
    report["tables"] += [
        {"caption": "Published answers.",
         "columns": ["set", "equal to themselves", "next problem's other answers accepted"],
         "rows": sets},
        {"caption": "Rewritten MATH-500 answers.",
         "columns": ["", "false rejects", "false accepts"], "rows": rewritten},
        {"caption": "Speed and robustness.", "columns": ["", "measured"], "rows": [
            ["integer answers a second", f"{integers:,.0f}"],
            ["MATH-500 answers against themselves, a second", f"{latex:,.0f}"],
            ["hostile answers accepted (`tests/hostile.jsonl`)", f"{accepted} of {published}"],
            [f"exceptions in {args.fuzz:.0f} s of fuzzing, {n:,} texts of up to 64 KB",
             ": ".join([str(sum(raised.values())), *raised])],
            ["slowest check", f"{slowest * 1e3:.0f} ms ({name})"]]}]
    if args.cases:
        report["tables"].append(labelled(args.cases))
    write(report, args.write)


if __name__ == "__main__":
    main()
