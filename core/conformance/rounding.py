"""Roundings: what a quantization method makes is what it loads, and near what it was made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..contracts.platform import Platform
from ..contracts.quant import LinearSpec, QuantMethod, Rounding
from .quant import check_life_cycle
from .report import require

__all__ = ("check_rounding",)

_ROWS, _COLUMNS = 64, 128
_NAME = "model.layers.0.self_attn.q_proj"


def check_rounding(method: type[QuantMethod], platform: Platform, *, error: float) -> None:
    """Make layers by a method's ``rounding``, and load them by the method.

    Args:
        method: under test.
        platform: of the device that multiplies.
        error: that the rounded weights may have at most, relative to normal ones, by norm.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    rounding = method.rounding()
    if not isinstance(rounding, Rounding):
        require(False, f"rounding gives {type(rounding).__name__}, not a Rounding")
        return
    described = rounding.describe()
    named = isinstance(described.get("quant_method"), str)
    require(named, "describe gives no quant_method, by which a checkpoint is recognized")
    reader = method.from_checkpoint(described, platform)
    require(reader.covers(_NAME), f"the method makes {_NAME} and does not cover it")
    require(rounding.bits > 0, f"bits is {rounding.bits}")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * _COLUMNS, _COLUMNS, generator=generator)
    for gram in (None, x.T @ x / len(x)):
        weight = torch.randn(_ROWS, _COLUMNS, generator=generator)
        kept = weight.clone()
        stored = _twice(partial(rounding.round, weight, gram))
        require(torch.equal(weight, kept), "round writes to the weights that it is given")
        _check_loads(reader, stored, weight, error)


def _twice(made: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A layer's tensors, which must be the same each time: an interrupted run goes on with them."""
    first, second = made(), made()
    require(first.keys() == second.keys(), "round gives other tensors the second time")
    for kind, tensor in first.items():
        same = torch.equal(tensor, second[kind])
        require(same, f"round gives another {kind} for the same weights")
    return {f"{_NAME}.{kind}": tensor for kind, tensor in first.items()}


def _check_loads(
    reader: QuantMethod, stored: dict[str, torch.Tensor], weight: torch.Tensor, error: float
) -> None:
    spec = LinearSpec(shards=(_NAME,), out_features=(_ROWS,), in_features=_COLUMNS)
    device = torch.device("cpu")
    holder = reader.linear(spec, device)
    missing = sorted(holder.names() - stored.keys())
    unknown = sorted(stored.keys() - holder.names() - holder.optional())
    require(not missing, f"round does not make {missing}, which the holder asks for")
    require(not unknown, f"round makes {unknown}, which the holder does not take")
    for name, tensor in stored.items():
        holder.load(name, tensor)
    holder.finish()
    found = holder.apply(torch.eye(_COLUMNS)).T
    off = ((found - weight).norm() / weight.norm()).item()
    require(off <= error, f"the weights that are loaded are off by {off:.3f} of those rounded")
    check_life_cycle(reader, spec, stored)
