"""The sampler is not the trainer: how far they are apart, and what each correction does about it.

    python -m recipes.stale_sampler                       the sampler is 8 steps old (--lag)
    python -m recipes.stale_sampler --dtype bfloat16      the sampler computes in bfloat16

Fast training is off-policy: the sampler works while the trainer updates, so it has old weights, and
it computes in another precision. The policy gradient then needs the importance ratio of each token:

    w = trainer's probability / sampler's probability                   log w is clamped to +-20
    effective sample size (ESS) = (sum w)^2 / (n sum w^2)     share of n samples that still counts

The first table has a run for each correction in offpolicy.py, all from one base, and a run on
policy. In `tis` and `icepop` the clip's ratio is to the trainer at the beginning of the step, and w
is a factor of its own (decoupled PPO, 2505.24298). In the others w is the ratio. The second table
has the ratios of the last run's policy to its own old weights, and to itself in bfloat16.
Left out on purpose: several seeds. A difference of a few points in one run means nothing.
"""

import infra.openmp  # noqa: F401  (before torch)

import copy
import sys
from pathlib import Path

import torch

import evaluate
import ppo
import train
from infra import arguments, cli
from infra.base_model import base_model
from infra.forward import policy_logp
from infra.models import make_models
from infra.run_dir import tune_malloc
from infra.terminal import echo

FLAGS = ("--prompts 16 --group-size 8 --lr 8e-4 --eval-problems 1 --eval-every 1000 --device cpu "
         "--no-report").split()
CLIP = "--algo sapo --surrogate clip"  # GRPO, with the options of offpolicy.py
CURES = {  # --sampler-lag and --sampler-dtype are added to all but the first
    "on policy": CLIP,
    "none": "--algo sapo --surrogate likelihood",
    "clip": CLIP,
    "dual clip": f"{CLIP} --dual-clip 3",
    "cispo": "--algo cispo --aggregate sequence",
    "sapo": "--algo sapo",
    "gmpo": "--algo gmpo",
    "gspo": "--algo gspo",
    "tis": f"{CLIP} --sampler-correction tis",
    "icepop": f"{CLIP} --sampler-correction icepop",
    "sequence mask": f"{CLIP} --sequence-mask 0.1",
}
HELD_OUT = 1000  # problems of the accuracy; a sixteenth of them for the distances
RATIOS = {"sampler": "13", "logp_diff": "9.4f", "KL": "8.4f", "1%": "6.2f", "99%": "6.2f",
          "ESS, tokens": "12.0%", "ESS, responses": "15.0%"}
RUNS = {"correction": "13", "logp_diff": "9.3f", "clipped": "8.1%", "grad_norm": "9.2f",
        "entropy": "8.3f", "accuracy": "9.1%", "95% interval": "15"}


# --- how far apart

def effective_sample_size(weights: torch.Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of weights (n,): 1 where all are equal, 1/n where one has it all."""
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def distance(logp, sampler_logp, mask) -> dict:
    """How far the trainer's log-probs (N, T) are from those of the sampler, on its responses."""
    inside = mask > 0
    ratio = ppo.policy_ratio(logp, sampler_logp)
    response = ppo.clamp(((logp - sampler_logp) * mask).sum(1)).exp()          # (N,)
    low, high = ratio[inside].quantile(torch.tensor([0.01, 0.99])).tolist()
    return {"logp_diff": float((logp - sampler_logp).abs()[inside].mean()),
            "KL": float(ppo.kl(sampler_logp, logp)[inside].mean()), "1%": low, "99%": high,
            "ESS, tokens": effective_sample_size(ratio[inside]),
            "ESS, responses": effective_sample_size(response)}


def distance_to(sampler, models, problems, options) -> dict:
    """`distance` of the policy to a sampler, on 4 responses of the sampler to each problem."""
    rollout, _ = evaluate.sample_responses(sampler, models.tokenizer, problems, 4, seed=1,
                                           max_new_tokens=options.max_new_tokens)
    batch = ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group, None)
    return distance(policy_logp(models.policy, batch, options), rollout.logp, rollout.mask)


