"""infra/conflicts.py: flags that contradict or have no effect are refused in one sentence."""

import re

import pytest

import config
from infra import cli, run_dir

REFUSED = {  # flags -> words of the sentence
    "--algo passk --baseline others --no-scale-by-std": "--scale-by-std has no effect with --algo",
    "--algo reinforce-rej --divisor mean": "--divisor has no effect with --algo reinforce-rej",
    "--algo raft --decouple-rewards": "--decouple-rewards has no effect with --algo raft",
    "--algo ppo --divisor mean": "--algo ppo has a critic",
    "--algo drgrpo --divisor mean": "--divisor mean has no effect with --no-scale-by-std",
    "--algo maxrl --reward sign": "--divisor mean needs rewards of at least 0",
    "--algo maxrl --kl-coef 1 --kl-in reward": "no --kl-in reward",
    "--algo dapo --divisor mean --reward correct": "no --overlong soft",
    "--baseline batch": "--baseline batch needs --scale-by-std and --divisor batch-std",
    "--algo lite --decouple-rewards": "--decouple-rewards needs",
    "--decouple-rewards --kl-coef 1 --kl-in reward": "it needs --kl-in loss",
    "--algo dapo --decouple-rewards": "--reward sign is not such a sum",
    "--decouple-rewards --reward accuracy": "it needs --reward correct or language or preference",
    "--decouple-rewards --reward wrong": "--reward wrong is not such a sum",
    "--baseline others": "--baseline others needs --no-scale-by-std",
    "--group-size 1": "a group needs at least 2 responses",
    "--algo passk --pass-at 17": "--pass-at 17 is more than the 16 responses",
    "--algo gfpo --keep-count 17": "--keep-count 17 must be from 2 to the 16 responses",
    "--algo raft --keep-count 4": "--keep-count has no effect without --keep shortest",
    "--algo raft --reward random": "--reward random has no effect with --keep right",
    "--algo raft --kl-coef 1 --kl-in reward": "--kl-in reward has no effect with --keep right",
    "--algo raft --clip-high 0.3": "--clip-high has no effect with --surrogate likelihood",
    "--algo raft --sequence-mask 0.1": "--sequence-mask has no effect with --keep right, where no",
    "--algo raft --surrogate clip --dual-clip 3": "--dual-clip has no effect with --keep right",
    "--algo raft --surrogate clip --clip-low 0.5": "--clip-low has no effect with --keep right",
    "--algo raft --surrogate sapo --tau-neg 2": "--tau-neg has no effect with --keep right",
    "--algo dapo --overlong none --overlong-buffer 9": "--overlong-buffer has no effect without",
    "--algo dapo --no-dynamic-sampling --max-attempts 9": "--max-attempts has no effect without",
    "--kl k2": "--kl has no effect without a --kl-coef above 0",
    "--kl k2 --kl-coef 0.1 --kl-in reward": "--kl has no effect without",
    "--algo sapo --clip-low 0.3": "--clip-low has no effect with --surrogate sapo",
    "--algo cispo --dual-clip 3": "--dual-clip has no effect with --surrogate cispo",
    "--algo cispo --tau-neg 2": "have no effect without --surrogate sapo",
    "--algo gmpo --ratio sequence": "whose ratio is that of --surrogate",
    "--surrogate cispo": "--surrogate has no effect with --algo grpo; it needs --algo gfpo",
    "--algo cispo --keep mixed": "--keep has no effect with --algo cispo",
    "--algo kimi --clip-low 0.3": "--clip-low has no effect with --algo kimi",
    "--algo kimi --ratio sequence": "--ratio has no effect with --algo kimi",
    "--algo kimi --pmd-tau 0": "--pmd-tau must be above 0",
    "--algo kimi --length-coef 0 --length-warmup 9": "--length-warmup has no effect without",
    "--problem-sampling prioritized": "needs --train-levels, such as 1,2,4, or --task file",
    "--problem-sampling curriculum": "--problem-sampling curriculum needs --train-levels",
    "--old-segments drop": "--old-segments has no effect without --partial-rollouts",
    "--partial-rollouts 50": "--partial-rollouts 50 does not divide the 192 tokens",
    "--algo dapo --partial-rollouts 64": "--partial-rollouts needs --no-dynamic-sampling",
    "--algo gspo --partial-rollouts 64 --sampler-dtype bfloat16": "it needs --old-segments drop",
    "--algo grpo --pmd-tau 1": "it needs --algo kimi",
    "--algo grpo --pass-at 2": "it needs --algo passk",
    "--algo dpo --clip-high 0.3": "--clip-high has no effect with --algo dpo, whose loss compares",
    "--algo dpo --entropy-coef 0.1": "--entropy-coef has no effect with --algo dpo",
    "--algo dpo --token-filter kl-cov": "--token-filter has no effect with --algo dpo",
    "--algo dpo --baseline batch": "--baseline has no effect with --algo dpo",
    "--algo dpo --reward random": "--reward random has no effect with --algo dpo, whose pairs",
    "--algo dpo --sample-from reference --sampler-dtype bfloat16": "--sampler-dtype has no effect",
    "--algo dpo --kl-coef 0": "needs a --kl-coef above 0: it is DPO's beta",
    "--nll-coef 1": "--nll-coef has no effect with --algo grpo; it needs --algo ",
    "--algo sapo --tau-pos 0": "--tau-pos must be a finite number above 0",
    "--entropy-target 0.2 --entropy-coef 0.01 --entropy-schedule linear": "both set the weight",
    "--entropy-schedule linear": "needs an --entropy-coef above 0",
    "--algo ppo --token-filter kl-cov": "needs an algorithm without a critic, not --algo ppo",
    "--algo gspo --token-filter clip-cov": "needs one ratio per token",
    "--algo gmpo --token-filter top-entropy": "needs one ratio per token",
    "--algo kimi --token-filter top-entropy": "needs one ratio per token",
    "--algo raft --token-filter kl-cov": "has no effect with --keep right",
    "--cov-ratio 0.1 --token-filter top-entropy": "--cov-ratio has no effect without",
    "--kl-cov-coef 2 --token-filter clip-cov": "--kl-cov-coef has no effect without",
    "--top-entropy-quantile 0.5": "--top-entropy-quantile has no effect without",
    "--cov-ratio 1.1 --token-filter kl-cov": "--cov-ratio must be between 0 and 1",
    "--algo vapo --gae-lambda 0.9": "--gae-lambda has no effect with --algo vapo",
    "--algo ppo --gae-alpha 0.5": "--gae-alpha has no effect with --algo ppo; it needs --algo vapo",
}
ALLOWED = [
    *(f"--algo {name}" for name in config.PRESETS), "--algo reinforce++ --group-size 1",
    "--algo raft --surrogate clip --clip-high 0.28", "--algo raft --keep-at-random",
    "--algo sapo --sampler-correction icepop --sequence-mask 0.1", "--algo passk --pass-at 16",
    "--algo kimi --partial-rollouts 64 --train-levels 1,2 --problem-sampling prioritized",
    "--algo ppo --partial-rollouts 48 --old-segments drop",
    "--algo gspo --partial-rollouts 64 --sampler-dtype bfloat16 --old-segments drop",
    "--algo kimi --scale-by-std --aggregate token --length-coef 0",
    "--algo cispo --surrogate clip --dual-clip 3 --kl-coef 0.1 --unbiased-kl",
    "--algo dapo --token-filter clip-cov --cov-ratio 0.01", "--token-filter top-entropy",
    "--algo cispo --token-filter kl-cov --kl-cov-coef 2", "--algo ppo --entropy-target 0.2",
    "--algo raft --token-filter top-entropy", "--entropy-coef 0.1 --entropy-schedule linear",
    "--algo vapo --gae-alpha 0 --gae-lambda 0.9", "--algo raft --group-size 1",
    "--algo dapo --decouple-rewards --reward correct",
    "--algo raft --surrogate cispo --clip-low 0.5",
    "--algo gfpo --divisor batch-std --keep-count 2",
    "--algo dpo --sample-from reference --ref-update-interval 0 --nll-coef 1 --kl-coef 0.5"]


def validate(words: str):
    cli.validate(cli.parse([*words.split(), "--device", "cpu"])[0])


@pytest.mark.parametrize("words", REFUSED)
def test_a_contradiction_is_refused_in_one_sentence(words):
    with pytest.raises(run_dir.UserError) as refused:
        validate(words)
    said = str(refused.value)
    assert REFUSED[words] in said and "\n" not in said and not re.search(r"[.!] [A-Z]", said)


@pytest.mark.parametrize("words", ALLOWED)
def test_flags_that_fit_each_other_pass(words):
    validate(words)


@pytest.mark.parametrize("name", config.PRESETS)
def test_help_shows_the_defaults_of_the_algorithm(name, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--algo", name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option, value in config.PRESETS[name][1].items():
        text = shown[shown.index(f" {cli.flag(option)}"):]
        assert re.search(rf"\(default: {re.escape(str(value))}\)", text[:700]), option
