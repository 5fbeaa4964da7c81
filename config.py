"""The flags of train.py: what can be set, what each algorithm sets otherwise, what does not fit.

    python train.py --algo dapo --help       every flag, with the defaults of that algorithm

An algorithm is a module with `prepare` (advantages) and `loss`; a new one is a file and a line in
ALGORITHMS. Whatever is wrong is said in one sentence before any work.
"""

import argparse
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

import dapo
import grpo
import model as gpt
import ppo
import sample
import tasks
import tokenizer
from engine import sampler
from infra import checkpoint, distributed
from infra.run_dir import UserError
from tasks import prompts

ALGORITHMS = {  # name -> (module, defaults that differ from those of Options)
    "grpo": (grpo, {}),
    "drgrpo": (grpo, dict(scale_by_std=False, aggregate="constant")),
    "rloo": (grpo, dict(scale_by_std=False, leave_one_out=True, aggregate="sum", lr=8e-4)),
    "gspo": (grpo, dict(ratio="sequence", clip_low=3e-4, clip_high=4e-4, lr=8e-4)),
    "dapo": (dapo, dict(clip_high=0.28, aggregate="token", dynamic_sampling=True, overlong="soft",
                        reward="sign", minibatches=8)),
    "ppo": (ppo, dict(aggregate="token", scale_by_std=False, prompts=128, group_size=4,
                      minibatches=8)),
}
SAMPLERS = {"fast": sampler.generate, "plain": sample.generate}  # name -> its `generate`
AT_LEAST_ONE = ("prompts", "group_size", "minibatches", "epochs", "eval_every",
                "max_attempts", "eval_samples")
PRETRAINED_LR = 1e-5  # a pretrained model is spoiled by a rate that a tiny one needs


def uses(algo: str, name: str) -> bool:
    """Whether an algorithm has the flags of --algo NAME: those of ppo, if it says needs_critic;
    those of dapo, if its module imports dapo."""
    module = ALGORITHMS[algo][0]
    if name == "ppo":
        return getattr(module, "needs_critic", False)
    return module.__name__ == name or hasattr(module, name)


def flag(default, help, **more):
    return field(default=default, metadata={"help": help} | more)


