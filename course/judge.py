"""From the outputs of a student's function to a message.

checks/fingerprints.json has, for each input of an exercise, the fingerprints of the right output
(checks/outputs.py), and those of the outputs of common mistakes, each with a message. Outputs that
fit a mistake on all inputs get its message. If several mistakes explain the wrong outputs together,
all are named. Otherwise the message says where the first wrong output is wrong, and never what is
right.
"""

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
            return (f"the result is right, but argument {m['changed']} is changed in place, and "
                    f"the caller still needs it. Input: {m['input']}")
        return ""
    return describe(messages, found, wrong, stored)


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
            explained[mutant["message"]] = fits if fits == own.keys() else large
    messages, left = [], set(wrong)
    while left and explained and len(messages) < 3:
        message = max(explained, key=lambda name: len(explained[name] & left))
        if not explained[message] & left:
            break
        messages.append(message)
        left -= explained.pop(message)
    return messages, left


def describe(messages, found, wrong: dict, stored: dict) -> str:
    """What is wrong, without the right output: common mistakes, or the first wrong result."""
    known, left = known_mistakes(found, wrong, stored)
    if known and not left:
        return "Perhaps: " * (len(known) > 1) + ". Also: ".join(known)
    first = min(left)
    said = f'input "{messages[first]["input"]}" '
    said += describe_one(messages[first], found[first], wrong[first], stored["cases"][first])
    if known:
        return f"Perhaps: {'. Also: '.join(known)}. That does not explain this: {said}"
    others = "".join(f', "{messages[i]["input"]}"' for i in sorted(wrong)[1:3])
    return (f"wrong on {len(wrong)} of {len(found)} inputs. The {said}"
            + f". Others: {others[2:]}" * bool(others))


def describe_one(message: dict, output, difference, case: dict) -> str:
    """What is wrong with one output."""
    (where, leaf), form, wanted = difference, output[0], case["form"]
    if "error" in message:
        place = f" in {message['place']}" if message["place"] else ""
        other = ", where another exception is asked for" if wanted == form else ""
        return f"raises {message['error']}{place}: {message['text']}{other}"
    if form != wanted:
        returned = form or ("a result" if wanted == "an exception" else "no tensor")
        return f"returns {returned}; asked for: {wanted or 'no tensor'}"
    own = f"{leaf:.4g}" if isinstance(leaf, float) else repr(leaf)[:60]
    return f"has a wrong result{f' at {where}' * bool(where)}: yours is {own}"
