"""Ten runs that are broken on purpose, to see that diagnose.py names the cause of each.

    python bench/broken.py learning-rate             one run: runs/broken-learning-rate/
    python bench/broken.py all --out DIR             all ten, one after another: DIR/broken-NAME/

Five are broken by a flag of train.py, one by its data. A mistake in the code is a patch of one
function in this process. All but the run with its own data start from the base model of the default
run. Their metrics are in bench/runs/broken-NAME/, and docs/my-reward-is-flat.md shows them.
"""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import evaluate  # noqa: E402
import grpo  # noqa: E402
import tasks  # noqa: E402
import train  # noqa: E402
from bench.stats import write_jsonl  # noqa: E402
from infra import arguments  # noqa: E402
from infra.forward import policy_logp  # noqa: E402

SHORT = ["--steps", "15", "--eval-every", "5", "--eval-problems", "200", "--eval-samples", "4"]
FLAGS = {  # runs that a flag breaks
    "learning-rate": ["--lr", "0.04"],  # 100 times the default
    "temperature": ["--temperature", "0.1"],
    "group-size": ["--group-size", "2"],
    "max-new-tokens": ["--max-new-tokens", "8"],
}


# --- mistakes in the code

def false_verifier() -> None:
    """The verifier refuses every answer."""
    tasks.TASKS["arithmetic"].correct = staticmethod(lambda problem, text: False)


def stop_token() -> None:
    """No token ends a response: its stop token is one that the model never writes."""
    conditions = evaluate.stop_conditions
    evaluate.stop_conditions = lambda policy, tokenizer, *more: conditions(
        policy, tokenizer, *more) | {"stop": [tokenizer.pad_id]}


def prompt_in_loss() -> None:
    """The mask of the loss covers the prompt too."""
    build = train.build_batch

    def build_batch(rollout, samples, models, options):
        batch = build(rollout, samples, models, options)
        is_prompt = (batch.mask.cumsum(1) == 0) & (batch.tokens != models.tokenizer.pad_id)
        return replace(batch, mask=batch.mask + is_prompt)
    train.build_batch = build_batch


def flipped_sign() -> None:
    """The advantage has the wrong sign."""
    advantages = grpo.group_advantages
    grpo.group_advantages = lambda *args, **options: -advantages(*args, **options)


def old_logp() -> None:
    """The old log-probs are those at temperature 0.7, the new ones those at temperature 1."""
    build = train.build_batch

    def build_batch(rollout, samples, models, options):
        batch = build(rollout, samples, models, options)
        colder = replace(options, temperature=0.7)
        return replace(batch, old_logp=policy_logp(models.policy, batch, colder))
    train.build_batch = build_batch


PATCHES = {
    "false-verifier": false_verifier,
    "stop-token": stop_token,
    "prompt-in-loss": prompt_in_loss,
    "flipped-sign": flipped_sign,
    "old-logp": old_logp,
}


# --- data

def same_golds(folder: Path) -> list[str]:
    """Flags of a run on a file in which every problem has the gold answer 100."""
    path, rng = folder / "broken-same-golds.jsonl", random.Random(0)
    task = tasks.TASKS["arithmetic"]()
    problems = task.sample(rng, 900) + task.sample(rng, 100, held_out=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, [{"question": p.question, "answer": "100"} for p in problems])
    return ["--task", "file", "--data", str(path), "--max-new-tokens", "192", "--base-steps", "60"]


NAMES = [*FLAGS, *PATCHES, "same-golds"]


def run(name: str, folder: Path) -> int:
    """Makes one run. Returns the exit code of train.py."""
    flags = FLAGS.get(name, [])
    if name in PATCHES:
        PATCHES[name]()
    elif name == "same-golds":
        flags = same_golds(folder)
    return train.main([*SHORT, *flags, "--out", str(folder / f"broken-{name}")])


def main(argv=None) -> int:
    parser = arguments.Parser("broken.py", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--out", type=arguments.path, default="runs",
                        help="the folder that holds the runs (default: runs)")

    def work(args):
        if args.name != "all":
            return run(args.name, Path(args.out))
        codes = [subprocess.run([sys.executable, __file__, name, "--out", args.out]).returncode
                 for name in NAMES]  # a process each: a patch stays in its process
        return max(codes)
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
