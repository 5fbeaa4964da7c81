"""sample.py: the draws follow the softmax, their log-probs are the model's, and neither the cache
nor the company of other rows changes anything."""

import pytest
import torch

import model
import sample

STOP, PAD = 28, 29
PROMPTS = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10], [3, 1, 4, 1]]
HEADS = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["MHA", "GQA", "MQA"])


def gpt(kv_heads=2, stop=0.0, seed=0):
    """A small model, far from uniform; `stop` raises the end's logit, so that rows end often."""
    torch.manual_seed(seed)
    made = model.GPT(model.Config(30, context=48, layers=2, width=32, heads=4, kv_heads=kv_heads,
                                  hidden=48, tied=False))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    bias = torch.zeros(30)
    bias[STOP], bias[PAD] = stop, -1e4  # the pad is never drawn: what is padding stays clear
    made.head.bias = torch.nn.Parameter(bias)
    return made


def generate(made, prompts=PROMPTS, group_size=1, max_new_tokens=12, temperature=1.0, seed=3,
             **more):
    return sample.generate(made, prompts, group_size, max_new_tokens, temperature, seed, stop=STOP,
                           pad=PAD, **more)


def greedy_loop(made, prompt, max_new_tokens):
    """The oracle: no cache, no batch, the whole text read again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + max_new_tokens and STOP not in ids[len(prompt):]:
            ids.append(int(made.head(made(torch.tensor([ids])))[0, -1].argmax()))
    return ids[len(prompt):]


def sampling_loop(made, prompt, row_seed, max_new_tokens, temperature):
    """The same for a sampled row: its uniform numbers are a function of its seed and position."""
    ids = list(prompt)
    with torch.no_grad():
        for t in range(max_new_tokens):
            logits = made.head(made(torch.tensor([ids])))[:, -1]
            token, _, _ = sample.draw(logits, sample.uniform(row_seed[None], t), temperature)
            ids.append(int(token))
            if ids[-1] == STOP:
                break
    return ids[len(prompt):]


def seeds(n, seed):
    return sample.mix(torch.arange(n) + sample.mix(torch.tensor(seed)))


def same(a, b):
    """Equal rollouts; log-probs up to the order of floating-point sums."""
    width = min(a.tokens.shape[1], b.tokens.shape[1])
    return (torch.equal(a.tokens[:, :width], b.tokens[:, :width]) and a.responses() == b.responses()
            and torch.allclose(a.logp[:, :width], b.logp[:, :width], atol=1e-4)
            and torch.equal(a.truncated, b.truncated) and torch.equal(a.group, b.group))


# --- cached = uncached, ragged = one at a time

@HEADS
@pytest.mark.parametrize("stop", [0.0, 1.8])
def test_greedy_equals_an_uncached_loop(kv_heads, stop):
    made = gpt(kv_heads, stop)
    found = generate(made, temperature=0).responses()
    assert found == [greedy_loop(made, prompt, 12) for prompt in PROMPTS]


@HEADS
def test_sampling_equals_an_uncached_loop_of_each_row(kv_heads):
    """Rows end at different times, so this covers retirement too."""
    made = gpt(kv_heads, stop=1.8)
    found = generate(made, group_size=4).responses()
    want = [sampling_loop(made, PROMPTS[i // 4], s, 12, 1.0) for i, s in enumerate(seeds(16, 3))]
    assert found == want
    assert len({len(r) for r in found}) > 3  # or nothing was retired


@HEADS
def test_a_ragged_batch_equals_one_prompt_at_a_time(kv_heads):
    made = gpt(kv_heads)
    together = generate(made, temperature=0)
    alone = [generate(made, [prompt], temperature=0) for prompt in PROMPTS]
    assert together.responses() == [one.responses()[0] for one in alone]
    for i, one in enumerate(alone):
        width = one.logp.shape[1]
        assert torch.allclose(together.logp[i, :width], one.logp[0], atol=1e-4)


@pytest.mark.parametrize("max_rows", [1, 3, 6, 9])
def test_the_size_of_the_batch_changes_nothing(max_rows):
    made = gpt(stop=1.8)
    assert same(generate(made, group_size=3), generate(made, group_size=3, max_rows=max_rows))


def test_retirement_happens_and_changes_nothing(monkeypatch):
    """The oracle samples each row alone, where nothing can take another's place."""
    made, calls, original = gpt(stop=1.8), [], sample.retire
    monkeypatch.setattr(sample, "retire", lambda *a: calls.append(1) or original(*a))
    found = generate(made, group_size=8).responses()
    assert len(calls) > 2
    assert found == [sampling_loop(made, PROMPTS[i // 8], s, 12, 1.0)
                     for i, s in enumerate(seeds(32, 3))]


def test_retire_moves_living_rows_into_the_holes():
    config = model.Config(4, layers=1, width=4, heads=1, kv_heads=1)
    cache = model.Cache(config, 5, 3)
    cache.keys += torch.arange(5.0).view(1, 5, 1, 1, 1)
    cache.length = 3
    places = sample.retire(cache, torch.tensor([True, False, False, True, True]), 3)
    assert sorted(places.tolist()) == [0, 3, 4] and places[0] == 0
    assert cache.keys[0, :3, 0, 0, 0].tolist() == places.tolist()


# --- the log-probs are the model's

@HEADS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_sampler_logp_equals_training_logp(kv_heads, temperature):
    made = gpt(kv_heads, stop=1.8)
    out = generate(made, group_size=4, temperature=temperature)
    with torch.no_grad():
        trained = made.logp(out.tokens, out.mask, temperature)
        other = made.logp(out.tokens, out.mask, temperature * 1.3)
    assert torch.allclose(out.logp, trained, atol=1e-4)
    assert not torch.allclose(out.logp, other, atol=1e-2)


def test_greedy_logp_is_that_of_temperature_one():
    made = gpt()
    out = generate(made, temperature=0)
    with torch.no_grad():
        assert torch.allclose(out.logp, made.logp(out.tokens, out.mask, 1.0), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_entropy_is_that_of_the_whole_distribution(temperature):
    made = gpt()
    out = generate(made, temperature=temperature)
    with torch.no_grad():
        logp = (made.head(made(out.tokens[:, :-1])) / temperature).log_softmax(-1)
    want = -(logp.exp() * logp).sum(-1) * out.mask[:, 1:]
    assert torch.allclose(out.entropy[:, 1:], want, atol=1e-3)
    assert not torch.allclose(out.entropy, -out.logp, atol=1e-1)


# --- what a Rollout holds

def test_the_end_of_text_is_marked_and_padding_is_not():
    """Of 80 rows, so that some that have ended still wait to be retired."""
    out = generate(gpt(stop=1.0), group_size=20)
    ended = 0
    for i, prompt in enumerate(p for p in PROMPTS for _ in range(20)):
        row, start = out.tokens[i].tolist(), len(prompt)
        end = start + int(out.mask[i].sum())
        assert row[:start] == prompt
        assert out.mask[i].tolist() == [float(start <= t < end) for t in range(len(row))]
        assert row[end:] == [PAD] * (len(row) - end)
        assert STOP not in row[start:end - 1]
        assert (row[end - 1] != STOP) == bool(out.truncated[i])
        assert end - start == 12 or not out.truncated[i]
        ended += row[end - 1] == STOP
    assert 20 < ended < 80


def test_nothing_is_recorded_outside_the_response():
    out = generate(gpt(stop=1.8), group_size=4)
    for values in (out.logp, out.entropy):
        assert values[out.mask == 0].eq(0).all()
    assert out.logp[out.mask == 1].lt(0).all()


def test_rows_are_in_the_order_of_the_prompts():
    out = generate(gpt(), group_size=3, max_rows=3)
    assert out.group.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for row, group in zip(out.tokens.tolist(), out.group.tolist(), strict=True):
        assert row[:len(PROMPTS[group])] == PROMPTS[group]


def test_no_room_for_the_end_means_truncated():
    out = generate(gpt(stop=-1e4), max_new_tokens=5)
    assert out.truncated.all() and [len(r) for r in out.responses()] == [5] * 4
    out = generate(gpt(stop=1e4), max_new_tokens=1)
    assert not out.truncated.any() and out.responses() == [[STOP]] * 4


def test_the_whole_context_can_be_used():
    assert generate(gpt(stop=-1e4), [[1] * 40], max_new_tokens=8).tokens.shape == (1, 48)


def test_seeds_repeat_and_differ():
    made = gpt()
    first = generate(made, group_size=4)
    assert same(first, generate(made, group_size=4))
    assert first.responses() != generate(made, group_size=4, seed=4).responses()
    assert len({tuple(r) for r in first.responses()}) > 12  # the answers of a group differ


def test_on_token_sees_each_token_of_a_row():
    seen = []
    out = generate(gpt(stop=1.8), [[1, 2]], on_token=seen.append)
    assert [seen] == out.responses()


def test_sampling_leaves_no_graph_and_the_random_state_alone():
    made, before = gpt(), torch.random.get_rng_state()
    assert not generate(made).logp.requires_grad
    assert torch.equal(torch.random.get_rng_state(), before)


# --- draws

def critical(freedom, z=3.72):
    """The chi-square value that chance exceeds once in 10,000 (Wilson and Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    n, logits = 100_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5, 0.2])
    u = sample.uniform(seeds(n, 11), 4)
    token, logp, _ = sample.draw(logits.expand(n, -1), u, temperature)
    p = (logits / temperature).softmax(-1)
    counts = torch.bincount(token, minlength=8)
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < critical(7)
    assert torch.allclose(logp, p.log()[token], atol=1e-5)


@pytest.mark.parametrize("by", ["row", "position", "seed"])
def test_uniform_numbers_are_uniform(by):
    n = 20_000
    if by == "row":
        u = sample.uniform(seeds(n, 0), 3)
    elif by == "position":
        u = torch.cat([sample.uniform(seeds(20, 5), t) for t in range(n // 20)])
    else:
        u = torch.cat([sample.uniform(seeds(4, s), 0) for s in range(n // 4)])
    assert 0 <= float(u.min()) and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(float(u.var()) - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, 50, 0, 1)
    assert float(((counts - n / 50) ** 2 / (n / 50)).sum()) < critical(49)


def test_uniform_numbers_differ_over_positions_and_rows():
    u = torch.stack([sample.uniform(seeds(50, 1), t) for t in range(50)])
    assert len(u.unique()) > 2490
    lag = torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1]
    assert abs(float(lag)) < 0.08


def test_no_row_of_seed_zero_draws_a_zero():
    """mix(0) is 0, so without care the first number of seed 0 is 0.0, which draws token 0."""
    assert float(sample.uniform(seeds(8, 0), 0).min()) > 0


def test_the_ends_of_the_unit_interval_draw_tokens_that_exist():
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]]).expand(2, -1)
    token, _, _ = sample.draw(logits, torch.tensor([0.0, 1 - 2**-24]), 1.0)
    assert token.tolist() == [1, 2]


def test_draw_is_greedy_at_temperature_zero():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    token, logp, _ = sample.draw(logits, torch.tensor([0.0, 0.99]), 0)
    assert token.tolist() == [1, 0]
    assert torch.allclose(logp, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("logits, entropy", [([0.0] * 8, 2.0794415), ([50.0, 0.0, 0.0], 0.0)])
def test_entropy_of_known_distributions(logits, entropy):
    found = sample.draw(torch.tensor([logits]), torch.tensor([0.5]), 1.0)[2]
    assert float(found) == pytest.approx(entropy, abs=1e-5)


# --- bad input

@pytest.mark.parametrize("change", [
    dict(prompts=[]), dict(prompts=[[]]), dict(prompts=[[1], []]), dict(prompts=[[1] * 40]),
    dict(prompts=[[30]]), dict(prompts=[[-1]]), dict(temperature=-0.1), dict(group_size=0),
    dict(max_new_tokens=0), dict(max_new_tokens=48)], ids=str)
def test_bad_input_is_a_clear_error(change):
    with pytest.raises(ValueError, match="[a-z]{3}"):
        generate(gpt(), **change)
