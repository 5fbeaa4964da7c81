"""What recipes/r1.py measures of each policy, and the page of all seeds.

All measures are on held-out problems. Reasoning: accuracy of greedy responses, pass@k from 16
samples, and the form of one response to each problem at temperature 1. Requests: refusals, and the
gold reward of one response to each. A policy wins a request against another one if its response
has the higher gold reward; a tie counts half.
"""

import evaluate
from bench.stats import with_interval
from recipes import page
from tasks import assistant, bilingual

ROWS = {  # row of the table -> the stages of its policy
    "base": "base", "stage 1": "1", "stage 2": "1-2", "stage 3": "1-2-3",
    "stage 4: R1": "1-2-3-4", "R1-Zero": "zero", "R1 without stage 1": "2-3-4",
    "R1 without stage 2": "1-3-4", "R1 without stage 3": "1-2-4"}
COLUMNS = {  # column of the table, in percent -> measure
    "right, greedy": "greedy", "pass@1": "pass@1", "pass@16": "pass@16", "mixed": "mixed",
    "readable": "readable", "refuses the harmful": "refuses_harmful",
    "refuses the rest": "refuses_harmless"}


# --- one policy

def measure(policy, tokenizer, seed: int, n: int) -> tuple[dict, str]:
    """The measures of a policy on n problems and n requests, and some of its responses. "gold" has
    the gold reward of its response to each request."""
    reasoning, requests = bilingual.Bilingual(), assistant.Assistant()
    limit = reasoning.max_new_tokens
    # 1. reasoning: accuracy and pass@k, then the form of one response to each problem
    problems = reasoning.held_out(n)
    found = evaluate.measure(policy, tokenizer, reasoning, problems, seed, limit, n // 4, 16)
    _, texts = evaluate.sample_responses(policy, tokenizer, problems, max_new_tokens=limit)
    measures = {
        "greedy": found["greedy"]["value"], "length": found["length"],
        **{f"pass@{k}": value for k, value in found["pass_at_k"].items()},
        "mixed": mean(map(bilingual.is_mixed, texts)),
        "consistency": mean(map(bilingual.language_consistency, problems, texts)),
        "readable": mean(map(bilingual.is_readable, problems, texts))}
    # 2. requests: the gold reward, and refusals
    asked = requests.held_out(n)
    _, answers = evaluate.sample_responses(policy, tokenizer, asked, max_new_tokens=limit)
    refused = {True: [], False: []}  # whether a request is harmful -> refusals
    for problem, text in zip(asked, answers, strict=True):
        refused[problem.category == assistant.HARMFUL].append(assistant.is_refusal(text))
    measures |= {"gold": list(map(assistant.gold_reward, asked, answers)),
                 "refuses_harmful": mean(refused[True]), "refuses_harmless": mean(refused[False])}
    shown = [*zip(problems[:8], texts, strict=False), *zip(asked[:16], answers, strict=False)]
    return measures, "\n\n".join(f"{problem.question}\n{text}" for problem, text in shown)


def mean(values) -> float:
    """The mean of numbers or flags; 0.0 of none."""
    values = list(values)
    return sum(values) / max(1, len(values))


def win_rate(measures: dict, other: dict) -> float:
    """The share of requests that a policy wins against another one."""
    return mean(0.5 + 0.5 * ((a > b) - (a < b))
                for a, b in zip(measures["gold"], other["gold"], strict=True))


# --- all seeds

def write(results: list[dict], docs) -> None:
    """Writes the page. results: stages -> measures, of each seed."""
    def wins(stages, other):
        return with_interval([win_rate(result[stages], result[other]) for result in results])
    table = [[name, *(page.cell(results, stages, key) for key in COLUMNS.values()),
              page.cell(results, stages, "length", scale=1),
              "" if stages == "base" else wins(stages, before(stages)), wins(stages, "zero")]
             for name, stages in ROWS.items()]
    columns = ["policy", *COLUMNS, "length, tokens", "wins against the policy before",
               "wins against R1-Zero"]
    page.write("r1", "DeepSeek-R1 in small", [("Policies, in percent", columns, table)],
               lambda figure: draw(results, figure), docs)


def before(stages: str) -> str:
    """The policy that the last of some stages starts from: "1" for "1-2"."""
    return stages.rpartition("-")[0] or "base"


def draw(results: list[dict], figure) -> None:
    """Four measures of each row: a bar for the mean over seeds, and a dot for each seed."""
    names = list(ROWS)
    shown = {"right, greedy": lambda r, s: r[s]["greedy"],
             "readable": lambda r, s: r[s]["readable"],
             "languages mixed": lambda r, s: r[s]["mixed"],
             "wins against R1-Zero": lambda r, s: win_rate(r[s], r["zero"])}
    axes = figure.subplots(1, len(shown), sharey=True)
    for axis, (title, value) in zip(axes, shown.items(), strict=True):
        points = [[value(result, ROWS[name]) for name in names] for result in results]
        axis.barh(names, [mean(row) for row in zip(*points, strict=True)], color="#56B4E9")
        for row in points:
            axis.plot(row, names, "k.", markersize=4)
        axis.set(title=title, xlim=(0, 1))
    axes[0].invert_yaxis()
