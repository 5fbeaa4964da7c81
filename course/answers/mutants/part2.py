"""Common mistakes of part 2: (message, old text, new text, ...) for each function."""

MUTANTS = {
    "well_formed": [
        ("text outside the tags is accepted: only white space may stand before, between and after "
         "them, so compare the whole text",
         "around.strip() or ", ""),
        ("text before the thinking is accepted: the match must begin at the start of the text",
         "before + between", "between"),
        ("text after the answer is accepted: the match must reach the end of the text",
         ' + extraction.END_OF_TURN.sub("", after)', ""),
        ("an end-of-turn mark such as <|im_end|> after the answer makes the response badly formed; "
         "it is allowed there", 'extraction.END_OF_TURN.sub("", after)', "after"),
        ("empty thinking or an empty answer is accepted; neither part may be empty",
         " or extraction.is_empty(thought) or extraction.is_empty(answer)", ""),
        ("an empty answer is accepted", " or extraction.is_empty(answer)", ""),
        ("thinking of white space alone counts as thinking: test for visible characters",
         "extraction.is_empty(thought)", "not thought"),
        ("no white space is allowed between and after the tags; it should be",
         "around.strip()", "around"),
        ("`opened` has no effect: then the prompt has written <think> already", "if opened:",
         "if False:"),
        ("a second <think> is accepted when the prompt has opened the first one",
         'text = "<think>" + text', 'text = "<think>" + text.removeprefix("<think>")'),
        ("the tags are only counted: their order matters too",
         'if parts[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]',
         'if sorted(parts[1::2]) != sorted(["<think>", "</think>", "<answer>", "</answer>"])'),
        ("tags behind the first answer are ignored: each tag may occur exactly once",
         "return not (around", "after, around = '', before + between + extraction.END_OF_TURN"
         ".sub('', '' if '<' in after else after)\n    return not (around",
         'if parts[1::2] != ["', 'parts = [*parts[:9], ""] if len(parts) > 9 else parts\n'
         '    if parts[1:9:2] != ["'),
    ],
    "extract": [
        ("of two answers you take the last one. A policy could list several guesses: two answers "
         "are no answer", '"<answer>" in before or ', ""),
        ("of two answers you take the first one: two answers are no answer",
         'text.rpartition("<answer>")', 'text.partition("<answer>")',
         "None if TAGS.search(answer) or TAGS.search(after) else ", ""),
        ("an answer inside thinking that is not closed is accepted: the thinking must have ended "
         "before the answer", " or thinking", ""),
        ("an answer that is not closed is accepted", " or not closed", ""),
        ("a tag inside the answer is accepted", "TAGS.search(answer) or ", ""),
        ("tags behind the answer are accepted", " or TAGS.search(after)", ""),
        ("the answer keeps the white space around it, or its box: call extraction.unbox",
         "extraction.unbox(answer)", "answer"),
        ("the answer keeps its box: \\boxed{7} is 7; call extraction.unbox",
         "extraction.unbox(answer)", "extraction.complete(answer)"),
        ("returns an empty text where there is no answer; return None, so that an empty gold "
         "cannot be matched", "return None\n", 'return ""\n',
         "None if TAGS.search(answer) or TAGS.search(after) else extraction.unbox(answer)",
         '"" if TAGS.search(answer) or TAGS.search(after) else extraction.unbox(answer) or ""'),
        ("a response without <think> has no answer for you. It is badly formed, but its answer "
         "counts", "if not opened or", 'if "</think>" not in before or not opened or'),
    ],
    "number": [
        ("a fraction becomes a float, which is not exact: use Fraction",
         "return -value if sign", "value = float(value)\n    return -value if sign"),
        ("a fraction or a decimal is rounded down to a whole number",
         'Fraction(re.sub("[{,}]", "", value)) / int(divisor or 1)',
         'Fraction(int(Fraction(re.sub("[{,}]", "", value))) // int(divisor or 1))'),
        ("the sign is lost", 'return -value if sign == "-" else value', "return value"),
        ("division by zero raises an error; the result is None",
         "if divisor is not None and int(divisor) == 0:", "if False:"),
        ("50% is 50 here, not 0.5", "return -value if sign",
         'value = value / 100 if "%" in text else value\n    return -value if sign'),
        ("text behind the number is accepted: the whole text must be one number",
         "NUMBER.fullmatch(text)", "NUMBER.match(text)"),
        ("a number is found anywhere in the text: the whole text must be one number",
         "NUMBER.fullmatch(text)", "NUMBER.search(text)"),
        ("the denominator is ignored", " / int(divisor or 1)", ""),
        ("there is no limit of MAX_DIGITS characters", "if len(text) <= MAX_DIGITS else None",
         "if text else None"),
        ("a number between two dollar signs, $5$, is not read",
         'if len(text) > 2 and text[0] == text[-1] == "$" else text', "if False else text"),
    ],
    "expression": [
        ("products do not come before sums: 2+3*4 is 14",
         'value = chain("+-", lambda: chain("*/", atom))\n    except',
         'value = chain("+-*/", atom)\n    except'),
        ("operators of one precedence are read from right to left: 10-4-3 is 3",
         "        value = operand()\n        while tokens and tokens[-1] in operators:\n"
         "            value = calculate(value, tokens.pop(), operand())\n        return value",
         "        value = operand()\n        if tokens and tokens[-1] in operators:\n"
         "            return calculate(value, tokens.pop(), chain(operators, operand))\n"
         "        return value"),
        ("a division gives a float, which is not exact: 8/(3-8/3) would not be 24",
         "value = calculate(value, tokens.pop(), operand())",
         "op, right = tokens.pop(), operand()\n            value = float(value) / float(right) "
         "if op == '/' else calculate(value, op, right)"),
        ("a division is rounded down to a whole number", "value = calculate(value, tokens.pop(), "
         "operand())", "op, right = tokens.pop(), operand()\n            value = value // right "
         "if op == '/' else calculate(value, op, right)"),
        ("the rest of the text is ignored, as in 2+3): all of it must be read",
         "return None if tokens else (value, used)", "return value, used"),
        ("a division by zero raises an error; the result is None", ", ZeroDivisionError", ""),
        ("a bracket need not be closed; it must be", 'if tokens.pop() != ")":',
         'if tokens and tokens.pop() != ")":'),
        ("the numbers are sorted or listed once; they must come in order, as often as used",
         "(value, used)", "(value, sorted(set(used)))"),
        ("a sign is accepted: the grammar has none, so -3+5 is no expression",
         "        used.append(int(token))", "        if token == '-':\n            return -atom()\n"
         "        used.append(int(token))"),
        ("there is no limit of MAX_CHARS characters", "len(text) > MAX_CHARS or ", ""),
        ("an unreadable text raises an error; the result is None",
         "except (IndexError, ValueError, ZeroDivisionError, RecursionError):",
         "except ZeroDivisionError:"),
        ("white space other than the space is accepted", r're.fullmatch(r"[-+*/()0-9 ]*", text)',
         r're.fullmatch(r"[-+*/()0-9\s]*", text)'),
    ],
}
