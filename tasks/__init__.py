"""The registry of tasks. A new task is a file in this folder with a subclass of Task.

The name of a task is that of its class in lower case: class Arithmetic is --task arithmetic.
"""

from importlib import import_module
from pkgutil import iter_modules

from tasks.arithmetic import Arithmetic
from tasks.assistant import Assistant
from tasks.base import MAX_VALUE, NEW, SEEN, Problem, Task, Tool, is_held_out, mix_levels
from tasks.chain import Chain
from tasks.code import Code
from tasks.countdown import Countdown
from tasks.curriculum import PROBLEM_SAMPLING, record_success, sample_problems
from tasks.file import File
from tasks.gsm import Gsm
from tasks.rows import read_jsonl
from tasks.wait import Wait

__all__ = ["MAX_VALUE", "NEW", "PROBLEM_SAMPLING", "SEEN", "TASKS", "Arithmetic", "Assistant",
           "Chain", "Code", "Countdown", "File", "Gsm", "Problem", "Task", "Tool", "Wait",
           "is_held_out", "mix_levels", "read_jsonl", "record_success", "sample_problems"]


def find_tasks() -> dict[str, type[Task]]:
    """The subclasses of Task in all files of this folder, by name."""
    modules = [import_module(f"tasks.{module.name}") for module in iter_modules(__path__)]
    found = [item for module in modules for item in vars(module).values()]
    return {item.__name__.lower(): item for item in found
            if isinstance(item, type) and issubclass(item, Task) and item is not Task}


TASKS = find_tasks()
