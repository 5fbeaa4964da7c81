"""Tables of test-time compute for docs/results.md: reward models, search methods, pass@k.

The rows are those that bench/ttc.py and search.py write: one JSON line per method, seed and n.
"""

from bench.stats import markdown_table, with_interval

METHODS = ["vote", "orm", "prm", "prm-product", "prm-last", "weighted", "weighted-orm", "verifier",
           "beam", "dvts", "lookahead"]
SIZES = [2**i for i in range(7)]     # samples per problem
CUTS = [12, 24, 36, 48]              # tokens of thinking
KS = [2**i for i in range(9)]        # of pass@k
BUDGETS = [60, 250, 900, 3500]       # tokens per problem


def select(rows, **wanted) -> list[dict]:
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def cell(rows, of="accuracy", **wanted) -> str:
    """Mean over seeds and its interval, in percent; empty where nothing was measured."""
    values = [row[of] for row in select(rows, **wanted)]
    return with_interval(values) if values else ""


def tokens(rows, **wanted) -> float:
    """Mean tokens per problem."""
    values = [row["tokens_per_problem"] for row in select(rows, **wanted)]
    return sum(values) / max(1, len(values))


def method_table(rows) -> list[str]:
    """Accuracy and tokens per problem of each line of search.py."""
    return markdown_table(["method", "n", "accuracy, %", "tokens a problem"], [
        [row["method"], row["n"], "{:.1f} [{:.1f}, {:.1f}]".format(
            *(100 * x for x in (row["accuracy"], *row["ci"]))),
         f"{row['tokens_per_problem']:.0f}"] for row in rows])


def reward_model_table(rows) -> list[str]:
    """Labels and reward models of each seed, measured against the true steps."""
    models = select(rows, kind="judges")
    lines = {"different solutions, steps, thousand tokens for labels": lambda r: (
        f"{r['solutions']}, {r['steps']}, {r['tokens_for_labels'] / 1000:.0f}")}
    for n in models[0]["labels"]:
        lines[f"labels of {n} completions: AUC; hard ones wrong"] = lambda r, n=n: (
            f"{r['labels'][n]['auc']:.3f}; {r['labels'][n]['hard_wrong']:.1%}")
    for name in ("prm", "orm"):
        lines[f"{name.upper()}: step AUC; up to the first error"] = lambda r, name=name: (
            f"{r[name]['auc']:.3f}; {r[name]['auc_to_first_error']:.3f}")
        lines[f"{name.upper()}: accuracy; first error found (by fall); calibration error"] = (
            lambda r, name=name: (
                f"{r[name]['accuracy']:.1%}; {r[name]['first_error_found']:.1%} "
                f"({r[name]['first_error_by_fall']:.1%}); {r[name]['calibration_error']:.3f}"))
    lines["seconds: labels, PRM, ORM"] = lambda r: (
        f"{r['seconds_label']:.0f}, {r['seconds_prm']:.0f}, {r['seconds_orm']:.0f}")
    return markdown_table(["reward models", *(f"seed {r['seed']}" for r in models)], [
        [label, *map(value, models)] for label, value in lines.items()])


def search_tables(rows) -> list[str]:
    """Accuracy of each method by n, counted by answers and by true steps, and tokens."""
    lines = []
    for title, of in (("accuracy, %", "accuracy"),
                      ("answers with true steps only, %", "worked")):
        lines += markdown_table([title, *(f"n = {n}" for n in SIZES)], [
            [method, *(cell(rows, of, method=method, n=n) for n in SIZES)] for method in METHODS])
    return lines + markdown_table(["tokens a problem", *(f"n = {n}" for n in SIZES)], [
        [method, *(f"{tokens(rows, method=method, n=n):.0f}" if select(rows, method=method, n=n)
                   else "" for n in SIZES)] for method in ("prm", "beam", "dvts", "lookahead")])


def force_table(rows) -> list[str]:
    """Accuracy and tokens per problem where thinking is cut off or made to go on."""
    rounds = range(1, 6)
    columns = ["end of the thinking", *(f"cut at {n}" for n in CUTS),
               *(f"replaced {k - 1} times" for k in rounds)]
    lines = []
    for task in ("chain", "wait"):
        for method, word in (("force", "wait"), ("force-neutral", "apples")):
            wanted = [dict(task=task, method="cut", n=n) if method == "force" else None
                      for n in CUTS]
            wanted += [dict(task=task, method=method, n=k) for k in rounds]
            lines.append([f"task {task}, by `{word}`", *(
                f"{cell(rows, **w)}, {tokens(rows, **w):.0f} tokens" if w else ""
                for w in wanted)])
    return markdown_table(columns, lines)


def best_choice(rows, budget: float, level: str) -> str:
    """The method with the best mean accuracy at a difficulty within a budget of tokens."""
    choices = {}
    for row in rows:
        if row["method"] != "verifier" and row["tokens_per_problem"] <= budget * 1.05:
            right, n = row["by_difficulty"].get(level, (0, 0))
            choices.setdefault((row["method"], row["n"]), []).append(right / max(1, n))
    if not choices:
        return ""
    name, values = max(choices.items(), key=lambda item: sum(item[1]) / len(item[1]))
    return f"{name[0]} {name[1]}: {100 * sum(values) / len(values):.0f}"


def budget_table(rows) -> list[str]:
    """The best method by token budget and by facts that are often told wrong."""
    facts = [f"{d} doubtful facts" for d in range(4)]
    return markdown_table(
        ["best method and its accuracy, %, with at most", *facts, "4 or more"],
        [[f"{budget} tokens", *(best_choice(rows, budget, str(d)) for d in range(5))]
         for budget in BUDGETS])


def pass_tables(rows) -> list[str]:
    """pass@k of the base and after RL by difficulty, by answers and by true steps."""
    lines = []
    for title, of in (("pass@k, %", "pass_at_k"),
                      ("pass@k by true steps only, %", "worked_at_k")):
        table = []
        if of == "pass_at_k":
            table.append(["a guess", "", *(f"{100 * (1 - 0.9**k):.1f}" for k in KS)])
        for level in ("all", *range(5)):
            for policy in ("base", "RL"):
                some = select(rows, policy=policy, difficulty=level)
                name = "all" if level == "all" else f"{level} doubtful facts"
                table.append([f"{policy}, {name}", some[0]["n"], *(
                    with_interval([r[of][str(k)] for r in some]) for k in KS)])
        lines += markdown_table([title, "problems", *(f"k = {k}" for k in KS)], table)
    return lines


def tables(rows) -> list[str]:
    """All tables of bench/runs/ttc.jsonl."""
    found = [r for r in rows if r["kind"] == "search"
             or (r.get("task"), r.get("method")) == ("chain", "greedy")]
    parts = dict.fromkeys(r["part"] for r in rows if "part" in r)
    spent = [[part, *(f"{r['seconds_all']:.0f}" for r in select(rows, part=part))]
             for part in parts]
    greedy = [["greedy", cell(found, method="greedy")]]
    return [*reward_model_table(rows), *search_tables(found),
            *markdown_table(["method", "accuracy, %"], greedy),
            *force_table(select(rows, kind="force")), *budget_table(found),
            *pass_tables(select(rows, kind="pass")),
            *markdown_table(["seconds of each part, one thread",
                             *(f"seed {i}" for i in range(len(spent[0]) - 1))], spent)]
