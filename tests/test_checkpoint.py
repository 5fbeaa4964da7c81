"""infra/checkpoint.py: models equal those of transformers for each architecture, read and written.
Unsupported settings are refused by name, and hostile files end in ValueError."""

import copy
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

import model as gpt
import sample
from engine import sampler
from infra import bpe, checkpoint, hf_config, run_dir, tensors

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
VOCAB, PAD = 60, 0
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # so that pairs are kept, blended and slowed
CASES = {  # architecture, and what is not as in the plain one
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama-wide": ("Llama", dict(head_dim=12, num_key_value_heads=1)),
    "llama3": ("Llama", dict(rope_theta=5e3, rope_scaling=LLAMA3, head_dim=16)),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", dict(tie_word_embeddings=True, num_key_value_heads=4)),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3-tied": ("Qwen3", dict(head_dim=12, tie_word_embeddings=True, rms_norm_eps=1e-2)),
}
every = pytest.mark.parametrize("case", CASES)


def theirs_of(case):
    """A random model of transformers, far from uniform, so that mistakes show."""
    kind, changes = CASES[case]
    made = getattr(transformers, f"{kind}Config")(**dict(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=3, pad_token_id=PAD) | changes)
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(made).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
            elif name.endswith("bias"):
                weight.normal_()
            else:
                weight.uniform_(0.3, 1.5)  # more, and rounding alone is 1e-4
    return theirs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """case -> (folder, transformers' model), made once and read only."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = tmp_path_factory.mktemp(case), theirs_of(case)
            made[case][1].save_pretrained(made[case][0])
        return made[case]
    return get


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the plain Llama, for tests that change it."""
    return shutil.copytree(saved("llama")[0], tmp_path / "copy")


def ids(n=2, t=60):
    return torch.randint(1, VOCAB, (n, t), generator=torch.Generator().manual_seed(1))


def logits(model, tokens):
    with torch.no_grad():
        return model.lm_head(model(tokens))


def close(a, b):
    return torch.allclose(a, b, atol=1e-4, rtol=0)


