"""A folder with the files of a run that was never made, for the tests of report.py."""

import json
import math
import random
from pathlib import Path

import tasks
from tokenizer import Tokenizer

TASK = tasks.TASKS["arithmetic"](2)


def write_run(folder, steps: int = 20, groups: int = 3, group_size: int = 8, seed: int = 0,
              critic: bool = False, **options) -> Path:
    """Writes config.json, metrics.jsonl, samples.jsonl and summary.json. Evaluations stand at each
    tenth step. critic: values per token, in place of groups with a gradient."""
    rng, folder = random.Random(seed), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"algo": "ppo" if critic else "grpo", "task": "arithmetic", "level": 2, "data": "",
                "eval_data": "", "seed": seed, "steps": steps, "size": "tiny", "init": "",
                "max_new_tokens": 192, "lr": 4e-4} | options
    tokenizer = Tokenizer.toy()
    metrics, samples, held_out = [], [], TASK.held_out(3)
    for step in range(steps + 1):
        skill = 0.9 - 0.8 * math.exp(-step / 6)
        if step % 10 == 0 or step == steps:
            for problem in held_out:
                text, right = answer(problem, skill, rng)
                samples.append({"step": step, "kind": "held-out", "question": problem.question,
                                "answer": str(problem.answer), "text": text, "correct": right})
        if step:
            metrics.append(metrics_of(step, skill, critic, rng))
            if step % 10 == 0:
                metrics[-1]["eval_accuracy"] = skill
            samples += [group(step, problem, skill, group_size, tokenizer, critic, rng)
                        for problem in TASK.sample(rng, groups)]
    (folder / "config.json").write_text(json.dumps(settings))
    for name, lines in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({
        "seconds_base": 67.0, "seconds_rl": 60.0, "seconds_eval": 30.0, "seconds_total": 157.0,
        "tokens_sampled": 10**6, "accuracy_before": 0.094, "accuracy_ci_before": [0.077, 0.114],
        "accuracy_after": skill, "accuracy_ci_after": [skill - 0.02, skill + 0.02],
        "length_before": 37.0, "length_after": 95.7}))
    return folder


def answer(problem, skill: float, rng) -> tuple[str, bool]:
    """A response to a problem, which is right with probability `skill`."""
    right = rng.random() < skill
    text = TASK.document(rng, problem, drill=True)
    value = problem.answer if right else rng.randrange(999)
    return f"{text.partition('<answer>')[0]}<answer>{value}</answer>", right


def metrics_of(step: int, skill: float, critic: bool, rng) -> dict:
    """A line of metrics.jsonl."""
    def noise():
        return rng.uniform(0.97, 1.03)
    line = {"step": step, "reward": (1.1 * skill + 0.05) * noise(), "reward_std": 0.4,
            "correct": skill, "format": 0.9, "accuracy": skill * noise(),
            "length": 60 + 40 * skill * noise(), "length_correct": 90.0 * noise(),
            "length_wrong": None if step == 3 else 70.0, "truncated": 0.02 * noise(),
            "zero_std_groups": skill / 3, "entropy": 0.3 * (1 - skill) + 0.01, "tokens": 20000,
            "kl": 0.01 * noise(), "clipfrac_low": 0.001, "clipfrac_high": 0.002 * noise(),
            "approx_kl": 1e-4, "logp_diff": 1e-7 * noise(), "grad_norm": 0.2 * noise(),
            "loss": -0.001, "seconds_sample": 0.7 * noise(), "seconds_verify": 0.01,
            "seconds_score": 0.05, "seconds_update": noise()}
    return line | ({"explained_variance": skill} if critic else {"groups_with_gradient": 0.8})


def group(step: int, problem, skill: float, size: int, tokenizer, critic: bool, rng) -> dict:
    """A group line of samples.jsonl, with numbers per token."""
    answers = [answer(problem, skill, rng) for _ in range(size)]
    mean = sum(right for _, right in answers) / size
    dropped = "all right" if mean == 1 else "all wrong" if mean == 0 else ""
    responses = []
    for text, right in answers:
        ids = tokenizer.encode(text)
        cut = rng.random() < 0.1
        ids = ids[:len(ids) * 2 // 3] if cut else [*ids, tokenizer.eos_id]
        right = right and not cut
        advantage = round((right - mean) / max(0.1, math.sqrt(mean * (1 - mean))), 3)
        entropy = [round(rng.expovariate(6), 2) for _ in ids]
        response = {
            "text": tokenizer.decode_response(ids), "reward": 1.1 if right else 0.1 * (not cut),
            "parts": {"correct": float(right), "format": float(not cut)}, "advantage": advantage,
            "length": len(ids), "truncated": cut, "ending": "limit" if cut else "end of text",
            "ids": ids, "entropy": entropy, "logp": [round(-rng.expovariate(4), 2) for _ in ids],
            "ratio": [round(math.exp(rng.gauss(0.02 * advantage, 0.05)), 3) for _ in ids],
            "alternatives": [[[rng.randrange(400), -1.5], [rng.randrange(400), -3.2]]
                             if e > 0.3 else [] for e in entropy]}
        if critic:
            response["values"] = [round(mean + 0.3 * rng.random(), 3) for _ in ids]
            response["advantages"] = [round(rng.gauss(advantage, 0.5), 3) for _ in ids]
        responses.append(response)
    return {"step": step, "kind": "group", "question": problem.question,
            "answer": str(problem.answer), "dropped": dropped, "responses": responses}
