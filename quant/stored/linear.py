"""The holder of quantized layers, whichever format they are stored in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.contracts.platform import Platform, Product
from ...core.contracts.quant import LinearSpec
from ...core.layers.linear import ComposedProduct, ProductLinear
from ..products import product_of
from .format import FLOATS, Field, Format, Held
from .joining import neighbours

__all__ = ("StoredLinear",)


class StoredLinear(ProductLinear):
    """The layers of a spec, read once all tensors are in, and multiplied side by side.

    Layers that are stored alike become one product. Tensors wait on the device as they were stored;
    a layer's codes are unpacked only while it is finished.

    Args:
        spec: shapes and names.
        formats: of each shard.
        device: of the weights.
        platform: multiplies what is not quantized.

    Raises:
        CheckpointError: for a layer that cannot be stored in its format, naming it.
    """

    def __init__(
        self,
        spec: LinearSpec,
        formats: Sequence[Format],
        device: torch.device,
        platform: Platform,
    ) -> None:
        self._spec = spec
        self._formats = list(formats)
        self._device = device
        self._platform = platform
        self._fields: dict[str, tuple[Field, Format]] = {}
        for shard, rows, form in zip(spec.shards, spec.out_features, formats, strict=True):
            fields = form.fields(shard, rows, spec.in_features)
            # AutoGPTQ writes biases of zeros for layers that have none.
            fields["bias"] = Field((rows,), FLOATS, required=spec.bias)
            self._fields |= {f"{shard}.{key}": (field, form) for key, field in fields.items()}
        self._tensors: dict[str, torch.Tensor] = {}
        self._made_up: list[Held] | None = None

    def names(self) -> set[str]:
        return {name for name, (field, _) in self._fields.items() if field.required}

    def optional(self) -> set[str]:
        return {name for name, (field, _) in self._fields.items() if not field.required}

    def load(self, name: str, tensor: torch.Tensor) -> None:
        field, form = self._fields[name]
        field.check(name, tensor, form.words)
        self._tensors[name] = tensor.to(self._device, copy=True)

    def make_up(self, generator: torch.Generator) -> None:
        self._made_up = [
            form.make_up(rows, self._spec.in_features, generator)
            for form, rows in zip(self._formats, self._spec.out_features, strict=True)
        ]

    def finish(self) -> None:
        if self._product is not None:
            return
        if self._device.type == "meta":
            width = sum(self._spec.out_features)
            self._product = ComposedProduct(lambda x: x.new_empty(len(x), width))
            return
        bias = self._bias()
        held = self._made_up or [self._read(index) for index in range(len(self._formats))]
        self._made_up = None
        self._tensors.clear()
        dtype: torch.dtype = getattr(torch, self._spec.dtype)
        products: list[Product] = []
        start = 0
        for joined, rows in neighbours(held):
            part = None if bias is None else bias[start : start + rows].contiguous()
            products.append(product_of(joined, part, dtype, self._platform))
            start += rows
        self._product = products[0] if len(products) == 1 else _side_by_side(products)

    def _read(self, index: int) -> Held:
        prefix = f"{self._spec.shards[index]}."
        found = {
            name.removeprefix(prefix): self._tensors.pop(name)
            for name in list(self._tensors)
            if name.startswith(prefix)
        }
        return self._formats[index].read(self._spec.shards[index], found)

    def _bias(self) -> torch.Tensor | None:
        """Of all shards; None where it would add nothing."""
        dtype: torch.dtype = getattr(torch, self._spec.dtype)
        whole = torch.zeros(sum(self._spec.out_features), dtype=dtype, device=self._device)
        parts = torch.split(whole, list(self._spec.out_features))
        for shard, part in zip(self._spec.shards, parts, strict=True):
            stored = self._tensors.pop(f"{shard}.bias", None)
            if stored is not None:
                part.copy_(stored)
        return whole if self._spec.bias or bool(whole.any()) else None


def _side_by_side(products: list[Product]) -> ComposedProduct:
    return ComposedProduct(lambda x: torch.cat([product(x) for product in products], 1))
