"""DeepSeek-R1 in small: four stages from a base to a model that reasons and answers requests.

    base          SFT from random weights on a messy corpus in two languages, with open requests
    1 cold start  SFT of the base on a few hundred curated chains: readable, in one language, but
                  with facts as unsure as those of the corpus
    2 reasoning   RL with the reward correct + 0.1 * format + language consistency
    3 rejection   SFT of the base on right, readable responses of the stage before, and on curated
                  answers to requests
    4 preference  RL on both: reasoning has the reward of stage 2, and a reward model pays for
                  requests, helpfulness of the answer plus harmlessness of the whole response
    zero          R1-Zero: RL of the base for correct + 0.1 * format, as many steps as 2 and 4

    python -m recipes.r1 --seeds 0,1,2          all stages, and R1 without each of them

A policy is named by its stages: 1-2-3 is the base after the first three of them, 1-2-4 leaves out
the third. Each has a folder, with its checkpoint and its measures. A run that was stopped goes on
where it stopped. Paper: DeepSeek-R1 2501.12948, sections 2.2 and 2.3. Left out on purpose: a judge
model in stage 3, a second reward for safety on reasoning prompts, and distillation (distill.py).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401  (before torch)

import json  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from typing import NamedTuple  # noqa: E402

import evaluate  # noqa: E402
import model as gpt  # noqa: E402
import reward_model  # noqa: E402
import sft  # noqa: E402
import train  # noqa: E402
from infra import arguments, base_model, cli, judges, memory, run_dir, tensors  # noqa: E402
from infra import metrics as log  # noqa: E402
from recipes import page, r1_page  # noqa: E402
from tasks import assistant, bilingual  # noqa: E402
from tasks.mixture import Mixture  # noqa: E402

FLAGS = ("--task mixture --algo grpo --device cpu --eval-problems 100 --eval-samples 4 "
         "--eval-every 20 --lr 8e-4")
# every policy, after the one that it starts from
ORDER = ["base", "1", "1-2", "1-2-3", "1-2-3-4", "zero", "2", "2-3", "2-3-4", "1-3", "1-3-4",
         "1-2-4"]

# what the annotators judge -> the part of the response that its reward model reads
READS = {assistant.gold_helpfulness: "answer", assistant.gold_harmlessness: "whole"}


class Lab(NamedTuple):
    """What the stages of one seed share."""

    folder: Path
    seed: int
    args: object          # the command line
    tokenizer: object


# --- the stages: from the policy before to the policy after

def make_base(lab: Lab, stages: str, policy) -> gpt.GPT:
    options, task = open_stage(lab, stages, 0.5)
    return base_model.train_base(options, task, lab.tokenizer)


def cold_start(lab: Lab, stages: str, policy) -> gpt.GPT:
    rng, task = random.Random(f"curated {lab.seed}"), bilingual.Bilingual()
    problems = task.sample(rng, lab.args.curated)
    texts = [bilingual.curated(rng, problem, bilingual.UNSURE) for problem in problems]
    return fine_tune(lab, stages, policy, sft.pairs_from(lab.tokenizer, problems, texts), 20)


def reasoning_rl(lab: Lab, stages: str, policy) -> gpt.GPT:
    return reinforce(lab, stages, policy, 0.0, "--reward language --steps", str(lab.args.steps))


def rejection_sampling(lab: Lab, stages: str, policy) -> gpt.GPT:
    rng, task = random.Random(f"rejection {lab.seed}"), bilingual.Bilingual()
    # 1. the policy's own responses that are right, readable and in one language
    problems = task.sample(rng, 2 * lab.args.curated)
    rollout, texts = evaluate.sample_responses(policy, lab.tokenizer, problems, 4, seed=lab.seed,
                                               max_new_tokens=task.max_new_tokens)
    kept = [pair for pair, text, group in zip(sft.sampled_pairs(rollout), texts,
                                              rollout.group.tolist(), strict=True)
            if is_kept(problems[group], text)]
    # 2. requests, answered in the wanted style
    requests = assistant.Assistant()
    problems = requests.sample(rng, 2 * lab.args.curated)
    texts = [requests.document(rng, problem, drill=True) for problem in problems]
    # 3. SFT, again from the base
    pairs = kept + sft.pairs_from(lab.tokenizer, problems, texts)
    return fine_tune(lab, stages, load(lab, "base"), pairs, 3)


def is_kept(problem, text: str) -> bool:
    """Whether rejection sampling keeps a response: right, readable and in one language."""
    return bilingual.Bilingual.correct(problem, text) and bilingual.is_readable(problem, text)


def preference_rl(lab: Lab, stages: str, policy) -> gpt.GPT:
    folder, task = lab.folder / stages, assistant.Assistant()
    if not (folder / judges.NAME).exists():
        # 1. annotators compare two responses to a request: of the policy, or of the base
        rng, pairs = random.Random(f"preferences {lab.seed}"), {gold: [] for gold in READS}
        for sampled in (policy, load(lab, "base")):
            problems = task.sample(rng, lab.args.pairs)
            _, texts = evaluate.sample_responses(sampled, lab.tokenizer, problems, 2, seed=lab.seed,
                                                 max_new_tokens=task.max_new_tokens)
            for gold in READS:
                pairs[gold] += assistant.annotated_pairs(rng, problems, texts, gold)
        # 2. a reward model of helpfulness, and one of harmlessness
        judges.save(folder, reward_model.Judge(*(
            reward_model.train_ensemble(policy, lab.tokenizer, pairs[gold], reads, seed=lab.seed,
                                        lr=3e-3) for gold, reads in READS.items())))
    # 3. RL on reasoning problems and on requests
    return reinforce(lab, stages, policy, 0.5, "--reward preference --kl-coef 0.5 --steps",
                     str(lab.args.steps), "--judge", str(folder))


def zero(lab: Lab, stages: str, policy) -> gpt.GPT:
    return reinforce(lab, stages, policy, 0.0, "--reward correct --steps", str(2 * lab.args.steps))


STAGES = {"base": make_base, "1": cold_start, "2": reasoning_rl, "3": rejection_sampling,
          "4": preference_rl, "zero": zero}


# --- what stages are made of

def open_stage(lab: Lab, stages: str, request_share: float, flags: str = "", *more: str):
    """Opens the run folder of a stage. Returns the options and the task."""
    options, _ = cli.parse([*FLAGS.split(), *flags.split(), *more, *lab.args.flags.split(),
                            "--seed", str(lab.seed), "--out", str(lab.folder / stages)])
    cli.validate(options)
    size = memory.checkpoint_bytes(cli.config_of(options), options)
    run_dir.open_run(options, size, resume=(lab.folder / stages / "config.json").exists())
    return options, Mixture(options.level, request_share=request_share)


def fine_tune(lab: Lab, stages: str, policy, pairs, epochs: int) -> gpt.GPT:
    open_stage(lab, stages, 0.5)
    sft.train(policy, pairs, epochs=epochs, seed=lab.seed, **sft.FINE_TUNING)
    return policy


def reinforce(lab: Lab, stages: str, policy, request_share, *flags) -> gpt.GPT:
    """GRPO in the run folder of a stage, whose run it continues if it was stopped."""
    options, task = open_stage(lab, stages, request_share, *flags)
    folder = Path(options.out)
    models, optimizer, state = train.start(folder, task, lab.tokenizer, options, policy)
    train.reinforce(task, models, optimizer, options, state, folder)
    log.measure(state, "after", models, task, options)
    log.write_summary(folder, task, models.sampler, optimizer, state, options)
    return models.policy


def load(lab: Lab, stages: str) -> gpt.GPT:
    """The policy of finished stages. Raises UserError where they are not finished."""
    folder = lab.folder / stages
    if not (folder / "measures.json").exists():
        raise run_dir.UserError(f"{folder} holds no finished policy; python -m recipes.r1 --stages "
                                f"{stages} --seeds {lab.seed} makes it")
    return evaluate.load_policy(folder, "cpu")


def make(lab: Lab, stages: str) -> dict:
    """Makes the policy of some stages from the one before, and measures it, unless that is done.
    Returns its measures."""
    path = lab.folder / stages / "measures.json"
    if not path.exists():
        # 1. the stage
        last = stages.rpartition("-")[2]
        policy = None if last == "base" else load(lab, r1_page.before(stages))
        path.parent.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        policy = STAGES[last](lab, stages, policy)
        seconds = time.process_time() - began
        # 2. its policy, its measures and some responses
        if not (path.parent / "checkpoint.pt").exists():  # RL has written its own
            tensors.save(path.parent / "checkpoint.pt",
                         gpt.to_state(policy) | {"format": run_dir.FORMAT})
        measures, responses = r1_page.measure(policy, lab.tokenizer, lab.seed,
                                              lab.args.eval_problems)
        (path.parent / "responses.txt").write_text(responses)
        run_dir.write_json(path, measures | {"cpu_seconds": seconds})
    return json.loads(path.read_text())


# --- the command line

def work(args) -> None:
    run_dir.tune_malloc()
    _, tokenizer = cli.validate(cli.parse(FLAGS.split())[0])

    def make_all(seed: int, folder: Path) -> dict:
        lab = Lab(folder, seed, args, tokenizer)
        return {stages: make(lab, stages) for stages in ORDER}
    if not args.stages:
        r1_page.write(page.run_seeds(make_all, args), args.docs)
        return
    for seed in args.seeds:
        make(Lab(page.open_seed(args, seed), seed, args, tokenizer), args.stages)


def main(argv=None) -> int:
    parser = arguments.Parser("recipes.r1", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    page.add_flags(parser, "r1")
    add("--stages", choices=ORDER, help="make this policy alone, from the one before (default: "
        "all policies, and the page)")
    add("--steps", type=arguments.integer(1), default=30,
        help="steps of each RL stage (default: 30)")
    add("--curated", type=arguments.integer(1), default=200,
        help="curated chains of stage 1, half the prompts of each kind of stage 3 (default: 200)")
    add("--pairs", type=arguments.integer(1), default=500,
        help="requests with two responses of the policy in stage 4, and as many with two of "
        "the base (default: 500)")
    add("--eval-problems", type=arguments.integer(4), default=300,
        help="held-out problems; of requests there are fewer (default: 300)")
    return arguments.run(parser, argv, work)


if __name__ == "__main__":
    sys.exit(main())
