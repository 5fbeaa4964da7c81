"""From the outputs of a student's function to a message.

checks/fingerprints.json has, for each input of an exercise, the fingerprints of the right output
(checks/outputs.py), and those of the outputs of common mistakes, each with a message. Outputs that
fit a mistake on all inputs get its message. If several mistakes explain the wrong outputs together,
all are named. Mistakes that explain less than half of the wrong outputs are not named: they may fit
by chance. Otherwise the message says where the first wrong output is wrong, and never what is
right.
"""

import re
from fractions import Fraction

from checks import outputs


def judge(exercise, messages: list[dict], stored: dict) -> str:
    """"" if all outputs are right; otherwise what is wrong. messages: of checks/child.py. stored:
    the exercise's part of fingerprints.json."""
    if trouble := unfinished(exercise, messages):
        return trouble
    if len(messages) != len(stored["cases"]):
        return (f"{len(messages)} outputs for {len(stored['cases'])} inputs. Is all of course/ of "
                "one version?")
    try:
        found = [outputs.hashed(f"{exercise.name} {i}", message["output"])
                 for i, message in enumerate(messages)]
    except Exception:  # no output of checks/child.py
        return "returns something that is neither tensors nor numbers nor texts"
    wrong = {i: difference for i, output in enumerate(found) if (
        difference := outputs.first_difference(output, stored["cases"][i])) is not None}
    if not wrong:
        for m in (m for m in messages if "changed" in m):
            return (f"the result is right, but {m['changed']} is changed in place, and the caller "
                    f"still needs it. Input: {m['input']}")
        return ""
    return describe(exercise, messages, found, wrong, stored)


def unfinished(exercise, messages: list[dict]) -> str:
    """Why there are no outputs to compare; "" if there are."""
    for m in messages:
        where = f" on the input: {m['input']}" if m.get("input") else ""
        if m.get("ended") == "start":
            return "Python does not start in this folder. Does `import torch` work there?"
        if m.get("ended") == "time":
            return f"did not end within {m['seconds']:g} s{where}. Does a loop never end?"
        if m.get("ended"):
            return f"the process ended{where}. Does the code call exit, or run out of memory?"
        text = m["text"]
        if m.get("error") == "NotImplementedError" and text.startswith("part "):
            if text.endswith(f": {exercise.name}"):
                return "not written yet"
            return f"needs {text.partition(': ')[2]}, which is not written yet"
        if "'ellipsis' object is not callable" in text:
            return "not written yet"
        if m.get("error") in ("SystemExit", "KeyboardInterrupt"):
            return f"raises {m['error']}{where}. A function must return or raise an Exception"
        if m.get("fatal"):
            return f"cannot be imported: {m['place'] or exercise.file}: {m.get('error')}: {text}"
    return "" if messages else "no outputs"


def known_mistakes(found, wrong: dict, stored: dict) -> tuple[list[str], set]:
    """The messages of at most three common mistakes that explain wrong outputs, and the inputs that
    they leave unexplained. A mistake explains an input if the output fits it. Then the outputs must
    be wrong wherever the mistake is, and fit everywhere unless they have several numbers: a single
    number may fit by chance."""
    explained = {}
    for mutant in stored["mutants"]:
        own = {i: case for i, case in enumerate(mutant["cases"]) if case}
        fits = {i for i, case in own.items() if not outputs.first_difference(found[i], case)}
        large = {i for i in fits if "float" in found[i][0] and len(found[i][1]) > 5}
        if own.keys() <= wrong.keys():
            now = fits if fits == own.keys() else large  # several mutants may share a message
            before = explained.get(mutant["message"], set())
            explained[mutant["message"]] = max(before, now, key=len)
    messages, left = [], set(wrong)
    while left and explained and len(messages) < 3:
        message = max(explained, key=lambda name: len(explained[name] & left))
        if not explained[message] & left:
            break
        messages.append(message)
        left -= explained.pop(message)
    return (messages, left) if 2 * len(left) <= len(wrong) else ([], set(wrong))


