"""The report: what quantizing changed, layer by layer and as a whole."""

from __future__ import annotations

import msgspec
import torch

__all__ = ("Kept", "Report", "Row", "row")


class Row(msgspec.Struct, frozen=True):
    """What happened to one of the checkpoint's linear layers.

    Attributes:
        name: of the module.
        weight_error: |W - Q| / |W|.
        output_error: |x W - x Q| / |x W| over the calibration text; None without one.
    """

    name: str
    weight_error: float
    output_error: float | None = None


class Kept(msgspec.Struct, frozen=True):
    """Tensors that were left as they were.

    Attributes:
        what: they are.
        bytes: they take.
        why: they were left.
    """

    what: str
    bytes: int
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A finished run.

    Attributes:
        rows: of every quantized layer, in order.
        kept: what was left in high precision.
        bytes_before: of the weights.
        bytes_after: of the weights.
        perplexity_before: on held-out blocks of the calibration text; None without one.
        perplexity_after: likewise.
        seconds: of this run; a resumed one counts from where it went on.
    """

    rows: list[Row]
    kept: list[Kept]
    bytes_before: int
    bytes_after: int
    perplexity_before: float | None
    perplexity_after: float | None
    seconds: float


def row(name: str, weight: torch.Tensor, rounded: torch.Tensor, gram: torch.Tensor | None) -> Row:
    """Compare a matrix with what was stored for it.

    Args:
        name: of the module.
        weight: float32 [N, K].
        rounded: float32 [N, K].
        gram: float32 [K, K], mean of x^T x over the calibration text, if there is one.
    """
    error = rounded - weight
    by_weight = float(error.norm() / weight.norm().clamp(min=1e-12))
    if gram is None:
        return Row(name, by_weight)
    changed, whole = (float((x @ gram).mul_(x).sum()) for x in (error, weight))
    return Row(name, by_weight, (max(changed, 0.0) / max(whole, 1e-30)) ** 0.5)
