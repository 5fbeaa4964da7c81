"""samples.jsonl: whole groups of responses as they were trained on, for report.py to show.

A step records its first groups, an evaluation all groups and the greedy answers to a few held-out
problems. A group in detail also has numbers per token: log-prob, entropy, the ratio after the
update, and values or scores where they exist. The size of the file decides how much is recorded.
Steps and evaluations may each fill half of it, and early steps may fill more than late ones:

    size after step t <= record_mb * (t / 1000) ** 0.6          in MB (--record-mb)

The state of the loop counts the bytes, so a resumed run writes the same lines. Recording draws no
random number and changes no weight. Left out on purpose: compression (a person reads this file).
"""

import json
from dataclasses import dataclass

import torch

import ppo
from engine.logprob import MAX_LOGITS
from engine.packing import micro_batches
from engine.watch import attention_to_patches
from infra import run_dir

STEP_GROUPS = 2            # groups that a step without an evaluation records
DETAILED_GROUPS = 8        # groups in detail of an evaluation, at most
AFTER_GROUPS = 4           # of these, with a forward pass after the update: it costs time
GROWTH = 0.6               # exponent of the file's size; 1: late steps record as much as early ones
LEAST_ALTERNATIVE = -4.6   # log-prob of the unlikeliest alternative that is recorded: 1%


@dataclass
class Group:
    """The responses to one problem of a step."""

    attempt: object         # train.Attempt
    rows: list[int]         # of the attempt's rollout and samples
    batch_rows: list[int]   # of the attempt's batch, without the responses that prepare dropped
    dropped: str            # why the group is not in the step's batch; "": it is there


def record_step(folder, attempts, evaluated: bool, models, state: dict, options) -> list[dict]:
    """Appends the lines of a step's groups to samples.jsonl, and returns them."""
    groups = sorted(groups_of(attempts, options.prompts), key=lambda group: bool(group.dropped))
    groups = groups if evaluated else groups[:STEP_GROUPS]  # those of the batch come first
    kind = "evaluations" if evaluated else "steps"
    room = size_limit(state["step"], options.record_mb) / 2 - recorded_bytes(state)[kind]
    lines = lines_within(room, state["step"], groups, models, options, after_update=evaluated)
    append(folder, lines, state, kind)
    return lines


def record_held_out(folder, evaluation: dict, problems, state: dict) -> None:
    """Appends the greedy answers to the first held-out problems, whatever their size. evaluation:
    the result of evaluate.greedy_accuracy."""
    answers = zip(problems, evaluation["examples"], evaluation["examples_correct"], strict=False)
    append(folder, [{"step": state["step"], "kind": "held-out", "question": problem.question,
                     "answer": str(problem.answer), **image_of(problem), "text": text,
                     "correct": correct}
                    for problem, text, correct in answers], state, "evaluations")


def append(folder, lines: list[dict], state: dict, kind: str) -> None:
    """Appends lines to samples.jsonl and counts their bytes."""
    texts = [encoded(line) for line in lines]
    run_dir.append(folder / "samples.jsonl", texts)
    recorded_bytes(state)[kind] += sum(len(text) + 1 for text in texts)


def recorded_bytes(state: dict) -> dict:
    """The size so far of the lines of steps and of evaluations, in bytes."""
    return state.setdefault("recorded_bytes", {"steps": 0, "evaluations": 0})


def size_limit(step: int, record_mb: float) -> float:
    """The size that samples.jsonl may have after a step, in bytes."""
    return 1e6 * record_mb * (step / 1000) ** GROWTH


def encoded(line: dict) -> str:
    """A line of samples.jsonl, without its end: JSON without spaces, in ASCII."""
    return json.dumps(line, separators=(",", ":"))


def lines_within(room: float, step: int, groups, models, options, after_update: bool) -> list:
    """The lines of the first groups that fit into `room` bytes: texts for as many as possible, then
    details for up to DETAILED_GROUPS of these. after_update: details of AFTER_GROUPS include what
    the policy says of the tokens after the update."""
    # 1. texts
    lines, sizes = [], []
    for group in groups:
        lines.append(line_of(group, step, models.tokenizer, options.overlong))
        sizes.append(len(encoded(lines[-1])) + 1)
        if sum(sizes) > room:
            return lines[:-1]
    # 2. details
    for i, group in enumerate(groups[:DETAILED_GROUPS]):
        after = None
        if after_update and i < AFTER_GROUPS:
            after = policy_after(group, models.sampler, options)
        detailed = in_detail(lines[i], group, after)
        sizes[i] = len(encoded(detailed)) + 1
        if sum(sizes) > room:
            break
        lines[i] = detailed
    return lines