def describe(exercise, messages, found, wrong: dict, stored: dict) -> str:
    """What is wrong, without the right output: common mistakes, or the first wrong result."""
    known, left = known_mistakes(found, wrong, stored)
    if known and not left:
        return "Perhaps: " * (len(known) > 1) + ". Also: ".join(known)
    first = min(left)
    said = f'input "{messages[first]["input"]}" '
    said += describe_one(messages[first], found[first], wrong[first], stored["cases"][first],
                         exercise.returns)
    if known:
        return f"Perhaps: {'. Also: '.join(known)}. There is also: {said}"
    others = "".join(f', "{messages[i]["input"]}"' for i in sorted(wrong)[1:3])
    return (f"wrong on {len(wrong)} of {len(found)} inputs. The {said}"
            + f". Others: {others[2:]}" * bool(others))


def describe_one(message: dict, output, difference, case: dict, names=()) -> str:
    """What is wrong with one output. names: of the results, if the function returns several."""
    (where, leaf), form, wanted = difference, output[0], case["form"]
    if "error" in message:
        place = f" in {message['place']}" if message["place"] else ""
        other = ", where another exception is asked for" if wanted == form else ""
        return f"raises {message['error']}{place}: {message['text']}{other}"
    if form != wanted:
        asked = re.sub(r"(?<![^ ])\.", "", re.sub(r"(?<![^ ])\[(\d)\]", lambda match: name_of(
            int(match[1]), names), wanted))
        return f"returns {kind(message['output'], names)}; asked for: {asked or 'no tensor'}"
    name, index = named(where, names)
    place = f" in {name}" * (name not in ("", "result")) + f" at {index}" * bool(index)
    return f"has a wrong result{place}: yours is {shown(leaf, message['output'], where)}"


def named(where: str, names) -> tuple[str, str]:
    """A position as the name of a result and the position in it: .gradient[0, 1] is ("gradient",
    "[0, 1]")."""
    if match := re.fullmatch(r"\.([^.[]+)(.*)", where):
        return match[1], match[2]
    if names and (match := re.fullmatch(r"\[(\d)\](.*)", where)):
        return name_of(int(match[1]), names), match[2]
    return "", where


def name_of(i: int, names) -> str:
    """The name of result i of a function."""
    return names[i] if i < len(names) else f"[{i}]"


def kind(x, names=()) -> str:
    """What an encoded output is: "float (2, 3)" for a tensor, "a single number", ..."""
    if isinstance(x, (bool, int, float)):
        return "a single number"
    if not isinstance(x, dict):
        return "None" if x is None else "a text"
    [(what, content), *_] = x.items()
    if what == "tensor":
        return outputs.leaves(x)[0]
    if what in ("dict", "list"):
        items = content.items() if what == "dict" else (
            (name_of(i, names), item) for i, item in enumerate(content))
        return ", ".join(f"{name} {kind(item)}" for name, item in items) or "an empty list"
    return "a single number" if what == "fraction" else f"a result of type {content}"


def shown(leaf, output, where: str) -> str:
    """A wrong leaf as a text; of a list that is wrong as a whole, its items."""
    if isinstance(leaf, float):
        return f"{leaf + 0.0:.4g}"  # -0 as 0
    if isinstance(leaf, str) and re.fullmatch(r"list of \d+", leaf):
        for i, key in re.findall(r"\[(\d+)\]|\.([^.[]+)", where):
            output = output["list"][int(i)] if i else output["dict"][key]
        return plain(output)[:60]
    return repr(leaf)[:60] if not isinstance(leaf, Fraction) else str(leaf)


def plain(x) -> str:
    """An encoded output as Python prints it."""
    if not isinstance(x, dict):
        return repr(x)
    [(what, content), *_] = x.items()
    if what == "list":
        return f"[{', '.join(map(plain, content))}]"
    return str(content) if what == "fraction" else what
