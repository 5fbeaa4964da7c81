"""Inputs of part 2: verifiers. The answers are not here."""


def shown(name: str, text: str) -> str:
    """The description of an input, with its text."""
    return f"{name}: {text!r}" if len(text) <= 70 else f"{name}: {text[:60]!r} ..."


def well_formed(f):
    for name, text, *opened in well_formed_texts():
        yield shown(name, text), f, text, *opened


def well_formed_texts():
    good = "<think>2+3=5</think><answer>5</answer>"
    yield "a good response", good
    yield "white space between and after the tags", f"\n{good[:20]} \n{good[20:]}\n"
    yield "white space and an end-of-turn mark after it", good + "<|im_end|>\n"
    yield "text before the thinking", "Sure! " + good
    yield "text between thinking and answer", good.replace("k><a", "k> so <a")
    yield "text after the answer", good + " I am sure."
    yield "no thinking tags", "<answer>5</answer>"
    yield "no answer", "<think>2+3=5</think>5"
    yield "an answer that is not closed", good.removesuffix("</answer>")
    yield "empty thinking", "<think></think><answer>5</answer>"
    yield "thinking of white space alone", "<think> \n</think><answer>5</answer>"
    yield "an empty answer", "<think>2+3=5</think><answer></answer>"
    yield "two answers", good + "<answer>6</answer>"
    yield "the answer before the thinking", "<answer>5</answer><think>2+3=5</think>"
    yield "an answer inside the thinking", "<think>a<answer>5</answer></think>"
    yield "thinking tags twice", "<think>a</think>" + good
    yield "thinking over two lines", good.replace("2+3", "2+\n3")
    yield "opened: the prompt ends with <think>", good.removeprefix("<think>"), True
    yield "opened, and <think> again", good, True
    yield "not opened, and no <think>", good.removeprefix("<think>")
    yield "thinking of a zero-width space", "<think>\u200b</think><answer>5</answer>"
    yield "an answer of a zero-width space", "<think>a</think><answer>\u200b</answer>"
    yield "a zero-width space before it", "\u200b" + good
    yield "an end-of-turn mark between", good.replace("k><a", "k><|im_end|><a")
    yield "text after the end-of-turn mark", good + "<|im_end|>more"
    yield "a < in the thinking", "<think>2<3</think><answer>5</answer>"


def extract(f):
    for name, text in extract_texts():
        yield shown(name, text), f, text


def extract_texts():
    yield "a good response", "<think>2+3=5</think><answer>5</answer>"
    yield "white space around the answer", "<think>a</think><answer> 12\n</answer>"
    yield "an answer of two lines", "<think>a</think><answer>x = 1\ny = 2</answer>"
    yield "a box around the answer", "<think>a</think><answer>\\boxed{7}</answer>"
    yield "text after the answer", "<think>a</think><answer>5</answer> done"
    yield "no thinking", "<answer>5</answer>"
    yield "no answer", "<think>2+3=5</think>5"
    yield "an answer that is not closed", "<think>a</think><answer>5"
    yield "an answer that is not opened", "<think>a</think>5</answer>"
    yield "an empty answer", "<think>a</think><answer> </answer>"
    yield "two answers", "<think>a</think><answer>5</answer><answer>6</answer>"
    yield "an answer inside the thinking alone", "<think>a<answer>5</answer>b</think>"
    yield "a second answer inside the thinking", \
        "<think>a<answer>4</answer></think><answer>5</answer>"
    yield "an answer in thinking that is not closed", "<think>a <answer>5</answer>"
    yield "a tag inside the answer", "<think>a</think><answer>5<think></answer>"
    yield "thinking after the answer", "<think>a</think><answer>5</answer><think>b</think>"
    yield "closing tag twice", "<think>a</think><answer>5</answer>6</answer>"
    yield "an answer of 5,000 characters", f"<think>a</think><answer>{'7' * 5000}</answer>"
    yield "thinking that is opened by the prompt", "2+3=5</think><answer>5</answer>"
    yield "a zero-width space as the answer", "<think>a</think><answer>\u200b</answer>"
    yield "a second thinking that is open", "<think>a</think><think>b<answer>5</answer>"
    yield "a second <think> that is open", "a</think><think>b<answer>5</answer>"
    yield "<think> twice, and closed", "<think>a<think>b</think><answer>5</answer>"


