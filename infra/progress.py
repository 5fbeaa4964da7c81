"""Progress of a loop on standard error: a bar on a terminal, else a line for a step.

A bar draws over itself with carriage returns, which would fill a log file. So output that is piped
gets whole lines. TQDM_DISABLE=1 silences both. Left out on purpose: bars beside each other.
"""

import os
import sys
import time

from tqdm import tqdm

from infra import distributed
from infra.terminal import echo, visible

MAX_COLUMNS = 100
BAR = "{desc} {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining}{postfix}"
ENDLESS = "{desc} {n_fmt} {elapsed}{postfix}"  # of a loop without a known end


class Progress:
    """The progress of a loop, shown on the first process only. name: of the loop. total: its steps,
    None if unknown; done: those made before. every: seconds between two lines, where it is no
    terminal; the last step always has its line."""

    def __init__(self, name: str, total: int | None, done: int = 0, every: float = 0.0):
        self.name, self.total, self.done, self.every = name, total, done, every
        self.silent = distributed.rank() > 0 or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
        self.last, terminal, self.bar = -every, sys.stderr.isatty(), None
        if terminal and not self.silent:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or MAX_COLUMNS
            self.bar = tqdm(total=total, initial=done, desc=name, disable=False,
                            ncols=min(MAX_COLUMNS, columns),
                            bar_format=BAR if total else ENDLESS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def extend(self, steps: int) -> None:
        """Adds steps to the total."""
        self.total += steps
        if self.bar is not None:
            self.bar.total = self.total

    def step(self, values: dict) -> None:
        """One step further. values: name -> text, the most important first; what does not fit into
        the columns of a bar is cut."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(" ".join(f"{k} {v}" for k, v in values.items()), refresh=False)
            self.bar.update()
        elif not self.silent and (time.monotonic() - self.last >= self.every
                                  or self.done == self.total):
            self.last = time.monotonic()
            step = f"{self.done}/{self.total}" if self.total else str(self.done)
            words = [f"{self.name} {step}", *(f"{k} {v}" for k, v in values.items())]
            echo("  ".join(words), file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        """Prints a line to standard output, above the bar."""
        if self.bar is not None:
            self.bar.write(visible(text))
        elif distributed.rank() == 0:
            echo(text, flush=True)
