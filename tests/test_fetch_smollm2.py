"""bench/fetch_smollm2.py: rows, roundings and files as Hugging Face has them; no download."""

import pytest
import torch

pytest.importorskip("gguf")
np = pytest.importorskip("numpy")
from bench import fetch_smollm2 as fetch  # noqa: E402


def as_llama_cpp(rows, heads):
    """Its conversion: row i and row i + d/2 of a head become neighbours."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_the_rows_of_wq_and_wk_come_back_in_order(heads):
    rows = np.arange(heads * 8 * 5, dtype=np.float32).reshape(heads * 8, 5)
    assert heads * 8 == len(rows) and not (as_llama_cpp(rows, heads) == rows).all()
    assert (fetch.halves(as_llama_cpp(rows, heads), heads) == rows).all()


def test_bf16_rounds_as_torch_does():
    x = torch.randn(10_000) * 10 ** torch.randint(-5, 5, (10_000,))
    x = torch.cat([x, torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, -1.00390625])])  # ties
    ours = torch.from_numpy(fetch.bf16(x.numpy()).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours, x.bfloat16())


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_file_is_read_by_safetensors(tmp_path, dtype):
    load_file = pytest.importorskip("safetensors.torch").load_file
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float32)}
    fetch.write_safetensors(tmp_path / "x.safetensors", tensors.items(), dtype)
    loaded = load_file(tmp_path / "x.safetensors")
    assert {name: x.tolist() for name, x in loaded.items()} == {
        name: x.tolist() for name, x in tensors.items()}


@pytest.mark.parametrize("name, expected", [
    ("token_embd.weight", "model.embed_tokens.weight"), ("output_norm.weight", "model.norm.weight"),
    ("blk.12.attn_k.weight", "model.layers.12.self_attn.k_proj.weight"),
    ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight")])
def test_names(name, expected):
    assert fetch.hf_name(name) == expected
