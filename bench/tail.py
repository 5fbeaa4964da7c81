"""The tail of sampling, with and without partial rollouts: decode steps with few active rows.

    python train.py --task wait --steps 0 --out runs/wait        a base model with long responses
    python bench/tail.py --run runs/wait --budgets 0 160

The policy is not trained, so the budgets (--partial-rollouts) differ in sampling alone. A decode
step is in the tail if less than a quarter of the rows of its sampler call are still active. The
first steps of a run are left out, because they have few open responses. Budget 0: no partial
rollouts.
"""

import argparse
import itertools
import random
import sys
import time
from pathlib import Path
from statistics import mean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402

import evaluate  # noqa: E402
import tasks  # noqa: E402
import train  # noqa: E402
from config import SAMPLERS, Options  # noqa: E402
from engine import sampler  # noqa: E402
from infra import partial  # noqa: E402
from infra.models import Models  # noqa: E402

TAIL = 0.25     # a decode step with a smaller share of active rows is in the tail
SKIPPED = 8     # training steps at the beginning that are left out


class Call(NamedTuple):
    """A call of the sampler on a CPU. The first token of a row is drawn by the prefill."""

    lengths: torch.Tensor   # (N,) tokens drawn of each row
    active: list            # of each decode step: how many rows draw a token
    step_seconds: list      # of each decode step
    seconds: float          # of the whole call

    @property
    def tail(self) -> list[bool]:
        """Of each decode step, whether less than TAIL of the rows are active."""
        return [rows < TAIL * len(self.lengths) for rows in self.active]


def recorded(generate, args, named) -> tuple:
    """The Rollout of a sampler call with these arguments, and its Call."""
    decode_step, starts, active = sampler.decode_step, [], []

    def recording(model, slots, *rest):
        starts.append(time.perf_counter())
        active.append(slots.count_active())
        decode_step(model, slots, *rest)
    sampler.decode_step = recording
    try:
        began = time.perf_counter()
        rollout = generate(*args, **named)
        ended = time.perf_counter()
    finally:
        sampler.decode_step = decode_step
    step_seconds = [end - start for start, end in itertools.pairwise([*starts, ended])]
    return rollout, Call(rollout.mask.sum(1), active, step_seconds, ended - began)


def sample_steps(models, task, budget: int, steps: int, max_new_tokens: int):
    """(calls, groups, open rows) of the rollouts of some steps, each a list with an item per step.
    calls: the Calls of the step. groups: how many are complete."""
    # 1. a sampler that records its calls
    calls, groups, n_open, state = [], [], [], {}

    def recording(*args, **named):
        rollout, call = recorded(sampler.generate, args, named)
        calls[-1].append(call)
        return rollout
    SAMPLERS["recording"] = recording
    options = Options(partial_rollouts=budget, max_new_tokens=max_new_tokens, sampler="recording")
    # 2. the rollouts
    for step in range(steps):
        calls.append([])
        problems = task.sample(random.Random(step), options.prompts)
        problems, *_ = train.sample_groups(models, problems, step, state, options)
        groups.append(len(problems))
        n_open.append(sum(row["open"] for row in partial.rows_of(state.get("open_groups", []))))
    return calls[SKIPPED:], groups[SKIPPED:], n_open[SKIPPED:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--run", required=True, help="folder of a run, whose policy samples")
    parser.add_argument("--budgets", type=int, nargs="+", default=[0, 160],
                        help="tokens of a response per step; 0: no partial rollouts")
    parser.add_argument("--steps", type=int, default=20,
                        help=f"rollouts of each budget; the first {SKIPPED} are left out")
    args = parser.parse_args()
    policy, tokenizer, settings = evaluate.load_run(args.run, "cpu")
    models = Models(None, tokenizer, behavior=policy)
    task = tasks.TASKS[settings["task"]](settings["level"])
    print("| `--partial-rollouts` | decode steps per step | of these in the tail "
          "| seconds per step | of these in the tail | tokens per second "
          "| complete groups per step | open responses |")
    print("|---|---|---|---|---|---|---|---|")
    for budget in args.budgets:
        calls, groups, n_open = sample_steps(models, task, budget, args.steps,
                                             settings["max_new_tokens"])
        made = [call for step in calls for call in step]
        decode_steps = sum(len(call.tail) for call in made)
        seconds = sum(call.seconds for call in made)
        tail = sum(sum(call.tail) for call in made)
        tail_seconds = sum(sum(itertools.compress(call.step_seconds, call.tail)) for call in made)
        tokens = sum(int(call.lengths.sum()) for call in made)
        print(f"| {budget or 'off'} | {decode_steps / len(calls):.0f} | {tail / decode_steps:.0%} "
              f"| {seconds / len(calls):.2f} | {tail_seconds / seconds:.0%} "
              f"| {tokens / seconds:.0f} | {mean(groups):.1f} | {mean(n_open):.0f} |", flush=True)


if __name__ == "__main__":
    main()
