"""How much of the variance of the returns a critic could explain, for a trained policy.

    python bench/explained.py --run runs/NAME [--write FILE.json]      an arithmetic run; a minute

The data are four answers to each of 1,536 training problems. A critic may know the problem's
difficulty (the mean of the other three answers) and how likely the text so far was: these are the
inputs of engine/critic_hints.py. An oracle also knows whether the text has left the correct
working. For each set of inputs a small network is fitted on one half of the problems and measured
on the other half.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import evaluate  # noqa: E402
import grpo  # noqa: E402
import ppo  # noqa: E402
import tasks  # noqa: E402
from bench.sample import new_report, write  # noqa: E402
from engine import critic_hints  # noqa: E402
from tasks import corpus  # noqa: E402

PROBLEMS, ANSWERS = 1536, 4


def left_the_working(tokenizer, problem, ids: list[int]) -> list[bool]:
    """For each token of a response: does it, or a token before it, differ from the long working
    of the corpus?"""
    lines, _ = corpus.write_steps(random.Random(0), problem.steps, "long", wrong=False)
    right = tokenizer.encode("<think>" + "\n".join(lines) + f"</think><answer>{problem.answer}"
                             "</answer>") + [tokenizer.eos_id]
    same = next((i for i, pair in enumerate(zip(ids, right, strict=False)) if pair[0] != pair[1]),
                min(len(ids), len(right)))
    return [i >= same for i in range(len(ids))]


def fitted(features, returns, train, steps: int = 800) -> torch.Tensor:
    """Values (N, T): a small network of the features (N, T, K), fitted where `train` is True."""
    x = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[-1], 32), torch.nn.GELU(),
                              torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    inputs, wanted = x[train], returns[train]
    for _ in range(steps):
        some = torch.randint(len(inputs), (4096,))
        error = ((net(inputs[some])[:, 0] - wanted[some]) ** 2).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    with torch.no_grad():
        return net(x)[..., 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--write", type=Path, help="a JSON file, such as bench/runs/NAME.json")
    args = parser.parse_args()
    try:
        policy, tokenizer, settings = evaluate.load_run(args.run)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    task = tasks.Arithmetic(settings["level"])
    problems = task.sample(random.Random(5), PROBLEMS)
    rollout, texts = evaluate.sample_responses(policy, tokenizer, problems, ANSWERS, 1.0, 1,
                                               settings["max_new_tokens"])
    mask = rollout.mask
    right = torch.tensor([float(task.correct(problems[i // ANSWERS], text))
                          for i, text in enumerate(texts)])
    others = grpo.group_mean_others(right, rollout.group)
    left = torch.zeros_like(mask)
    for i, ids in enumerate(rollout.responses()):
        begin = int(mask[i].argmax())
        left[i, begin:begin + len(ids)] = torch.tensor(
            left_the_working(tokenizer, problems[i // ANSWERS], ids)).float()
    known = {
        "the problem's difficulty": (others[:, None] * mask)[..., None],
        "how likely the text so far was": critic_hints.likelihood(rollout.logp, mask),
        "whether it has left the right working": F.pad(left, (1, 0))[:, :-1, None]}
    known["likelihood and difficulty"] = torch.cat(list(known.values())[:2], -1)
    known["all three"] = torch.cat(list(known.values())[:3], -1)
    returns = right[:, None] * mask
    half = (torch.arange(len(right)) < len(right) // 2)[:, None]
    train, test = (mask > 0) & half, (mask > 0) & ~half
    report = new_report("What a critic could explain", "python bench/explained.py --run RUN", [])
    rows = []
    for name, features in known.items():
        values = fitted(features, returns, train)
        rows.append([name, f"{ppo.explained_variance(values, returns, test.float()):.2f}"])
    report["tables"].append({
        "caption": f"Arithmetic, {len(right)} answers of a {settings['algo']} run of "
                   f"{settings['steps']} steps, {float(right.mean()):.1%} right.",
        "columns": ["what is known of a state", "explained variance"], "rows": rows})
    write(report, args.write)


if __name__ == "__main__":
    main()
