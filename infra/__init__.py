"""The machinery. Every command imports a file of this folder first: while it still loads torch,
Ctrl-C ends it without a traceback."""

import sys


def quiet_interrupt(kind, error, trace) -> None:
    """sys.excepthook, in which Ctrl-C prints one line. Python then ends as the signal asks."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = quiet_interrupt