# --- the groups of a step

def groups_of(attempts, prompts: int) -> list[Group]:
    """The groups that a step sampled, in this order. prompts: the number of groups in a full batch,
    which leaves out what dynamic sampling sampled beyond it."""
    groups, kept = [], 0
    for attempt in attempts:
        size, rows_of = len(attempt.samples) // attempt.prompts, {}
        for row, number in enumerate(attempt.batch.group.tolist()):
            rows_of.setdefault(number, []).append(row)
        for number in range(attempt.prompts):
            rows, batch_rows = list(range(number * size, (number + 1) * size)), rows_of.get(number)
            dropped = "not needed" if kept == prompts else ""
            if not batch_rows:
                dropped = reason([attempt.samples[row][2] for row in rows])
            kept += not dropped
            groups.append(Group(attempt, rows, [] if dropped else batch_rows, dropped))
    return groups


def reason(rewards) -> str:
    """Why `prepare` dropped a group with these rewards."""
    correct = [reward.parts["correct"] for reward in rewards]
    if min(correct) > 0:
        return "all right"
    if max(correct) <= 0:
        return "all wrong"
    return "equal rewards" if len({reward.total for reward in rewards}) == 1 else "not kept"


def in_batch(group: Group) -> list[int | None]:
    """For each row of a group its row in the batch; None for a response that prepare dropped, such
    as an overlong one. The batch keeps the order of the rollout."""
    rollout, batch = group.attempt.rollout, group.attempt.batch
    if len(group.rows) == len(group.batch_rows):
        return group.batch_rows
    found, left = [], list(group.batch_rows)
    for row in group.rows:
        same = left and (rollout.tokens[row][rollout.mask[row] > 0].tolist()
                         == batch.tokens[left[0]][batch.mask[left[0]] > 0].tolist())
        found.append(left.pop(0) if same else None)
    return found


# --- the policy after the update

