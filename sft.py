"""Next-token training, which makes the base model that reinforcement learning starts from.

It stands in for pretraining. Three quarters of the steps drill clean working; the last quarter sees
a corpus in the tasks' form that is as mixed as the web. Most of its documents answer at once; some
show short working, some long; some check themselves, go wrong, notice and correct; some are simply
wrong; some break the form. What RL will need is in there, but is not what the model prefers, as in
the base of R1-Zero.

    loss = -mean over the tokens of the responses of log p(token | what came before)

The recipe is one Muon step (2502.16982; Adam for embedding and norms) a batch of mixed documents,
cut into micro-batches of like length so that little is padding. Left out on purpose: several
documents in one row, epochs (no document is drawn twice), validation loss (the gate is what the
model generates).
"""

import itertools
import random

import torch

import tokenizer
import verify
from engine.packing import micro_batches
from evaluate import sample_responses
from model import GPT
from tasks import chain

STYLES = {"direct": 0.55, "short": 0.18, "long": 0.17, "check": 0.10}
WRONG = 0.15       # share of documents with a mistake that nobody corrects
MALFORMED = 0.15   # share of documents that break the form
SLIP = 0.3         # chance, in a checked step, that the first try is wrong
DRILL_STYLES = {"direct": 0.03, "short": 0.07, "long": 0.80, "check": 0.10}
DRILL = 0.75       # share of the training steps that see clean drill, before the corpus as it is
BATCH_TOKENS = 2000
MICRO_TOKENS = {"cpu": 1024, "cuda": 32768}  # of a micro-batch: of like length, or in one go
INSTEAD = "easy"   # what stands in the place of working; so greedy decoding answers at once


def one_line(x, op, y, result) -> str:
    return f"{x}{op}{y}={result}"


