"""How fast one step of GRPO is (sampler, verify, update), against TRL's GRPOTrainer on a CPU.

    python bench/step.py [--run runs/NAME] [--write FILE]
    python bench/step.py --load 2                           beside busy processes: bench/busy.py

Both run in one process and take turns, with the same weights, prompts and group size, and one
update a step. Times are medians of five steps. The learning rate is almost zero, so both keep the
policy they began with: that of --run, or a base model that is trained for a minute. Needs trl,
which is in no requirements file.
"""

import copy
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import infra.openmp  # noqa: E402, F401, I001  (before torch)

import torch  # noqa: E402

import grpo  # noqa: E402
import model as gpt  # noqa: E402
import ppo  # noqa: E402
import tasks  # noqa: E402
import train  # noqa: E402
from bench import busy  # noqa: E402
from bench.sample import as_llama, begin, seconds, write  # noqa: E402
from engine import dedup, packing, sampler  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

PROMPTS, GROUP, ROUNDS = 32, 16, 5
tokenizer = Tokenizer.toy()


def text_of(ids) -> str:
    ids = list(ids)
    return tokenizer.decode(ids[:ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids)


def coin(text: str) -> float:
    """A reward for answers that are cut off. None of them is right, so half of them get 1."""
    return float(sum(text.encode()) % 2)


def update_flop(policy, lengths, chosen, tokens=None) -> int:
    """FLOP of the matrix products of an update, forward and backward, on rows of `lengths` (N,).

    `tokens` tokens pass the blocks, by default all of them; `chosen` tokens pass the head.
    """
    blocks = sum(p.numel() for p in policy.blocks.parameters())
    tokens = int(lengths.sum()) if tokens is None else tokens
    return 6 * (blocks * tokens + policy.lm_head.weight.numel() * int(chosen)
                + policy.config.layers * policy.config.width * int((lengths**2).sum()))


def flops(policy, batch) -> tuple[int, int]:
    """The FLOP of the update on a batch, rows without gradient left out: with equal rows and equal
    beginnings computed once, and with every row computed by itself."""
    rows = batch.rows((batch.advantages != 0).any(1).nonzero()[:, 0])
    alone = update_flop(policy, torch.tensor(rows.lengths()) - 1, rows.mask.sum())
    rows = rows.rows(dedup.unique_rows(rows)[0])
    lengths = torch.tensor(rows.lengths()) - 1  # the last token is never read
    read = rows.tokens[:, :-1]
    packed = packing.Packed(read, torch.arange(read.shape[1]) < lengths[:, None])
    return update_flop(policy, lengths, rows.mask.sum(), len(packed.tokens)), alone


def our_step(policy, optimizer, task, problems, options, fixed):
    """One step: seconds of sampling, verifying and updating; tokens; the two counts of `flops`."""
    marks = [time.perf_counter()]
    prompts = [tokenizer.encode_prompt(p.question) for p in problems]
    rollout = sampler.generate(policy, prompts, GROUP, options.max_new_tokens, 1.0, 0,
                              stop=[] if fixed else tokenizer.eos_id, pad=tokenizer.pad_id)
    texts = [text_of(ids) for ids in rollout.responses()]
    marks.append(time.perf_counter())
    rewards = torch.tensor([coin(text) if fixed else task.score(problems[g], text).total
                            for g, text in zip(rollout.group.tolist(), texts, strict=True)])
    marks.append(time.perf_counter())
    batch = grpo.prepare(ppo.Batch(rollout.tokens, rollout.mask, rollout.logp, rollout.group,
                                   rewards), options)
    train.update(train.Models(policy), optimizer, batch, options, random.Random(0))
    marks.append(time.perf_counter())
    return ([b - a for a, b in zip(marks, marks[1:], strict=False)], int(batch.mask.sum()),
            flops(policy, batch))


def trl_trainer(policy, task, problems, options, fixed, folder, between):
    """A GRPOTrainer of ROUNDS + 1 steps that calls `between` with the seconds of each."""
    import datasets
    import transformers
    import trl

    class Tokenizer(transformers.PreTrainedTokenizerBase):
        """The methods of a tokenizer that the trainer calls."""

        def convert_tokens_to_ids(self, token):
            return tokenizer.encode(token)[0]

        def __call__(self, text, **_):
            return {"input_ids": [tokenizer.encode_ordinary(t) for t in text]}

        def batch_decode(self, ids, **_):
            return [text_of(int(i) for i in row) for row in ids]

        def __len__(self):
            return tokenizer.n_vocab

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            between(time.perf_counter() - self.began)

    def correct(completions, index, **_):
        return [coin(text) if fixed else task.score(problems[i], text).total
                for i, text in zip(index, completions, strict=True)]

    config = trl.GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
        max_completion_length=options.max_new_tokens, max_steps=ROUNDS + 1, beta=0.0,
        temperature=1.0, loss_type="grpo", learning_rate=options.lr, logging_steps=10**6,
        save_strategy="no", report_to="none", disable_tqdm=True,
        generation_kwargs={"min_new_tokens": options.max_new_tokens} if fixed else None)
    data = datasets.Dataset.from_list([{"prompt": p.question + "\n", "index": i}
                                       for i, p in enumerate(problems)])
    return trl.GRPOTrainer(
        model=as_llama(copy.deepcopy(policy)), reward_funcs=correct, args=config,
        train_dataset=data, callbacks=[Clock()],
        processing_class=Tokenizer(pad_token="<|pad|>", eos_token="<|endoftext|>"))