@torch.no_grad()
def policy_after(group: Group, policy, options) -> list[dict]:
    """What the policy says of a group's tokens now, for each response: log-probs `logp` (T,), and
    `others`, for each token the likeliest other tokens [[id, log-prob], ...], at most two. For a
    problem with an image also `attention` (T, patches), of engine/watch.py."""
    rollout, found = group.attempt.rollout, {}
    tokens, mask = rollout.tokens[group.rows], rollout.mask[group.rows]       # (G, T)
    columns = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * columns).amax(1).long().tolist()
    part = max(1, MAX_LOGITS[tokens.device.type] // policy.config.vocab_size)
    for rows in micro_batches(lengths, options.micro_tokens):
        marked = mask[rows] > 0
        looks = attention_to_patches(policy, tokens[rows]) if policy.config.image else None
        hidden, chosen = policy.hidden_states(tokens[rows], mask[rows]), tokens[rows][marked]
        logps, others = [], []
        for x, y in zip(hidden.split(part), chosen[:, None].split(part), strict=True):
            logp = (policy.logits(x) / options.temperature).log_softmax(-1)   # (t, V)
            logps.append(logp.gather(1, y)[:, 0])
            logp, ids = logp.scatter(1, y, -torch.inf).topk(2)                # (t, 2), sorted
            counts = (logp >= LEAST_ALTERNATIVE).sum(1).tolist()
            others += [[[i[k], round(p[k], 2)] for k in range(count)] for count, i, p in zip(
                counts, ids.tolist(), logp.tolist(), strict=True)]
        ends = marked.sum(1).cumsum(0).tolist()
        for row, logp in zip(rows, torch.cat(logps).tensor_split(ends[:-1]), strict=True):
            found[row] = {"logp": logp, "others": others[:len(logp)]}
            del others[:len(logp)]
        for row, look in zip(rows, looks if looks is not None else (), strict=False):
            found[row]["attention"] = look                                    # (T, patches)
    return [found[row] for row in range(len(group.rows))]


# --- a line

def line_of(group: Group, step: int, tokenizer, overlong: str = "none") -> dict:
    """A line of samples.jsonl, with texts alone. overlong: options.overlong, by which DAPO leaves
    out truncated responses."""
    problem, batch_rows = group.attempt.samples[group.rows[0]][0], in_batch(group)
    responses = []
    for row, batch_row in zip(group.rows, batch_rows, strict=True):
        response = response_of(group.attempt, row, batch_row, tokenizer)
        if batch_row is None and not group.dropped:
            masked = overlong == "mask" and response["ending"] == "limit"
            response["dropped"] = "overlong" if masked else "not kept"
        responses.append(response)
    return {"step": step, "kind": "group", "question": problem.question,
            "answer": str(problem.answer), **image_of(problem), "dropped": group.dropped,
            "responses": responses}


def image_of(problem) -> dict:
    """The image of a problem, as lines, for a line of samples.jsonl."""
    return {"image": list(problem.image)} if problem.image else {}


def in_detail(line: dict, group: Group, after=None) -> dict:
    """A line with the numbers per token too. after: the result of `policy_after`."""
    rows = zip(line["responses"], group.rows, in_batch(group), after or [None] * len(group.rows),
               strict=True)
    return line | {"responses": [response | tokens_of(group.attempt, row, batch_row, said)
                                 for response, row, batch_row, said in rows]}


def response_of(attempt, row: int, batch_row: int | None, tokenizer) -> dict:
    """Text, reward, advantage, length and ending of a response, and the words of a judge. The
    reward is the one that the advantage was computed from; a response that is not in the batch has
    the advantage 0."""
    (_, text, reward), rollout, batch = attempt.samples[row], attempt.rollout, attempt.batch
    total, parts, advantage = reward.total, reward.parts, 0.0
    if batch_row is not None:
        total = float(batch.rewards[batch_row])
        if batch.advantages is not None:  # the critic's warm-up has none
            inside = batch.mask[batch_row] > 0
            advantage = float(batch.advantages[batch_row][inside].mean())
    ids = rollout.tokens[row][rollout.mask[row] > 0].tolist()
    if hasattr(rollout, "transcript"):  # with the results of a tool, which the reward did not see
        text = tokenizer.decode_response(rollout.transcript(row))
    truncated = bool(rollout.truncated[row])
    ending = ("limit" if truncated else "end of text" if ids[-1] in tokenizer.stop_ids
              else "stop string")
    words = {"words": reward.words} if reward.words else {}
    return {"text": text, "reward": round(total, 4), "parts": parts, **words,
            "advantage": round(advantage, 3) + 0.0, "length": len(ids), "truncated": truncated,
            "ending": ending}


def tokens_of(attempt, row: int, batch_row: int | None, after: dict | None) -> dict:
    """The numbers per token of a response, from its first token to its last. Tokens that the policy
    did not choose, such as a tool's answer, have mask 0."""
    rollout, batch = attempt.rollout, attempt.batch
    chosen = rollout.mask[row] > 0
    first, last = chosen.nonzero()[[0, -1], 0].tolist()
    at, mask = slice(first, last + 1), chosen[first:last + 1]
    # 1. what the sampler said
    found = {"ids": rollout.tokens[row, at].tolist(), "logp": rounded(rollout.logp[row, at], 2),
             "entropy": rounded(rollout.entropy[row, at], 2)}
    if not mask.all():
        found["mask"] = mask.int().tolist()
    # 2. what the policy says after the update
    if after:
        ratio, others = torch.ones_like(rollout.logp[row, at]), iter(after["others"])
        ratio[mask] = ppo.policy_ratio(after["logp"], rollout.logp[row, at][mask])
        found |= {"ratio": rounded(ratio, 3),
                  "alternatives": [next(others) if inside else [] for inside in mask.tolist()]}
        if "attention" in after:  # percent of the attention that goes to each patch of the image
            found["attention"] = (100 * after["attention"][at]).round().int().tolist()
    # 3. what the batch has per token
    if batch_row is not None:
        for name, x in (("advantages", batch.advantages), ("values", batch.values),
                        ("scores", batch.step_rewards)):
            x = None if x is None else x[batch_row, at]
            if x is not None and (name != "advantages" or x[mask].amin() < x[mask].amax()):
                found[name] = rounded(x, 3)
    return found


def rounded(x: torch.Tensor, digits: int) -> list:
    """The numbers (T,) of a tensor as a list, without needless digits: 1 for 1.0, 0 for -0.0."""
    values = x.double().cpu().numpy().round(digits).tolist()
    return [int(value) if value.is_integer() else value for value in values]
