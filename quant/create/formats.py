"""Formats: a quantized layer as the tensors of a checkpoint, and what config.json says of them.

``gemm`` is AutoAWQ's, ``gptq`` is what AutoGPTQ and GPTQModel write, ``compressed-tensors`` is
llm-compressor's, ``fp8`` is transformers' own with scales of blocks.
"""

from __future__ import annotations

from typing import Any

import torch

from ... import __version__
from ..packing import pack
from ..weights import Float8Weight, GroupedWeight, Weight
from .recipe import Recipe

__all__ = ("describe", "tensors")

# Column c of eight stands at the place _AWQ_PLACES[c] of its word.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def tensors(
    name: str, value: Weight, recipe: Recipe, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A layer's tensors by their names in the checkpoint, its bias not among them.

    Args:
        name: of the module.
        value: what to store.
        recipe: how it was made.
        dtype: of what is stored in the model's own.
    """
    if isinstance(value, GroupedWeight):
        stored = _gemm(value) if recipe.method == "awq" else _gptq(value, recipe)
    elif isinstance(value, Float8Weight):
        if value.block is None:
            stored = {"weight": value.values, "weight_scale": value.scales.to(dtype)}
        else:
            stored = {"weight": value.values, "weight_scale_inv": value.scales}
    else:
        stored = {"weight": value.values, "weight_scale": value.scales.to(dtype)}
    return {f"{name}.{kind}": tensor for kind, tensor in stored.items()}


def describe(recipe: Recipe) -> dict[str, Any]:
    """``quantization_config`` of config.json."""
    if recipe.method == "awq":
        return {
            "quant_method": "awq",
            "bits": recipe.bits,
            "group_size": recipe.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": None,
        }
    if recipe.method == "gptq":
        return {
            "quant_method": "gptq",
            "bits": recipe.bits,
            "group_size": recipe.group_size,
            "desc_act": recipe.desc_act,
            "sym": recipe.symmetric,
            "lm_head": False,
            "checkpoint_format": "gptq_v2" if _second_version(recipe) else "gptq",
            "pack_dtype": "int32",
            "damp_percent": recipe.damping,
            "meta": {"quantizer": [f"quire:{__version__}"]},
        }
    if recipe.blocks:
        return {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [recipe.block, recipe.block],
            "modules_to_not_convert": ["lm_head"],
        }
    return _compressed("float" if recipe.method == "fp8" else "int")


def _second_version(recipe: Recipe) -> bool:
    """Zero points go into the second version: readers differ in what they make of the first's."""
    return not recipe.symmetric


def _gemm(value: GroupedWeight) -> dict[str, torch.Tensor]:
    zeros = value.zeros
    if zeros is None:
        zeros = torch.full_like(value.scales, 2 ** (value.bits - 1)).to(torch.uint8)
    return {
        "qweight": pack(_awq_order(value.codes.T), value.bits),
        "qzeros": pack(_awq_order(zeros.T), value.bits),
        "scales": value.scales.T.half(),
    }


def _gptq(value: GroupedWeight, recipe: Recipe) -> dict[str, torch.Tensor]:
    codes, middle = value.codes.T, 2 ** (value.bits - 1)
    index = torch.arange(len(codes), device=codes.device) // value.group_size
    if value.order is not None:
        codes = torch.empty_like(codes).index_copy_(0, value.order, codes)
        index = torch.empty_like(index).index_copy_(0, value.order, index)
    zeros = value.zeros
    if zeros is None:
        zeros = torch.full_like(value.scales, middle).to(torch.uint8)
    # The first version of the format stores zero points less one.
    stored = zeros.T if _second_version(recipe) else zeros.T - 1
    return {
        "qweight": pack(codes.T, value.bits).T,
        "qzeros": pack(stored, value.bits),
        "scales": value.scales.T.half(),
        "g_idx": index.to(torch.int32),
    }


def _awq_order(codes: torch.Tensor) -> torch.Tensor:
    """[R, N] with each eight columns in the order in which a word holds them."""
    places = [_AWQ_PLACES.index(place) for place in range(len(_AWQ_PLACES))]
    eights = codes.reshape(len(codes), -1, len(places))
    return eights.index_select(2, torch.tensor(places, device=codes.device)).flatten(1)


def _compressed(kind: str) -> dict[str, Any]:
    """compressed-tensors: a scale an output, activations scaled token by token as they come."""
    form = f"{kind}-quantized"
    common: dict[str, Any] = {"num_bits": 8, "type": kind, "symmetric": True}
    group = {
        "format": form,
        "targets": ["Linear"],
        "weights": common | {"dynamic": False, "strategy": "channel"},
        "input_activations": common | {"dynamic": True, "strategy": "token"},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }
