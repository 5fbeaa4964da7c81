"""What all command lines share: checked flags, and errors that are one sentence.

`Parser` refuses a bad flag by its name, before any work begins. `run` calls a program, and turns a
mistake in its input into one sentence and an exit code. Nothing here needs torch, since verify.py
runs without it. Left out on purpose: the flags of train.py, which are made from config.Options.
"""

import argparse
import math
import os
import re
import sys

from infra.terminal import echo, visible

LARGEST = 2**62              # of a whole number; a sum of two still fits 64 bits
LEAST_TEMPERATURE = 1e-4     # logits divided by much less are infinite in float32
MAX_MESSAGE = 600            # characters
# a shell cannot send these; bytes that are not UTF-8 arrive as U+DC80 to U+DCFF, which are allowed
UNWRITABLE = re.compile("[\0\ud800-\udbff\udc00-\udc7f\udd00-\udfff]")
EMPTY_VALUE = re.compile(r"(--[^=]+)=--")


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors of one line, without the usage of all flags."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        for argument in args:  # argparse takes `--flag=--` for a flag without a value, and fails
            if match := EMPTY_VALUE.fullmatch(argument):
                self.error(f"argument {match[1]}: expected one argument")
            if UNWRITABLE.search(argument):
                self.error(f"{argument!r} holds characters that no file name and no text can hold")
        return super().parse_known_args(args, namespace)

    def error(self, message):
        if os.environ.get("RANK", "0") != "0":  # of several processes, only the first prints it
            self.exit(2)
        self.exit(2, f"{self.prog}: {one_line(message)} (--help lists the flags)\n")


# --- types of flags

def integer(least: int = -LARGEST, most: int = LARGEST):
    """The type of a flag: a whole number from `least` to `most`."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        return in_range(value, text, least, most)
    return read


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf):
    """The type of a flag: a finite number from `least` to `most`, and larger than `above`."""
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, not {text}")
        if value <= above:
            raise argparse.ArgumentTypeError(f"must be above {above:g}, not {text}")
        return in_range(value, text, least, most)
    return read


def in_range(value, text: str, least, most):
    """The value. Raises ArgumentTypeError unless it is in the range."""
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, not {text}")
    return value


def temperature(text: str) -> float:
    """The type of --temperature: 0 for greedy decoding, or at least LEAST_TEMPERATURE."""
    value = number(least=0)(text)
    return value and in_range(value, text, LEAST_TEMPERATURE, math.inf)


def add_run(parser: Parser) -> None:
    """Adds the flags of a program that reads a trained run."""
    parser.add_argument("--run", required=True, type=path,
                        help="the run's folder, such as runs/NAME")
    parser.add_argument("--seed", type=integer(), default=0, help="(default: 0)")


def path(text: str) -> str:
    """The type of a flag that names a file or a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


# --- errors

def one_line(text: str) -> str:
    """A message on one line, without control characters. A long message is cut in the middle."""
    text, half = " ".join(text.split()), MAX_MESSAGE // 2
    return visible(text if len(text) <= MAX_MESSAGE else f"{text[:half]} … {text[-half:]}")


def describe(error: BaseException) -> str:
    """An error in one sentence. An OSError names the file first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return one_line(str(error) or type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch could not allocate memory."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def write_any_text() -> None:
    """Makes print() write escapes for characters that the terminal's encoding lacks. Otherwise it
    would fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def run(parser: Parser, argv, work) -> int:
    """Calls work(args) with the flags in argv, and prints a failure in one sentence. Returns the
    exit code: 0 done (or what work returns), 1 failed, 2 bad input, 130 Ctrl-C. Other errors pass:
    they are faults of the program."""
    write_any_text()
    code, message = 0, ""
    try:
        code = work(parser.parse_args(argv)) or 0
    except SystemExit as error:  # argparse has printed its message, or the help
        code = error.code or 0
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    except (ValueError, OSError) as error:
        code, message = 2, f"{parser.prog}: {describe(error)}"
    except FloatingPointError as error:
        code, message = 1, f"{parser.prog}: {describe(error)}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        code, message = 1, f"{parser.prog}: there is not enough memory ({describe(error)})"
    except KeyboardInterrupt:
        code, message = 130, "\nstopped"
    if message:
        echo(message, file=sys.stderr)
    return code
