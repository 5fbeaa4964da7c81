"""The command line of train.py: flags in, checked Options out.

The flags are the fields of config.Options, one flag a field. Every mistake is reported in one
sentence before any work begins.
"""

import argparse
import math
from dataclasses import fields
from pathlib import Path

import torch

import evaluate
import model as gpt
import tasks
from config import ALGORITHMS, GROUPS, PRETRAINED_LR, Options, needs_critic
from infra import arguments, checkpoint, distributed, models
from infra.conflicts import OF_VERIFIER, flag, readers, validate_algorithm
from infra.run_dir import JUDGES, UserError
from tasks import prompts
from tokenizer import Tokenizer

RENAMED = {  # flags of earlier versions
    "--renew-reference": "--ref-update-interval", "--overlong-zone": "--overlong-buffer",
    "--lam": "--gae-lambda", "--critic-lam": "--critic-gae-lambda",
    "--leave-one-out": "--baseline others"}
FLAG_TYPES = {str: str, int: arguments.integer(), float: arguments.number()}
AT_LEAST_ONE = ("prompts", "group_size", "minibatches", "epochs", "eval_every", "max_attempts",
                "eval_samples", "keep_count", "pass_at")
ABOVE_ZERO = ("temperature", "lr", "critic_lr", "tau_pos", "tau_neg")
ZERO_TO_ONE = ("gamma", "gae_lambda", "critic_gae_lambda", "cov_ratio", "top_entropy_quantile")


# --- reading

def parse(argv) -> tuple[Options, bool]:
    """The Options of a command line, and whether to resume. argparse exits with code 2 on a flag or
    a choice that does not exist."""
    # the defaults depend on these three, so they are read first
    first = arguments.Parser("train.py", add_help=False, allow_abbrev=False)
    first.add_argument("--algo", default="grpo")
    first.add_argument("--init", default="")
    first.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    known, rest = first.parse_known_args(argv)
    parser = build_parser(known)
    refuse_old_flags(parser, rest)
    args = vars(parser.parse_args(argv))
    resume = args.pop("resume")
    options = Options(**args)
    # fill in the defaults that depend on other options
    options.device = known.device
    options.out = options.out or default_out(options, parser.get_default("reward"))
    if not options.dtype:
        bfloat16 = (options.init and options.device.startswith("cuda")
                    and torch.cuda.is_bf16_supported(including_emulation=False))
        options.dtype = "bfloat16" if bfloat16 else "float32"
    options.sampler_dtype = options.sampler_dtype or options.dtype
    options.prompt = options.prompt or ("r1" if options.init else "plain")
    return options, resume


def build_parser(known) -> argparse.ArgumentParser:
    """argparse's parser, with a flag for each field of Options and the defaults of the algorithm.
    `known` has the values of --algo, --init and --device."""
    # no abbreviations, or `--alg dapo` would not be seen as --algo above
    parser = arguments.Parser(
        "train.py", allow_abbrev=False, usage="%(prog)s [--FLAG VALUE ...]; --help lists the flags",
        description="Trains a language model to reason, by reinforcement learning from a verifier. "
                    "It starts from random weights, or from a pretrained model with --init.")
    groups = {name: parser.add_argument_group(heading(name)) for name in GROUPS}
    for f in fields(Options):
        help = f.metadata["help"]
        if f.default != "" and "(default" not in help:
            help += " (default: %(default)s)"
        how = dict(default=f.default, help=help)
        if isinstance(f.default, bool):
            how["action"] = argparse.BooleanOptionalAction
        else:
            choices = f.metadata["choices"]
            how |= dict(type=FLAG_TYPES[type(f.default)],
                        choices=None if choices is None else list(choices))
        groups[f.metadata["group"]].add_argument(flag(f.name), **how)
    groups["run"].add_argument("--resume", action="store_true",
                               help="continue the run in the folder --out")
    parser.set_defaults(**ALGORITHMS.get(known.algo, (None, {}))[1])
    if known.init:
        parser.set_defaults(lr=PRETRAINED_LR)
    if known.device.startswith("cuda"):
        parser.set_defaults(micro_tokens=0)  # memory.py chooses
    return parser


def heading(group: str) -> str:
    """The heading of a group of options, with the algorithms that read it, unless all do."""
    names = readers(group)
    return group if len(names) == len(ALGORITHMS) else f"{group} (--algo {', '.join(names)})"


def refuse_old_flags(parser, argv) -> None:
    """Exits with a helpful sentence for a flag that has a new name, or none in training."""
    for name in (argument.partition("=")[0] for argument in argv):
        if name in RENAMED:
            parser.error(f"{name} has a new name: {RENAMED[name]}")
        if name in ("--top-p", "--top-k"):
            parser.error(f"{name} is for evaluation only: training computes log-probs over the "
                         "whole distribution, so it must sample from the whole distribution")


