"""Makes the runs of course/broken/: ten with one mistake each, and two healthy ones.

    python course/broken.py --work DIR                 all, one after another, from one base
    python course/broken.py --work DIR --run run-03    one of them

course/answers/causes.json says which run has which cause. A mistake is a patch of one function in
this process, so config.json does not show it. The model is small (--size nano) and a run takes
about half a minute of one core. A run's folder keeps what report.py reads (FILES).
Students' answers are marked by digests (`seal` in grade.py), so their copy needs no causes.
Left out on purpose: checkpoints, and the runs of bench/broken.py, whose causes the docs explain.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

COURSE = Path(__file__).parent
sys.path[:0] = [str(COURSE.parent), str(COURSE)]
from grade import seal  # noqa: E402

import grpo  # noqa: E402
import ppo  # noqa: E402
import tasks  # noqa: E402
import train  # noqa: E402
import verify  # noqa: E402
from infra import arguments  # noqa: E402

SETTINGS = ["--size", "nano", "--level", "1", "--base-steps", "800", "--steps", "30",
            "--eval-every", "10", "--eval-problems", "100", "--eval-samples", "4",
            "--prompts", "16", "--group-size", "8", "--record-mb", "0.75"]
PPO = ["--algo", "ppo", "--prompts", "32", "--group-size", "4"]
HEALTHY = {"healthy": [], "healthy-ppo": PPO}  # the runs without a mistake, and their flags
FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "summary.json")


# --- mistakes: each function patches the program, and returns further flags

def change_batch(change) -> None:
    """Puts change(batch) between the rollout and the advantages."""
    build = train.build_batch
    train.build_batch = lambda *args: change(build(*args))


def rewards_of_neighbours() -> list[str]:
    """Each response has the reward of the response before it."""
    change_batch(lambda batch: replace(batch, rewards=batch.rewards.roll(1)))
    return []


def eos_not_in_loss() -> list[str]:
    """The mask leaves out the end-of-text token."""
    def change(batch):
        tokens_left = batch.mask.flip(1).cumsum(1).flip(1)
        is_eos = (tokens_left == 1) & (batch.mask > 0) & ~batch.truncated[:, None]
        return replace(batch, mask=batch.mask * ~is_eos)
    change_batch(change)
    return []


def no_baseline() -> list[str]:
    """The advantage is the reward itself."""
    grpo.group_advantages = lambda rewards, *more: rewards.clone()
    return []


def kl_sign() -> list[str]:
    """The KL to the reference is rewarded."""
    grpo.policy_loss = lambda logp, batch, options, *more: ppo.policy_loss(
        logp, batch, replace(options, kl_coef=-options.kl_coef), *more)
    return ["--kl-coef", "1"]


def verifier_reads_anywhere() -> list[str]:
    """A response is right if the gold answer stands anywhere in it."""
    def correct(problem, text):
        return bool(re.search(rf"(?<![0-9]){re.escape(problem.answer)}(?![0-9])", text))
    tasks.TASKS["arithmetic"].correct = staticmethod(correct)
    return []


def wrong_golds() -> list[str]:
    """In training the gold answer of a subtraction is one too large."""
    sample = tasks.sample_problems

    def sample_problems(*args):
        return [replace(problem, answer=str(int(problem.answer) + 1))
                if "-" in problem.question else problem for problem in sample(*args)]
    tasks.sample_problems = sample_problems
    return []


def gradients_not_cleared() -> list[str]:
    """An optimizer step also uses the gradients of all steps before it."""
    step = train.optimizer_step

    def optimizer_step(models, optimizer, sums):
        optimizer.zero_grad = lambda: None
        return step(models, optimizer, sums)
    train.optimizer_step = optimizer_step
    return []


def sampler_not_updated() -> list[str]:
    """The sampler keeps the weights of the base."""
    sample = train.sample_groups
    train.sample_groups = lambda models, *more: sample(
        models._replace(behavior=models.reference), *more)
    return []


def short_responses_paid() -> list[str]:
    """The reward falls by 0.03 with each token."""
    reward = verify.REWARDS["correct"]
    verify.REWARDS["correct"] = lambda sample: reward(sample) - 0.03 * len(sample.tokens)
    return []


def critic_not_trained() -> list[str]:
    """The critic's learning rate is 0."""
    set_rates = train.set_learning_rates

    def set_learning_rates(optimizer, *more):
        set_rates(optimizer, *more)
        optimizer.param_groups[1]["lr"] = 0.0
    train.set_learning_rates = set_learning_rates
    return PPO


FAULTS = {fault.__name__.replace("_", "-"): fault for fault in (
    critic_not_trained, eos_not_in_loss, gradients_not_cleared, kl_sign, no_baseline,
    rewards_of_neighbours, sampler_not_updated, short_responses_paid, verifier_reads_anywhere,
    wrong_golds)}


# --- the sealed causes

def answers() -> dict:
    """{run: {"cause": name, "shows": what to see}} of course/answers/causes.json."""
    return json.loads((COURSE / "answers" / "causes.json").read_text())


def write_seals(salt: str) -> None:
    """Writes course/broken/sealed.json: the salt, and the digest of each run."""
    seals = {run: seal(salt, run, answer["cause"]) for run, answer in answers().items()}
    path = COURSE / "broken" / "sealed.json"
    path.write_text(json.dumps({"salt": salt} | seals, indent=1) + "\n")


# --- runs

def make(run: str, work: Path) -> int:
    """Makes a run in work/RUN and keeps its files in course/broken/RUN. Returns the exit code of
    train.py. The first healthy run trains the base that all runs start from."""
    flags = HEALTHY[run] if run in HEALTHY else FAULTS[answers()[run]["cause"]]()
    code = train.main([*SETTINGS, *flags, "--out", str(work / run)])
    if code == 0:
        kept = COURSE / "broken" / run
        kept.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(work / run / name, kept / name)
    return code


def main(argv=None) -> int:
    parser = arguments.Parser("broken.py", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=arguments.path, required=True, help="folder for the runs")
    runs = [*HEALTHY, *sorted(answers())]
    parser.add_argument("--run", choices=runs, help="make this run alone, after `healthy`")
    parser.add_argument("--salt", help="write course/broken/sealed.json again with this salt")

    def work(args):
        if args.salt:
            return write_seals(args.salt)
        if args.run:
            return make(args.run, Path(args.work))
        codes = [subprocess.run([sys.executable, __file__, "--work", args.work, "--run", run])
                 .returncode for run in runs]  # a process each: a patch stays in it
        return max(codes)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