@dataclass
class Options:
    algo: str = flag("grpo", "the algorithm; the defaults below are its own", choices=ALGORITHMS)
    task: str = flag("arithmetic", "what to learn; try countdown", choices=sorted(tasks.TASKS))
    level: int = flag(2, "difficulty of the problems, 1 to 5 (gsm, code: to 2; chain, wait: to 3)")
    train_levels: str = flag("", "levels of the problems trained on, mixed: 1,2,4 (default: "
                             "--level); held-out problems and base stay of --level")
    size: str = flag("tiny", "of the model; small and medium are for a GPU",
                     choices=sorted(gpt.SIZES))
    init: str = flag("", "folder of a pretrained model (Hugging Face's form) to begin with, in "
                     "place of a base from nothing")
    prompt: str = flag("", "form of what it is asked: plain, r1 (R1-Zero's), chat (ChatML) "
                       "(default: r1 with --init)", choices=["", "plain", "r1", "chat"])
    few_shot: int = flag(0, "worked examples before each question, with --init")
    seed: int = flag(0, "of everything random; try three before you believe a result")
    base_seed: int = flag(-1, "of the base model alone (default: --seed)")
    steps: int = flag(40, "of reinforcement learning; 0 makes and measures the base alone")
    token_budget: int = flag(0, "end reinforcement learning once so many tokens are sampled (0: "
                             "after --steps)")
    out: str = flag("", "the run's folder (default: runs/ALGO-TASK-SEED, and the reward and --init "
                    "where they are others)")
    data: str = flag("", "problems of --task file: JSONL with question and answer a line, or gsm8k")
    eval_data: str = flag("", "its held-out problems (default: a tenth of --data)")
    device: str = flag("", "cpu, cuda, cuda:1 (default: cuda where there is one)")
    dtype: str = flag("", "of the computation, the weights stay in float32 (default: bfloat16 with "
                      "--init on a GPU that has it)", choices=["", "float32", "bfloat16"])
    gradient_checkpointing: bool = flag(False, "keep the blocks' inputs alone and compute the rest "
                                        "again in the backward pass: less memory, a quarter more "
                                        "time")
    compile: bool = flag(False, "compile the blocks with torch.compile for the update: half a "
                         "minute at the first one, faster from then on")
    shard: bool = flag(False, "weights, gradients and moments in pieces, one a process of torchrun")
    reward: str = flag("correct", "correct (and 0.1 for the form), sign (1 or -1), or a lesson: "
                       "format pays for tags, random for nothing, claim for saying all is checked; "
                       "process: what a PRM says of each step (ppo alone)",
                       choices=["correct", "sign", "format", "random", "claim", "process"])
    judge: str = flag("", "run whose prm.pt (of prm.py) scores steps for --reward process",
                      only="ppo")
    prompts: int = flag(32, "problems a step")
    group_size: int = flag(16, "answers to each problem, compared with each other")
    sampler: str = flag("fast", "fast: engine/sampler.py; plain: sample.py, the same tokens, "
                        "slower", choices=list(SAMPLERS))
    temperature: float = flag(1.0, "of sampling, and of the log-probs trained on")
    max_new_tokens: int = flag(0, "longest answer (default: the task's)")
    lr: float = flag(4e-4, "learning rate; try 1e-4 and 2e-3, with --init a hundredth")
    minibatches: int = flag(4, "optimizer steps per epoch over a step's answers")
    epochs: int = flag(1, "passes over a step's answers; the clip matters from the second "
                       "update on")
    clip_low: float = flag(0.2, "how far below 1 the ratio is trusted")
    clip_high: float = flag(0.2, "how far above 1; DAPO's Clip-Higher is 0.28")
    dual_clip: float = flag(0.0, "where A < 0, bound on the loss: this times |A| (3); 0: none")
    ratio: str = flag("token", "what the ratio is of: each token, or the whole response (GSPO)",
                      choices=["token", "sequence"])
    aggregate: str = flag("sequence", "average of tokens: per response first, over all, the sum of "
                          "each response, or that by a constant",
                          choices=list(ppo.AGGREGATIONS))
    scale_by_std: bool = flag(True, "divide advantages by the group's std; off in Dr. GRPO")
    leave_one_out: bool = flag(False, "compare with the mean of the others alone (RLOO)")
    entropy_coef: float = flag(0.0, "weight of an entropy bonus; try 0.01")
    kl_coef: float = flag(0.0, "weight of the KL to the reference; try 0.02")
    kl: str = flag("k3", "estimator of that KL in the loss", choices=list(ppo.KL))
    kl_in: str = flag("loss", "where that KL is paid", choices=["loss", "reward"])
    kl_target: float = flag(0.0, "move kl_coef so that the KL tends to this; 0: leave it")
    ref_update_interval: int = flag(0, "steps after which the policy becomes the reference; 0: "
                                    "never")
    dynamic_sampling: bool = flag(False, "sample on until all groups are mixed", only="dapo")
    max_attempts: int = flag(4, "how often dynamic sampling samples in a step", only="dapo")
    overlong: str = flag("none", "answers near the limit are punished (soft), or those cut off "
                         "left out (mask)", choices=["none", "soft", "mask"], only="dapo")
    overlong_buffer: int = flag(0, "tokens before the limit where that begins (default: a "
                              "fifth)", only="dapo")
    critic: str = flag("own", "a network of its own, or a head on the policy's",
                       choices=["own", "head"], only="ppo")
    critic_hints: bool = flag(False, "the critic is told how likely the text so far was, and "
                              "how the other answers did", only="ppo")
    critic_lr: float = flag(1e-3, "learning rate of the critic", only="ppo")
    critic_warmup: int = flag(4, "steps in which the critic alone learns (VC-PPO)", only="ppo")
    critic_gae_lambda: float = flag(1.0, "lambda of the returns; 1 is Monte Carlo", only="ppo")
    gamma: float = flag(1.0, "discount per token", only="ppo")
    gae_lambda: float = flag(1.0, "lambda of the advantages; try 0.95", only="ppo")
    value_clip: float = flag(0.0, "how far a value may move in a step, such as 0.2; 0: anywhere",
                             only="ppo")
    value_coef: float = flag(1.0, "weight of the value loss", only="ppo")
    eval_every: int = flag(10, "steps between evaluations and checkpoints")
    eval_problems: int = flag(0, "held-out problems of the first and the last evaluation (default: "
                              "1000, of a file all)")
    eval_samples: int = flag(64, "samples of each of a fifth of them, for pass@k")
    base_steps: int = flag(0, "steps of the base's training (default: the task's, up to three "
                           "times, until what it generates is good enough)")
    micro_tokens: int = flag(1024, "tokens of a micro-batch: memory and, on a GPU, speed; the "
                             "gradient is the same (default: 1024, on a GPU as many as fit, up to "
                             "32768)")


