"""Text through a decoder a layer at a time: transformers' numbers, also after AWQ's folding."""

import pytest
import torch
import torch.nn.functional as F

from quire.quant.create.methods import fold_into_norm, fold_into_up, fold_into_values
from quire.quant.create.walk import Walk, WatchedLayer
from tests.quant.create.tiny import CASES, TOKENS, make, walk

BLOCKS = 3


def tokens() -> torch.Tensor:
    return torch.randint(96, (BLOCKS, TOKENS), generator=torch.Generator().manual_seed(0))


def logits(walk: Walk, change=lambda layer: None) -> torch.Tensor:
    ends = walk.ends()
    hidden = ends.embed(tokens())
    for index in range(walk.spec.num_layers):
        layer = walk.layer(index)
        change(layer)
        walk.advance(layer, hidden)
    held = ends.tensors(torch.float32)
    head = held.get("lm_head.weight", held["model.embed_tokens.weight"])
    return F.linear(ends._norm(hidden), head)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_layers_compute_what_transformers_computes(case, tmp_path):
    expected = make(case, tmp_path)(tokens()).logits
    torch.testing.assert_close(logits(walk(tmp_path)), expected, atol=2e-5, rtol=1e-4)


def fold(layer: WatchedLayer, dtype: torch.dtype) -> None:
    """By random scales that spread over a factor of ten."""
    spec = layer.spec

    def scales(size: int) -> torch.Tensor:
        return torch.exp(torch.rand(size) * 2.3 - 1.15)

    fold_into_norm(layer.layer.attention_norm, layer.qkv, scales(spec.hidden_size), dtype)
    fold_into_norm(layer.layer.mlp_norm, layer.gate_up, scales(spec.hidden_size), dtype)
    shared = scales(spec.num_kv_heads * spec.head_dim).view(spec.num_kv_heads, 1, spec.head_dim)
    repeats = spec.num_heads // spec.num_kv_heads
    fold_into_values(layer, shared.expand(-1, repeats, -1).reshape(-1))
    fold_into_up(layer, scales(spec.intermediate_size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_folding_scales_changes_nothing(case, dtype, tmp_path):
    """Not even when the norms' weights are rounded: what that leaves of a scale is made up for."""
    torch.manual_seed(2)
    expected = make(case, tmp_path)(tokens()).logits
    found = logits(walk(tmp_path), lambda layer: fold(layer, dtype))
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-3)


@torch.inference_mode()
def test_a_norm_that_rounds_to_zero_is_left_alone(tmp_path):
    make("Llama", tmp_path)
    layer = walk(tmp_path).layer(0)
    norm, site = layer.layer.attention_norm, layer.qkv
    norm.weight[3] = 0.0
    norm.weight[5] = 1e-6
    before = site.weight.clone()
    scales = torch.full((64,), 2.0)
    scales[5] = 1e6
    used = fold_into_norm(norm, site, scales, torch.float16)
    assert used[3] == 1 and used[5] == 1
    assert torch.equal(site.weight[:, [3, 5]], before[:, [3, 5]])
    assert torch.equal(site.weight[:, 0], before[:, 0] * used[0])


@torch.inference_mode()
def test_sums_are_those_of_the_inputs(tmp_path):
    """The Gram matrix of the down projection's input, against transformers' own input."""
    model = make("Qwen2", tmp_path)
    seen = []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(tokens())
    x = seen[0].flatten(0, 1).double()
    stepped = walk(tmp_path)
    layer, hidden = stepped.layer(0), stepped.ends().embed(tokens())
    before = hidden.clone()
    grams = stepped.collect(layer, layer.sites, hidden)
    assert torch.equal(hidden, before)
    expected = (x.T @ x / len(x)).float()
    torch.testing.assert_close(grams[3].matrix, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(grams[3].activity, x.abs().mean(0).float(), atol=1e-5, rtol=1e-3)
    (alone,) = stepped.collect(layer, [layer.gate_up], hidden)
    torch.testing.assert_close(alone.matrix, grams[2].matrix)