def compare(policy, new, fixed):
    """Medians over the steps: TRL's seconds; our seconds of sampling, verifying, updating; the
    tokens of our step; FLOP per second of our update, counted in two ways, and of a large matrix
    product between the steps."""
    task, options = tasks.Arithmetic(), train.Options(minibatches=1, lr=1e-9, max_new_tokens=new)
    problems = task.sample(random.Random(1), PROMPTS)
    mine = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(mine.parameters(), lr=options.lr)
    theirs, ours, peak = [], [], []

    def between(seconds):
        theirs.append(seconds)
        ours.append(our_step(mine, optimizer, task, problems, options, fixed))
        peak.append(matmul_rate())
    with tempfile.TemporaryDirectory() as folder:
        trl_trainer(policy, task, problems, options, fixed, folder, between).train()
    parts = [statistics.median(o[0][i] for o in ours[1:]) for i in range(3)]
    rates = [statistics.median(flop[i] / seconds[2] for seconds, _, flop in ours[1:])
             for i in range(2)]
    return statistics.median(theirs[1:]), parts, ours[-1][1], rates, statistics.median(peak)


def an_update(policy, options, rows, width, given):
    """A function that makes one update of a policy on random rows, and the FLOP of that update.

    A row has `width` tokens, of which `given` are the prompt's.
    """
    device = policy.embedding.weight.device
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-9, fused=device.type == "cuda")
    mask = (torch.arange(width, device=device) >= given).float().expand(rows, width)
    tokens = torch.randint(0, policy.config.vocab_size, (rows, width), device=device)
    row = torch.arange(rows, device=device)
    batch = grpo.prepare(ppo.Batch(tokens, mask, -6 * mask, row // GROUP, row.float() % 2), options)

    def run():
        train.update(train.Models(policy), optimizer, batch, options, random.Random(0))
    return run, update_flop(policy, torch.full((rows,), width - 1), mask.sum())


def share_of(size, rows=64, width=97) -> list:
    """A row of a table: the share of the machine's rate that an update of a model reaches on rows
    that share nothing with each other."""
    torch.manual_seed(0)
    policy = gpt.GPT(gpt.Config(tokenizer.n_vocab, **gpt.SIZES[size]))
    run, flop = an_update(policy, train.Options(minibatches=1), rows, width, 12)
    shares = [flop / seconds(run, "cpu") / matmul_rate() for _ in range(ROUNDS + 1)]
    return [size, rows, width, f"{statistics.median(shares[1:]):.0%}"]


def matmul_rate(n=1024) -> float:
    """FLOP a second of a large matrix product."""
    a, seconds = torch.randn(n, n), []
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(seconds)


def main():
    if "--load" in sys.argv:
        return busy.main()
    args, policy, report = begin(__doc__, "One step of GRPO", "step.py", ["transformers", "trl"])
    steps = []
    for name, new, fixed in (("33 tokens each", 33, True), ("lengths of the policy", 192, False)):
        theirs, parts, tokens, rates, peak = compare(policy, new, fixed)
        steps.append([name, f"{theirs:.2f}", f"{sum(parts):.2f}", f"{theirs / sum(parts):.2f}",
                      *(f"{part:.2f}" for part in parts), f"{tokens:,}",
                      f"{rates[0] / peak:.0%} of {peak / 1e9:.0f} GFLOP/s",
                      f"{rates[1] / peak:.0%}"])
    report["tables"] += [
        {"caption": f"{PROMPTS} prompts, {GROUP} answers each, one update; a large matrix product "
                    "is timed between the steps.",
         "columns": ["answers", "TRL, s", "this code, s", "times as fast", "sampling, s",
                     "verifying, s", "updating, s", "tokens",
                     "update's share of the matrix-product rate", "answers counted one by one"],
         "rows": steps},
        {"caption": "The update's share of that rate where rows share nothing.",
         "columns": ["model", "rows", "tokens a row", "share"],
         "rows": [share_of("tiny", 512), share_of("small")]}]
    write(report, args.write)


if __name__ == "__main__":
    main()
