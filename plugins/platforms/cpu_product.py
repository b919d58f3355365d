"""Products on a CPU: packed weights, and rows whose bits do not depend on their neighbours.

A kernel that meets another number of rows may add in another order, and then a request's logits
differ in their last bits between batches. The kernels here are therefore run only with numbers of
rows that were seen to give every row the same bits; a batch in between is filled up with zeros.

Measured on a Xeon with AMX and on a Zen 5: weights in oneDNN's order multiply 1.1 to 2 times as
fast as ``F.linear`` for 1 to 64 rows, in bfloat16 and float32, and about the same from 256 rows on.
On a Zen 3, which has no bfloat16, weights held as float16 multiply twice as fast as those for one
row, 1.2 to 1.8 times as fast for 16, and about the same from 64 rows on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
import torch.nn.functional as F

from ...core.contracts.platform import Gate, Norm, Product
from ...core.layers.linear import ComposedProduct
from ...core.layers.scripted import scripted
from ...quant.cpu.rows import alike_sizes, next_sizes, steady_sizes
from .cpu_rowwise import OneOperationNorm, RowwiseGate

__all__ = ("make_draft_product", "make_product")

Multiply = Callable[[torch.Tensor], torch.Tensor]

_READING_ROWS = 4
"""For which weights from memory are read faster than for fewer, by an eighth on a Zen 4 (2,816 x
512 takes 122 us for 138); those in its caches take a fifth longer instead."""
_FEW_ROWS = 16
"""Rows up to which float32 is the fastest for weights that stay in the caches."""
_MANY_WEIGHTS = 1 << 18
"""From which on native bfloat16 is as fast for one row (Zen 4: 1,024 x 256 takes 30 us)."""
_DISTINCT = 64
"""Outputs that are tried with weights of their own."""
_BLOCK = 120
"""Rows that FBGEMM takes at a time; how it divides them depends on their number modulo this."""


def make_product(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    fast_bfloat16: bool,
    from_memory: bool = False,
) -> Product:
    """The fastest product by weight.T, plus bias.

    Args:
        weight: [out, in], float32 or bfloat16 for a packed product.
        bias: [out] or None.
        fast_bfloat16: whether the processor multiplies bfloat16 natively.
        from_memory: whether the weights are no longer in the caches when they are used again, and
            the processor reads them faster for a few rows than for one.
    """
    multiply: Multiply
    if weight.dtype is torch.bfloat16 and fast_bfloat16 and _packing_works(torch.bfloat16):
        sizes = _packed_sizes(*weight.shape)
        if from_memory:
            few = sizes[_READING_ROWS]
            sizes = [0, *[max(size, few) for size in sizes[1:]]]
        kernel = scripted(_Packed(weight, bias, len(sizes))).forward
        return _ScriptedProduct(kernel, len(weight), _missing(sizes))
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return ComposedProduct(_plain(weight, bias))
    whole = weight.float()
    if not fast_bfloat16 and _half_works() and _fits_half(whole):
        # By FBGEMM, multiplied as float32: half the bytes to read.
        half = _ScriptedProduct(_half_kernel(whole, bias), len(weight), _missing(_half_sizes()))
        if weight.dtype is torch.float32:
            return half
        multiply = half
    elif _packing_works(torch.float32):
        multiply = _packed(whole, bias if bias is None else bias.float())
    else:
        return ComposedProduct(_plain(weight, bias))
    if weight.dtype is not torch.float32:
        multiply = _through_float32(multiply, weight.dtype)
    return ComposedProduct(multiply)


def make_draft_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """A product for few rows by few weights, whose bits may depend on the number of rows.

    Few rows are multiplied as float32: an operator for bfloat16 prepares longer than it multiplies,
    unless there are weights enough for half the bytes to count.

    Args:
        weight: [out, in]; bfloat16 only where the processor multiplies it natively.
        bias: [out] or None.
    """
    whole, offset = weight.float(), None if bias is None else bias.float()
    most = _FEW_ROWS
    if weight.dtype is torch.bfloat16 and 2 * weight.numel() >= _MANY_WEIGHTS:
        # Two rows take float32 twice as long as one.
        most = int(weight.numel() < _MANY_WEIGHTS)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if len(x) > most:
            return F.linear(x, weight, bias)
        return F.linear(x.float(), whole, offset).to(x.dtype)

    return ComposedProduct(multiply)


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    return lambda x: F.linear(x, weight, bias)


def _through_float32(product: Multiply, dtype: torch.dtype) -> Multiply:
    return lambda x: product(x.float()).to(dtype)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    """By oneDNN, on weights in its own order."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    run = torch.ops.mkldnn._linear_pointwise.default

    def multiply(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = run(x, packed, bias, "none", [], "")
        return product

    return multiply


class _Around(torch.nn.Module):
    """A product with what stands around it, in one script."""

    def multiply(self, x: torch.Tensor, missing: int) -> torch.Tensor:
        """The bare product."""
        raise NotImplementedError

    def forward(
        self,
        x: torch.Tensor,
        missing: int,
        norm: torch.Tensor | None = None,
        signs: torch.Tensor | None = None,
        eps: float = 0.0,
        gated: bool = False,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``platform.Product`` with so many rows more, which are dropped again.

        Args:
            x: [T, in].
            missing: rows.
            norm: [2, in], the weight of a ``OneOperationNorm``.
            signs: of it.
            eps: of it.
            gated: by silu.
            add: as for a product.
        """
        if norm is not None and signs is not None:
            both = x.unsqueeze(-2) * signs
            x = torch.layer_norm(both, norm.shape, norm, None, eps).select(-2, 0)
        product = self.multiply(x, missing)
        if gated:
            gate, up = torch.chunk(product, 2, -1)
            product = torch.nn.functional.silu(gate).mul_(up)
        return product if add is None else add.add_(product)


class _Half(_Around):
    """On weights held as float16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        bias = None if bias is None else bias.float()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def multiply(self, x: torch.Tensor, missing: int) -> torch.Tensor:
        rows = x.shape[0]
        if rows == 1:
            x = x.expand(1 + missing, -1)
        elif missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return product[:rows] if missing else product


class _Packed(_Around):
    """By oneDNN, on bfloat16 weights in its own order.

    Args:
        weight: [out, in].
        bias: [out] or None.
        most: rows at a time.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, most: int) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = bias
        self.most = most

    def multiply(self, x: torch.Tensor, missing: int) -> torch.Tensor:
        rows = x.shape[0]
        if missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        if rows <= self.most:
            product = self.once(x)
        else:
            product = torch.cat([self.once(part) for part in torch.split(x, self.most)])
        return product[:rows] if missing else product

    def once(self, x: torch.Tensor) -> torch.Tensor:
        """As many rows as the kernel takes."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return product


def _half_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """Called from Python, the operator takes 20 us longer, most to find a type out."""
    kernel: Callable[..., torch.Tensor] = scripted(_Half(weight, bias)).forward
    return kernel


def _half_exactly(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    """The kernel with as many rows as there are."""
    return partial(_half_kernel(weight, bias), missing=0)


class _ScriptedProduct:
    """A product whose norm, gate and sum are in its script.

    An operator takes longer to be called from Python than to run on a row.

    Args:
        kernel: of ``_Around``.
        width: outputs.
        missing: for each number of rows modulo the length of this, how many more the kernel takes.
    """

    def __init__(self, kernel: Callable[..., torch.Tensor], width: int, missing: list[int]) -> None:
        self._kernel = kernel
        self._width = width // 2
        self._missing = missing
        # A product meets one norm at most.
        self._norm: Norm | None = None
        self._one: OneOperationNorm
        self._composed = ComposedProduct(lambda x: self._kernel(x, missing[len(x) % len(missing)]))

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rows = len(x)
        if gate is not None and not self._gates(gate, rows):
            return self._composed(x, norm=norm, gate=gate, add=add)
        missing, gated = self._missing[rows % len(self._missing)], gate is not None
        if norm is None:
            return self._kernel(x, missing, None, None, 0.0, gated, add)
        if norm is not self._norm:
            self._norm, self._one = norm, OneOperationNorm(norm.weight, norm.eps)
        one = self._one
        return self._kernel(x, missing, one.twice, one.signs, one.eps, gated, add)

    def _gates(self, gate: Gate, rows: int) -> bool:
        return (
            isinstance(gate, RowwiseGate) and gate.act == "silu" and gate.at_once(rows, self._width)
        )


def _missing(sizes: list[int]) -> list[int]:
    """For each number of rows of a block, how many more are to be multiplied."""
    return [size - rows for rows, size in enumerate(sizes)]


@cache
def _packed_sizes(outputs: int, inputs: int) -> list[int]:
    """For each number of rows modulo the most, with how many to run packed bfloat16 weights.

    The kernels are those that give a row the bits that it has alone. A result rounds to 8 bits,
    which hides how it was added up in all but one of ten thousand; the sums tried here are of terms
    that cancel out, so that their rounding is all that is left.
    """
    few = min(outputs, _DISTINCT)
    half = torch.linspace(-9, 4, few * -(-inputs // 2)).sin().view(few, -1).bfloat16()
    weight = torch.cat((half, -half.flip(1)), 1)[:, :inputs].repeat(-(-outputs // few), 1)
    row = torch.linspace(1, 2, half.shape[1]).bfloat16()
    row = torch.cat((row, row.flip(0)))[:inputs]
    steady = alike_sizes(_packed(weight[:outputs], None), row)
    return [0, *next_sizes(steady, steady[-1])[1:-1]]


def _fits_half(weight: torch.Tensor) -> bool:
    """Whether float16 changes the weights by no more than float32 arithmetic does.

    It holds bfloat16 values exactly from 2**-17 up, and float16's largest is 65504.
    """
    error = (weight.half().float() - weight).norm()
    return bool(error <= 2.0**-24 * weight.norm())


@cache
def _half_sizes() -> list[int]:
    """For each number of rows modulo a block, with how many to run them; empty when unsteady."""
    weight = torch.linspace(-1, 1, 64 * 96).view(64, 96).sin()
    kernel = _half_exactly(weight, None)

    def steady_among(tried: Iterable[int]) -> list[int]:
        return steady_sizes(kernel, weight.shape[1], weight.dtype, tried)

    steady = steady_among(range(1, _BLOCK + 1))
    if steady[-1:] != [_BLOCK]:
        return []
    sizes = [0, *next_sizes(steady, _BLOCK)[1:_BLOCK]]
    several = [2 * _BLOCK + size for size in {*sizes}]
    return sizes if steady_among([*several, _BLOCK]) == [*several, _BLOCK] else []


@cache
def _half_works() -> bool:
    """Whether FBGEMM is here, right, and steady."""
    return _is_right(_half_exactly, torch.float32) and bool(_half_sizes())


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Whether torch's private operators are here, and right: they may change with any release."""
    return _is_right(_packed, dtype)


def _is_right(
    make: Callable[[torch.Tensor, torch.Tensor | None], Multiply], dtype: torch.dtype
) -> bool:
    weight = torch.linspace(-1, 1, 48 * 32).view(48, 32).sin().to(dtype)
    bias = torch.linspace(-1, 1, 48).to(dtype)
    x = torch.linspace(-1, 1, 5 * 32).view(5, 32).cos().to(dtype)
    tolerance = 0.02 if dtype is torch.bfloat16 else 1e-3
    try:
        with torch.inference_mode():
            found = make(weight, bias)(x)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError, OSError):
        return False
    expected = F.linear(x.double(), weight.double(), bias.double())
    error = (found.double() - expected).norm() / expected.norm()
    return found.dtype == dtype and bool(error < tolerance)