def default_out(options: Options, default_reward: str) -> str:
    """runs/ALGO-TASK-SEED, then the reward and the pretrained model if they are not the default."""
    name = [options.algo, options.task, str(options.seed)]
    if options.reward != default_reward:
        name.append(options.reward)
    if options.init:
        name.append(Path(options.init).resolve().name)
    return f"runs/{'-'.join(name)}"


# --- checking

def notes(task: tasks.Task, options: Options) -> list[str]:
    """What a user should know before a run: of the files of its problems, and of its model."""
    if options.task != "file" or options.size != "tiny" or options.init:
        return task.notes
    return [*task.notes, "warning: a tiny model solves almost no problem in free text, such as "
            "GSM8K's; --init DIR starts from a pretrained model"]


def validate(options: Options) -> tuple[tasks.Task, Tokenizer]:
    """Checks the options and the files that they name, fills in the defaults that depend on the
    task, and makes the task and the model's tokenizer. Raises UserError."""
    try:
        return validate_all(options)
    except OSError as error:
        raise UserError(arguments.describe(error)) from None


def validate_all(options: Options) -> tuple[tasks.Task, Tokenizer]:
    """`validate`, which may also raise OSError for a file."""
    validate_numbers(options)
    validate_device(options)
    task = make_task(options)
    options.max_new_tokens = options.max_new_tokens or task.max_new_tokens
    options.eval_problems = options.eval_problems or len(getattr(task, "eval", range(1000)))
    options.base_steps = options.base_steps or task.base_steps
    if options.base_seed < 0:
        options.base_seed = options.seed
    validate_algorithm(options)
    validate_reward(options, task)
    validate_tool(options, task)
    tokenizer = make_tokenizer(options, task)
    validate_processes(options)
    if options.overlong == "soft" and not options.overlong_buffer:
        options.overlong_buffer = max(1, options.max_new_tokens // 5)
    validate_lengths(options, tokenizer, task)
    return task, tokenizer


def validate_numbers(options: Options) -> None:
    """Checks the range of each number. `not x >= least` refuses NaN too."""
    for f in fields(Options):
        value, least = getattr(options, f.name), int(f.name in AT_LEAST_ONE)
        if type(value) in (int, float) and "seed" not in f.name and not value >= least:
            raise UserError(f"{flag(f.name)} must be at least {least}")
    for name in ABOVE_ZERO:
        if not 0 < getattr(options, name) < math.inf:
            raise UserError(f"{flag(name)} must be a finite number above 0")
    for name in ZERO_TO_ONE:
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"{flag(name)} must be between 0 and 1")
    if options.temperature < arguments.LEAST_TEMPERATURE:
        raise UserError(f"--temperature must be at least {arguments.LEAST_TEMPERATURE}")
    if options.dual_clip and not options.dual_clip > 1:
        raise UserError("--dual-clip must be above 1, or 0 for no bound")


