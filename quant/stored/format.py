"""Formats: which tensors hold one layer in a checkpoint, and what they mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ...core.errors import CheckpointError
from ...core.layers.parameter import DUMMY_SCALE
from ..weights import Weight

__all__ = ("FLOATS", "Field", "Format", "Held", "OnLoad", "Plain", "normal")

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Of plain weights, scales and biases."""

Held = Weight | torch.Tensor
"""A layer's weights once read; a tensor [N, K] where they were not quantized."""


@dataclass(frozen=True)
class Field:
    """What one tensor must look like.

    Attributes:
        shape: of the tensor; where it is (1,), a scalar will do.
        dtypes: that it may have.
        required: whether a checkpoint must have it.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    required: bool = True

    def check(self, name: str, tensor: torch.Tensor, format_name: str) -> None:
        """Compare a tensor with the field.

        Raises:
            CheckpointError: where it does not fit, naming it and both.
        """
        fits = tuple(tensor.shape) == self.shape or (self.shape == (1,) and tensor.dim() == 0)
        if not fits:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, and {format_name} asks for "
                f"{list(self.shape)}; config.json does not describe these weights, or the file is "
                "damaged"
            )
        if tensor.dtype not in self.dtypes:
            offered = ", ".join(_short(dtype) for dtype in self.dtypes)
            raise CheckpointError(
                f"{name} is stored as {_short(tensor.dtype)}, and {format_name} asks for {offered}"
            )


class Format(ABC):
    """How the weights of one of the checkpoint's layers are stored."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What it is, for messages."""

    @abstractmethod
    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        """The tensors of a layer, by what follows its name and a dot; biases aside.

        Args:
            name: of the layer.
            rows: outputs.
            columns: inputs.

        Raises:
            CheckpointError: where such a layer cannot be stored so, naming it.
        """

    @abstractmethod
    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        """What the tensors mean.

        Args:
            name: of the layer.
            tensors: that fit ``fields``, all required ones among them, on the device.

        Raises:
            CheckpointError: where their values do not fit together, naming the tensor.
        """

    @abstractmethod
    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        """Small made-up values on the generator's device, stored alike."""


class Plain(Format):
    """Floats as they are.

    Args:
        dtype: to hold them in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    @property
    def words(self) -> str:
        return "a layer that is not quantized"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        return {"weight": Field((rows, columns), FLOATS)}

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        return tensors["weight"].to(self._dtype)

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return normal(rows, columns, generator, self._dtype)


class OnLoad(Format):
    """Plain weights, which are quantized when they are read.

    Args:
        quantize: [N, K] -> what stands for it.
    """

    def __init__(self, quantize: Callable[[torch.Tensor], Weight]) -> None:
        self._quantize = quantize

    @property
    def words(self) -> str:
        return "a layer that is quantized while loading"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        return {"weight": Field((rows, columns), FLOATS)}

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        return self._quantize(tensors["weight"])

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return self._quantize(normal(rows, columns, generator))


def normal(
    rows: int, columns: int, generator: torch.Generator, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Made-up weights [rows, columns] on the generator's device."""
    made = torch.empty(rows, columns, dtype=dtype, device=generator.device)
    return made.normal_(0.0, DUMMY_SCALE, generator=generator)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
