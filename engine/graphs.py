"""A decode step, recorded once and then replayed without the Python between its kernels.

For few rows that Python takes as long as the kernels do. On a CPU torch.jit notes which kernels a
step calls, for whatever tensors it is given next; on CUDA a graph holds them with their addresses,
so that there is one for each size of batch and each automaton of stop strings. A step that can be
recorded works in place and never asks for a number, to decide by it.
Left out on purpose: torch.compile, whose seconds of compiling a run of minutes does not win back.
"""

import math
import warnings

import torch

from engine.slots import Places, View

# How many steps of a kind run before one is recorded. On a CPU recording takes 30 ms, which some
# hundred replays of one row win back; torch.jit is no longer kept up, but works on Python 3.14 too.
AS_IT_IS = {"cpu": 100, "cuda": 1}


def run(step, model, batch: Places, view: View, how) -> None:
    """step(model, view, how), as it is or from the batch's records. Once AS_IT_IS steps of a kind
    have run, which also warms up their kernels, the next one is recorded; from then on that is
    replayed."""
    device = view.keys.device.type
    given = {name: x for name, x in zip(View._fields, view, strict=True) if x is not None}
    kind = (*given, how, model.embedding.weight.data_ptr())
    if batch.graphs:
        kind += len(view.drawn), 0 if view.strings is None else view.strings.data_ptr()
    known = batch.recorded.get(kind, 0)  # the record, or how many have run
    if callable(known):
        known(*given.values())
    elif known < AS_IT_IS[device]:
        step(model, view, how)
        batch.recorded[kind] = known + 1
    elif batch.graphs:
        batch.recorded[kind] = capture(step, model, batch, view, how)
    else:
        batch.recorded[kind] = trace(Step(step, model, given, how), given)


def capture(step, model, batch: Places, view: View, how):
    """The step as a CUDA graph, which finds all tensors where they are now; replayed once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=batch.pool, stream=batch.stream):
        step(model, view, how)
    graph.replay()
    strings = view.strings  # kept, so that no other table comes to stand where it stood

    def replay(*_, strings=strings):
        graph.replay()
    return replay


class Step(torch.nn.Module):
    """`step` as torch.jit wants it: a module that has the weights, of tensors that are not None."""

    def __init__(self, step, model, names, how):
        super().__init__()
        self.step, self.model, self.names, self.how = step, model, list(names), how

    def forward(self, *given):
        view = View(**dict.fromkeys(View._fields) | dict(zip(self.names, given, strict=True)))
        self.step(self.model, view, self.how)
        return view.drawn


def trace(module: Step, given: dict):
    """Runs the step, and records by torch.jit which kernels it calls: for other numbers of rows and
    columns too. Where a changed model asks for a number, to decide by it, steps stay as they are.
    Not noticed is what changes in Python alone: a hook, a counter, another Parameter in place of
    one (its values may change). torch keeps some MB of each record until the process ends."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        traced = torch.jit.trace(module, tuple(given.values()), check_trace=False)
    if any(issubclass(w.category, torch.jit.TracerWarning) for w in said):
        return -math.inf

    def replay(*given):
        with torch.jit.optimized_execution(False):  # else the last bits are others
            traced.forward(*given)
    return replay
