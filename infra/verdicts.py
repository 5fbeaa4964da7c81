"""The command line of verify.py: a file of answers in, a verdict per line out.

A gold answer that cannot be read costs its own line alone. Such lines are counted, and the exit
code is then 1.
"""

import codecs
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import verify
from infra import arguments
from infra.terminal import echo


def parse_row(line: bytes, number: int) -> tuple[str | None, str | None]:
    """gold and pred of a line of a file. Numbers are texts, as they are written; null, NaN and
    exponents of five characters are None. Raises ValueError for any other line."""
    try:
        row = json.loads(line.decode(), parse_int=str, parse_float=plain_decimal,
                         parse_constant=lambda name: None)
        gold, pred = row["gold"], row["pred"]
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number}: byte {error.start + 1} is not UTF-8") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"line {number} is not an object with gold and pred") from None
    if not isinstance(gold, str | None) or not isinstance(pred, str | None):
        raise ValueError(f"line {number}: gold and pred must be texts or numbers")
    return gold, pred


def plain_decimal(text: str) -> str | None:
    """A number of JSON without an exponent: in an answer, e is Euler's number."""
    exponent = text.lower().partition("e")[2]
    return format(Decimal(text), "f") if len(exponent) <= 4 else None


def print_verdicts(path: str) -> int:
    """Prints a verdict for each line. Returns 1 where a gold answer cannot be read, otherwise 0.
    Raises OSError, and ValueError for a line of another form."""
    names = {True: "right", False: "wrong", None: "cannot tell"}
    rows = unread = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            rows += 1
            gold, pred = parse_row(line, number)
            try:
                gold = verify.final_answer(gold or "")
                gold = verify.extract_any(gold, bare=True) or gold
                echo(names[verify.verdict(gold, verify.extract_any(pred or "", bare=True))])
            except ValueError as error:
                unread += 1
                echo("the gold answer cannot be read")
                echo(f"verify.py: {path}, line {number}: {error}", file=sys.stderr)
    sys.stdout.flush()
    if not rows:
        raise ValueError("the file has no lines")
    if unread:
        echo(f"verify.py: {path}: {unread} of {rows} gold answers cannot be read", file=sys.stderr)
    return 1 if unread else 0


def measure(argv: list[str]) -> int:
    """Runs bench/verify.py, once the folder of --data has its files."""
    parser = arguments.Parser("verify.py", add_help=False)
    parser.add_argument("--data", type=Path)
    data = parser.parse_known_args(argv)[0].data
    for name in ("math500.jsonl", "gsm8k_test.jsonl") if data else ():
        if not (data / name).is_file():
            echo(f"verify.py: --data {data} is no folder with the file {name}", file=sys.stderr)
            return 2
    bench = Path(__file__).parents[1] / "bench" / "verify.py"
    return subprocess.run([sys.executable, bench, *argv]).returncode


def main(argv=None) -> int:
    """The command line of verify.py. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments.Parser(
        "verify.py", description="Prints a verdict for each answer in a file. With --stats --data "
                                 "DIR it measures the verifier instead.")
    if "--stats" in argv:
        rest = [arg for arg in argv if arg != "--stats"]
        return arguments.run(parser, [], lambda args: measure(rest))
    parser.add_argument("file", type=arguments.path,
                        help='JSONL of {"gold": ..., "pred": ...}, answers or responses')

    def work(args):
        try:
            return print_verdicts(args.file)
        except ValueError as error:
            raise ValueError(f"{args.file}: {error}") from None
    return arguments.run(parser, argv, work)
