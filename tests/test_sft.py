"""sft.py: batches of pairs, and training that repeats to the last bit."""

import itertools
import math
import random
import re

import pytest
import torch

import model
import sample
import sft
import tasks
from engine import muon
from tokenizer import Tokenizer

tokenizer = Tokenizer.toy()


def micro(seed=0):
    torch.manual_seed(seed)
    return model.GPT(model.Config(tokenizer.n_vocab, context=512, layers=1, width=32,
                                  heads=2, kv_heads=1, hidden=48))


def trained(steps=None, seed=0, pairs=None, **how):
    made, losses = micro(), []
    pairs = pairs or sft.corpus_batches(tokenizer, tasks.Arithmetic(1), seed)
    sft.train(made, pairs, steps, seed, progress=losses.append, **how)
    return made, losses


@pytest.fixture
def small_batches(monkeypatch):
    """A third of the tokens per step."""
    monkeypatch.setattr(sft, "BATCH_TOKENS", 600)


# --- batches of pairs

@pytest.mark.parametrize("name", ["arithmetic", "countdown", "gsm"])
def test_documents_use_only_training_problems(name):
    used = []

    class Recorder(tasks.TASKS[name]):
        def sample(self, rng, n, held_out=False):
            used.extend(super().sample(rng, n, held_out))
            return used[-n:]
    for seed in range(10):
        sft.documents(tokenizer, Recorder(2), Recorder(2), random.Random(seed))
    assert len(used) > 100 and not any(map(tasks.is_held_out, used))


def test_a_batch_of_documents():
    task = tasks.Arithmetic(2)
    batch = sft.documents(tokenizer, task, task.easier_task(), random.Random(0))
    size = sum(len(prompt) + len(response) for prompt, response in batch)
    assert sft.BATCH_TOKENS <= size < sft.BATCH_TOKENS + 300
    for prompt, response in batch:
        assert tokenizer.decode(prompt).endswith("=?\n")
        assert response[-1] == tokenizer.eos_id and tokenizer.eos_id not in response[:-1]
        assert tokenizer.pad_id not in prompt + response


def test_every_second_problem_is_an_easier_one():
    task = tasks.Arithmetic(3)
    batch = sft.documents(tokenizer, task, task.easier_task(), random.Random(0))
    operators = [len(re.findall(r"[-+*]", tokenizer.decode(prompt))) for prompt, _ in batch]
    assert set(operators[::2]) == {3} and set(operators[1::2]) == {1}


def test_the_mask_covers_responses_and_their_end_only():
    pad = tokenizer.pad_id
    tokens, mask = sft.padded([([1, 2], [3, tokenizer.eos_id]), ([4], [5, 6, 7, tokenizer.eos_id])],
                              pad)
    assert tokens.tolist() == [[1, 2, 3, tokenizer.eos_id, pad], [4, 5, 6, 7, tokenizer.eos_id]]
    assert mask.tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
    with torch.no_grad():  # the padding itself is never read
        made = micro()
        other, _ = sft.padded([([1, 2], [3, tokenizer.eos_id]), ([4], [5, 6, 7, 8])])
        other[1, 4] = tokenizer.eos_id
        assert torch.equal(made.logp(tokens, mask), made.logp(other, mask))


def test_given_pairs_come_in_a_new_order_each_epoch(small_batches):
    """Every pair comes once before any pair comes again."""
    pairs = [([i] * 30, [i] * 20) for i in range(30)]
    for seed in range(3):
        batches = list(itertools.islice(sft.shuffled_batches(pairs, seed), 5))
        assert all(len(batch) == 12 for batch in batches)  # 12 * 50 tokens = BATCH_TOKENS
        order = [prompt[0] for batch in batches for prompt, _ in batch]
        assert sorted(order[:30]) == sorted(order[30:]) == list(range(30))
        assert order[:30] != order[30:] and order[:30] != list(range(30))
        # two epochs are the beginning of the endless order; a smaller batch has the rest
        two = list(sft.shuffled_batches(pairs[:16], seed, 2))
        assert list(map(len, two)) == [12, 12, 8]
        order = [prompt[0] for batch in two for prompt, _ in batch]
        assert sorted(order[:16]) == sorted(order[16:]) == list(range(16))
        endless = itertools.islice(sft.shuffled_batches(pairs[:16], seed), 2)
        assert list(endless) == two[:2]


