"""The options of a run, each with its help text, and the presets of the algorithms.

    python train.py --algo dapo --help       every option, with the defaults of that algorithm

To add an option, add a field to Options. To add an algorithm, write a file with `prepare`
(advantages) and `loss`, and add a line to PRESETS. The file says what it needs:

    needs_critic = True     it learns with a critic, and reads the options of the group PPO
    dapo_options = True     it reads the options of the group DAPO; GROUPS has the other names

Command lines are read and checked in infra/cli.py.
"""

from dataclasses import dataclass, field
from importlib import import_module

import dpo
import entropy
import grpo
import model
import offpolicy
import ppo
import raft
import sample
import tasks
import verify
from engine import sampler

PRESETS = {  # name -> (file of the algorithm, defaults that differ from those of Options)
    "grpo": ("grpo", {}),
    "drgrpo": ("grpo", dict(scale_by_std=False, aggregate="constant")),
    "rloo": ("grpo", dict(scale_by_std=False, baseline="others", aggregate="sum", lr=8e-4)),
    "gspo": ("grpo", dict(ratio="sequence", clip_low=3e-4, clip_high=4e-4, lr=8e-4)),
    "maxrl": ("grpo", dict(divisor="mean", reward="accuracy")),
    "reinforce++": ("grpo", dict(baseline="batch", divisor="batch-std", aggregate="token")),
    "lite": ("grpo", dict(divisor="batch-std", aggregate="token")),
    "gfpo": ("raft", dict(keep="shortest")),
    "raft": ("raft", dict(surrogate="likelihood", reward="sign")),
    "reinforce-rej": ("raft", dict(keep="mixed", reward="sign")),
    "cispo": ("offpolicy", dict(surrogate="cispo", clip_low=1.0, clip_high=4.0,
                                aggregate="token")),
    "sapo": ("offpolicy", dict(surrogate="sapo")),
    "gmpo": ("offpolicy", dict(surrogate="gmpo", clip_low=0.33, clip_high=0.49)),
    "passk": ("passk", {}),
    "dpo": ("dpo", dict(kl_coef=0.1, ref_update_interval=10)),
    "kimi": ("kimi", dict(scale_by_std=False, aggregate="sum", pmd_tau=0.1)),
    "dapo": ("dapo", dict(clip_high=0.28, aggregate="token", dynamic_sampling=True,
                          overlong="soft", reward="sign", minibatches=8)),
    "ppo": ("ppo", dict(aggregate="token", scale_by_std=False, prompts=128, group_size=4,
                        minibatches=8)),
    "vapo": ("vapo", dict(aggregate="token", scale_by_std=False, clip_high=0.28, minibatches=8,
                          nll_coef=0.1)),
}
# name -> (module, the same defaults)
ALGORITHMS = {name: (import_module(file), defaults) for name, (file, defaults) in PRESETS.items()}
GROUPS = {  # heading in --help -> the attribute by which an algorithm says that it reads the group
    "run": "", "task": "", "algorithm": "", "PPO": "needs_critic", "DAPO": "dapo_options",
    "RAFT": "raft_options", "off-policy": "offpolicy_options", "pass@k": "passk_options",
    "VAPO": "vapo_options", "DPO": "dpo_options", "VAPO and DPO": "nll_options",
    "Kimi": "kimi_options", "entropy": "", "evaluation": "", "memory": "",
}
SAMPLERS = {"fast": sampler.generate, "plain": sample.generate}  # equal tokens
PRETRAINED_LR = 1e-5  # with --init: a pretrained model forgets at the rate that a tiny one needs


def reads_group(algo: str, group: str) -> bool:
    """Whether an algorithm reads the options of a group."""
    attribute = GROUPS[group]
    return not attribute or getattr(ALGORITHMS[algo][0], attribute, False)


def needs_critic(algo: str) -> bool:
    """Whether an algorithm learns with a critic."""
    return reads_group(algo, "PPO")


def option(group: str, default, help: str, choices=None):
    """A field of Options. `group` is its heading in --help; `choices` is a registry."""
    return field(default=default, metadata={"group": group, "help": help, "choices": choices})


