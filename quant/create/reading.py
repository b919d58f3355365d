"""Reading: the weights that stored tensors stand for, by the method that will load them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...core.contracts.quant import LinearSpec, QuantMethod
from ...core.errors import CheckpointError
from ..reference import dequantize
from ..stored.method import StoredMethod

__all__ = ("read_weight",)


def read_weight(
    reader: QuantMethod, name: str, tensors: Mapping[str, torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    """A module's weights, float32 [N, K].

    Args:
        reader: of the format.
        name: of the module.
        tensors: of it, without its name.
        like: of the same shape and device.

    Raises:
        CheckpointError: for tensors that the reader does not take.
    """
    if isinstance(reader, StoredMethod):
        stored = reader.format(name)
        value = None if stored is None else stored.read(name, dict(tensors))
        if value is None or isinstance(value, torch.Tensor):
            raise RuntimeError(f"the reader takes {name} for a plain layer")
        return dequantize(value, torch.float32)
    rows, columns = like.shape
    spec = LinearSpec(shards=(name,), out_features=(rows,), in_features=columns)
    holder = reader.linear(spec, like.device)
    made = {f"{name}.{kind}" for kind in tensors}
    if holder.names() - made or made - holder.names() - holder.optional():
        raise CheckpointError(
            f"the method makes {sorted(made)} and reads {sorted(holder.names())}: its rounding and "
            "its holder must agree"
        )
    for kind, tensor in tensors.items():
        holder.load(f"{name}.{kind}", tensor)
    holder.finish()
    # Any method can multiply, and multiplying ones gives the weights.
    ones = torch.eye(columns, device=like.device)
    return holder.apply(ones).T.contiguous()