# --- pairs of other texts

def test_pairs_of_texts_end_with_the_end_of_text():
    problems = [tasks.Problem("1+2=?", "3"), tasks.Problem("9-5=?", "4")]
    texts = ["<think>1+2=3</think><answer>3</answer>", "4"]
    pairs = sft.pairs_from(tokenizer, problems, texts)
    assert [prompt for prompt, _ in pairs] == [tokenizer.encode_prompt(p.question)
                                               for p in problems]
    for (_, response), text in zip(pairs, texts, strict=True):
        assert response[-1] == tokenizer.eos_id and tokenizer.decode_response(response) == text
    assert len(pairs[1][1]) == 2 and tokenizer.specials["<think>"] in pairs[0][1]
    with pytest.raises(ValueError):
        sft.pairs_from(tokenizer, problems, texts[:1])


def test_sampled_pairs_keep_the_sampled_ids():
    made, eos = micro(), tokenizer.eos_id
    prompts = [tokenizer.encode_prompt(question) for question in ("1+2=?", "(10+20)*3=?")]
    rollout = sample.generate(made, prompts, 3, 5, seed=0, stop=[eos], pad=tokenizer.pad_id)
    pairs = sft.sampled_pairs(rollout)
    assert [prompt for prompt, _ in pairs] == [prompt for prompt in prompts for _ in range(3)]
    assert [response for _, response in pairs] == rollout.responses()
    # text that is decoded and encoded again has other ids
    assert any(tokenizer.encode(tokenizer.decode(response)) != response for _, response in pairs)


# --- training

@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (16, 200), (64, 256)])
def test_newton_schulz_gives_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for scale in (1e-3, 1.0, 1e3):
        values = torch.linalg.svdvals(muon.newton_schulz(matrix[None] * scale)[0])
        assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_newton_schulz_keeps_the_directions():
    u, s, v = torch.linalg.svd(torch.randn(8, 20, generator=torch.Generator().manual_seed(0)),
                               full_matrices=False)
    aligned = u.T @ muon.newton_schulz((u @ s.diag() @ v)[None])[0] @ v.T
    assert torch.allclose(aligned, aligned.diag().diag(), atol=1e-4)


def test_newton_schulz_of_zero_is_zero():
    assert muon.newton_schulz(torch.zeros(2, 3, 4)).eq(0).all()


