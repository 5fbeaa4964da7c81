"""engine/vision.py: ids of patches, their embeddings, images in both samplers and in the loss; the
drawings of task diagrams; and recipes/vision.py."""

import json
import random

import pytest
import torch

import model
import sample
import tasks
import tokenizer
import train
from engine import sampler, vision, watch
from infra import hf_config
from recipes import vision as recipe

IMAGE = tuple("".join("#" if (7 * y + 3 * x) % 5 == 0 else "." for x in range(30))
              for y in range(30))


def gpt(image=True, vocab=30):
    torch.manual_seed(0)
    made = model.GPT(model.Config(vocab, context=128, layers=2, width=32, heads=4, kv_heads=2,
                                  hidden=48, image=image))
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    return made


def test_an_id_spells_place_and_pixels():
    codes = vision.patch_codes(IMAGE)
    features = vision.patch_features(torch.tensor(codes))
    assert len(codes) == 25 == len(set(codes)) and features.shape == (25, 46)
    for patch, row in enumerate(features.tolist()):
        y, x = divmod(patch, 5)
        pixels = [float(IMAGE[6 * y + i // 6][6 * x + i % 6] == "#") for i in range(36)]
        assert row == pixels + [float(i == y) for i in range(5)] + [float(i == x) for i in range(5)]
    assert 0 <= min(codes) and max(codes) < vision.N_CODES


@pytest.mark.parametrize("image", [IMAGE[:29], (*IMAGE[:29], "#")])
def test_an_image_of_another_size_is_refused(image):
    with pytest.raises(ValueError, match="30 lines of 30 characters"):
        vision.patch_codes(image)


def test_text_is_embedded_as_without_images():
    plain, made = gpt(image=False), gpt()
    text = torch.tensor([[3, 1, 4, 1, 5]])
    made.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(text), made(text))
    assert plain.patches is None and sum(p.numel() for p in made.parameters()) > sum(
        p.numel() for p in plain.parameters())


def test_patches_are_embedded_by_the_encoder():
    made, codes = gpt(), torch.tensor(vision.patch_codes(IMAGE)[:3])
    ids = torch.cat((torch.tensor([7]), codes + 30, torch.tensor([29])))
    want = torch.cat((made.embedding(ids[:1]), made.patches(codes), made.embedding(ids[-1:])))
    assert torch.allclose(made.embed(ids), want, atol=1e-6)


def test_both_samplers_read_images_and_the_loss_has_their_log_probs():
    made = gpt()
    images = [[30 + code for code in vision.patch_codes(IMAGE[k:] + IMAGE[:k])] for k in (0, 1)]
    prompts = [images[0] + [5, 6], images[1] + [5, 6], [5, 6]]
    how = dict(stop=28, pad=29)
    slow, fast = (generate(made, prompts, 3, 12, **how) for generate in (
        sample.generate, sampler.generate))
    assert torch.equal(slow.tokens, fast.tokens)
    assert torch.allclose(slow.logp, fast.logp, atol=1e-4)
    with torch.no_grad():
        logp, _ = made.logprobs(slow.tokens, slow.mask)
    assert torch.allclose(slow.logp, logp, atol=1e-4)
    first = [slow.logp[3 * i][slow.mask[3 * i] > 0][0] for i in range(3)]
    assert len(set(map(float, first))) == 3  # the image decides what comes next
    with pytest.raises(ValueError, match="outside the vocabulary"):
        sample.generate(made, [[30 + vision.N_CODES]], 1, 4, **how)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        sample.generate(gpt(image=False), prompts, 1, 4, **how)


def test_the_encoder_learns():
    made = gpt()
    tokens = torch.tensor([[30 + code for code in vision.patch_codes(IMAGE)] + [5, 6]])
    mask = torch.zeros(1, 27)
    mask[0, -1] = 1
    made.logp(tokens, mask).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in made.patches.parameters())


def test_no_hugging_face_format_has_it():
    with pytest.raises(ValueError, match="images"):
        hf_config.hf_config(gpt().config)


# --- task diagrams

@pytest.mark.parametrize("kind", tasks.TASKS["diagrams"].kinds[2])
def test_the_answer_follows_from_what_is_seen(kind):
    task, rng = tasks.TASKS["diagrams"](2), random.Random(1)
    toy, longest = tokenizer.Tokenizer.toy(task.words), 0
    problems = [p for p in task.sample(rng, 200) if p.category == kind]
    assert len(problems) > 20
    for problem in problems:
        text = task.document(rng, problem, drill=True)
        assert task.correct(problem, text) and "easy" not in text
        ids = toy.encode_problem(problem)
        assert len(ids) > 25 and min(ids[:25]) >= toy.n_vocab > max(ids[25:])
        longest = max(longest, len(toy.encode(text)))
    assert longest < task.max_new_tokens
    answers = [p.answer for p in problems]
    assert max(map(answers.count, answers)) < 0.6 * len(answers)  # no answer is a safe guess


def test_the_drawing_shows_what_is_asked():
    task = tasks.TASKS["diagrams"](2)
    for problem in task.sample(random.Random(2), 200):
        if problem.category == "bars":
            heights = [sum(line[6 * i + 3] == "#" for line in problem.image) / 3 for i in range(5)]
            taller, shorter = (heights["ABCDE".index(problem.question.split()[k])] for k in (4, -1))
            assert taller - shorter == int(problem.answer)
        if problem.category == "add":
            black = sum(line.count("#") for line in problem.image)
            ink = [sum(line.count("#") for line in digit) for digit in tasks.diagrams.DIGITS]
            assert black == sum(ink[int(word)] for word in problem.solution.split())


def test_where_the_model_looks():
    """The attention of the token before, as a mean over layers and heads of the model's own."""
    made, toy = gpt(), [30 + code for code in vision.patch_codes(IMAGE)]
    tokens = torch.tensor([toy + [5, 6, 7], toy[::-1] + [7, 6, 5]])
    looks = watch.attention_to_patches(made, tokens)
    watched = watch.Watched(2, 28)
    assert torch.allclose(made(tokens, watched), made(tokens), atol=1e-5)
    assert torch.allclose(watched.seen.sum(-1), torch.ones(2, 28), atol=1e-5)
    assert not watched.seen.triu(1).any() and looks.shape == (2, 28, 25)
    assert torch.equal(looks[:, 1:], watched.seen[:, :-1, :25]) and not looks[:, 0].any()


def test_a_run_records_images_and_where_the_policy_looks(tmp_path):
    flags = ("--task diagrams --size nano --base-steps 2 --steps 1 --prompts 4 --group-size 4 "
             "--minibatches 1 --max-new-tokens 6 --eval-problems 4 --eval-samples 2 --eval-every 1 "
             "--device cpu").split()
    assert train.main([*flags, "--out", str(tmp_path / "run")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    assert {line["kind"] for line in lines} == {"held-out", "group"}
    assert all(len(vision.patch_codes(line["image"])) == 25 for line in lines)
    looks = [response["attention"] for line in lines if line["kind"] == "group"
             for response in line["responses"] if "attention" in response]
    assert looks and all(len(look) == 25 and 0 <= sum(look) <= 105 for x in looks for look in x)
    assert '"image":' in (tmp_path / "run" / "report.html").read_text()


# --- the recipe

def test_shuffled_images_are_those_of_another_problem_of_the_kind():
    problems = tasks.TASKS["diagrams"](2).held_out(40)
    changed = recipe.shuffled(problems)
    assert sorted(p.image for p in changed) == sorted(p.image for p in problems)
    for p, other in zip(problems, changed, strict=True):
        assert (p.question, p.answer, p.category) == (other.question, other.answer, other.category)
        source = next(x for x in problems if x.image == other.image)
        assert source.category == p.category and source is not p
    assert {p.image for p in recipe.blank(problems)} == {recipe.BLANK}


def test_the_recipe_in_short(tmp_path, capsys):
    flags = "--size nano --base-steps 1 --prompts 2 --group-size 4 --max-new-tokens 6"
    argv = ["--seeds", "1", "--steps", "1", "--held-out", "20", "--flags",
            f"{flags} --minibatches 1", "--work", str(tmp_path / "work"), "--docs",
            str(tmp_path / "docs")]
    assert recipe.main(argv) == 0
    found = json.loads((tmp_path / "work" / "seed-1" / "result.json").read_text())
    assert len(found["examples"]) == 5 and len(found["RL curve"]) == 1
    text = (tmp_path / "docs" / "recipes" / "vision.md").read_text()
    assert "| RL, shown shuffled images |" in text and "| RL | RL, blank |" in text
    assert (tmp_path / "docs" / "img" / "vision.png").exists() and capsys.readouterr().out
