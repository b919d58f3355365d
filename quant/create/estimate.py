"""The estimate: time, memory and size of a job, from its shapes and a short measurement."""

from __future__ import annotations

import time

import msgspec
import torch

from ...core.layers.decoder import DecoderSpec
from .calibration import Blocks
from .recipe import Recipe

__all__ = ("Estimate", "estimate")

_PROBE_SECONDS = 0.2
_PROBE = 1024
_CANDIDATES = 41
_OPERATIONS_A_COLUMN = 9
_DOUBLE = 3
"""How much slower float64 is taken to be: 2 to 4 on a CPU, less on a data-center GPU."""


class Estimate(msgspec.Struct, frozen=True):
    """What a job will take.

    Attributes:
        seconds: of computing, reading and writing aside.
        memory: bytes on the device at the peak.
        bytes_before: of the weights.
        bytes_after: of the weights.
    """

    seconds: float
    memory: int
    bytes_before: int
    bytes_after: int


def estimate(
    recipe: Recipe,
    spec: DecoderSpec,
    blocks: Blocks | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Estimate:
    """Add a job up.

    Args:
        recipe: of the job.
        spec: of the model.
        blocks: of text, if any.
        dtype: of what stays unquantized.
        device: that computes.
    """
    layer = sum(rows * columns for _, rows, columns in spec.products())
    ends = (1 if spec.tied else 2) * spec.vocab_size * spec.hidden_size
    before = (layer * spec.num_layers + ends) * dtype.itemsize
    after = int(layer * spec.num_layers * _bits(recipe) / 8) + ends * dtype.itemsize
    rate, call = _measure(device)
    operations, columns = _work(recipe, spec, blocks)
    seconds = spec.num_layers * (operations / rate + columns * _OPERATIONS_A_COLUMN * call)
    return Estimate(seconds, _memory(recipe, spec, blocks, layer), before, after)


def _sites(spec: DecoderSpec) -> list[tuple[int, int]]:
    """Outputs and inputs of the four products of a layer."""
    sizes = {name: (rows, columns) for name, rows, columns in spec.products()}
    queries, keys = sizes["self_attn.q_proj"], sizes["self_attn.k_proj"]
    gate = sizes["mlp.gate_proj"]
    qkv, gate_up = (queries[0] + 2 * keys[0], queries[1]), (2 * gate[0], gate[1])
    return [qkv, sizes["self_attn.o_proj"], gate_up, sizes["mlp.down_proj"]]


def _bits(recipe: Recipe) -> float:
    """Of a weight, scales and zero points included."""
    if recipe.method not in ("awq", "gptq"):
        return recipe.bits
    share = 0 if recipe.group_size == -1 else (16 + recipe.bits) / recipe.group_size
    return recipe.bits + share


def _work(recipe: Recipe, spec: DecoderSpec, blocks: Blocks | None) -> tuple[float, int]:
    """Operations of a layer, and columns that are rounded one by one."""
    sites = _sites(spec)
    if blocks is None:
        return sum(20 * rows * columns for rows, columns in sites), 0
    tokens, held_out = blocks.calibration.numel(), blocks.held_out.numel()
    forward = sum(2 * rows * columns for rows, columns in sites)
    operations: float = forward * (tokens + 2 * held_out)
    operations += tokens * sum(2 * columns**2 for _, columns in sites)
    if recipe.method not in ("awq", "gptq"):
        return operations + forward * tokens, 0
    operations += sum(2 * r * c**2 + _DOUBLE * 4 / 3 * c**3 for r, c in sites)
    if recipe.method == "awq":
        operations += forward * tokens
        operations += _CANDIDATES * sum(2 * rows * columns**2 for rows, columns in sites)
    else:
        # Each site's inputs are computed anew, by the products before it.
        operations += tokens * sum(2 * r * c * (3 - at) for at, (r, c) in enumerate(sites[:3]))
    return operations, sum(columns for _, columns in sites)


def _memory(recipe: Recipe, spec: DecoderSpec, blocks: Blocks | None, layer: int) -> int:
    widest = max(columns for _, columns in _sites(spec))
    largest = max(rows * columns for rows, columns in _sites(spec))
    # The layer, and a few copies of its largest matrix while that is rounded.
    total = 4 * layer + 4 * 4 * largest
    if blocks is None:
        return total
    tokens = blocks.calibration.numel() + 2 * blocks.held_out.numel()
    total += 4 * tokens * spec.hidden_size
    grams = [columns**2 for _, columns in _sites(spec)]
    total += 4 * (max(grams) if recipe.method == "gptq" else sum(grams))
    # The Hessian in float64, its factor, the inverse of that, and what they are made from.
    return total + (4 * 8 * widest**2 if recipe.method in ("awq", "gptq") else 0)


def _measure(device: torch.device) -> tuple[float, float]:
    """Operations a second in products of float32, and seconds of a call on little data."""
    a = torch.ones(_PROBE, _PROBE, device=device)
    small = torch.ones(_PROBE, device=device)
    return 2 * _PROBE**3 / _seconds(lambda: a @ a, device), _seconds(small.add_, device, 1.0)


def _seconds(call: object, device: torch.device, *args: float) -> float:
    """Mean seconds of a call, over a fraction of a second."""
    if not callable(call):
        raise TypeError("there is nothing to call")
    call(*args)
    _wait(device)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < _PROBE_SECONDS:
        for _ in range(8):
            call(*args)
        _wait(device)
        count += 8
    return (time.perf_counter() - begun) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
