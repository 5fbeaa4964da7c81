"""The tail of sampling, with and without partial rollouts: decode steps with few active rows.

    python train.py --task wait --steps 0 --out runs/wait        a base model with long responses
    python bench/tail.py --run runs/wait --budgets 0 160

The policy is not trained, so the budgets (--partial-rollouts) differ in sampling alone. A decode
step is in the tail if less than a quarter of the rows of its sampler call are still active. The
first steps of a run are left out, because they have few open responses. Budget 0: no partial
rollouts.
"""

import argparse
import random
import sys
from pathlib import Path
from statistics import mean

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


def active_rows(lengths) -> torch.Tensor:
    """The number of active rows at each decode step, (T,). lengths (N,): the tokens of each row."""
    return (lengths > torch.arange(int(lengths.max()))[:, None]).sum(1)


def sample_steps(models, task, budget: int, steps: int, max_new_tokens: int):
    """(calls, groups, open rows) of the rollouts of some steps, each a list with an item per step.
    calls: the lengths (N,) of the rows of each sampler call. groups: how many are complete."""
    # 1. a sampler that records the lengths of its rows
    calls, groups, n_open, state = [], [], [], {}

    def recording(*args, **named):
        rollout = sampler.generate(*args, **named)
        calls[-1].append(rollout.mask.sum(1).cpu())
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
    policy, tokenizer, settings = evaluate.load_run(args.run)
    models = Models(None, tokenizer, behavior=policy)
    task = tasks.TASKS[settings["task"]](settings["level"])
    print("| `--partial-rollouts` | decode steps per step | of these in the tail "
          "| tokens per decode step | complete groups per step | open responses |")
    print("|---|---|---|---|---|---|")
    for budget in args.budgets:
        calls, groups, n_open = sample_steps(models, task, budget, args.steps,
                                             settings["max_new_tokens"])
        all_lengths = [lengths for step in calls for lengths in step]
        active = [active_rows(lengths) for lengths in all_lengths]
        decode_steps = sum(len(rows) for rows in active)
        tail = sum(int((rows < TAIL * len(lengths)).sum())
                   for rows, lengths in zip(active, all_lengths, strict=True))
        tokens = sum(int(lengths.sum()) for lengths in all_lengths)
        print(f"| {budget or 'off'} | {decode_steps / len(calls):.0f} | {tail / decode_steps:.0%} "
              f"| {tokens / decode_steps:.0f} | {mean(groups):.1f} | {mean(n_open):.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
