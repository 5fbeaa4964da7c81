"""A sampler that differs from the trainer: the distance of the two, and twelve losses compared.

    python -m recipes.stale_sampler                       the sampler is 8 steps old (--lag)
    python -m recipes.stale_sampler --dtype bfloat16      the sampler computes in bfloat16

Fast training is off-policy: the sampler works while the trainer updates, so it has old weights, and
it computes in another precision. The policy gradient then needs the importance ratio of each token:

    w = trainer's probability / sampler's probability              log w is clamped to +-20
    effective sample size (ESS) = (sum w)^2 / (n sum w^2)          as a share of the n samples

The first table has a run on policy, then a run for each correction, all from one base. In `tis` and
`icepop` the clip's ratio is to the trainer at the beginning of the step. A bounded weight corrects
the rest of w (decoupled PPO, 2505.24298). `none` has no ratio. The others use w, or its geometric
mean over the response (`gmpo`, `gspo`; with bfloat16, `gspo` ignores the precision). `KL` adds
a KL to the base, whose gradient is biased if the sampler is old. `unbiased KL` multiplies it by w.
The second table compares the last run's policy with its own old weights, and with itself in
bfloat16.
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
VARIANTS = {  # name -> flags; --sampler-lag and --sampler-dtype are added to all but the first
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
    "KL": f"{CLIP} --kl-coef 0.05",
    "unbiased KL": f"{CLIP} --kl-coef 0.05 --unbiased-kl",
}
HELD_OUT = 1000  # problems for the accuracy; a sixteenth of them for the distances
# the columns of the tables: name -> format
RATIO_COLUMNS = {"sampler": "13", "logp_diff": "9.4f", "KL": "8.4f", "1%": "6.2f", "99%": "6.2f",
                 "ESS, tokens": "12.0%", "ESS, responses": "15.0%"}
RUN_COLUMNS = {"correction": "13", "logp_diff": "9.3f", "clipped": "8.1%", "grad_norm": "9.2f",
               "entropy": "8.3f", "accuracy": "9.1%", "95% interval": "15"}


# --- the distance between sampler and trainer

def effective_sample_size(weights: torch.Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of weights (n,): 1 if all are equal, 1/n if all but one are 0."""
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def distance(logp, sampler_logp, mask) -> dict:
    """A row of the second table: how far the trainer's log-probs (N, T) are from the sampler's, on
    responses of the sampler. KL: of sampler to trainer, k3. 1%, 99%: quantiles of w over tokens."""
    inside = mask > 0
    ratio = ppo.policy_ratio(logp, sampler_logp)                                     # (N, T)
    response_ratio = ppo.clamp(((logp - sampler_logp) * mask).sum(1)).exp()          # (N,)
    low, high = ratio[inside].quantile(torch.tensor([0.01, 0.99])).tolist()
    return {"logp_diff": float((logp - sampler_logp).abs()[inside].mean()),
            "KL": float(ppo.kl(sampler_logp, logp)[inside].mean()), "1%": low, "99%": high,
            "ESS, tokens": effective_sample_size(ratio[inside]),
            "ESS, responses": effective_sample_size(response_ratio)}


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
    """Rows of the second table: the policy against its own old weights, and itself in bfloat16."""
    problems, rows, newest = task.held_out(HELD_OUT // 16), [], len(models.versions) - 1
    for age in (age for age in (0, 1, 2, 4, 8, 16, 32) if age <= newest):
        models.behavior.load_state_dict(models.versions[newest - age])
        rows.append({"sampler": f"{age} steps old"} | distance_to(
            models.behavior, models, problems, options))
    coarse = copy.deepcopy(models.policy).cast(torch.bfloat16)
    return [*rows, {"sampler": "bfloat16"} | distance_to(coarse, models, problems, options)]


def result(name: str, models, options, task, history) -> dict:
    """A row of the first table: the largest logp_diff, the entropy at the end, means over steps of
    the other metrics, and the accuracy at temperature 1."""
    updates = [step for step in history if "loss" in step]  # not the steps without an update

    def mean(metric):
        return sum(step[metric] for step in updates) / max(1, len(updates))
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
    # 2. the runs, each with a line of the first table
    sampler = f"--sampler-lag {args.lag} --sampler-dtype {args.dtype}"
    echo(heading(RUN_COLUMNS))
    for name, flags in VARIANTS.items():
        flags = flags if name == "on policy" else f"{flags} {sampler}"
        models, options, history = train_with(flags, base, task, args)
        echo(line(RUN_COLUMNS, result(name, models, options, task, history)), flush=True)
    # 3. the second table
    echo(f"\n{heading(RATIO_COLUMNS)}")
    for values in ages(models, task, options):
        echo(line(RATIO_COLUMNS, values))


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.stale_sampler", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--lag", type=arguments.integer(0),
        help="age of the sampler, in steps (default: 8; 0 with --dtype bfloat16)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"],
        help="precision of the sampler (default: float32)")
    add("--steps", type=arguments.integer(1), default=30,
        help="steps of each run (default: 30)")
    add("--seed", type=arguments.integer(), default=0,
        help="seed of the base and of the runs (default: 0)")
    add("--work", type=Path, default=Path("runs"), help="folder of the base (default: runs)")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
