"""Products with quantized weights as layers use them; see ``contracts.platform.Product``."""

from __future__ import annotations

import torch

from ...core.contracts.platform import Gate, GatedProduct, Kernels, Norm, Platform
from ..weights import Float8Weight, GroupedWeight, Int8Weight, Weight
from . import eight_bit, grouped, scaled
from .dense import Scratch, write_out
from .packed import Packed, packed_width, part_of_groups
from .quantize import gather, quantize
from .tiles import Config
from .tuned import choose

__all__ = ("Float8Product", "GroupedProduct", "Int8Product", "held_bits", "product_of", "takes")

_ALIKE = Config("after", 64, 16, 4, 4)
"""One for every number of tokens."""
_GATED = 64
"""Tokens up to which a gate inside the product pays."""
_FEW = 64
"""Tokens up to which 8-bit floats meet 16-bit activations where matrix units take no 8-bit floats;
elsewhere only one does."""
_DEPTH = 128
"""Columns of a tile of 8-bit values."""
_UNITS, _HOPPER = (8, 9), (9, 0)
"""Compute capability from which matrix units take 8-bit floats, and torch rows with own scales."""


class GroupedProduct:
    """With integers that share a scale a group (AWQ, GPTQ).

    Args:
        weight: on the GPU; packed anew, and not kept.
        bias: [N] in the activations' dtype, or None.
        dtype: of activations: bfloat16 or float16.
        platform: of the GPU.

    Raises:
        ValueError: for another dtype, or groups that the kernels cannot take.
    """

    def __init__(
        self,
        weight: GroupedWeight,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        platform: Platform,
    ) -> None:
        self._kernels = _kernels(platform, dtype)
        self._weight = Packed.of(weight, dtype)
        self._bias = bias
        self._kind = f"int{self._weight.bits}"
        self._scratch = Scratch.of(self._weight.n, self._weight.k, dtype, weight.codes.device)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        weight, kernels = self._weight, self._kernels
        if weight.order is not None:
            x = gather(_rows(x), weight.order, kernels, norm=norm)
        else:
            x = _rows(x if norm is None else norm(x))
        # A gate inside takes halves of whole units.
        inside = gate is not None and len(x) <= _GATED and weight.n % 32 == 0
        width = weight.n // 2 if inside else weight.n
        config = _ALIKE
        if not kernels.alike:
            config = choose(self._kind, len(x), width, weight.k, gated=inside, device=x.device)
        if config.form == "dense":
            return _finish(self._through_dense(x), gate, add)
        act = None
        if gate is not None and inside:
            act, gate = gate.act, None
        y = grouped.multiply(
            x,
            weight,
            config,
            kernels,
            bias=self._bias,
            act=act,
            add=add if gate is None else None,
        )
        return y if gate is None else _finish(y, gate, add)

    def _through_dense(self, x: torch.Tensor) -> torch.Tensor:
        """By torch, on the matrix written out chunk by chunk."""
        weight = self._weight
        y = torch.empty((len(x), weight.n), dtype=x.dtype, device=x.device)
        for first, matrix in self._scratch.chunks(weight.n, weight.k):
            count = len(matrix)
            write_out(weight, matrix, self._kernels, first=first)
            _multiply_into(y[:, first : first + count], x, matrix, self._bias, first)
        return y