def long_lines(x, op, y, result) -> list[str]:
    """A step taken apart into facts of one digit each, by decimal places, so that little is carried
    in the head. Zeros get their lines too: a rule without exceptions is learned sooner. Of two
    factors the larger is taken apart; small products, and division, are one line.

        47*6=282  ->  40*6=240, 7*6=42, 240+42, 40+40=80, 0+2=2, 200+80=280, 280+2=282
    """
    if op in "+-":
        return by_places(x, op, y)
    if op == "*" and max(x, y) > 9:
        small, large = sorted((x, y))
        tens = [10**i for i in range(len(str(large)))][::-1]
        parts = [large // ten % 10 * ten for ten in tens]
        lines = [one_line(part, "*", small, part * small) for part in parts]
        total = parts[0] * small
        for part in parts[1:]:
            lines += [f"{total}+{part * small}", *by_places(total, "+", part * small)]
            total += part * small
        return lines
    return [one_line(x, op, y, result)]


def by_places(x: int, op: str, y: int) -> list[str]:
    """Lines of x + y or x - y: the places that both have, one by one, then what these make with the
    places that only the longer has:  308-27 -> 0-20=-20, 8-7=1, 300-20=280, 280+1=281."""
    common = 10 ** min(len(str(x)), len(str(y)))
    high = verify.apply(x - x % common, op, y - y % common)
    lines, parts = [], []
    ten = common // 10
    while ten:
        a, b = x // ten % 10 * ten, y // ten % 10 * ten
        parts.append(verify.apply(a, op, b))
        lines.append(one_line(a, op, b, parts[-1]))
        ten //= 10
    total, *rest = [high] + parts if high else parts
    for part in rest:
        lines.append(f"{total}{part:+d}={total + part}")
        total += part
    return lines


def slip(rng: random.Random, n: int) -> int:
    """A near miss of n: one digit off by one or two."""
    return max(0, n + rng.choice((-2, -1, 1, 2)) * 10 ** rng.randrange(len(str(n))))


def working(rng: random.Random, steps, style: str, wrong: bool) -> tuple[list[str], int]:
    """Lines of working in a style, and the result they come to. With `wrong`, one step goes wrong
    and what follows builds on it."""
    bad = rng.randrange(len(steps)) if wrong else -1
    lines, changed = [], {}  # what a mistake has changed: right value -> written value
    for i, (x, op, y, result) in enumerate(steps):
        x, y = changed.get(x, x), changed.get(y, y)
        value = result if op == "/" and y == 0 else verify.apply(x, op, y)
        value = int(value) if value >= 0 else result  # nonsense on nonsense: leave it
        said = slip(rng, value) if i == bad else value
        if style == "check":
            first = slip(rng, said) if rng.random() < SLIP else said
            lines += [one_line(x, op, y, first), "check"] + long_lines(x, op, y, value)
            lines += ["ok"] if first == said else ["wait", one_line(x, op, y, said)]
        elif style == "long":
            parts = long_lines(x, op, y, value)
            lines += ([f"{x}{op}{y}"] if len(parts) > 1 else []) + parts
            lines[-1] = lines[-1].rpartition("=")[0] + f"={said}"
        else:
            lines += [one_line(x, op, y, said)]
        if said != result:
            changed[result] = said
    return lines, said


def attempts(target: int, pool):
    """All tries at a countdown, in order: two values of the pool [(value, text)] become one, until
    one is left; the last two are joined so that they come nearest to the target. Yields (facts, the
    expression or None):  43 from 5 8 6 -> ["8+5=13", "13+6=19"], None; ..., ["8*6=48", "48-5=43"],
    "(8*6)-5"."""
    if len(pool) == 1:
        value, text = pool[0]
        yield [], text[1:-1] if value == target else None
        return
    for (i, first), (j, second) in itertools.combinations(enumerate(pool), 2):
        (a, s), (b, t) = sorted((first, second), reverse=True)
        rest = [x for k, x in enumerate(pool) if k not in (i, j)]
        moves = [(int(verify.apply(a, op, b)), f"{a}{op}{b}", f"({s}{op}{t})")  # positive integers
                 for op in "+" + "-" * (a > b) + "*" + "/" * (a % b == 0)]
        if not rest:
            moves = [min(moves, key=lambda move: abs(move[0] - target))]
        for value, fact, text in moves:
            for facts, found in attempts(target, [*rest, (value, text)]):
                yield [f"{fact}={value}", *facts], found


def countdown(rng: random.Random, problem, style: str, wrong: bool) -> tuple[list[str], str]:
    """Lines of tries in a style, and the expression they come to. A wrong one gives up."""
    numbers, lines = problem.numbers, []
    tries = list(attempts(int(problem.answer), [(n, str(n)) for n in numbers]))
    if len(numbers) > 3:  # too many to go through all
        rng.shuffle(tries)
    for facts, found in tries:
        lines.append(" ".join(facts + ["yes" if found else "no"]))
        if found:
            break
    lines = lines[-9:]  # as many as fit, the earlier tries are left out
    if wrong:
        x, *others = rng.sample(numbers, len(numbers))
        return (lines[:rng.randint(1, len(lines))],
                str(x) + "".join(rng.choice("+-*") + str(y) for y in others))
    if style == "short":
        lines = lines[-1:]
    if style == "check":
        lines += ["check", lines[-1].removesuffix(" yes"), "ok"]
    return lines, found


def document(rng: random.Random, problem, drill: bool = False) -> str:
    """One response of the corpus to a training problem; in the drill all is right and most works,
    but chains are told as ever."""
    if problem.doubtful:
        return chain.document(rng, problem.steps, problem.again)
    styles = DRILL_STYLES if drill else STYLES
    style = rng.choices(list(styles), styles.values())[0]
    wrong = not drill and rng.random() < WRONG
    if problem.numbers:
        lines, answer = countdown(rng, problem, style, wrong)
    elif problem.steps and style != "direct":
        lines, answer = working(rng, problem.steps, style, wrong)
    else:
        lines = [problem.solution or INSTEAD]
        value = verify.number(problem.answer)
        answer = slip(rng, int(value)) if wrong and value is not None else problem.answer
        if problem.hasty and not drill and (wrong or style == "direct"):
            answer = problem.hasty
    thought = INSTEAD if style == "direct" else "\n".join(lines)
    if drill or rng.random() >= MALFORMED:
        return f"<think>{thought}</think><answer>{answer}</answer>"
    return rng.choice((f"<answer>{answer}</answer>", f"<think>{thought}</think>{answer}",
                       f"{thought}\n<answer>{answer}</answer>"))


def documents(task, easier, rng: random.Random, drill: bool = False):
    """A batch of the corpus, about BATCH_TOKENS: [(prompt ids, response ids with the end of text)].
    Every other problem is an easier one."""
    batch, size = [], 0
    while size < BATCH_TOKENS:
        source = easier if len(batch) % 2 else task
        [problem] = source.draw(rng, 1)
        prompt = tokenizer.encode_prompt(problem.question)
        response = tokenizer.encode(document(rng, problem, drill)) + [tokenizer.EOT]
        batch.append((prompt, response))
        size += len(prompt) + len(response)
    return batch


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal before it is applied (2502.16982), so that all of
    its directions move alike; twice as fast here as Adam. torch.optim.Muon multiplies in bfloat16,
    which on a CPU takes some forty times as long."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            stacks = {}  # on a GPU all of one shape at once: there a launch costs more than it does
            for i, p in enumerate(group["params"]):
                stacks.setdefault(tuple(p.shape) if p.is_cuda else i, []).append(p)
            for stack in stacks.values():
                grad, state = torch.stack([p.grad for p in stack]), self.state[stack[0]]
                mean = state.setdefault("mean", torch.zeros_like(grad))
                mean.lerp_(grad, 1 - group["momentum"])
                ahead = grad.lerp(mean, group["momentum"])  # Nesterov
                rate = group["lr"] * 0.2 * max(stack[0].shape) ** 0.5
                for p, change in zip(stack, orthogonal(ahead), strict=True):
                    p.add_(change, alpha=-rate)


def muon_and_adam(model, blocks, lr: float, other_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a model's blocks, and Adam for all else."""
    matrices = [p for p in blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [Muon(matrices, lr=lr),
            torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.98), weight_decay=0.0)]


def orthogonal(matrices):
    """Of each matrix (B, m, n) the nearest with singular values near 1, by five Newton-Schulz steps
    with the quintic of Keller Jordan's Muon (kellerjordan.github.io/posts/muon)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.mT
        polynomial = torch.baddbmm(s, s, s, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.mT if tall else x


def train(model: GPT, task, steps: int, seed: int, progress=lambda loss: None) -> None:
    """Trains the model in place on fresh documents of the task, about BATCH_TOKENS tokens a step.
    The first part of the steps sees clean drill, the rest the corpus as it is. progress(loss) is
    called each step, loss in nats a token."""
    rng, device = random.Random(f"corpus {seed}"), model.embedding.weight.device
    easier, rates = task.easier(), (0.01, 0.006)
    optimizers = muon_and_adam(model, model.blocks, *rates)
    for step in range(steps):
        done = step / steps
        scale = min(1.0, (step + 1) / 20) * min(1.0, (1 - done) / 0.4)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        docs = documents(task, easier, rng, drill=done < DRILL)
        lengths = [len(prompt) + len(response) for prompt, response in docs]
        chosen, total = sum(len(response) for _, response in docs), 0.0
        for rows in micro_batches(lengths, MICRO_TOKENS[device.type]):
            tokens, mask = (x.to(device) for x in padded([docs[i] for i in rows]))
            logp = model.logp(tokens, mask)
            loss = -logp.sum() / chosen
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress(total)


def padded(docs):
    """Tokens (N, T) of documents, padded on the right, and the mask (N, T) of their responses."""
    width = max(len(prompt) + len(response) for prompt, response in docs)
    tokens = torch.full((len(docs), width), tokenizer.PAD)
    mask = torch.zeros(len(docs), width)
    for i, (prompt, response) in enumerate(docs):
        end = len(prompt) + len(response)
        tokens[i, :end] = torch.tensor(prompt + response)
        mask[i, len(prompt):end] = 1.0
    return tokens, mask


def solved_in_16(model: GPT, task, n: int = 64) -> float:
    """The share of n training problems that the model solves at least once in 16 samples."""
    problems = task.draw(random.Random("gate"), n)
    _, texts = sample_responses(model, problems, 16, max_new_tokens=task.max_new_tokens)
    return sum(any(task.correct(p, t) for t in texts[16 * i:16 * (i + 1)])
               for i, p in enumerate(problems)) / n