# --- the tables

def heading(columns: dict) -> str:
    """The names of a table's columns. columns: name -> format."""
    names = [name.rjust(int(how.partition(".")[0])) for name, how in columns.items()]
    return " ".join([names[0].strip().ljust(len(names[0])), *names[1:]])


def line(columns: dict, values: dict) -> str:
    """A line of a table."""
    return " ".join(format(values[name], how) for name, how in columns.items())


def train_with(flags: str, base, task, args):
    """Trains a copy of the base. Returns models, options and the metrics of each step."""
    options, _ = cli.parse([*FLAGS, *flags.split(), "--steps", str(args.steps), "--seed",
                            str(args.seed)])
    _, tokenizer = cli.validate(options)
    models, optimizer = make_models(copy.deepcopy(base), tokenizer, options)
    return models, options, train.reinforce(task, models, optimizer, options)


def ages(models, task, options) -> list[dict]:
    """The distance of a policy to its own old weights, and to itself in bfloat16."""
    problems, found, newest = task.held_out(HELD_OUT // 16), [], len(models.versions) - 1
    for age in (age for age in (0, 1, 2, 4, 8, 16, 32) if age <= newest):
        models.behavior.load_state_dict(models.versions[newest - age])
        found.append({"sampler": f"{age} steps old"} | distance_to(
            models.behavior, models, problems, options))
    coarse = copy.deepcopy(models.policy).cast(torch.bfloat16)
    return [*found, {"sampler": "bfloat16"} | distance_to(coarse, models, problems, options)]


def result(name: str, models, options, task, history) -> dict:
    """The line of a run: the largest logp_diff, the entropy at the end, means over all steps of the
    other metrics, and the accuracy of the policy at temperature 1."""
    updates = [step for step in history if "loss" in step]

    def mean(name):
        return sum(step[name] for step in updates) / max(1, len(updates))
    problems = task.held_out(HELD_OUT)
    _, texts = evaluate.sample_responses(models.sampler, models.tokenizer, problems,
                                         max_new_tokens=options.max_new_tokens)
    right = evaluate.proportion(map(task.correct, problems, texts))
    return {"correction": name,
            "logp_diff": max((step["logp_diff"] or 0.0 for step in updates), default=0.0),
            "clipped": mean("clipfrac_low") + mean("clipfrac_high"),
            "grad_norm": mean("grad_norm"), "entropy": history[-1]["entropy"],
            "accuracy": right["value"], "95% interval": "{:.1%} to {:.1%}".format(*right["ci"])}


def work(args) -> None:
    """Trains a run for each correction, and prints both tables."""
    tune_malloc()
    if args.lag is None:
        args.lag = 8 if args.dtype == "float32" else 0
    # 1. the base
    options, _ = cli.parse([*FLAGS, "--seed", str(args.seed)])
    task, tokenizer = cli.validate(options)
    args.work.mkdir(parents=True, exist_ok=True)
    base = base_model(options, task, tokenizer, args.work)
    # 2. a run for each correction
    sampler = f"--sampler-lag {args.lag} --sampler-dtype {args.dtype}"
    echo(heading(RUNS))
    for name, flags in CURES.items():
        flags = flags if name == "on policy" else f"{flags} {sampler}"
        models, options, history = train_with(flags, base, task, args)
        echo(line(RUNS, result(name, models, options, task, history)), flush=True)
    # 3. the old weights of the last run
    echo(f"\n{heading(RATIOS)}")
    for values in ages(models, task, options):
        echo(line(RATIOS, values))


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.stale_sampler", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--lag", type=arguments.integer(0), help="steps (default: 8; 0 with --dtype bfloat16)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"],
        help="precision of the sampler (default: float32)")
    add("--steps", type=arguments.integer(1), default=30, help="of each run (default: 30)")
    add("--seed", type=arguments.integer(), default=0, help="(default: 0)")
    add("--work", type=Path, default=Path("runs"), help="folder of the base (default: runs)")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
