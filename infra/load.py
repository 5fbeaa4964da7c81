"""A note when other work on the machine slows a run down.

A step is slow if a token takes three times as long as in the first steps. Longer answers also make
a step slow. So the note also needs more processes that want to compute than there are cores.
"""

import os
from statistics import median

FIRST_STEPS = 5
SLOW = 3.0


class BusyMachine:
    """Watches the steps of a run, and says once that the machine is busy."""

    def __init__(self):
        self.first, self.noted = [], False

    def note(self, seconds_per_token: float, load: float, cores: int) -> str | None:
        """One sentence at the first slow step on a busy machine; otherwise None. load: the number
        of processes that compute or wait for a core, averaged over a minute."""
        if len(self.first) < FIRST_STEPS:
            self.first.append(seconds_per_token)
            return None
        ratio = seconds_per_token / median(self.first)
        if self.noted or ratio <= SLOW or load <= cores + 0.5:
            return None
        self.noted = True
        return (f"note: a token takes {ratio:.1f} times as long as in the first {FIRST_STEPS} "
                f"steps; other programs use the processor (load {load:.1f} on {cores} cores)")


def system_load() -> float:
    """The load average over the last minute; 0 where the system has none (Windows)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
