"""diagnose.py: each fault is named, on metrics made up and on those of runs broken on purpose, and
nothing is said of runs that learn."""

from pathlib import Path

import pytest

import diagnose
import tasks
from bench import broken, stats
from diagnose import Run

ROOT = Path(__file__).parents[1]
RUNS, DOCS = ROOT / "bench" / "runs", ROOT / "docs"
HEALTHY = dict(reward=0.5, correct=0.45, format=0.9, accuracy=0.45, length=60, truncated=0.01,
               entropy=0.2, zero_std_groups=0.1, groups_with_gradient=0.9, kl=0.02, grad_norm=0.2,
               approx_kl=1e-4, logp_diff=1e-7, loss=-1e-3, tokens=1000, loss_tokens=1000,
               runs_on=0.0, reward_advantage=0.9, most_common_answer=0.05, repetition=0.0,
               no_verdict=0.0)
OPTIONS = dict(algo="grpo", lr=4e-4, temperature=1.0, group_size=16, max_new_tokens=192,
               dtype="float32", critic_warmup=4)


def made(n=3, options=None, groups=(), **changes) -> Run:
    """A run of n steps. A list in `changes` has a value a step; a number holds at each step."""
    rows = [HEALTHY | {"step": i + 1, "reward": 0.5 + 0.01 * i, "format": 0.9 + 1e-4 * i}
            for i in range(n)]
    for name, value in changes.items():
        for i, row in enumerate(rows):
            row[name] = value[i] if isinstance(value, list) else value
    return Run(OPTIONS | (options or {}), rows, list(groups))


def load(name: str) -> Run:
    folder = RUNS / name
    return Run(stats.read_json(folder / "config.json"), stats.metrics(folder), [])


def group(step, text="<think>a</think>", reward=1.0, **parts):
    return {"step": step, "responses": [{"text": text, "reward": reward, "parts": parts}] * 2}


FAULTS = {  # rule -> (a run with the fault, words of the sentence)
    "prompt_in_loss": (made(1, loss_tokens=1500), "1,500 tokens"),
    "sampler_differs": (made(1, logp_diff=0.1), "0.100 nats"),
    "sign_flipped": (made(reward_advantage=-0.9), "correlation -0.90"),
    "no_stop": (made(truncated=1.0, runs_on=0.8), "80% go on"),
    "step_too_large": (made(2, approx_kl=[4.2, 0.0], reward=[0.5, 0.1], options={"lr": 0.04}),
                       "--lr 0.04"),
    "cut_off": (made(truncated=0.8), "80% of the responses in steps 1 to 3 are cut off"),
    "never_formed": (made(format=0.0, groups=[group(3)]), "'<think>a</think>'"),
    "never_right": (made(5, accuracy=0.0), "90% have the right form"),
    "kl_explodes": (made(kl=3.0), "3.0 nats"),
    "gradient_jumps": (made(11, grad_norm=[0.2] * 10 + [9.0]), "jumped to 9.0 from 0.20"),
    "same_answer": (made(most_common_answer=0.9, accuracy=0.95), "reference answers"),
    "repeats": (made(repetition=0.5), "50%"),
    "cannot_tell": (made(no_verdict=0.2), "20%"),
    "no_gradient": (made(groups_with_gradient=0.0, accuracy=1.0), "too easy"),
    "part_is_constant": (made(10, brevity=0.0, groups=[group(10, correct=1, brevity=0)]),
                         "brevity has been 0"),
    "parts_cancel": (made(6, reward=0.5, correct=[0.2] * 3 + [0.4] * 3,
                          format=[0.9] * 3 + [0.6] * 3), "correct rose by 0.20"),
    "reward_falls": (made(6, reward=[0.2] * 3 + [0.05] * 3), "from 0.20 to 0.05"),
    "entropy_collapses": (made(10, entropy=[0.3] * 7 + [0.01] * 3, zero_std_groups=0.6),
                          "from 0.300 to 0.010"),
    "entropy_grows": (made(6, entropy=[0.3] * 3 + [0.9] * 3), "from 0.30 to 0.90"),
    "length_grows": (made(10, length=[40] * 5 + [90] * 5), "from 40 to 90"),
    "hacked": (made(6, eval_accuracy=[None, None, 0.8, None, None, 0.3],
                    groups=[group(6, "check ok", correct=0.0)]), "'check ok'"),
    "held_out_gap": (made(6, eval_accuracy=[None, 0.1, None, None, None, 0.1]), "10.0%"),
    "critic_knows_nothing": (made(15, explained_variance=0.01), "explains 1%"),
    "loss_is_normal": (made(10, reward=0.5), "grad_norm 0.20"),
}


