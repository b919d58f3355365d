"""Quantization methods: what is stored multiplies as the weights that it stands for.

Only the method's own plugin knows how its tensors are stored, so the suite is given cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from ..contracts.quant import LinearSpec, LinearWeights, QuantMethod
from ..errors import CheckpointError
from .report import ConformanceError, require

__all__ = ("QuantCase", "check_life_cycle", "check_linear", "check_quant")


@dataclass(frozen=True)
class QuantCase:
    """A layer that a method is judged with.

    Attributes:
        method: made by ``from_checkpoint``.
        spec: of the layer.
        stored: tensors of the checkpoint by name.
        weight: float64 [sum(out_features), in_features] that they stand for.
        bias: float64 [sum(out_features)], or None.
        tolerance: relative error of the product, by norm.
        device: of the weights.
    """

    method: QuantMethod
    spec: LinearSpec
    stored: Mapping[str, torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None
    tolerance: float
    device: str = "cpu"


def check_quant(factory: Callable[[], Iterable[QuantCase]]) -> None:
    """Check a method on each of its cases.

    Args:
        factory: makes them: at least one layer of a single shard, one of several, with and without
            bias where the format has them.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    count = 0
    for count, case in enumerate(factory(), 1):  # noqa: B007
        stored = dict(case.stored)
        for shard in case.spec.shards:
            covered = case.method.covers(shard)
            require(covered in (True, False), f"covers gives {covered!r} for {shard}")
        check_linear(
            case.method,
            case.spec,
            stored,
            case.weight,
            case.bias,
            tolerance=case.tolerance,
            device=case.device,
        )
        check_life_cycle(case.method, case.spec, stored, case.device)
    require(count > 0, "there is no case to judge the method by")


def check_linear(
    method: QuantMethod,
    spec: LinearSpec,
    stored: dict[str, torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    tolerance: float,
    device: str = "cpu",
) -> None:
    """Load what is stored, in any order, and multiply.

    Args:
        method: under test.
        spec: of the layer.
        stored: tensors of the checkpoint by name.
        weight: float64 [sum(out_features), in_features] that they stand for.
        bias: float64 or None.
        tolerance: relative error of the product, by norm.
        device: of the weights.

    Raises:
        ConformanceError: where the product differs, or names do.
    """
    at = torch.device(device)
    for names in (sorted(stored), sorted(stored, reverse=True)):
        holder = method.linear(spec, at)
        required, allowed = holder.names(), holder.names() | holder.optional()
        different = sorted((required - stored.keys()) | (stored.keys() - allowed))
        require(not different, f"names differ from what is stored: {different}")
        for name in names:
            holder.load(name, stored[name])
        holder.finish()
        dtype: torch.dtype = getattr(torch, spec.dtype)
        for tokens in (1, 2, 17, 300):
            x = torch.randn(tokens, spec.in_features, dtype=torch.float64).to(dtype)
            # Part of a larger tensor, as a layer may hand it over.
            wide = torch.cat((x, x), 1).to(at)[:, : spec.in_features]
            found = holder.apply(wide)
            expected = x.double() @ weight.T + (0 if bias is None else bias)
            same = found.shape == expected.shape and found.dtype == dtype
            require(same, f"a product is {found.dtype} {list(found.shape)}")
            error = ((found.cpu().double() - expected).norm() / expected.norm()).item()
            require(error <= tolerance, f"{tokens} tokens are off by {error}")


def check_life_cycle(
    method: QuantMethod,
    spec: LinearSpec,
    stored: dict[str, torch.Tensor],
    device: str = "cpu",
) -> None:
    """Made-up weights multiply, and a tensor of another shape is refused by its name.

    Raises:
        ConformanceError: otherwise.
    """
    at = torch.device(device)
    holder = method.linear(spec, at)
    holder.make_up(torch.Generator(device=at).manual_seed(0))
    holder.finish()
    x = torch.ones(3, spec.in_features, dtype=getattr(torch, spec.dtype), device=at)
    finite = bool(holder.apply(x).isfinite().all())
    require(finite, "made-up weights give numbers that are not finite")
    for name, tensor in stored.items():
        _refuses(method.linear(spec, at), name, tensor[None])


def _refuses(holder: LinearWeights, name: str, tensor: torch.Tensor) -> None:
    try:
        holder.load(name, tensor)
    except CheckpointError as error:
        require(name in str(error), f"the refusal of {name} does not name it: {error}")
        return
    except Exception as error:
        raise ConformanceError(
            f"{name} in another shape raises {type(error).__name__}, not CheckpointError"
        ) from error
    raise ConformanceError(f"{name} is taken in the shape {list(tensor.shape)}")