class _ByteProduct(GatedProduct):
    """With 8-bit values as they are stored.

    One token is multiplied in 16 bits, which costs nothing where reading the weights is all that
    takes time; more become 8-bit values themselves.

    Args:
        values: int8 or float8_e4m3fn [N, K].
        scales: float32, [N, 1], or with a block [ceil(N / block), ceil(K / block)].
        bias: [N] in the activations' dtype, or None.
        dtype: of activations: bfloat16 or float16.
        platform: of the GPU.
        block: side of the square that shares a scale.
        input_scale: float32 [], of all activations that become 8-bit; None where each token's own.
    """

    def __init__(
        self,
        values: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        platform: Platform,
        *,
        block: int | None = None,
        input_scale: torch.Tensor | None = None,
    ) -> None:
        self._kernels = _kernels(platform, dtype)
        self._values = values
        self._scales = scales.contiguous()
        self._bias = bias
        self._dtype = dtype
        self._block = block
        self._depth = min(block or _DEPTH, _DEPTH)
        self._input_scale = input_scale
        n, k = values.shape
        float8 = values.dtype is torch.float8_e4m3fn
        # The others read 8-bit floats as bits, and write them out for many tokens.
        # Integers are everywhere.
        capability = torch.cuda.get_device_capability(values.device) if float8 else _UNITS
        self._native = capability >= _UNITS
        self._scratch = None if self._native else Scratch.of(n, k, dtype, values.device)
        self._kind = "scaled_int8"
        if float8:
            # torch's own takes a scale an output, and whole vectors.
            torch_too = capability >= _HOPPER and dtype is torch.bfloat16 and not (n % 16 or k % 16)
            self._kind = "scaled_float8" if torch_too else "scaled"
            if block is not None:
                self._kind = "scaled_block"

    def takes_gate(self, tokens: int) -> bool:
        if not self._native or self._kernels.alike:
            return False
        return tokens > (_GATED if self._block is None else 1)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if len(x) <= (1 if self._native else _FEW) or self._kernels.alike:
            return self._few(x if norm is None else norm(x), gate, add)
        if self._scratch is not None:
            x = x if norm is None else norm(x)
            return _finish(self._through_dense(x, self._scratch), gate, add)
        return self._many(*self._rounded(x, norm=norm), gate, add)

    def behind_gate(
        self, x: torch.Tensor, gate: Gate, *, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not self.takes_gate(len(x)):
            return self(gate(x), add=add)
        return self._many(*self._rounded(x, gate=gate), None, add)

    def _rounded(
        self, x: torch.Tensor, *, norm: Norm | None = None, gate: Gate | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """gate(norm(x)) as 8-bit values, and their scales."""
        return quantize(
            _rows(x),
            self._values.dtype,
            self._kernels,
            norm=norm,
            gate=gate,
            block=self._block,
            scale=self._input_scale,
        )

    def _few(self, x: torch.Tensor, gate: Gate | None, add: torch.Tensor | None) -> torch.Tensor:
        n, k = self._values.shape
        width = n if gate is None else n // 2
        act = None
        config = _ALIKE
        if not self._kernels.alike:
            config = choose("byte", len(x), width, k, gated=gate is not None, device=x.device)
        # A gate inside takes halves of whole squares.
        if gate is not None and n % (2 * (self._block or 1)) == 0:
            act, gate = gate.act, None
        y = eight_bit.multiply(
            _rows(x),
            self._values if self._native else self._values.view(torch.uint8),
            self._scales,
            config,
            self._kernels,
            block=self._block,
            depth=self._depth,
            bias=self._bias,
            act=act,
            add=add if gate is None else None,
        )
        return y if gate is None else _finish(y, gate, add)

    def _many(
        self, q: torch.Tensor, s: torch.Tensor, gate: Gate | None, add: torch.Tensor | None
    ) -> torch.Tensor:
        values, scales = self._values, self._scales
        n, k = values.shape
        inside = gate is not None and len(q) <= _GATED and self._block is None
        width = n // 2 if inside else n
        config = choose(self._kind, len(q), width, k, gated=inside, device=q.device)
        if config.form == "library":
            y = torch._scaled_mm(
                q, values.t(), s, scales.t(), self._bias, out_dtype=self._dtype, use_fast_accum=True
            )
            return _finish(y, gate, add)
        act = None
        if gate is not None and inside:
            act, gate = gate.act, None
        y = scaled.multiply(
            q,
            s,
            values,
            scales,
            config,
            self._kernels,
            self._dtype,
            block=self._block,
            depth=self._depth,
            bias=self._bias,
            act=act,
            add=add if gate is None else None,
        )
        return y if gate is None else _finish(y, gate, add)

    def _through_dense(self, x: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """By torch, on the matrix written out chunk by chunk."""
        n, k = self._values.shape
        y = torch.empty((len(x), n), dtype=x.dtype, device=x.device)
        block = self._block or 1
        for first, matrix in scratch.chunks(n, k):
            count = len(matrix)
            rows = torch.arange(first, first + count, device=x.device) // block
            scales = self._scales[rows]
            if self._block is not None:
                scales = scales.repeat_interleave(block, 1)[:, :k]
            torch.mul(self._values[first : first + count].float(), scales, out=matrix)
            _multiply_into(y[:, first : first + count], x, matrix, self._bias, first)
        return y


class Float8Product(_ByteProduct):
    """With 8-bit floats that have a scale an output, or a square.

    Args:
        weight: on the GPU; kept as it is.
        bias: [N] in the activations' dtype, or None.
        dtype: of activations: bfloat16 or float16.
        platform: of the GPU.

    Raises:
        ValueError: for another dtype, or squares whose side is no power of two from 32 on.
    """

    def __init__(
        self,
        weight: Float8Weight,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        platform: Platform,
    ) -> None:
        block = weight.block
        if not takes(weight):
            raise ValueError(
                f"squares of {block} that share a scale are not supported by the GPU's kernels: "
                f"powers of two from 32 on are"
            )
        super().__init__(
            weight.values,
            weight.scales,
            bias,
            dtype,
            platform,
            block=block,
            input_scale=weight.input_scale if block is None else None,
        )


class Int8Product(_ByteProduct):
    """With signed bytes that have a scale an output.

    Args:
        weight: on the GPU; kept as it is.
        bias: [N] in the activations' dtype, or None.
        dtype: of activations: bfloat16 or float16.
        platform: of the GPU.

    Raises:
        ValueError: for another dtype.
    """

    def __init__(
        self,
        weight: Int8Weight,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        platform: Platform,
    ) -> None:
        super().__init__(weight.values, weight.scales, bias, dtype, platform)


def takes(weight: Weight) -> bool:
    """Whether the kernels read groups, or squares, of such a size."""
    if isinstance(weight, GroupedWeight):
        return part_of_groups(weight) is not None
    block = weight.block if isinstance(weight, Float8Weight) else None
    return block is None or (block >= 32 and not block & (block - 1))


def held_bits(weight: Weight) -> float:
    """Bits that a product keeps of one entry of a weight that ``takes`` admits, with its scale."""
    if not isinstance(weight, GroupedWeight):
        return 8
    part = part_of_groups(weight) or weight.group_size
    width, scale = packed_width(weight, part), 8 * weight.scales.element_size()
    zero = 0 if weight.zeros is None else 4 if width == 4 else 16
    return width + (scale + zero) / weight.group_size


def product_of(
    weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype, platform: Platform
) -> GroupedProduct | Float8Product | Int8Product:
    """The product with a weight that ``takes`` admits."""
    if isinstance(weight, GroupedWeight):
        return GroupedProduct(weight, bias, dtype, platform)
    if isinstance(weight, Float8Weight):
        return Float8Product(weight, bias, dtype, platform)
    return Int8Product(weight, bias, dtype, platform)


def _kernels(platform: Platform, dtype: torch.dtype) -> Kernels:
    """The platform's kernels, for a dtype that they take.

    Raises:
        ValueError: for another dtype, or a platform without kernels.
    """
    kernels = platform.kernels()
    if kernels is None or dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"no kernels for {dtype} on a platform of {platform.device_type}")
    return kernels


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x with rows that are contiguous, as kernels read them."""
    return x if x.stride(1) == 1 else x.contiguous()


def _finish(y: torch.Tensor, gate: Gate | None, add: torch.Tensor | None) -> torch.Tensor:
    """add + gate(y), by passes of their own."""
    if gate is not None:
        y = gate(y)
    return y if add is None else add.add_(y)


def _multiply_into(
    out: torch.Tensor,
    x: torch.Tensor,
    matrix: torch.Tensor,
    bias: torch.Tensor | None,
    first: int,
) -> None:
    """out = x @ matrix.T + bias[first :]."""
    if bias is None:
        torch.mm(x, matrix.t(), out=out)
    else:
        torch.addmm(bias[first : first + len(matrix)], x, matrix.t(), out=out)
