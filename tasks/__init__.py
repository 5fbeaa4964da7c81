"""The registry of tasks. A new task is a file in this folder, its import, and a line in TASKS."""

from tasks.arithmetic import Arithmetic
from tasks.base import MAX_VALUE, NEW, SEEN, Problem, Task, is_held_out, mix_levels
from tasks.chain import Chain
from tasks.code import Code
from tasks.countdown import Countdown
from tasks.file import File, read_jsonl
from tasks.gsm import Gsm
from tasks.wait import Wait

TASKS = {
    "arithmetic": Arithmetic,
    "countdown": Countdown,
    "gsm": Gsm,
    "chain": Chain,
    "wait": Wait,
    "code": Code,
    "file": File,
}

__all__ = ["MAX_VALUE", "NEW", "SEEN", "TASKS", "Arithmetic", "Chain", "Code", "Countdown", "File",
           "Gsm", "Problem", "Task", "Wait", "is_held_out", "mix_levels", "read_jsonl"]
