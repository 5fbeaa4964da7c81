"""The tail of sampling: the decode steps in which few rows are active, with partial rollouts and
without.

    python train.py --task wait --steps 0 --out runs/wait        a base model with long responses
    python bench/tail.py --run runs/wait --budgets 0 160

The policy stays as it is, so only the sampling differs. A decode step is in the tail if less than a
quarter of the rows that the call began with are active. The first steps are left out: they have no
open responses yet. Budget 0 has no partial rollouts.
"""

import argparse
import random
import sys
from pathlib import Path

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

TAIL = 0.25     # a decode step is in the tail below this share of active rows
SKIPPED = 8     # first steps, which are not counted


def active_rows(lengths) -> torch.Tensor:
    """How many rows are active at each decode step (T,), of rows that draw lengths (N,) tokens."""
    return (lengths > torch.arange(int(lengths.max()))[:, None]).sum(1)


def sample_steps(models, task, budget: int, steps: int, max_new_tokens: int):
    """The lengths (N,) of the rows of each call of the sampler, and what complete groups hold:
    (their number, tokens, open rows after each step)."""
    calls, done = [], []

    def watched(*args, **more):
        rollout = sampler.generate(*args, **more)
        calls[-1].append(rollout.mask.sum(1).cpu())
        return rollout
    SAMPLERS["watched"] = watched
    options = Options(partial_rollouts=budget, max_new_tokens=max_new_tokens, sampler="watched")
    state = {}
    for step in range(steps):
        calls.append([])
        problems = task.sample(random.Random(step), options.prompts)
        problems, rollout, _ = train.sample_groups(models, problems, step, state, options)
        rows = partial.rows_of(state.get("open_groups", []))
        done.append((len(problems), int(rollout.mask.sum()), sum(row["open"] for row in rows)))
    return calls[SKIPPED:], done[SKIPPED:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[0, 160])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    policy, tokenizer, settings = evaluate.load_run(args.run)
    models, task = Models(None, tokenizer, behavior=policy), tasks.TASKS[settings["task"]](
        settings["level"])
    print("| budget, tokens | decode steps a step | of these in the tail | tokens a decode step "
          "| groups a step | open responses |")
    print("|---|---|---|---|---|---|")
    for budget in args.budgets:
        calls, done = sample_steps(models, task, budget, args.steps, settings["max_new_tokens"])
        lengths = [rows for step in calls for rows in step]
        active = [active_rows(rows) for rows in lengths]
        decode_steps = sum(len(a) for a in active)
        tail = sum(int((a < TAIL * len(rows)).sum())
                   for a, rows in zip(active, lengths, strict=True))
        n = len(calls)
        print(f"| {budget or 'none'} | {decode_steps / n:.0f} | {tail / decode_steps:.0%} "
              f"| {sum(int(rows.sum()) for rows in lengths) / decode_steps:.0f} "
              f"| {sum(d[0] for d in done) / n:.1f} | {sum(d[2] for d in done) / n:.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