def number(f):
    for name, text in (
            ("an integer", "42"), ("a sign", "-7"), ("a plus sign", "+7"),
            ("white space around it", " 12 \n"), ("a decimal", "0.5"), ("no leading zero", ".25"),
            ("a decimal that is a whole number", "3.0"), ("a fraction", "1/3"),
            ("a negative fraction", "-2 / 6"), ("thousands commas", "1,234,567"),
            ("commas at the wrong places", "12,34"), ("LaTeX commas", "1{,}000"),
            ("a dollar sign", "$5"), ("a sign before the dollar", "-$5"), ("LaTeX math", "$5$"),
            ("per cent", "50%"), ("LaTeX per cent", "5\\%"), ("a final full stop", "42."),
            ("a decimal with many digits", "0.1234567890123456789"),
            ("division by zero", "1/0"), ("two numbers", "1 2"), ("a word after it", "42 apples"),
            ("a word before it", "about 42"),
            ("a word", "forty"), ("an empty text", ""), ("an exponent", "1e5"),
            ("infinity", "inf"), ("a sum", "2+3"), ("a long number", "1" * 41),
            ("digits of another script", "٣"), ("40 characters", "1" * 40),
            ("division by zero with two digits", "1/00"), ("one dollar sign at the end", "5$"),
            ("white space before the sign", " -7"), ("white space around LaTeX math", " $5$ "),
            ("40 digits with white space around", " " + "1" * 40 + "\n"),
            ("a sign and 40 digits", "-" + "1" * 40), ("two dollar signs on each side", "$$5$$"),
            ("41 characters with commas", "1" + ",111" * 10)):
        yield shown(name, text), f, text


def expression(f):
    for name, text in (
            ("one number", "7"), ("a sum", "2+3"), ("products before sums", "2+3*4"),
            ("from left to right", "10-4-3"), ("division from left to right", "24/4/2"),
            ("an exact fraction", "1/3"), ("brackets", "(2+3)*4"), ("nested", "8/(3-8/3)"),
            ("spaces", " 2 * ( 3 + 4 ) "), ("a number twice", "6*6-6"),
            ("numbers of several digits", "25*100-1"), ("a leading zero", "07+1"),
            ("a sign", "-3+5"), ("a sign after an operator", "2*-3"), ("a decimal", "1.5*2"),
            ("whole division", "7//2"), ("a power", "2**3"), ("an equation", "2+3=5"),
            ("division by zero", "1/(2-2)"), ("an open bracket", "(2+3"),
            ("a closing bracket too many", "2+3)"), ("an operator at the end", "2+"),
            ("two numbers without an operator", "2 3"), ("no operator before a bracket", "2(3)"),
            ("empty brackets", "()"), ("an empty text", ""), ("a name", "x+1"),
            ("Python", "__import__('os')"), ("a line end", "2+3\n"),
            ("201 characters", "1" + "+1" * 100), ("199 characters", "1" + "+1" * 99),
            ("200 characters", "11" + "+1" * 99), ("deep brackets", "(" * 60 + "1" + ")" * 60),
            ("a number in place of the closing bracket", "(2+3 4"),
            ("an opening bracket in place of the closing one", "(2+3("),
            ("digits of another script", "٣+2"), ("a word after it", "5 apples"),
            ("an equals sign at the end", "2+3="), ("an exclamation mark", "2*3!")):
        yield shown(name, text), f, text


CHECKS = {"well_formed": well_formed, "extract": extract, "number": number,
          "expression": expression}
