"""A decode step recorded once and replayed without the Python between its kernels.

For few rows that Python takes as long as the kernels. On a CPU torch.jit records which kernels a
step calls; the record works for any tensors. On CUDA a graph also records the addresses, so each
batch size and each stop-string table has a graph of its own. A step that can be recorded works in
place and never reads a number from the device to decide by it.
Left out on purpose: torch.compile, whose seconds of compiling a run of minutes does not win back.
"""

import math
import warnings

import torch

from engine.slots import Slots, StepTensors

# Steps of a kind that run before one is recorded. Recording takes 30 ms on a CPU, the gain of some
# hundred replays of one row. torch.jit is deprecated, but works up to Python 3.14.
WARMUP_STEPS = {"cpu": 100, "cuda": 1}


def run(step, model, slots: Slots, tensors: StepTensors, sampling: tuple) -> None:
    """step(model, tensors, sampling), directly or as a replay of its record.

    The first WARMUP_STEPS steps of a kind run directly, which also warms up their kernels. The next
    one is recorded, and all later ones are replays."""
    device = tensors.lengths.device.type
    given = {name: x for name, x in zip(StepTensors._fields, tensors, strict=True) if x is not None}
    kind = (*given, sampling, model.embedding.weight.data_ptr())
    if slots.cuda_graphs:
        table = 0 if tensors.stop_table is None else tensors.stop_table.data_ptr()
        kind += len(tensors.n_drawn), table
    known = slots.recorded.get(kind, 0)  # the record, or the number of steps so far
    if callable(known):
        known(*given.values())
    elif known < WARMUP_STEPS[device]:
        step(model, tensors, sampling)
        slots.recorded[kind] = known + 1
    elif slots.cuda_graphs:
        slots.recorded[kind] = capture(step, model, slots, tensors, sampling)
    else:
        slots.recorded[kind] = trace(Step(step, model, given, sampling), given)


def capture(step, model, slots: Slots, tensors: StepTensors, sampling: tuple):
    """The step as a CUDA graph, which reads and writes today's addresses; replayed once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=slots.pool, stream=slots.stream):
        step(model, tensors, sampling)
    graph.replay()
    table = tensors.stop_table  # a reference, so that no other table gets the same address

    def replay(*_, table=table):
        graph.replay()
    return replay


class Step(torch.nn.Module):
    """A step in the form that torch.jit records: a module with the weights, called with tensors."""

    def __init__(self, step, model, names, sampling: tuple):
        super().__init__()
        self.step, self.model, self.names, self.sampling = step, model, list(names), sampling

    def forward(self, *given):
        tensors = dict.fromkeys(StepTensors._fields) | dict(zip(self.names, given, strict=True))
        self.step(self.model, StepTensors(**tensors), self.sampling)
        return tensors["n_drawn"]


def trace(module: Step, given: dict):
    """Runs the step and records with torch.jit which kernels it calls, for any batch size.

    A step of a changed model that decides by a number from a tensor is not recorded: it keeps
    running as it is. Changes in Python alone go unnoticed: a hook, a counter, a replaced Parameter
    (its values may change). torch keeps some MB of each record until the process ends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace(module, tuple(given.values()), check_trace=False)
    if any(issubclass(w.category, torch.jit.TracerWarning) for w in caught):
        return -math.inf

    def replay(*given):
        with torch.jit.optimized_execution(False):  # the optimizer changes the last bits
            traced.forward(*given)
    return replay
