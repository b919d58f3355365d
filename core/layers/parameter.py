"""Parameter: one tensor of the checkpoint, held as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import CheckpointError

__all__ = ("DUMMY_SCALE", "Parameter", "fill")

DUMMY_SCALE = 0.02
"""Standard deviation of made-up weights, the usual one of an untrained transformer."""


def fill(target: torch.Tensor, name: str, tensor: torch.Tensor) -> None:
    """Copy a checkpoint's tensor into memory of the same shape, converting the dtype.

    Raises:
        CheckpointError: on another shape, or a dtype that is not a plain float, naming the tensor.
    """
    if tensor.shape != target.shape:
        raise CheckpointError(
            f"{name} has shape {list(tensor.shape)} and config.json asks for {list(target.shape)}"
        )
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise CheckpointError(
            f"{name} is stored as {str(tensor.dtype).removeprefix('torch.')}; a plain weight is "
            "float32, bfloat16, float16 or float64"
        )
    target.copy_(tensor)


class Parameter:
    """A TensorHolder of a single tensor.

    Args:
        name: in the checkpoint.
        shape: of the tensor.
        dtype: to hold it in.
        device: to hold it on.
        dummy: standard deviation of made-up values; None makes ones.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        dummy: float | None = None,
    ) -> None:
        self.name = name
        self.data = torch.empty(tuple(shape), dtype=dtype, device=device)
        self._dummy = dummy

    def names(self) -> set[str]:
        """The one name."""
        return {self.name}

    def optional(self) -> set[str]:
        """None."""
        return set()

    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Take the tensor; see ``fill`` for what is refused."""
        fill(self.data, name, tensor)

    def make_up(self, generator: torch.Generator) -> None:
        """Fill with ones, or with normal values of the given deviation."""
        if self._dummy is None:
            self.data.fill_(1.0)
        else:
            self.data.normal_(0.0, self._dummy, generator=generator)

    def finish(self) -> None:
        """Nothing to repack."""
