"""Flags of train.py that contradict each other or have no effect. Each is refused in one sentence.

A rule is a pair: whether it is broken, and the sentence that names the flags and the mend. Ranges
of single numbers are checked in infra/cli.py.
"""

from dataclasses import fields

import offpolicy
import raft
from config import ALGORITHMS, Options, needs_critic, reads_group
from infra.files import UserError

ADVANTAGES = ("scale_by_std", "divisor", "baseline", "decouple_rewards")
OF_VERIFIER = ("correct", "accuracy", "sign")  # rewards that tell right from wrong
IN_PARTS = ("correct", "language", "preference")  # rewards that are correctness plus a rest
NOT_OF_PAIRS = ("sampler_lag", "old_segments", "clip_low", "clip_high", "dual_clip", "ratio",
                "aggregate", "kl", "kl_in", "kl_target", "unbiased_kl", "entropy_coef",
                "entropy_target", "token_filter")  # options that DPO does not read


def flag(name: str) -> str:
    """The flag of a field of Options."""
    return "--" + name.replace("_", "-")


def validate_algorithm(options: Options) -> None:
    """Checks that the algorithm reads the options that were set, and that they fit each other.
    Raises UserError."""
    refuse_unread_groups(options)
    rules = [*advantage_rules(options), *selection_rules(options), *segment_rules(options),
             *loss_rules(options), *pair_rules(options), *entropy_rules(options)]
    for broken, sentence in rules:
        if broken:
            raise UserError(sentence)


def readers(group: str) -> list[str]:
    """The algorithms that read the options of a group."""
    return [name for name in ALGORITHMS if reads_group(name, group)]


def refuse_unread_groups(options: Options) -> None:
    """Refuses options of a group that the algorithm does not read."""
    for f in fields(Options):
        group = f.metadata["group"]
        if getattr(options, f.name) != f.default and not reads_group(options.algo, group):
            raise UserError(f"{flag(f.name)} has no effect with --algo {options.algo}; it needs "
                            f"--algo {' or '.join(readers(group))}")


def changed(options: Options, *names: str) -> str:
    """The flag of the first of these options that is not the algorithm's default; "" for none."""
    preset = ALGORITHMS[options.algo][1]
    for f in fields(Options):
        if f.name in names and getattr(options, f.name) != preset.get(f.name, f.default):
            return flag(f.name)
    return ""


def has_group_advantages(options: Options) -> bool:
    """Whether the advantages are made by grpo.py."""
    if reads_group(options.algo, "RAFT"):
        return options.keep in raft.FILTERS
    return not any(reads_group(options.algo, group) for group in ("PPO", "pass@k", "DPO"))


def keeps_right(options: Options) -> bool:
    """Whether the algorithm learns from right responses alone, all with advantage 1."""
    return reads_group(options.algo, "RAFT") and options.keep == "right"


def advantage_rules(options: Options) -> list[tuple]:
    """Rules for rewards, baselines and divisors."""
    algo, critic = options.algo, needs_critic(options.algo)
    scaled, mean = options.scale_by_std, options.scale_by_std and options.divisor == "mean"
    unused = changed(options, *ADVANTAGES)
    return [
        (options.reward == "process" and not critic,
         "--reward process needs --judge RUN and an algorithm with a critic, such as --algo ppo"),
        (not critic and options.baseline != "batch" and not keeps_right(options)
         and options.group_size < 2,
         f"--group-size {options.group_size}: a group needs at least 2 responses to compare"),
        (critic and (scaled or unused),
         "--scale-by-std, --divisor, --baseline and --decouple-rewards need advantages of groups, "
         f"but --algo {algo} has a critic"),
        (unused and not has_group_advantages(options),
         f"{unused} has no effect with --algo {algo}, whose advantages have no baseline"),
        (options.turn_penalty and not has_group_advantages(options),
         f"--turn-penalty has no effect with --algo {algo}; it needs advantages of groups, such as "
         "those of --algo grpo"),
        (scaled and options.baseline == "others", "--baseline others needs --no-scale-by-std"),
        (options.baseline == "batch" and (not scaled or options.divisor != "batch-std"),
         "--baseline batch needs --scale-by-std and --divisor batch-std"),
        (not scaled and options.divisor != "std",
         f"--divisor {options.divisor} has no effect with --no-scale-by-std"),
        (options.decouple_rewards and (not scaled or options.divisor != "std"
                                       or options.baseline != "mean"),
         "--decouple-rewards needs --scale-by-std, --divisor std and --baseline mean"),
        (options.decouple_rewards and options.reward not in IN_PARTS,
         f"--decouple-rewards needs correctness and a rest in the reward, and --reward "
         f"{options.reward} is not such a sum; it needs --reward {' or '.join(IN_PARTS)}"),
        (options.decouple_rewards and options.kl_in == "reward",
         "--decouple-rewards would give the KL the weight of the reward; it needs --kl-in loss"),
        (mean and (options.reward == "sign" or options.kl_in == "reward"
                   or options.overlong == "soft"),
         "--divisor mean needs rewards of at least 0: no --reward sign, no --kl-in reward and no "
         "--overlong soft"),
        (reads_group(algo, "pass@k") and options.pass_at > options.group_size,
         f"--pass-at {options.pass_at} is more than the {options.group_size} responses of a group "
         "(--group-size)"),
    ]


