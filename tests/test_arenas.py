"""bench/arenas.py and bench/results_arenas.py: settings, tuning, curves, what a good arena is."""

import json

import pytest

from bench import arenas, results_arenas
from bench.stats import CURVE, RUNS, column, group_by, read_json, read_jsonl
from config import PRESETS
from infra.cli import parse, validate


def line(algo, seed, accuracy, lr="4e-4", **more):
    """A line of arenas.jsonl."""
    point = dict.fromkeys(CURVE) | {"step": 1, "tokens": 1000, "eval_accuracy": accuracy,
                                    "entropy": 0.1, "length": 20.0}
    return {"arena": "sparse", "algo": algo, "lr": lr, "seed": seed, "avg4": accuracy,
            "greedy": accuracy, "cpu_seconds": 60.0,
            "curve": [[point[name] for name in CURVE]]} | more


def test_the_default_arena_has_every_algorithm_with_its_defaults():
    arena = arenas.ARENAS["default"]
    assert set(arena.algorithms) >= set(PRESETS) and arenas.tuning_jobs("default") == []
    for flags in arena.algorithms.values():
        validate(parse([*arena.flags.split(), *flags.split(), "--device", "cpu"])[0])
    jobs = arenas.final_jobs("default", {})
    assert len(jobs) == 3 * len(arena.algorithms) and {job["lr"] for job in jobs} == {""}


@pytest.mark.parametrize("name", [name for name in arenas.ARENAS if name != "default"])
def test_every_setting_is_one_that_train_accepts_at_the_same_budget(name):
    arena, seen = arenas.ARENAS[name], set()
    assert len(set(arena.rates)) == 3 and name in results_arenas.LEVELS
    assert results_arenas.ACCURACY[name] == arena.accuracy
    for flags in arena.algorithms.values():
        options, _ = parse([*arena.flags.split(), *flags.split(), "--device", "cpu"])
        validate(options)
        seen.add((options.token_budget, options.task, options.level, options.base_seed,
                  options.base_steps, options.max_new_tokens, options.prompts, options.group_size,
                  options.epochs, options.minibatches))
    assert len(seen) == 1 and min(seen)[0] > 0


def test_the_best_learning_rate_of_each_algorithm_is_kept():
    done = {}
    for i, job in enumerate(arenas.tuning_jobs("sparse")):
        done[arenas.job_name(job)] = job | {"greedy": 0.5 if i % 3 == i // 3 % 3 else 0.1}
    jobs = arenas.final_jobs("sparse", done)
    names, rates = list(arenas.ARENAS["sparse"].algorithms), arenas.ARENAS["sparse"].rates
    assert {job["algo"]: job["lr"] for job in jobs} == {
        name: rates[i % 3] for i, name in enumerate(names)}
    assert sorted(job["seed"] for job in jobs) == sorted([*range(10)] * len(names))
    done |= {arenas.job_name(job): job for job in jobs[:7]}
    assert arenas.missing(jobs, done) == jobs[7:]


def test_a_run_that_is_there_is_not_made_again(tmp_path, monkeypatch):
    class Pool:  # in this process
        def __init__(self, *args, **named):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, job, work):
            return job

    monkeypatch.setattr(arenas, "FILE", tmp_path / "arenas.jsonl")
    monkeypatch.setattr(arenas, "ProcessPoolExecutor", Pool)
    made = []

    class Done:
        def __init__(self, job):
            self.job = job

        def result(self):
            made.append(self.job)
            return self.job | {"avg4": 0.5, "greedy": 0.5, "seconds": 1.0}
    monkeypatch.setattr(arenas, "as_completed", lambda futures: map(Done, futures))
    jobs, done = arenas.tuning_jobs("stale"), {}
    arenas.train_all(jobs[:2], done, tmp_path, 1)
    arenas.train_all(jobs[:3], done, tmp_path, 1)
    assert made == jobs[:3] and len(done) == 3
    lines = [json.loads(text) for text in arenas.FILE.read_text().splitlines()]
    assert [arenas.job_name(row) for row in lines] == [arenas.job_name(job) for job in jobs[:3]]


