"""What every quantization method must do; ``check_linear`` takes a holder and what it stores."""

from __future__ import annotations

import torch

from quire.core.contracts.quant import LinearSpec, LinearWeights, QuantMethod
from quire.core.errors import CheckpointError

__all__ = ("check_life_cycle", "check_linear")


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
        AssertionError: where the product differs, or names do.
    """
    at = torch.device(device)
    for names in (sorted(stored), sorted(stored, reverse=True)):
        holder = method.linear(spec, at)
        if holder.names() != set(stored):
            raise AssertionError(f"asks for {sorted(holder.names() ^ set(stored))}")
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
            if found.shape != expected.shape or found.dtype != dtype:
                raise AssertionError(f"gives {found.dtype} {list(found.shape)}")
            error = ((found.cpu().double() - expected).norm() / expected.norm()).item()
            if not error <= tolerance:
                raise AssertionError(f"{tokens} tokens are off by {error}")


def check_life_cycle(
    method: QuantMethod,
    spec: LinearSpec,
    stored: dict[str, torch.Tensor],
    device: str = "cpu",
) -> None:
    """Made-up weights multiply, and a tensor of another shape is refused by its name.

    Raises:
        AssertionError: otherwise.
    """
    at = torch.device(device)
    holder = method.linear(spec, at)
    holder.make_up(torch.Generator(device=at).manual_seed(0))
    holder.finish()
    x = torch.ones(3, spec.in_features, dtype=getattr(torch, spec.dtype), device=at)
    if not bool(holder.apply(x).isfinite().all()):
        raise AssertionError("made-up weights give numbers that are not finite")
    for name, tensor in stored.items():
        _refuses(method.linear(spec, at), name, tensor[None])


def _refuses(holder: LinearWeights, name: str, tensor: torch.Tensor) -> None:
    try:
        holder.load(name, tensor)
    except CheckpointError as error:
        if name not in str(error):
            raise AssertionError(f"the refusal of {name} does not name it: {error}") from error
    else:
        raise AssertionError(f"{name} is taken in the shape {list(tensor.shape)}")
