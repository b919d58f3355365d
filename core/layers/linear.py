"""Linear layers, stored and multiplied by the quantization method."""

from __future__ import annotations

from ..contracts.model import BuildContext
from ..contracts.quant import LinearSpec, LinearWeights

__all__ = ("make_linear",)


def make_linear(
    shards: tuple[str, ...],
    out_features: tuple[int, ...],
    in_features: int,
    *,
    bias: bool,
    context: BuildContext,
) -> LinearWeights:
    """A holder for layers of the checkpoint that multiply the same input, side by side.

    Args:
        shards: the checkpoint's module names, in output order.
        out_features: of each shard.
        in_features: of all.
        bias: whether they have one.
        context: what to build with.
    """
    spec = LinearSpec(
        shards=shards,
        out_features=out_features,
        in_features=in_features,
        bias=bias,
        dtype=str(context.dtype).removeprefix("torch."),
    )
    return context.quant.linear(spec, context.device)