def test_a_curve_has_means_over_parts_and_the_tokens_at_their_ends():
    history = [{"step": i + 1, "tokens": 10, "entropy": float(i), "length": 1 / 3,
                **({"eval_accuracy": 0.5} if i % 10 == 9 else {})} for i in range(50)]
    points = {"curve": arenas.curve(history)}
    assert len(points["curve"]) == arenas.POINTS == 25
    assert column(points, "tokens") == list(range(20, 501, 20))
    assert column(points, "step") == list(range(2, 51, 2))
    assert column(points, "entropy")[:3] == [0.5, 2.5, 4.5]
    assert column(points, "eval_accuracy")[:5] == [None] * 4 + [0.5]
    assert column(points, "length")[0] == 0.3333 and column(points, "kl")[0] is None
    assert len(arenas.curve(history[:3])) == 3


def rows(first, second):
    """Lines of algorithms a, b and c: their accuracies in the two sets of seeds."""
    return [line(algo, seed + 5 * which, accuracy + 0.001 * seed)
            for which, values in enumerate((first, second))
            for algo, accuracy in zip("abc", values, strict=True) for seed in range(5)]


def test_the_flags_on_the_page_are_those_of_the_runs():
    sources = read_json(RUNS / "sources.json")
    rows = group_by(read_jsonl(RUNS / "arenas.jsonl"), "arena")
    for name in (name for name, lines in rows.items() if any(results_arenas.sets_of(lines))):
        assert sources[f"arena-{name}"][-1] == arenas.ARENAS[name].flags


def test_what_a_good_arena_shows():
    good = rows((0.7, 0.6, 0.5), (0.71, 0.5, 0.49))
    assert [holds for _, holds in results_arenas.verdict(good)] == [True] * 5
    for first, second, failing in [((0.7, 0.6, 0.63), (0.7, 0.6, 0.5), [4]),  # the last differs
                                   ((0.6, 0.7, 0.5), (0.7, 0.6, 0.5), [4]),   # the first differs
                                   ((0.67, 0.62, 0.6), (0.7, 0.65, 0.6), [0]),  # 7 points
                                   ((0.93, 0.7, 0.5), (0.93, 0.7, 0.5), [1, 3])]:
        found = results_arenas.verdict(rows(first, second))
        assert [i for i, (_, holds) in enumerate(found) if not holds] == failing


def test_intervals_that_overlap_are_not_apart():
    noisy = rows((0.7, 0.6, 0.5), (0.7, 0.6, 0.5))
    for row in noisy:
        row["greedy"] += 0.3 * (row["seed"] % 5 == 4) * (1 if row["algo"] == "c" else -1)
    assert not any(holds for text, holds in results_arenas.verdict(noisy) if "apart" in text)


def test_tables_have_a_row_per_algorithm_best_first():
    made = rows((0.5, 0.7, 0.6), (0.5, 0.7, 0.6)) + [
        line("a", 100, 0.4, lr) for lr in ("2e-4", "8e-4")] + [line("a", 100, 0.45, "4e-4")]
    text = "\n".join(results_arenas.lines("sparse", "--task arithmetic", made))
    assert [text.index(f"| `{algo}` | 4e-4") for algo in "bca"] == sorted(
        text.index(f"| `{algo}` | 4e-4") for algo in "bca")
    assert "2e-4: 40.0; **4e-4: 45.0**; 8e-4: 40.0" in text and text.count(": yes.") == 5
    half = [row for row in made if row["seed"] != 100 and row["seed"] < 5]
    text = "\n".join(results_arenas.lines("sparse", "", half))
    assert text.count(": yes.") == 2 and "both sets" not in text


def test_the_default_table_has_the_seeds_of_each_algorithm_in_order():
    made = [line("raft", seed, 0.9 - 0.1 * seed, "", tokens=5000, length=20.0) for seed in (1, 0)]
    text = "\n".join(results_arenas.lines("default", "--steps 20", made))
    assert "| `raft` | 90.0, 80.0 | 85.0 | 0.100 | 20 | 5 | 60 |" in text