def selection_rules(options: Options) -> list[tuple]:
    """Rules for the responses that are kept, and for the size of a mini-batch."""
    responses = options.prompts * options.group_size
    right = keeps_right(options)
    drops = "--dynamic-sampling" if options.dynamic_sampling else "--keep mixed" if (
        reads_group(options.algo, "RAFT") and options.keep == "mixed") else ""
    choice = options.problem_sampling
    return [
        (choice != "uniform" and not options.train_levels and (
            choice == "curriculum" or options.task != "file"),
         f"--problem-sampling {choice} needs --train-levels, such as 1,2,4"
         + (", or --task file" if choice == "prioritized" else "")),
        (responses % options.minibatches,
         f"--minibatches {options.minibatches} does not divide the {responses} responses of a step "
         "(--prompts times --group-size)"),
        (changed(options, "keep_count") and options.keep not in raft.FILTERS,
         "--keep-count has no effect without --keep shortest or efficient"),
        (options.keep in raft.FILTERS and not 2 <= options.keep_count <= options.group_size,
         f"--keep-count {options.keep_count} must be from 2 to the {options.group_size} responses "
         "of a group (--group-size)"),
        (right and options.reward not in OF_VERIFIER,
         f"--reward {options.reward} has no effect with --keep right, which keeps the answers that "
         "the verifier accepts"),
        (options.reward == "preference" and drops,
         f"{drops} keeps groups with right and wrong responses, so it would drop the open requests "
         "of --reward preference, which are neither"),
        (options.reward == "preference" and options.keep == "efficient",
         "--keep efficient divides rewards by lengths, and those of --reward preference may be "
         "below 0"),
        (options.reward == "preference" and reads_group(options.algo, "Kimi")
         and options.length_coef,
         "--reward preference needs --length-coef 0: the length reward tells right from wrong, and "
         "an open request is neither"),
        (right and options.kl_in == "reward", "--kl-in reward has no effect with --keep right"),
        (changed(options, "overlong_buffer") and options.overlong != "soft",
         "--overlong-buffer has no effect without --overlong soft"),
        (changed(options, "max_attempts") and not options.dynamic_sampling,
         "--max-attempts has no effect without --dynamic-sampling"),
        (options.overlong_buffer > options.max_new_tokens,
         f"--overlong-buffer {options.overlong_buffer} is longer than a response "
         f"({options.max_new_tokens} tokens)"),
    ]


def segment_rules(options: Options) -> list[tuple]:
    """Rules for partial rollouts."""
    segment = options.partial_rollouts
    return [
        (changed(options, "old_segments") and not segment,
         "--old-segments has no effect without --partial-rollouts"),
        (segment and options.max_new_tokens % segment,
         f"--partial-rollouts {segment} does not divide the {options.max_new_tokens} tokens of "
         "--max-new-tokens"),
        (segment and options.old_segments == "weigh" and options.ratio != "token"
         and "bfloat16" in (options.dtype, options.sampler_dtype),
         f"--ratio {options.ratio} in bfloat16 has the policy at the beginning of the step, "
         "so old segments cannot be weighed; it needs --old-segments drop"),
        (segment and options.dynamic_sampling,
         "--partial-rollouts needs --no-dynamic-sampling, which would continue the responses "
         "within the step"),
    ]


def pair_rules(options: Options) -> list[tuple]:
    """Rules for DPO."""
    if not reads_group(options.algo, "DPO"):
        return []
    unread = changed(options, *NOT_OF_PAIRS)
    return [
        (unread, f"{unread} has no effect with --algo {options.algo}, whose loss compares pairs of "
         "responses"),
        (options.reward not in OF_VERIFIER,
         f"--reward {options.reward} has no effect with --algo {options.algo}, whose pairs are "
         "made by the verifier"),
        (not options.kl_coef, f"--algo {options.algo} needs a --kl-coef above 0: it is DPO's beta"),
        (options.sample_from == "reference" and options.sampler_dtype != options.dtype,
         "--sampler-dtype has no effect with --sample-from reference, which samples in the "
         "precision of --dtype"),
    ]


