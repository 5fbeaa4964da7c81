"""course/cs336.py: the adapters of CS336's assignment 5 against plain loops."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "course"))

import cs336  # noqa: E402

import model  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

N, T = 3, 5
MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gpt(seed):
    torch.manual_seed(seed)
    made = model.GPT(model.Config(Tokenizer.toy().n_vocab, context=32, layers=1, width=8, heads=2,
                                  kv_heads=1, hidden=8))
    for parameter in made.parameters():
        parameter.data.mul_(10)
    return made


def test_tokenize_prompt_and_output():
    tokenizer = Tokenizer.toy()
    found = cs336.run_tokenize_prompt_and_output(["12", "3"], ["4", "567"], tokenizer)
    one, pad = [tokenizer.encode(digit)[0] for digit in "1234567"], tokenizer.pad_id
    assert found["input_ids"].tolist() == [[one[0], one[1], one[3]], [one[2], *one[4:6]]]
    assert found["labels"].tolist() == [[one[1], one[3], pad], [*one[4:7]]]
    assert found["response_mask"].tolist() == [[False, True, False], [True, True, True]]

    class Pretrained:
        pad_token_id = 99
        encode = staticmethod(lambda text: [int(c) for c in text])
    found = cs336.run_tokenize_prompt_and_output(["12", "3"], ["4", "5"], Pretrained)
    assert found["labels"].tolist() == [[2, 4], [5, 99]]


def test_entropy():
    logits = numbers(0, 2, 3, 7)
    p = logits.softmax(-1)
    want = -sum(p[..., i] * p[..., i].log() for i in range(7))
    assert torch.allclose(cs336.run_compute_entropy(logits), want, atol=1e-6)


@pytest.mark.parametrize("entropy", [False, True])
@torch.no_grad()
def test_response_log_probs(entropy):
    made, ids = gpt(0), torch.tensor([[5, 6, 7], [8, 9, 10]])
    labels = torch.tensor([[6, 7, 1], [9, 10, 2]])
    found = cs336.run_get_response_log_probs(made, ids, labels, entropy)
    logp = made.logits(made(ids).flatten(0, 1)).log_softmax(-1).view(2, 3, -1)
    for i in range(2):
        for t in range(3):
            assert found["log_probs"][i, t] == pytest.approx(float(logp[i, t, labels[i, t]]))
    assert ("token_entropy" in found) == entropy
    if entropy:
        assert torch.allclose(found["token_entropy"], -(logp.exp() * logp).sum(-1), atol=1e-5)


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
def test_masked_sums(dim):
    x = numbers(1, N, T)
    total = (x * MASK).sum() if dim is None else (x * MASK).sum(dim)
    count = MASK.sum() if dim is None else MASK.sum(dim)
    assert torch.allclose(cs336.run_masked_normalize(x, MASK, dim, 4.0), total / 4)
    found = cs336.run_masked_mean(x, MASK, dim)
    assert torch.allclose(found[count > 0], (total / count)[count > 0])
    assert found[count == 0].isnan().all()


def dummy_reward(response, truth):
    return {"reward": float(response), "format_reward": 1.0, "answer_reward": float(truth)}


@pytest.mark.parametrize("by_std", [False, True])
@pytest.mark.parametrize("eps", [0.5, 1e-6])
def test_group_normalized_rewards(by_std, eps):
    texts = ["1", "0", "0", "3", "2", "2", "2", "2"]
    found, rewards, metadata = cs336.run_compute_group_normalized_rewards(
        dummy_reward, texts, ["1"] * 8, 4, eps, by_std)
    assert rewards.tolist() == [float(text) for text in texts]
    std = math.sqrt((0 + 1 + 1 + 4) / 3)
    want = [x / (std + eps) if by_std else x for x in (0, -1, -1, 2)]
    assert found.tolist() == pytest.approx([*want, 0, 0, 0, 0], abs=1e-6)
    assert metadata == {"mean": 1.5, "max": 3.0, "min": 0.0}


def test_policy_gradient_losses():
    logp, old, a = numbers(2, N, T), numbers(3, N, T), numbers(4, N, 1)
    rewards = numbers(5, N, 1)
    for clip in (0.1, 10.0):
        loss, metadata = cs336.run_compute_grpo_clip_loss(a, logp, old, clip)
        for i in range(N):
            for t in range(T):
                ratio, adv = math.exp(logp[i, t] - old[i, t]), float(a[i])
                cut = min(max(ratio, 1 - clip), 1 + clip)
                assert loss[i, t] == pytest.approx(-min(ratio * adv, cut * adv), rel=1e-4)
                assert metadata["clipped"][i, t] == (cut * adv < ratio * adv)

    def named(name):
        return cs336.run_compute_policy_gradient_loss(logp, name, rewards, a, old, 0.1)[0]
    assert torch.equal(named("no_baseline"), -rewards * logp)
    assert torch.equal(named("reinforce_with_baseline"), -a * logp)
    assert torch.equal(named("grpo_clip"),
                       cs336.run_compute_grpo_clip_loss(a, logp, old, 0.1)[0])
    with pytest.raises(ValueError, match="unknown loss_type 'ppo': choose grpo_clip, no_baseline"):
        named("ppo")


@pytest.mark.parametrize("constant", [1.0, 42.0])
def test_an_sft_step(constant):
    logp = numbers(6, N, T).requires_grad_()
    loss, _ = cs336.run_sft_microbatch_train_step(logp, MASK, 2, constant)
    want = -sum(logp[i, t].item() for i in range(N) for t in range(T) if MASK[i, t])
    assert loss.item() == pytest.approx(want / constant / N / 2, abs=1e-6)
    assert torch.allclose(logp.grad, -MASK.float() / (constant * N * 2))


def test_a_grpo_step():
    logp = numbers(7, N, T).requires_grad_()
    old, a = logp.detach(), numbers(8, N, 1)
    loss, _ = cs336.run_grpo_microbatch_train_step(logp, MASK, 4, "grpo_clip", None, a, old, 0.2)
    assert float(loss) == pytest.approx(-float(a.mean()) / 4, abs=1e-6)  # every ratio is 1
    assert torch.allclose(logp.grad, -a * MASK / MASK.sum(1, keepdim=True) / N / 4)


@pytest.mark.parametrize("text, letter", [
    ("The correct answer is B. There is only One.", "B"), ("The answer is 100.", None)])
def test_an_mmlu_answer(text, letter):
    assert cs336.run_parse_mmlu_response({}, text) == letter


@pytest.mark.parametrize("text, answer", [
    ("48/2 = 24 clips in May, so 48+24 = 72 clips in both.", "72"), ("seventy-two", None)])
def test_a_gsm8k_answer(text, answer):
    assert cs336.run_parse_gsm8k_response(text) == answer


def test_a_dpo_loss():
    tokenizer, lm, ref = Tokenizer.toy(), gpt(1), gpt(2)
    found = cs336.run_compute_per_instance_dpo_loss(lm, ref, tokenizer, 0.5, "1+2=", "3", "45")

    def log_ratio(text):
        ids = tokenizer.encode("1+2=" + text) + [tokenizer.eos_id]
        logp = [made.logits(made(torch.tensor([ids[:-1]]))[0]).log_softmax(-1) for made in
                (lm, ref)]
        return sum(float(logp[0][t - 1, ids[t]] - logp[1][t - 1, ids[t]])
                   for t in range(4, len(ids)))
    margin = 0.5 * (log_ratio("3") - log_ratio("45"))
    assert abs(margin) > 0.01
    assert float(found) == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-4)
    found.backward()
    assert lm.blocks[0].down.grad.abs().sum() > 0