def edit(path, **changes):
    """Rewrites a config.json; a key with the value ... is removed."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def write(path, named):
    with open(path, "wb") as file:
        tensors.write_safetensors(named, file)


# --- numbers equal to those of transformers

@every
def test_logits_equal_transformers(saved, case):
    path, theirs = saved(case)
    with torch.no_grad():
        want = theirs(ids()).logits
    assert want.std() > 0.5  # far from uniform
    assert close(logits(checkpoint.load_pretrained(path), ids()), want)


@every
def test_cached_logits_equal_transformers(saved, case):
    path, theirs = saved(case)
    model, tokens = checkpoint.load_pretrained(path), ids(18)  # enough rows for the plain products
    cache, parts = sample.KVCache(model.config, 18, 60), []
    with torch.no_grad():
        for first, last in ((0, 50), *((t, t + 1) for t in range(50, 60))):
            parts.append(model(tokens[:, first:last], cache.next_tokens(last - first)))
            cache.lengths = cache.lengths + last - first
        assert close(model.lm_head(torch.cat(parts, 1)), theirs(tokens).logits)


@every
def test_ragged_greedy_sampling_equals_transformers(saved, case):
    path, theirs = saved(case)
    prompts = [ids()[0, :n].tolist() for n in (3, 40, 1, 11)]
    found = sampler.generate(checkpoint.load_pretrained(path), prompts, 1, 20, 0, stop=[], pad=PAD)
    tokens = torch.tensor([[PAD] * (40 - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (40 - len(p)) + [1] * len(p) for p in prompts])
    want = theirs.generate(tokens, attention_mask=seen, do_sample=False, max_new_tokens=20,
                           eos_token_id=None, pad_token_id=PAD)
    assert found.responses() == want[:, 40:].tolist()


@every
def test_gradients_equal_transformers(saved, case):
    """The gradients of the loss are equal too."""
    path, theirs = saved(case)
    theirs, model, tokens = copy.deepcopy(theirs), checkpoint.load_pretrained(path), ids()
    theirs(tokens, labels=tokens).loss.backward()
    (-model.logp(tokens, torch.ones(2, 60)).sum() / (2 * 59)).backward()
    for weight in model.parameters():
        weight.data = weight.grad
    for name, grad in checkpoint.hf_tensors(model).items():
        assert torch.allclose(grad, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-3), name


@every
def test_transformers_reads_saved_models(saved, case, tmp_path):
    path, theirs = saved(case)
    checkpoint.save_pretrained(checkpoint.load_pretrained(path), tmp_path)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(back) is type(theirs) and back.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(back(ids()).logits, theirs(ids()).logits)


@every
@pytest.mark.parametrize("dtype", tensors.DTYPES.values(), ids=str)
def test_saved_and_loaded_again_is_equal_to_the_last_bit(saved, case, dtype, tmp_path):
    first = checkpoint.load_pretrained(saved(case)[0], dtype=dtype)
    checkpoint.save_pretrained(first, tmp_path)
    again = checkpoint.load_pretrained(tmp_path)  # the file's precision
    assert again.config == first.config and again.rope_cache.dtype == torch.float32
    assert (again.lm_head.weight is again.embedding.weight) == ("tied" in case)
    a, b = first.state_dict(), again.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(x.to(dtype), b[name].to(dtype)) for name, x in a.items())
    assert {x.dtype for x in a.values() if x.dim() == 2} == {dtype}
    assert {x.dtype for name, x in a.items() if "norm" in name} == {torch.float32}


def test_bfloat16_is_kept_and_is_near_transformers(saved, tmp_path):
    theirs = copy.deepcopy(saved("qwen3")[1]).bfloat16()
    theirs.save_pretrained(tmp_path)
    model = checkpoint.load_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters() if p.dim() == 2} == {torch.bfloat16}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        want, exact = theirs(ids()).logits.float(), saved("qwen3")[1](ids()).logits
    found = logits(model, ids()).float()
    assert (found - exact).abs().mean() < 1.2 * (want - exact).abs().mean()  # no worse than theirs


@pytest.mark.parametrize("index", [True, False])
def test_several_files(saved, tmp_path, index):
    path, theirs = saved("qwen2")
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    if not index:
        (tmp_path / "model.safetensors.index.json").unlink()
    a, b = (checkpoint.load_pretrained(p).state_dict() for p in (path, tmp_path))
    assert all(torch.equal(x, b[name]) for name, x in a.items())


def test_older_and_newer_forms_of_the_rope_parameters(folder):
    old = {k: v for k, v in LLAMA3.items() if k != "rope_type"} | {"type": "llama3"}
    for changes in (dict(rope_parameters=LLAMA3 | {"rope_theta": 5e3}),
                    dict(rope_parameters=..., rope_theta=5e3, rope_scaling=LLAMA3),
                    dict(rope_parameters=None, rope_theta=5000, rope_scaling=old)):
        edit(folder / "config.json", **changes)
        config = checkpoint.load_pretrained(folder).config
        assert config.rope_theta == 5e3 and config.rope_scaling == (8, 1, 4, 32)
        edit(folder / "config.json", rope_theta=..., rope_scaling=...)
    edit(folder / "config.json", rope_parameters=..., rope_theta=7e3, rope_scaling=None)
    config = checkpoint.load_pretrained(folder).config
    assert config.rope_theta == 7e3 and config.rope_scaling == ()


LLAMA_3_2 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
             "original_max_position_embeddings": 8192, "rope_type": "llama3"}


def published(kind, vocab, width, layers, heads, kv_heads, hidden, **more):
    return {"architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower(),
            "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_act": "silu",
            "intermediate_size": hidden, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
            "tie_word_embeddings": True, "attention_dropout": 0.0, "use_cache": True,
            "transformers_version": "4.45.0", "bos_token_id": 1, "initializer_range": 0.02} | more


@pytest.mark.parametrize("config, parameters", [
    (published("Llama", 49152, 576, 30, 9, 3, 1536, max_position_embeddings=8192,  # SmolLM2-135M
               rope_theta=100000, rope_scaling=None, rope_interleaved=False, pretraining_tp=1,
               is_llama_config=True, attention_bias=False, mlp_bias=False), 134_515_008),
    (published("Llama", 128256, 2048, 16, 32, 8, 8192, max_position_embeddings=131072,  # 3.2-1B
               rope_theta=500000.0, rope_scaling=LLAMA_3_2, head_dim=64, pretraining_tp=1,
               attention_bias=False, mlp_bias=False), 1_235_814_400),
    (published("Qwen2", 151936, 896, 24, 14, 2, 4864, max_position_embeddings=32768,  # 2.5-0.5B
               rope_theta=1000000.0, sliding_window=32768, use_sliding_window=False,
               max_window_layers=24), 494_032_768),
    (published("Qwen3", 151936, 1024, 28, 16, 8, 3072, max_position_embeddings=40960,  # 0.6B
               rope_theta=1000000, rope_scaling=None, head_dim=128, attention_bias=False,
               sliding_window=None, use_sliding_window=False, max_window_layers=28), 596_049_920)])
def test_published_configs(config, parameters):
    with torch.device("meta"):
        model = gpt.GPT(hf_config.parse_config(config))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.config.context == min(config["max_position_embeddings"], hf_config.MAX_CONTEXT)


def test_the_angles_of_a_real_llama():
    """The RoPE frequencies of Llama 3.2 1B."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    theirs = transformers.LlamaConfig(head_dim=64, rope_theta=5e5, rope_scaling=LLAMA_3_2)
    want = ROPE_INIT_FUNCTIONS["llama3"](theirs)[0]
    theta, scaling = hf_config.parse_rope(dict(rope_theta=5e5, rope_scaling=LLAMA_3_2))
    found = gpt.inv_freq(gpt.Config(60, head_dim=64, rope_theta=theta, rope_scaling=scaling))
    assert torch.allclose(found, want, rtol=1e-6, atol=0)