def test_newton_schulz_takes_each_matrix_by_itself():
    """As Muon gives it all of one shape at once on a GPU."""
    matrices = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) * 10
    together = muon.newton_schulz(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        assert torch.allclose(one, muon.newton_schulz(matrix[None])[0], atol=1e-5)


def test_muon_takes_a_step_of_the_same_size_whatever_the_gradient():
    moves = []
    for scale in (1e-3, 10.0):
        p = torch.nn.Parameter(torch.zeros(16, 64))
        p.grad = scale * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
        muon.Muon([p], lr=0.1).step()
        moves.append(p.detach())
    assert torch.allclose(moves[0], moves[1], atol=1e-5)
    assert float(moves[0].norm()) == pytest.approx(0.1 * 0.2 * 8 * 4, rel=0.3)
    assert float((moves[0] * p.grad).sum()) < 0


def test_training_lowers_the_loss(small_batches):
    _, losses = trained(20)
    assert len(losses) == 20
    assert losses[0] == pytest.approx(math.log(tokenizer.n_vocab), abs=0.3)
    assert sum(losses[-3:]) / 3 < losses[0] - 0.7


def test_the_drill_comes_first_and_the_rate_warms_up_and_falls(small_batches, monkeypatch):
    drilled, rates, documents, both = [], [], sft.documents, sft.muon_and_adam

    def seen(tokenizer, task, easier, rng, drill):
        drilled.append(drill)
        return documents(tokenizer, task, easier, rng, drill)

    def spied(*given):
        optimizers = both(*given)
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizers
    monkeypatch.setattr(sft, "documents", seen)
    monkeypatch.setattr(sft, "muon_and_adam", spied)
    trained(40)
    assert drilled == [True] * 30 + [False] * 10  # three quarters, as the README says
    scale = [min(1, (i + 1) / 20) * min(1, (40 - i) / 16) for i in range(40)]
    assert rates[::2] == pytest.approx([0.01 * x for x in scale])
    assert rates[1::2] == pytest.approx([0.006 * x for x in scale])


def test_training_repeats_to_the_last_bit(small_batches):
    first, losses = trained(4)
    random.seed(5)
    again, losses_again = trained(4)
    assert losses == losses_again
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert trained(4, seed=1)[1] != losses


def test_the_gradient_does_not_depend_on_the_micro_batches(small_batches, monkeypatch):
    whole, losses = trained(2)
    one_by_one = lambda lengths, limit: [[i] for i in range(len(lengths))]  # noqa: E731
    monkeypatch.setattr(sft, "micro_batches", one_by_one)
    cut, losses_cut = trained(2)
    assert losses == pytest.approx(losses_cut, rel=1e-4)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_pass_at_16_is_the_share_of_problems_solved_at_least_once(monkeypatch):
    task = tasks.Arithmetic(1)

    def sample_responses(policy, tokenizer, problems, group_size, max_new_tokens):
        assert group_size == 16 and not any(map(tasks.is_held_out, problems))
        return None, [f"<answer>{p.answer if i % 4 == 0 and j == 7 else 'no'}</answer>"
                      for i, p in enumerate(problems) for j in range(16)]
    monkeypatch.setattr(sft, "sample_responses", sample_responses)
    assert sft.solved_in_16(None, tokenizer, task, 8) == 0.25


def test_pairs_from_anywhere_are_learned(small_batches):
    """The seam for a cold start or distillation: a plain list of (prompt ids, response ids)."""
    pairs = [([i, i], [i + 1, tokenizer.eos_id]) for i in range(60, 68)]
    made, losses = trained(100, pairs=pairs)
    assert losses[-1] < 0.3 and trained(100, pairs=pairs)[1] == losses
    tokens, mask = sft.padded(pairs)
    with torch.no_grad():
        assert float(made.logp(tokens, mask)[mask == 1].exp().min()) > 0.5
    assert trained(3, seed=1, pairs=pairs)[1] != losses[:3]


def test_epochs_over_fixed_pairs(small_batches, monkeypatch):
    """Each pair is used once an epoch, and the learning rates span all of the epochs."""
    used, padded = [], sft.padded
    monkeypatch.setattr(sft, "padded", lambda pairs: used.extend(pairs) or padded(pairs))
    pairs = [([i] * 30, [i] * 20) for i in range(40)]
    made, losses = trained(pairs=pairs, epochs=3, **sft.FINE_TUNING)
    assert len(losses) == 10 and sorted(used) == sorted(pairs * 3)  # 120 * 50 tokens
    again, losses_again = trained(10, pairs=pairs, **sft.FINE_TUNING)
    assert losses[:9] == losses_again[:9]  # the last batch of the epochs may be smaller
    assert losses[-1] < losses[0]


PAIR = ([1, 2], [3])


@pytest.mark.parametrize("pairs, how, words", [
    ([PAIR], {}, "either steps=N, or epochs=N"),
    ([PAIR], dict(steps=2, epochs=2), "either steps=N, or epochs=N"),
    (lambda done: [PAIR], dict(epochs=2), "a list of pairs"),
    ([], dict(steps=2), "no .* pairs"),
    ([PAIR, ([1], [])], dict(epochs=1), "pair 1 has a prompt of 1 tokens and a response of 0"),
    ([([], [1])], dict(steps=1), "pair 0 has a prompt of 0 tokens"),
    ([([1] * 500, [2] * 13)], dict(epochs=1), "together at most 512")])
def test_bad_pairs_are_refused(pairs, how, words):
    with pytest.raises(ValueError, match=words):
        sft.train(micro(), pairs, **how)
