"""Scales of keys and values that a checkpoint may hold for a cache of 8-bit floats."""

from __future__ import annotations

import torch

from ..errors import CheckpointError

__all__ = ("KVScales",)


class KVScales:
    """A TensorHolder of two numbers, 1 where the checkpoint has none.

    llm-compressor stores them as ``k_scale`` and ``v_scale`` of the attention, others of its key
    and value projections.

    Args:
        name: of the attention module in the checkpoint.
    """

    def __init__(self, name: str) -> None:
        self.k_scale = 1.0
        self.v_scale = 1.0
        self._keys = {f"{name}.k_scale", f"{name}.k_proj.k_scale"}
        self._values = {f"{name}.v_scale", f"{name}.v_proj.v_scale"}

    def names(self) -> set[str]:
        """None: every checkpoint may lack them."""
        return set()

    def optional(self) -> set[str]:
        """All of them."""
        return self._keys | self._values

    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Take a scale.

        Raises:
            CheckpointError: for anything but one positive finite number, naming the tensor.
        """
        single = tensor.is_floating_point() and tuple(tensor.shape) in ((), (1,))
        scale = tensor.item() if single else 0.0
        if not 0.0 < scale < float("inf"):
            raise CheckpointError(
                f"{name} must be one positive number, and is {str(tensor.dtype)[6:]} "
                f"{list(tensor.shape)}" + (f" of {scale}" if single else "")
            )
        if name in self._keys:
            self.k_scale = scale
        else:
            self.v_scale = scale

    def make_up(self, generator: torch.Generator) -> None:
        """They stay 1."""

    def finish(self) -> None:
        """Nothing to repack."""