@pytest.mark.parametrize("name", diagnose.RULES)
def test_each_rule_names_its_fault_and_is_silent_without_it(name):
    run, words = FAULTS[name]
    assert words in diagnose.RULES[name](run)
    assert diagnose.RULES[name](made(20)) is None
    said = diagnose.diagnoses(run)
    assert next(iter(said)) == name  # it is said first
    assert len(said[name][1]) < 450 and said[name][1].endswith(".")


def test_nothing_is_said_where_metrics_are_missing_or_no_numbers():
    for value in (None, float("nan"), float("inf"), 10**400, "0.5", True, [1]):
        rows = [dict.fromkeys(HEALTHY, value) | {"step": i} for i in range(1, 16)]
        assert diagnose.diagnoses(Run({}, rows, [])) == {}
    assert diagnose.diagnoses(Run({}, [{"step": i} for i in range(1, 16)], [])) == {}
    for name in HEALTHY | {"eval_accuracy": 0.5}:  # a metric alone
        rows = [{"step": i, name: 0.5} for i in range(1, 16)]
        assert set(diagnose.diagnoses(Run(OPTIONS, rows, []))) <= {
            "sampler_differs", "cut_off", "repeats", "cannot_tell", "part_is_constant"}
    assert diagnose.diagnoses(Run(OPTIONS, [], [])) == {}


def test_responses_without_reward_or_parts_are_left_out():
    damaged = [{"text": "a", "reward": None, "parts": {}}, {"text": "b"},
               {"text": "c", "reward": 1.0, "parts": "x"}]
    groups = [{"step": 6, "responses": damaged}, {"step": 6, "responses": []}]
    run = made(6, eval_accuracy=[0.9] * 5 + [0.3], groups=groups)
    assert diagnose.hacked(run).endswith("mend it.") and diagnose.reward_parts(run)


def test_causes_of_groups_without_a_gradient():
    def cause(**changes):
        options = {k: changes.pop(k) for k in ("temperature", "group_size") if k in changes}
        return diagnose.no_gradient(made(options=options, **changes))
    assert "too easy" in cause(groups_with_gradient=0.0, accuracy=0.95)
    assert "too hard" in cause(groups_with_gradient=0.0, accuracy=0.0)
    assert "verify.REWARDS" in cause(groups_with_gradient=0.0)
    assert "--temperature 0.1" in cause(groups_with_gradient=0.5, temperature=0.1)
    assert "--group-size 2" in cause(groups_with_gradient=0.5, group_size=2)
    assert cause(groups_with_gradient=0.5) is None


def test_a_cause_silences_what_it_explains_while_it_holds():
    run = made(6, truncated=[0.9] * 3 + [0.0] * 3, groups_with_gradient=0.0, accuracy=0.95)
    assert list(diagnose.diagnoses(run)) == ["cut_off", "no_gradient"]
    assert diagnose.diagnoses(run)["no_gradient"][0] == 5


def test_a_limit_is_not_blamed_where_the_responses_repeat_themselves():
    assert list(diagnose.diagnoses(made(truncated=0.9, repetition=0.5))) == ["repeats"]


def test_the_verifier_is_suspected_where_the_base_is_right_at_times():
    def cause(**options):
        return diagnose.never_right(made(5, options=options, accuracy=0.0))
    assert "the verifier refuses" in cause(task="arithmetic", init="")
    for options in ({"task": "file"}, {"task": "arithmetic", "init": "a model"}):
        assert "problems are too hard" in cause(**options)


def test_a_large_step_from_which_the_policy_recovers_silences_nothing():
    run = made(4, approx_kl=[0.0, 1.5, 0.0, 0.0], reward=[0.5, 0.5, 0.2, 0.6], repetition=0.5)
    assert {name: step for name, (step, _) in diagnose.diagnoses(run).items()} == {
        "step_too_large": 2, "repeats": 4}