def loss_rules(options: Options) -> list[tuple]:
    """Rules for ratios, clips and the KL."""
    algo, surrogate = options.algo, options.surrogate
    bounds = changed(options, "clip_low", "clip_high")
    kimi, ratios = reads_group(algo, "Kimi"), changed(options, "ratio", "dual_clip")
    of_wrong = changed(options, "sequence_mask", "dual_clip", "tau_neg",
                       *([] if surrogate == "cispo" else ["clip_low"]))
    return [
        (kimi and (bounds or ratios),
         f"{bounds or ratios} has no effect with --algo {algo}, whose loss has no ratio"),
        (kimi and not options.pmd_tau,
         "--pmd-tau must be above 0: the squared loss is divided by it"),
        (kimi and changed(options, "length_warmup") and not options.length_coef,
         "--length-warmup has no effect without a --length-coef above 0"),
        (needs_critic(algo) and options.ratio != "token",
         f"--ratio {options.ratio} needs one advantage per response, but --algo {algo} has one per "
         "token"),
        (reads_group(algo, "off-policy") and options.ratio != "token",
         f"--ratio {options.ratio} has no effect with --algo {algo}, whose ratio is that of "
         "--surrogate"),
        (bounds and surrogate in offpolicy.UNCLIPPED,
         f"{bounds} has no effect with --surrogate {surrogate}, which has no bounds"),
        (keeps_right(options) and of_wrong,
         f"{of_wrong} has no effect with --keep right, where no advantage is below 0"),
        (options.dual_clip and surrogate != "clip",
         f"--dual-clip has no effect with --surrogate {surrogate}"),
        (changed(options, "tau_pos", "tau_neg") and surrogate != "sapo",
         "--tau-pos and --tau-neg have no effect without --surrogate sapo"),
        (changed(options, "kl") and (not options.kl_coef or options.kl_in == "reward"),
         "--kl has no effect without a --kl-coef above 0 and --kl-in loss: the reward has k1, and "
         "the metric k3"),
        (not options.kl_coef and (options.kl_target or options.kl_in == "reward"),
         "--kl-target and --kl-in reward need a --kl-coef above 0"),
        (options.unbiased_kl and (not options.kl_coef or options.kl_in != "loss"),
         "--unbiased-kl needs a --kl-coef above 0 and --kl-in loss"),
    ]


def entropy_rules(options: Options) -> list[tuple]:
    """Rules for the entropy bonus and the filters of tokens, and for VAPO's lambda."""
    algo, token_filter = options.algo, options.token_filter
    covariance = token_filter in ("clip-cov", "kl-cov")
    return [
        (options.entropy_target and options.entropy_schedule != "constant",
         "--entropy-target and --entropy-schedule both set the weight of the bonus; choose one"),
        (options.entropy_schedule != "constant" and not options.entropy_coef,
         f"--entropy-schedule {options.entropy_schedule} needs an --entropy-coef above 0"),
        (token_filter != "none" and needs_critic(algo),
         f"--token-filter {token_filter} needs an algorithm without a critic, not --algo {algo}"),
        (token_filter != "none" and (options.ratio != "token" or options.surrogate == "gmpo"
                                     or reads_group(algo, "Kimi")),
         f"--token-filter {token_filter} needs one ratio per token: --ratio token, no --surrogate "
         "gmpo and no --algo kimi"),
        (covariance and keeps_right(options),
         f"--token-filter {token_filter} has no effect with --keep right, where all advantages are "
         "equal"),
        (changed(options, "cov_ratio") and not covariance,
         "--cov-ratio has no effect without --token-filter clip-cov or kl-cov"),
        (changed(options, "kl_cov_coef") and token_filter != "kl-cov",
         "--kl-cov-coef has no effect without --token-filter kl-cov"),
        (changed(options, "top_entropy_quantile") and token_filter != "top-entropy",
         "--top-entropy-quantile has no effect without --token-filter top-entropy"),
        (reads_group(algo, "VAPO") and options.gae_alpha and changed(options, "gae_lambda"),
         f"--gae-lambda has no effect with --algo {algo}, whose lambda is that of --gae-alpha"),
    ]