def parse(argv) -> tuple[Options, bool]:
    # no abbreviations: `--alg dapo` would pass by what looks for --algo below
    parser = argparse.ArgumentParser(
        "train.py", allow_abbrev=False, usage="%(prog)s [--FLAG VALUE ...]; --help lists the flags",
        description="Takes a model from nothing, or a pretrained one, to one that reasons, by "
                    "reward alone.")
    for f in fields(Options):
        how = dict(f.metadata)
        if only := how.pop("only", ""):
            how["help"] += f" ({only} alone)"
        if "default" not in how["help"]:
            how["help"] += " (default: %(default)s)"
        if isinstance(f.default, bool):
            how["action"] = argparse.BooleanOptionalAction
        else:
            how["type"] = type(f.default)
        parser.add_argument("--" + f.name.replace("_", "-"), default=f.default, **how)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    for name in ("--top-p", "--top-k"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--algo", default="grpo")
    first.add_argument("--init", default="")
    first.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    known = first.parse_known_args(argv)[0]
    parser.set_defaults(**ALGORITHMS.get(known.algo, (None, {}))[1])
    if known.init:
        parser.set_defaults(lr=PRETRAINED_LR)
    if known.device.startswith("cuda"):
        parser.set_defaults(micro_tokens=0)  # see memory.micro_tokens
    args = vars(parser.parse_args(argv))
    if any([args.pop("top_p"), args.pop("top_k")]):
        parser.error("--top-p and --top-k are for evaluation: training scores the whole "
                     "distribution, so it has to sample from the whole")
    resume = args.pop("resume")
    options = Options(**args)
    name = [options.algo, options.task, str(options.seed)]
    if options.reward != parser.get_default("reward"):
        name.append(options.reward)
    if options.init:
        name.append(Path(options.init).resolve().name)
    options.out = options.out or f"runs/{'-'.join(name)}"
    options.device = known.device
    fast = (options.init and options.device.startswith("cuda")
            and torch.cuda.is_bf16_supported(including_emulation=False))
    options.dtype = options.dtype or ("bfloat16" if fast else "float32")
    options.prompt = options.prompt or ("r1" if options.init else "plain")
    return options, resume


def config_of(options: Options) -> gpt.Config:
    """Of the model to be trained. Raises ValueError for a pretrained one that is not understood."""
    if options.init:
        return checkpoint.read_config(Path(options.init))[1]
    return gpt.Config(tokenizer.encoding.n_vocab, **gpt.SIZES[options.size])


def validate_init(options: Options, task) -> None:
    """That a pretrained model is one and is asked in a form it has; from here on the process speaks
    its tokens."""
    if not options.init:
        if options.prompt != "plain" or options.few_shot:
            raise UserError("--prompt and --few-shot go with --init: a base from nothing knows the "
                            "plain question alone")
        return tokenizer.use_toy()
    try:
        template = prompts.template(options.prompt, task.asks,
                                    prompts.examples(task, options.few_shot))
        tokenizer.use(options.init, template, prompts.ends_of(options.init),
                      [] if options.prompt == "plain" else [prompts.END])
        config = checkpoint.look(options.init)[0].config
    except (ValueError, OSError) as error:
        raise UserError(f"--init {options.init}: {error}") from None
    if options.prompt == "chat" and "<|im_start|>" not in tokenizer.spoken.specials:
        raise UserError(f"--prompt chat: the tokenizer in {options.init} has no <|im_start|>; "
                        "try --prompt r1")
    if tokenizer.spoken.n_vocab > config.vocab_size:
        raise UserError(f"--init {options.init}: its tokenizer has {tokenizer.spoken.n_vocab} "
                        f"tokens, its model {config.vocab_size}")


def tokens_of(folder) -> bytes:
    """The tokenizer.json of a model's folder or a run's; of a toy's run, or no folder, nothing."""
    path = Path(folder) / "tokenizer.json"
    return path.read_bytes() if folder and path.exists() else b""


def validate_algorithm(options: Options) -> None:
    """That the algorithm's flags fit it and each other."""
    algo, answers = options.algo, options.prompts * options.group_size
    critic = uses(algo, "ppo")
    if not critic and options.group_size < 2:
        raise UserError(f"--group-size {options.group_size}: a group needs at least 2 answers, "
                        "since each is compared with the others")
    for f in fields(Options):
        only = f.metadata.get("only")
        if only and not uses(algo, only) and getattr(options, f.name) != f.default:
            raise UserError(f"--{f.name.replace('_', '-')} belongs to --algo {only}, and "
                            f"{algo} has no use for it")
    if critic and (options.scale_by_std or options.leave_one_out):
        raise UserError(f"--scale-by-std and --leave-one-out are about groups, and {algo} has a "
                        "critic")
    if critic and options.ratio == "sequence":
        raise UserError("--ratio sequence is for one advantage per response; those of a critic "
                        "differ by token")
    if options.scale_by_std and options.leave_one_out:
        raise UserError("--leave-one-out goes with --no-scale-by-std")
    for name in ("gamma", "gae_lambda", "critic_gae_lambda"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} must be from 0 to 1")
    if options.dual_clip and not options.dual_clip > 1:
        raise UserError("--dual-clip must be above 1, or 0 for none")
    if (options.reward == "process") != bool(options.judge):
        raise UserError("--reward process goes with --algo ppo and --judge RUN, a run for which "
                        "prm.py has made a prm.pt")
    if options.judge and not (Path(options.judge) / "prm.pt").exists():
        raise UserError(f"{options.judge} has no prm.pt; python prm.py --run {options.judge} makes "
                        "one")
    if options.judge and tokens_of(options.judge) != tokens_of(options.init):
        raise UserError(f"--judge {options.judge} reads other tokens than those of --init "
                        f"{options.init or '(none: the toy)'}")
    if answers % options.minibatches:
        raise UserError(f"--minibatches {options.minibatches} does not divide the {answers} "
                        "answers of a step")
    if not options.kl_coef and (options.kl_target or options.kl_in == "reward"):
        raise UserError("--kl-target and --kl-in reward need a --kl-coef to begin with")
    if options.overlong_buffer > options.max_new_tokens:
        raise UserError(f"--overlong-buffer {options.overlong_buffer} is more than the longest "
                        f"answer, {options.max_new_tokens} tokens")


def validate(options: Options) -> tasks.Task:
    """Checks everything that can be wrong before any work; returns the task."""
    for f in fields(Options):
        value, least = getattr(options, f.name), int(f.name in AT_LEAST_ONE)
        if type(value) in (int, float) and "seed" not in f.name and not value >= least:
            raise UserError(f"--{f.name.replace('_', '-')} must be at least {least}")
    for name in ("temperature", "lr", "critic_lr"):
        if not 0 < getattr(options, name) < math.inf:
            raise UserError(f"--{name.replace('_', '-')} must be a number above 0")
    for name in ("seed", "base_seed"):
        if abs(getattr(options, name)) >= 2**62:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} is too large")
    if (options.data or options.eval_data) and options.task != "file":
        raise UserError("--data and --eval-data belong to --task file")
    try:
        there = torch.zeros(1, device=options.device)
        if there.device.type not in ("cpu", "cuda"):
            raise RuntimeError("sample.py has no habits for it")
        if there.is_cuda:
            torch.cuda.set_device(there.device)  # the current one is what torch measures
        task = tasks.TASKS[options.task](options.level, options.data, options.eval_data)
        tasks.mixed(task, options.train_levels)
        task.held_out(1)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {options.device} is not to be had here; try cpu") from None
    options.max_new_tokens = options.max_new_tokens or task.max_new_tokens
    options.eval_problems = options.eval_problems or len(getattr(task, "eval", range(1000)))
    options.base_steps = options.base_steps or task.base_steps
    if options.base_seed < 0:
        options.base_seed = options.seed
    validate_algorithm(options)
    validate_init(options, task)
    if options.shard and options.compile:
        raise UserError("--compile and --shard do not go together")
    if options.shard and (distributed.world() == 1 or uses(options.algo, "ppo")):
        raise UserError("--shard needs several processes (torchrun --nproc-per-node N train.py "
                        "...) and an algorithm without a critic")
    context = config_of(options).context
    if options.overlong == "soft" and not options.overlong_buffer:
        options.overlong_buffer = max(1, options.max_new_tokens // 5)
    if options.max_new_tokens + 64 > context:
        raise UserError(f"--max-new-tokens {options.max_new_tokens} does not fit the context of "
                        f"{context}")
    for problem in task.all() or task.held_out(20):  # those of a task are much alike
        try:
            prompt = len(tokenizer.encode_prompt(problem.question))
            solution = 0 if options.init else len(tokenizer.encode(problem.solution)) + 64
        except ValueError as error:  # a real model's tokenizer may lack a byte
            raise UserError(f"{problem.question[:40]!r}: {error}") from None
        answer = max(options.max_new_tokens, solution)
        if prompt + answer > context:
            raise UserError(f"a prompt of {prompt} tokens with an answer of {answer} is longer "
                            f"than the context of {context}: {problem.question[:40]!r}")
    return task