def validate_device(options: Options) -> None:
    """Tries the device, and makes a GPU the current one."""
    try:
        device = torch.zeros(1, device=options.device).device
    except (RuntimeError, AssertionError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {options.device} is not available here; try cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # torch measures the memory of the current GPU


def make_task(options: Options) -> tasks.Task:
    """The task of the options."""
    if (options.data or options.eval_data or options.strict) and options.task != "file":
        raise UserError("--data, --eval-data and --strict need --task file")
    try:
        task = tasks.TASKS[options.task](options.level, options.data, options.eval_data)
        tasks.mix_levels(task, options.train_levels)  # checks the levels
        task.held_out(1)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    if options.strict and task.left_out:
        raise UserError(f"--strict: {task.notes[0]}")
    return task


def validate_reward(options: Options, task: tasks.Task) -> None:
    """Checks that the reward fits the task, and the reward model of --judge."""
    judge, name = options.judge, JUDGES.get(options.reward)
    requests = [not problem.answer for problem in task.held_out(20)]  # open ones: no verifier
    if all(requests) and options.steps and options.reward in OF_VERIFIER:
        raise UserError(f"--task {options.task} has no verifier to pay --reward {options.reward}; "
                        "try --reward preference, or --steps 0 for the base model alone")
    if options.reward == "language" and "consistency" not in task.measures:
        raise UserError("--reward language needs a task in two languages; try --task bilingual")
    if bool(name) != bool(judge):
        raise UserError("--judge RUN needs --reward process or preference, and these rewards need "
                        "--judge: RUN has a prm.pt, made by prm.py, or a reward_model.pt, made by "
                        "reward_model.py")
    if not judge:
        return
    if name == "reward_model" and not any(requests):
        raise UserError(f"--reward preference has no effect with --task {options.task}, whose "
                        "answers a verifier checks; --task assistant has open requests")
    if not (Path(judge) / f"{name}.pt").exists():
        pairs = " --pairs FILE" if name == "reward_model" else ""
        raise UserError(f"--judge {judge} has no {name}.pt; python {name}.py --run {judge}{pairs} "
                        "makes one")
    if tokenizer_file(judge) != tokenizer_file(options.init):
        raise UserError(f"--judge {judge} reads other tokens than the policy; both need the same "
                        "tokenizer")
    try:
        model = models.load_judge(judge, "cpu", options.reward)  # found before any work
    except (ValueError, OSError) as error:
        raise UserError(f"--judge {judge}: {arguments.describe(error)}") from None
    network = next(part for part in model.modules() if isinstance(part, gpt.GPT))
    if network.config.vocab_size != config_of(options).vocab_size:
        raise UserError(f"--judge {judge}: its reward model has another vocabulary than the policy")


def validate_tool(options: Options, task: tasks.Task) -> None:
    """Checks the options that need a tool, and those that do not work with one."""
    if options.turn_penalty and not task.has_tool:
        raise UserError(f"--turn-penalty has no effect with --task {options.task}, which has no "
                        "tool; try --task calculator")
    if options.partial_rollouts and task.has_tool:
        raise UserError(f"--partial-rollouts does not work with --task {options.task}, whose "
                        "responses have turns")


def tokenizer_file(folder) -> bytes:
    """The content of a folder's tokenizer.json; empty without a folder or a file, which means the
    toy tokenizer."""
    path = Path(folder) / "tokenizer.json"
    return path.read_bytes() if folder and path.exists() else b""


def make_tokenizer(options: Options, task) -> Tokenizer:
    """The tokenizer of the pretrained model, with its prompt, or the toy's. Checks --init, --prompt
    and --few-shot."""
    if not options.init:
        if options.prompt != "plain" or options.few_shot:
            raise UserError("--prompt and --few-shot need --init: a base model trained here "
                            "knows the plain question alone")
        return Tokenizer.toy(task.words)
    try:
        ends = prompts.end_token_ids(options.init)
        config = checkpoint.open_pretrained(options.init)[0].config
        if 16 * options.few_shot > config.context:  # found before they are sampled
            raise ValueError(f"--few-shot {options.few_shot}: so many examples do not fit the "
                             f"model's context of {config.context} tokens")
        template = prompts.template(options.prompt, task.prompt_template,
                                    prompts.examples(task, options.few_shot))
        tokenizer = Tokenizer.from_folder(options.init, template, ends,
                                          [] if options.prompt == "plain" else [prompts.END])
    except (ValueError, OSError) as error:
        raise UserError(f"--init {options.init}: {error}") from None
    if options.prompt == "chat" and "<|im_start|>" not in tokenizer.specials:
        raise UserError(f"--prompt chat: the tokenizer in {options.init} has no <|im_start|>; "
                        "try --prompt r1")
    if tokenizer.n_vocab > config.vocab_size:
        raise UserError(f"--init {options.init}: its tokenizer has {tokenizer.n_vocab} tokens, but "
                        f"its model has {config.vocab_size}")
    return tokenizer


def validate_processes(options: Options) -> None:
    """Checks --shard."""
    if options.shard and options.compile:
        raise UserError("--compile and --shard do not work together")
    if options.shard and (distributed.world_size() == 1 or needs_critic(options.algo)):
        raise UserError("--shard needs several processes (torchrun --nproc-per-node N train.py "
                        "...) and an algorithm without a critic")


def validate_lengths(options: Options, tokenizer, task) -> None:
    """Checks that prompts and responses fit the context of the model. Problems of a file that do
    not fit are left out."""
    context, left_out = config_of(options).context, task.left_out
    if options.max_new_tokens + 64 > context:
        raise UserError(f"--max-new-tokens {options.max_new_tokens} does not fit the model's "
                        f"context of {context} tokens")
    try:
        task.leave_out(lambda problem: evaluate.misfit(
            problem, tokenizer, context, options.max_new_tokens, solutions=not options.init))
    except ValueError as error:
        raise UserError(str(error)) from None
    if options.strict and task.left_out > left_out:
        raise UserError(f"--strict: {task.notes[-1]}")


def config_of(options: Options) -> gpt.Config:
    """The Config of the model to be trained. Raises ValueError for a pretrained model that the GPT
    cannot be."""
    if options.init:
        return checkpoint.read_config(Path(options.init))[1]
    task = tasks.TASKS[options.task]
    return gpt.Config(Tokenizer.toy(task.words).n_vocab, image=task.has_images,
                      **gpt.SIZES[options.size])