def test_a_rule_sees_nothing_of_later_steps():
    run = made(6, truncated=[0.0] * 3 + [0.9] * 3)
    assert diagnose.diagnoses(run) == {"cut_off": (5, diagnose.cut_off(made(
        5, truncated=[0.0] * 3 + [0.9] * 2)))}
    assert diagnose.new_diagnoses(run, {"cut_off"}) == {}


LEARNING = [path.parent.name for path in sorted(RUNS.glob("*/metrics.jsonl"))
            if path.parent.name.startswith(("grpo-", "healthy-"))  # healthy: default runs
            and not path.parent.name.endswith(("-claim", "-random"))]


@pytest.mark.parametrize("name", LEARNING)
def test_nothing_is_said_of_runs_that_learn(name):
    assert diagnose.diagnoses(load(name)) == {}


@pytest.mark.parametrize("file", ["compare.jsonl", "ablate.jsonl"])
def test_nothing_is_said_of_six_algorithms_and_of_the_variants_of_dapo(file):
    for run in stats.read_jsonl(RUNS / file):
        rows = [dict(zip(stats.CURVE, point, strict=True)) for point in run["curve"]]
        assert diagnose.diagnoses(Run(OPTIONS, rows, [])) == {}


def test_policies_that_exploit_a_reward_are_found():
    for seed in range(3):
        assert diagnose.diagnoses(load(f"grpo-arithmetic-{seed}-claim"))["hacked"][0] == 20
    assert diagnose.diagnoses(load("ppo-chain-process-1"))["hacked"][0] == 30
    for seed in (0, 2):  # the same reward model, not exploited
        assert diagnose.diagnoses(load(f"ppo-chain-process-{seed}")) == {}
    assert list(diagnose.diagnoses(load("grpo-arithmetic-0-random"))) == ["loss_is_normal"]


# --- runs broken on purpose: bench/broken.py

BROKEN = {  # run -> (rule, words of its sentence that name the cause)
    "learning-rate": ("step_too_large", "--lr 0.04 is too large"),
    "false-verifier": ("never_right", "the verifier refuses right answers"),
    "temperature": ("no_gradient", "at --temperature 0.1, so a group's responses are alike"),
    "group-size": ("no_gradient", "--group-size 2 rarely holds"),
    "max-new-tokens": ("cut_off", "cut off at --max-new-tokens 8"),
    "stop-token": ("no_stop", "no stop token ends them"),
    "prompt-in-loss": ("prompt_in_loss", "the prompt"),
    "flipped-sign": ("sign_flipped", "sign of the advantage"),
    "old-logp": ("sampler_differs", "another temperature than the loss"),
    "same-golds": ("same_answer", "reference answers of the data are almost all the same"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_cause_of_each_broken_run_is_named_and_nothing_else(name):
    rule, words = BROKEN[name]
    said = diagnose.diagnoses(load(f"broken-{name}"))
    assert list(said) == [rule]
    step, sentence = said[rule]
    assert words in sentence and step <= 5


@pytest.mark.parametrize("name", BROKEN)
def test_the_page_shows_what_is_said_of_each_broken_run(name):
    page = " ".join((DOCS / "my-reward-is-flat.md").read_text().split())
    [(step, sentence)] = diagnose.diagnoses(load(f"broken-{name}")).values()
    assert f"step {step}: {' '.join(sentence.split())}" in page
    assert f"python bench/broken.py {name}" in page and f"img/broken-{name}.png" in page
    assert (DOCS / "img" / f"broken-{name}.png").exists()


def test_every_broken_run_is_used():
    names = {path.parent.name for path in RUNS.glob("broken-*/metrics.jsonl")}
    assert names == {f"broken-{name}" for name in BROKEN} == {f"broken-{n}" for n in broken.NAMES}


def test_the_file_of_same_golds_has_problems_on_both_sides(tmp_path):
    flags = broken.same_golds(tmp_path / "runs")
    task = tasks.TASKS["file"](2, flags[flags.index("--data") + 1])
    assert len(task.train) > 800 and len(task.eval) > 50
    assert {problem.answer for problem in task.all_problems()} == {"100"}


def test_broken_runs_have_names(capsys):
    assert broken.main(["nonsense"]) == 2
    assert "flipped-sign" in capsys.readouterr().err
