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

import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial

import torch
import torch.nn.functional as F

from ...backends.cpu.product import FewRows
from ...core.contracts.platform import Gate, Norm, Product
from ...core.layers.linear import ComposedProduct
from ...quant.cpu.rows import SIZES, alike_sizes, next_sizes, steady_sizes

__all__ = ("make_draft_product", "make_product")

Multiply = Callable[[torch.Tensor], torch.Tensor]

_FEW_ROWS = {torch.bfloat16: 2, torch.float32: 4}
"""Rows up to which reading weights as they are beats an operator on packed ones (Zen 5: for one row
of 1,024 x 256 bfloat16 8 us against 16, for four 16 against 14)."""
_DISTINCT = 64
"""Outputs that are tried with weights of their own."""
_BLOCK = 120
"""Rows that FBGEMM takes at a time; how it divides them depends on their number modulo this."""


def make_product(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    fast_bfloat16: bool,
) -> Product:
    """The fastest product by weight.T, plus bias.

    Args:
        weight: [out, in], float32 or bfloat16 for a packed product.
        bias: [out] or None.
        fast_bfloat16: whether the processor multiplies bfloat16 natively.
    """
    multiply: Multiply
    if weight.dtype is torch.bfloat16 and fast_bfloat16 and _packing_works(torch.bfloat16):
        return ComposedProduct(_packed_alike(weight, bias, _packed_sizes(*weight.shape)))
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return ComposedProduct(_plain(weight, bias))
    whole = weight.float()
    if not fast_bfloat16 and _half_works() and _fits_half(whole):
        # By FBGEMM, multiplied as float32: half the bytes to read.
        multiply = _half_alike(whole, bias)
    elif _packing_works(torch.float32):
        multiply = _packed(whole, bias if bias is None else bias.float())
    else:
        return ComposedProduct(_plain(weight, bias))
    if weight.dtype is not torch.float32:
        multiply = _through_float32(multiply, weight.dtype)
    return ComposedProduct(multiply)


def make_draft_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    """A product for few rows by few weights, whose bits may depend on the number of rows.

    Args:
        weight: [out, in], of a dtype that the processor multiplies natively.
        bias: [out] or None.
    """
    most = _FEW_ROWS[weight.dtype]
    few = FewRows(weight, bias)
    many = ComposedProduct(_plain(weight, bias))
    if _packing_works(weight.dtype):
        # oneDNN keeps code for every number of rows that it meets.
        sizes = [0, *next_sizes([*SIZES], SIZES[-1])[1:-1]]
        many = ComposedProduct(_packed_alike(weight, bias, sizes))

    def multiply(
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        product = few if x.shape[0] <= most else many
        return product(x, norm=norm, gate=gate, add=add)

    return multiply


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


class _Half(torch.nn.Module):
    """By FBGEMM, on weights held as float16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        bias = None if bias is None else bias.float()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def forward(self, x: torch.Tensor, missing: int) -> torch.Tensor:
        """[T, in] -> [T, out], by that many rows more."""
        rows = x.shape[0]
        if rows == 1:
            x = x.expand(1 + missing, -1)
        elif missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return product[:rows] if missing else product


def _half_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """Called from Python, the operator takes 20 us longer, most to find a type out."""
    module = _Half(weight, bias)
    with warnings.catch_warnings():
        # TorchScript is deprecated; without it the operator is as right.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            kernel: Callable[..., torch.Tensor] = torch.jit.script(module).forward
        except (RuntimeError, AttributeError, TypeError, NotImplementedError, OSError):
            kernel = module.forward
    return kernel


def _half_exactly(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    """The kernel with as many rows as there are."""
    return partial(_half_kernel(weight, bias), missing=0)


def _packed_alike(weight: torch.Tensor, bias: torch.Tensor | None, sizes: list[int]) -> Multiply:
    """By oneDNN, with numbers of rows that are steady; a row more than they go to is cut off.

    Args:
        weight: [out, in].
        bias: [out] or None.
        sizes: for each number of rows modulo the length of this, how many it takes.
    """
    product, missing, most = _packed(weight, bias), _missing(sizes), len(sizes)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        if rows > most:
            return torch.cat([multiply(part) for part in torch.split(x, most)])
        more = missing[rows % most]
        return product(F.pad(x, (0, 0, 0, more)))[:rows] if more else product(x)

    return multiply


def _half_alike(weight: torch.Tensor, bias: torch.Tensor | None) -> Multiply:
    """By FBGEMM, with numbers of rows that are steady."""
    kernel, missing = _half_kernel(weight, bias), _missing(_half_sizes())
    return lambda x: kernel(x, missing[x.shape[0] % _BLOCK])


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