def test_context(saved, folder):
    short = checkpoint.load_pretrained(folder)
    assert short.config.context == short.rope_cache.shape[0] == 64
    edit(folder / "config.json", max_position_embeddings=131072)
    long = checkpoint.load_pretrained(folder)
    assert long.config.context == long.rope_cache.shape[0] == hf_config.MAX_CONTEXT
    assert close(logits(short, ids()), logits(long, ids()))


# --- a model like any other

def test_a_loaded_model_copies_trains_and_saves_as_ours(saved, tmp_path):
    model = checkpoint.load_pretrained(saved("qwen3-tied")[0])
    tensors.save(tmp_path / "a.pt", gpt.to_state(model))
    back = gpt.from_state(tensors.load(tmp_path / "a.pt"))
    assert back.config == model.config and torch.equal(back(ids()), model(ids()))
    other = copy.deepcopy(model)
    other.logp(ids(), torch.ones(2, 60)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in other.parameters())
    assert other.lm_head.weight is other.embedding.weight is not model.embedding.weight


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_made_here_is_a_llama_there(tied, tmp_path):
    torch.manual_seed(0)
    made = gpt.GPT(gpt.Config(VOCAB, 64, 2, 32, 4, 2, 48, tied=tied))
    checkpoint.save_pretrained(made, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    assert theirs.config.bos_token_id is None and theirs.config.eos_token_id is None
    with torch.no_grad():
        assert close(theirs(ids()).logits, logits(made, ids()))
    assert checkpoint.load_pretrained(tmp_path).config == made.config


def test_the_views_cover_the_model_once():
    c = gpt.Config(VOCAB, 64, 2, 32, 4, 2, 48, head_dim=12, tied=False)
    for changes in ({}, dict(qkv_bias=True), dict(qk_norm=True)):
        model = gpt.GPT(gpt.Config(**vars(c) | changes))
        for view in checkpoint.hf_tensors(model).values():
            view.fill_(7.0)
        assert all((p == 7).all() for p in model.parameters())
        count = sum(view.numel() for view in checkpoint.hf_tensors(model).values())
        assert count == sum(p.numel() for p in model.parameters())


# --- saving

def test_like_keeps_the_tokenizer_and_the_other_settings(folder, tmp_path):
    edit(folder / "config.json", max_position_embeddings=8192, note="kept", eos_token_id=[3, 4])
    for name in ("tokenizer.json", "merges.txt"):
        (folder / name).write_text(name)
    (folder / "pytorch_model.bin").write_text("not copied")
    model = checkpoint.load_pretrained(folder)
    for out in (tmp_path / "new", folder):  # also over itself
        checkpoint.save_pretrained(model, out, like=folder)
        there = json.loads((out / "config.json").read_text())
        assert there["max_position_embeddings"] == 8192 and there["note"] == "kept"
        assert there["eos_token_id"] == [3, 4] and there["pad_token_id"] == PAD
        assert (out / "merges.txt").read_text() == "merges.txt"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "config.json", "generation_config.json", "merges.txt", "model.safetensors",
        "tokenizer.json"]
    other = gpt.GPT(gpt.Config(VOCAB, 64, 3, 32, 4, 2, 48))
    with pytest.raises(ValueError, match="another kind of model"):
        checkpoint.save_pretrained(other, tmp_path / "third", like=folder)
    assert not (tmp_path / "third").exists()