@dataclass
class Options:
    """All settings of a run. The flag of a field is its name with dashes: --group-size."""

    # --- run
    algo: str = option("run", "grpo", "algorithm; all defaults shown are those of this algorithm",
                       ALGORITHMS)
    out: str = option("run", "", "folder of the run (default: runs/ALGO-TASK-SEED, then the reward "
                      "and the model if they are not the default)")
    seed: int = option("run", 0, "seed of all random numbers; compare at least three seeds")
    steps: int = option("run", 40, "steps of reinforcement learning; 0 trains and evaluates the "
                        "base model alone")
    token_budget: int = option("run", 0, "stop after this many sampled tokens instead of --steps; "
                               "0: no budget")
    device: str = option("run", "", "cpu, cuda or cuda:1 (default: cuda if there is a GPU)")
    sampler: str = option("run", "fast", "sampler: fast, or plain (sample.py, the readable one); "
                          "both draw the same tokens", SAMPLERS)
    sampler_lag: int = option("run", 0, "sample from the policy of this many steps before, as "
                              "asynchronous training does; 0: from the current policy")
    size: str = option("run", "tiny", "size of the model, the smallest first; small and medium "
                       "need a GPU", model.SIZES)
    base_seed: int = option("run", -1, "seed of the base model (default: --seed)")
    base_steps: int = option("run", 0, "training steps of the base model (default: the task's, "
                             "for up to three rounds, until it solves enough problems)")
    checkpoints: bool = option("run", True, "write a checkpoint at each evaluation and keep the "
                               "one before, each of 16 bytes per parameter (2.2 GB for 135 "
                               "million); without, a run leaves its policy alone (4 bytes per "
                               "parameter) and cannot be resumed")
    report: bool = option("run", True, "record responses in samples.jsonl and write report.html, "
                          "the page of the run")
    record_mb: float = option("run", 20.0, "size of samples.jsonl after 1000 steps, in MB; shorter "
                              "runs write less; 0: held-out answers alone")
    init: str = option("run", "", "folder of a pretrained model in Hugging Face's format, to start "
                       "from in place of a base model trained here")

    # --- task
    task: str = option("task", "arithmetic", "problems to learn; try countdown",
                       sorted(tasks.TASKS))
    level: int = option("task", 2, "difficulty of the problems, from 1 to 5 (gsm, code, "
                        "assistant, calculator, records, python, diagrams: to 2; chain, wait, "
                        "bilingual, trial and mixture: to 3)")
    train_levels: str = option("task", "", "levels of the training problems, such as 1,2,4; the "
                               "base model and the evaluation keep --level (default: --level)")
    problem_sampling: str = option(
        "task", "uniform", "uniform: levels of --train-levels in turn, or any problem of a file; "
        "curriculum: easy levels first; prioritized: levels, or problems of a file, with weight 1 "
        "minus their success rate", tasks.PROBLEM_SAMPLING)
    data: str = option("task", "", "problems of --task file: gsm8k, or a JSONL file with question "
                       "and answer on each line")
    eval_data: str = option("task", "", "held-out problems of --task file (default: a tenth of "
                            "--data)")
    strict: bool = option("task", False, "refuse files with rows that are no problems, instead of "
                          "leaving these rows out")
    max_new_tokens: int = option("task", 0, "limit of a response, in tokens (default: the task's)")
    prompt: str = option("task", "", "prompt template: plain, r1 (R1-Zero's) or chat (ChatML) "
                         "(default: r1 with --init, else plain)", ["plain", "r1", "chat"])
    few_shot: int = option("task", 0, "solved examples in the prompt; needs --init")
    reward: str = option("task", "correct",
                         "correct: 1 for a right answer and 0.1 for the format; accuracy: 1 or "
                         "0; sign: 1 or -1; "
                         "language: as correct, and the share of the working in the question's "
                         "language; "
                         "process: scores of a process reward model, needs --algo ppo; "
                         "preference: for open requests the reward model of reward_model.py, for "
                         "other problems as correct; controls: "
                         "format pays for the tags alone, random pays by chance, wrong pays for "
                         "a wrong answer in tags, claim pays for claiming to have checked",
                         verify.REWARDS)
    judge: str = option("task", "", "run with the reward model: prm.pt, made by prm.py, for "
                        "--reward process, or reward_model.pt, made by reward_model.py, for "
                        "--reward preference")

    # --- algorithm
    prompts: int = option("algorithm", 32, "problems per step")
    group_size: int = option("algorithm", 16, "responses per problem")
    temperature: float = option("algorithm", 1.0, "temperature of sampling and of the log-probs "
                                "in the loss")
    lr: float = option("algorithm", 4e-4, "learning rate; try 1e-4 and 2e-3")
    minibatches: int = option("algorithm", 4, "optimizer steps per epoch")
    epochs: int = option("algorithm", 1, "passes over the responses of a step")
    clip_low: float = option("algorithm", 0.2, "clip the ratio at 1 minus this")
    clip_high: float = option("algorithm", 0.2, "clip the ratio at 1 plus this; 0.28 is DAPO's "
                              "Clip-Higher")
    dual_clip: float = option("algorithm", 0.0, "bound the loss of a token with advantage A < 0 at "
                              "this times |A|, such as 3; 0: no bound")
    ratio: str = option("algorithm", "token", "importance ratio of each token, or of the whole "
                        "response: sequence is the geometric mean of its tokens' ratios (GSPO), "
                        "product their product (RLOO in TRL, with --aggregate sequence)",
                        ["token", "sequence", "product"])
    aggregate: str = option("algorithm", "sequence",
                            "average of the loss over tokens. sequence: mean per response, then "
                            "over responses; token: mean over all tokens; sum: sum per response, "
                            "then mean; constant: that sum divided by --max-new-tokens",
                            ppo.AGGREGATIONS)
    scale_by_std: bool = option("algorithm", True, "divide advantages by --divisor")
    divisor: str = option("algorithm", "std", "standard deviation of the rewards of the group, or "
                          "of the batch (batch-std, Lite PPO), or mean reward of the group (MaxRL)",
                          grpo.DIVISORS)
    baseline: str = option("algorithm", "mean", "baseline of a response: mean reward of its group, "
                           "of the others of its group (RLOO), or of the batch (REINFORCE++)",
                           [*grpo.BASELINES, "batch"])
    decouple_rewards: bool = option("algorithm", False, "normalise correctness and the rest of the "
                                    "reward one by one, then add them up (GDPO)")
    turn_penalty: float = option("algorithm", 0.0, "taken from the advantage of each token of a "
                                 "turn whose call gave an error, in tasks with a tool; try 0.5")
    kl_coef: float = option("algorithm", 0.0, "weight of the KL to the reference; try 0.02")
    kl: str = option("algorithm", "k3", "estimator of that KL in the loss", ppo.KL)
    unbiased_kl: bool = option("algorithm", False, "multiply that KL by the importance ratio of "
                               "the token, so that its gradient is the KL's (DeepSeek-V3.2)")
    kl_in: str = option("algorithm", "loss", "add the KL to the loss, or subtract it from the "
                        "reward", ["loss", "reward"])
    kl_target: float = option("algorithm", 0.0, "adapt --kl-coef so that the KL approaches this, "
                              "in nats per token; 0: constant weight")
    ref_update_interval: int = option("algorithm", 0, "steps after which the policy is copied to "
                                      "the reference; 0: never")
    partial_rollouts: int = option("algorithm", 0, "tokens of a response that a step samples; the "
                                   "next step continues it; 0: no limit but --max-new-tokens")
    old_segments: str = option("algorithm", "weigh", "tokens of partial rollouts from earlier "
                               "steps: weigh by the ratio to the policy that sampled them, or drop "
                               "from the loss", ["weigh", "drop"])

    # --- PPO
    critic: str = option("PPO", "own", "critic with a network of its own, or a head on the policy",
                         ["own", "head"])
    critic_hints: bool = option("PPO", False, "also show the critic the probability of the text so "
                                "far and the mean reward of the other responses")
    critic_lr: float = option("PPO", 1e-3, "learning rate of the critic")
    critic_warmup: int = option("PPO", 4, "steps in which the critic alone learns (VC-PPO)")
    gamma: float = option("PPO", 1.0, "discount per token")
    gae_lambda: float = option("PPO", 1.0, "lambda of the advantages; try 0.95")
    critic_gae_lambda: float = option("PPO", 1.0, "lambda of the returns; 1: Monte Carlo")
    value_clip: float = option("PPO", 0.0, "clip the change of a value per step at this, such as "
                               "0.2; 0: no clip")
    value_coef: float = option("PPO", 1.0, "weight of the value loss")

    # --- DAPO
    dynamic_sampling: bool = option("DAPO", False, "sample more problems until the batch is full "
                                    "of groups with right and wrong responses")
    max_attempts: int = option("DAPO", 4, "rounds of dynamic sampling per step, at most")
    overlong: str = option("DAPO", "none", "responses near the token limit: soft subtracts a "
                           "penalty from the reward, mask drops truncated responses",
                           ["none", "soft", "mask"])
    overlong_buffer: int = option("DAPO", 0, "tokens before the limit at which the soft penalty "
                                  "begins (default: a fifth of --max-new-tokens)")

    # --- RAFT
    keep: str = option("RAFT", "right", "responses to learn from. right: right ones; mixed: those "
                       "of groups with right and wrong ones; shortest, efficient: in each group "
                       "the shortest ones, or those with the most reward per token", raft.KEEP)
    keep_count: int = option("RAFT", 8, "responses that shortest and efficient keep in each group")
    keep_at_random: bool = option("RAFT", False, "control: keep as many responses as --keep would, "
                                  "but chosen at random")

    # --- off-policy
    surrogate: str = option("off-policy", "clip", "loss of a token, see offpolicy.py",
                            offpolicy.SURROGATES)
    tau_pos: float = option("off-policy", 1.0, "temperature of SAPO's gate for advantages above 0")
    tau_neg: float = option("off-policy", 1.05, "temperature of SAPO's gate for the others")
    sampler_correction: str = option("off-policy", "none", "weigh tokens by the ratio of trainer "
                                     "to sampler before the update. tis: at most 2; icepop: 0 "
                                     "outside of 0.5 to 5", offpolicy.CORRECTIONS)
    sequence_mask: float = option("off-policy", 0.0, "drop responses with an advantage below 0 and "
                                  "a mean of log(sampler / policy) above this, such as 0.1 "
                                  "(DeepSeek-V3.2); 0: drop none")

    # --- pass@k
    pass_at: int = option("pass@k", 4, "k of the pass@k that is the objective; with k = "
                          "--group-size only the best response of a group has an advantage")

    # --- VAPO
    gae_alpha: float = option("VAPO", 1.0, "alpha: the advantages of a response have lambda = 1 - "
                              "1 / (alpha times its length); 0: --gae-lambda for all responses")

    # --- DPO
    sample_from: str = option("DPO", "policy", "network that samples the responses. reference: the "
                              "policy at the last update of the reference; always the base "
                              "(offline DPO) with --ref-update-interval 0", dpo.SAMPLE_FROM)

    # --- VAPO and DPO
    nll_coef: float = option("VAPO and DPO", 0.0, "weight of the mean negative log-likelihood per "
                             "token of right responses (iterative RPO: 1)")

    # --- Kimi
    pmd_tau: float = option("Kimi", 0.0, "tau of policy mirror descent, above 0: weight of the KL "
                            "to the policy before the step")
    length_coef: float = option("Kimi", 0.1, "weight of the length reward; 0: none")
    length_warmup: int = option("Kimi", 20, "first steps, without the length reward")

    # --- entropy
    entropy_coef: float = option("entropy", 0.0, "weight of the entropy bonus; try 0.01")
    entropy_schedule: str = option("entropy", "constant", "weight of the bonus during the run: "
                                   "linear falls to 0 at the end", entropy.SCHEDULES)
    entropy_target: float = option("entropy", 0.0, "adapt --entropy-coef, by 0.005 per step, so "
                                   "that the entropy approaches this, in nats per token; 0: no "
                                   "target")
    token_filter: str = option("entropy", "none", "clip-cov, kl-cov: no gradient or a KL penalty "
                               "for a few tokens that lower the entropy most; top-entropy: a "
                               "gradient only for tokens of high entropy", entropy.TOKEN_FILTERS)
    cov_ratio: float = option("entropy", 0.002, "share of the tokens that clip-cov or kl-cov "
                              "changes")
    kl_cov_coef: float = option("entropy", 1.0, "weight of the penalty of kl-cov")
    top_entropy_quantile: float = option("entropy", 0.2, "share of the tokens that top-entropy "
                                         "keeps")

    # --- evaluation
    eval_every: int = option("evaluation", 10, "steps between evaluations and checkpoints")
    eval_problems: int = option("evaluation", 0, "held-out problems of the first and the last "
                                "evaluation (default: 1000, or all of a file)")
    eval_samples: int = option("evaluation", 64, "samples per problem for pass@k, on a fifth of "
                               "these problems")

    # --- memory
    dtype: str = option("memory", "", "precision of the computation; weights stay in float32 "
                        "(default: bfloat16 with --init on a GPU that has it, else float32)",
                        ["float32", "bfloat16"])
    sampler_dtype: str = option("memory", "", "precision in which rollouts are sampled (default: "
                                "--dtype); bfloat16 shows what a coarser sampler does",
                                ["float32", "bfloat16"])
    micro_tokens: int = option("memory", 1024, "tokens per micro-batch; changes memory and speed, "
                               "not the gradient (default: 1024, on a GPU what fits, up to 32768)")
    gradient_checkpointing: bool = option("memory", False, "keep the input of each block alone and "
                                          "recompute the rest in the backward pass: less memory, a "
                                          "quarter more time")
    compile: bool = option("memory", False, "compile the blocks with torch.compile: faster "
                           "updates after half a minute of compiling")
    shard: bool = option("memory", False, "shard weights, gradients and Adam moments over the "
                         "processes of torchrun (FSDP)")