@every
def test_like_in_another_precision_is_read_by_transformers(saved, case, tmp_path):
    path, theirs = saved(case)
    model = checkpoint.load_pretrained(path, dtype=torch.bfloat16)
    checkpoint.save_pretrained(model, tmp_path, like=path)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert back.dtype == torch.bfloat16 and back.config.eos_token_id == 3
    assert back.config.rope_parameters == theirs.config.rope_parameters
    assert checkpoint.load_pretrained(tmp_path).config == model.config


def test_saving_refuses_models_without_an_architecture_and_folders_in_use(tmp_path, saved):
    made = lambda **more: gpt.GPT(gpt.Config(VOCAB, 64, 1, 32, 4, 2, 48, **more))  # noqa: E731
    with pytest.raises(ValueError, match="both biases"):
        checkpoint.save_pretrained(made(qkv_bias=True, qk_norm=True), tmp_path / "a")
    with pytest.raises(ValueError, match="float64"):
        checkpoint.save_pretrained(made().double(), tmp_path / "a")
    (tmp_path / "config.json").write_text('{"algo": "grpo"}')  # a run's folder
    with pytest.raises(ValueError, match="name another folder"):
        checkpoint.save_pretrained(made(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    saved("llama")[1].save_pretrained(tmp_path / "b", max_shard_size="20KB")
    with pytest.raises(ValueError, match="several files"):
        checkpoint.save_pretrained(made(), tmp_path / "b")


def test_a_save_that_fails_leaves_the_old_file(folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()
    model = checkpoint.load_pretrained(folder)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28)))
    with pytest.raises(OSError):
        checkpoint.save_pretrained(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(folder.glob("*.partial"))


# --- unsupported settings are refused by name

@pytest.mark.parametrize("changes, named", [
    (dict(architectures=["MistralForCausalLM"]), "MistralForCausalLM"),
    (dict(architectures=None), "architectures"),
    (dict(model_type="qwen2"), "qwen2"),
    (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (dict(attention_bias=True), "attention_bias"), (dict(mlp_bias=True), "mlp_bias"),
    (dict(attention_dropout=0.1), "attention_dropout"),
    (dict(pretraining_tp=2), "pretraining_tp"),
    (dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(auto_map={"AutoModel": "x.Y"}), "auto_map"),
    (dict(rope_interleaved=True), "rope_interleaved"),
    (dict(sliding_window=16), "sliding_window"), (dict(use_sliding_window=True), "use_sliding"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "layer_types"),
    (dict(head_dim=7), "width 7"), (dict(num_key_value_heads=3), "3 key/value"),
    (dict(hidden_size="32"), "hidden_size is '32'"), (dict(vocab_size=-1), "vocab_size"),
    (dict(vocab_size=True), "vocab_size"), (dict(vocab_size=6e1), "60.0, not a whole"),
    (dict(num_hidden_layers=...), "num_hidden_layers"),
    (dict(rms_norm_eps=0), "rms_norm_eps"), (dict(tie_word_embeddings=1), "tie_word_embeddings"),
    (dict(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "'yarn'"),
    (dict(rope_parameters=..., rope_scaling={"type": "linear", "factor": 2.0}), "'linear'"),
    (dict(rope_parameters=..., rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic'"),
    (dict(rope_parameters={"rope_type": "default", "factor": 4.0}), "factor"),
    (dict(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    (dict(rope_parameters={"full_attention": {"rope_theta": 1e4}}), "full_attention"),
    (dict(rope_parameters={"rope_theta": -1}), "rope_theta is -1"),
    (dict(rope_parameters=LLAMA3 | {"factor": None}), "lacks factor"),
    (dict(rope_parameters=LLAMA3 | {"factor": "8"}), "factor is '8'"),
    (dict(rope_parameters=LLAMA3 | {"low_freq_factor": 4.0}), "low_freq_factor"),
    (dict(rope_parameters=LLAMA3, rope_scaling=LLAMA3), "both given"),
    (dict(rope_parameters=[1]), "rope parameters"),
], ids=lambda x: x if isinstance(x, str) else None)
def test_configs_are_refused_by_name(folder, changes, named):
    edit(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=named) as error:
        checkpoint.load_pretrained(folder)
    assert "config.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["qwen2", "qwen3"])
def test_sliding_windows_in_use_are_refused_and_unused_ones_not(saved, case, tmp_path):
    path = shutil.copytree(saved(case)[0], tmp_path / "copy")
    edit(path / "config.json", use_sliding_window=False, sliding_window=16, layer_types=...)
    checkpoint.load_pretrained(path)
    edit(path / "config.json", use_sliding_window=True)
    with pytest.raises(ValueError, match="use_sliding_window"):
        checkpoint.load_pretrained(path)


def test_weights_that_do_not_fit_are_named(folder):
    path = folder / "model.safetensors"
    good = {name: x.clone() for name, x in tensors.read_safetensors(path).items()}

    def refused(change, match):
        write(path, good | change)
        with pytest.raises(ValueError, match=match):
            checkpoint.load_pretrained(folder)
    q = "model.layers.1.self_attn.q_proj.weight"
    refused({"model.extra": torch.ones(2)}, "the GPT has no place for model.extra")
    refused({q: torch.ones(32, 16)},
            f"{q} has the shape .32, 16., but config.json makes it .32, 32.")
    refused({q: good[q].bfloat16()}, "several precisions")
    write(path, {name: x for name, x in good.items() if name != q})
    with pytest.raises(ValueError, match=f"no {q}"):
        checkpoint.load_pretrained(folder)
    write(path, good | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    checkpoint.load_pretrained(folder)  # old Llamas have it, and it says nothing new
    write(path, good | {q: good[q].bfloat16()})
    assert checkpoint.load_pretrained(folder, dtype=torch.float32).norm.dtype == torch.float32
    write(folder / "model-2.safetensors", {q: good[q]})
    path.rename(folder / "model-1.safetensors")
    with pytest.raises(ValueError, match="also in another file"):
        checkpoint.load_pretrained(folder)


def test_a_tied_head_may_be_written_but_not_differ(saved, tmp_path):
    path = shutil.copytree(saved("llama-tied")[0], tmp_path / "copy")
    file = path / "model.safetensors"
    good = {name: x.clone() for name, x in tensors.read_safetensors(file).items()}
    embedding = good["model.embed_tokens.weight"]
    write(file, good | {"lm_head.weight": embedding})
    assert torch.equal(checkpoint.load_pretrained(path).lm_head.weight, embedding)
    write(file, good | {"lm_head.weight": embedding + 1})
    with pytest.raises(ValueError, match="lm_head.weight is not"):
        checkpoint.load_pretrained(path)
    edit(path / "config.json", tie_word_embeddings=False)
    write(file, good)
    with pytest.raises(ValueError, match="no lm_head.weight"):
        checkpoint.load_pretrained(path)


def test_folders_without_a_model(folder, tmp_path):
    with pytest.raises(ValueError, match="nowhere holds no config.json"):
        checkpoint.load_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no model"):
        checkpoint.load_pretrained(folder)
    index = folder / "model.safetensors.index.json"
    for text, match in (('{"weight_map": {"a": "model-1.safetensors"}}', "lacks model-1"),
                        ('{"weight_map": {"a": "../x.safetensors"}}', "weight_map"),
                        ('{"weight_map": 3}', "weight_map"), ("[]", "JSON object"), ("{", "JSON")):
        index.write_text(text)
        with pytest.raises(ValueError, match=match):
            checkpoint.load_pretrained(folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not readable as JSON"):
        checkpoint.load_pretrained(folder)


# --- safetensors files

def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), data_offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


EIGHT = b"12345678"
BAD = {
    "empty": (b"", "too few"), "short": (b"1234567", "too few"),
    "no header": (EIGHT, "its header has"), "beyond": (raw({}, length=3), "its header has 3"),
    "absurd": (raw({}, length=2**63), "its header has"),
    "not JSON": (raw(b"{nonsense}"), "JSON"), "not UTF-8": (raw(b'{"\xff": 1}'), "JSON"),
    "list": (raw([]), "a JSON object"), "deep": (raw(b"[" * 100_000), "JSON"),
    "twice": (raw(b'{"a": 1, "a": 2}'), "same key twice"),
    "number": (raw({"a": 3}), "'a' is not described"),
    "lacking": (raw({"a": {"dtype": "F32", "shape": [2]}}, EIGHT), "'a' is not described"),
    "dtype": (raw({"a": entry("I64", [1])}, EIGHT), "'a' is of type 'I64'"),
    "no dtype": (raw({"a": entry(["F32"])}, EIGHT), "is of type"),
    "negative shape": (raw({"a": entry(shape=[-2])}, EIGHT), "shape"),
    "shape of floats": (raw({"a": entry(shape=[2.0])}, EIGHT), "shape"),
    "no shape": (raw({"a": entry(shape=2)}, EIGHT), "shape"),
    "no elements": (raw({"a": entry(shape=[0, 2**70], data_offsets=[0, 0])}), "shape"),
    "huge shape": (raw({"a": entry(shape=[2**40, 2**40])}, EIGHT), "bytes"),
    "negative": (raw({"a": entry(data_offsets=[-8, 0])}, EIGHT), "data_offsets"),
    "reversed": (raw({"a": entry(data_offsets=[8, 0])}, EIGHT), "data_offsets"),
    "three": (raw({"a": entry(data_offsets=[0, 8, 8])}, EIGHT), "data_offsets"),
    "size": (raw({"a": entry(shape=[3])}, EIGHT), "8 bytes, but F32 in the shape .3. takes 12"),
    "beyond data": (raw({"a": entry()}, b"1234"), "long, but"),
    "left over": (raw({"a": entry()}, EIGHT + b"9"), "long, but"),
    "gap": (raw({"a": entry(data_offsets=[8, 16])}, EIGHT * 2), "begins at byte 8"),
    "overlap": (raw({"a": entry(), "b": entry(data_offsets=[4, 12])}, EIGHT * 2), "'b' begins"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_are_refused_in_one_sentence(tmp_path, name):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD[name][0])
    with pytest.raises(ValueError, match=BAD[name][1]) as error:
        tensors.read_safetensors(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def small():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(5.0).bfloat16(),
            "c.weight": torch.randn(3, 1, 2).half(), "d": torch.tensor(4.0)}


def test_safetensors_of_the_format_s_own_library_and_ours(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    theirs, ours, want = tmp_path / "theirs", tmp_path / "ours", small()
    library.save_file(want, theirs, {"format": "pt"})
    write(ours, want)
    for found in tensors.read_safetensors(theirs), library.load_file(ours):
        assert found.keys() == want.keys()
        assert all(x.dtype == want[n].dtype and torch.equal(x, want[n]) for n, x in found.items())


def test_data_that_is_not_aligned(tmp_path):
    path = tmp_path / "a.safetensors"
    for spaces in range(8):
        text = json.dumps({"a": entry()}).encode() + b" " * spaces
        path.write_bytes(raw(text, torch.tensor([1.5, -2.0]).numpy().tobytes()))
        assert tensors.read_safetensors(path)["a"].tolist() == [1.5, -2.0]


def test_writing_to_a_tensor_does_not_change_its_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, small())
    before = path.read_bytes()
    tensors.read_safetensors(path)["a"].zero_()
    assert path.read_bytes() == before


def test_spoiled_files_are_read_or_refused(tmp_path):
    """Thousands of files with flipped, cut and added bytes: success or ValueError, nothing else."""
    path, rng, outcomes = tmp_path / "a.safetensors", random.Random(0), {True: 0, False: 0}
    write(path, small())
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for i in range(4000):
        spoiled = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(8 if i % 8 == 0 else header)
            spoiled[at] = rng.choice((rng.randrange(256), spoiled[at] ^ 1 << rng.randrange(8),
                                      rng.choice(b'0123456789-[]{}",:')))
        if i % 5 == 0:
            spoiled = spoiled[:rng.randrange(len(good) + 1)]
        elif i % 5 == 1:
            spoiled += bytes(rng.randrange(1, 9))
        path.unlink()  # a new file is quicker than one cut to nothing, which goes to the disk
        path.write_bytes(spoiled)
        try:
            found = tensors.read_safetensors(path)
            assert all(torch.isfinite(x.double().nan_to_num()).all() for x in found.values())
            outcomes[True] += 1
        except ValueError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 20


# --- the command line

def test_a_run_is_exported(tmp_path, capsys):
    torch.manual_seed(0)
    made = gpt.GPT(gpt.Config(VOCAB, 64, 2, 32, 4, 2, 48))
    (tmp_path / "run").mkdir()
    state = gpt.to_state(made) | {"format": run_dir.FORMAT}
    tensors.save(tmp_path / "run" / "checkpoint.pt", state)
    assert checkpoint.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    back = checkpoint.load_pretrained(tmp_path / "out")
    assert back.config == made.config and torch.equal(back(ids()), made(ids()))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("content, says", [
    (None, "has no checkpoint.pt"), (b"", "is no checkpoint"), (b"x" * 99, "is no checkpoint")])
def test_errors_are_one_sentence(tmp_path, capsys, content, says):
    if content is not None:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    assert checkpoint.main(["--run", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert says in err and err.count("\n") == 1 and not out


def test_an_empty_folder_name_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.main(["--run", str(tmp_path), "--out", ""]) == 2
    assert "--out: the name is empty" in capsys.readouterr().err and not os.listdir(tmp_path)


SMOLLM2 = Path(os.environ.get("SMOLLM2", Path(__file__).parents[2] / "smollm2"))


@pytest.mark.skipif(not SMOLLM2.exists(), reason="python bench/fetch_smollm2.py DIR; SMOLLM2=DIR")
def test_the_real_smollm2_equals_transformers():
    model = checkpoint.load_pretrained(SMOLLM2, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()
    speaks = bpe.from_json(SMOLLM2)
    prompt = speaks.encode("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
                           "<|im_start|>assistant\n", specials=True)
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        assert torch.allclose(logits(model, tokens), theirs(tokens).logits, atol=2e-4)
    found = sampler.generate(model, [prompt], 1, 20, 0, stop=speaks.specials["<|im_end|>"], pad=PAD)
    want = theirs.generate(tokens, do_sample=False, max_new_tokens=20)[0, len(prompt):].tolist()
    assert found.responses()[0] == want[:len(found.responses()[0])]
    assert "Paris" in speaks.decode(found.responses()[0])
