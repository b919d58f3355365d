"""Repairs of Triton's interpreter, which has no bfloat16 or float8 arithmetic of its own.

It keeps both as unsigned integers and computes on those: a dot, a sum or a comparison of bfloat16
is silently that of the bit patterns, and casts to them round wrongly. With ``repair`` they go
through float32 and round to nearest even, casts to float8 saturate as the hardware's do, and a loop
whose bound was loaded works in Triton 3.6 with numpy from 2.4 on. The larger of NaN and a number is
the number, and sums of products do not follow a tile's shape.

What stays broken raises: a reduction of bfloat16, atomics of bfloat16, inline assembly, libdevice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

__all__ = ("repair",)

_TORCH = {
    tl.float64: torch.float64,
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
_BITS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_EMULATED = (tl.bfloat16, tl.float8e4nv, tl.float8e5)
_convert_other = interpreter._convert_float
_number_kind = cache(interpreter._get_np_dtype)


def repair() -> None:
    """Patch the interpreter of this process; call it before any kernel runs."""
    interpreter._convert_float = _convert
    for name, method in {
        "cast_impl": _cast,
        "binary_op": _binary,
        "unary_op": _unary,
        "ternary_op": _ternary,
        "create_fma": _fma,
        "create_dot": _dot,
        "create_maxnumf": _of_numbers(np.fmax),
        "create_minnumf": _of_numbers(np.fmin),
        "get_bf16": _bfloat16,
    }.items():
        setattr(InterpreterBuilder, name, method)
    interpreter.ReduceScanOpInterface.check_tensor = _check_reduced
    # The interpreter puts its own functions in the language's place and back again around every
    # call, those of kernels' helpers included, which takes a fifth of the time.
    interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    tl.tensor.__index__ = lambda self: int(self.handle.data.squeeze())
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
    interpreter._get_np_dtype = _numpy_kind


def _convert(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
    """Bits of one floating type to bits of another, to nearest even; float8 saturates."""
    if source not in _TORCH or target not in _TORCH or rounding == ir.ROUNDING_MODE.RTZ:
        return _convert_other(data, source, target, rounding)
    kind = _TORCH[target]
    bits = np.array(data, order="C").view(_BITS[data.itemsize])
    values = torch.from_numpy(bits).view(_TORCH[source])
    if kind.itemsize == 1:
        values = values.float().clamp(-torch.finfo(kind).max, torch.finfo(kind).max)
    converted = values.to(kind).view(getattr(torch, f"int{8 * kind.itemsize}")).numpy()
    return converted.view(f"u{converted.itemsize}")


def _wide(handle: TensorHandle) -> np.ndarray:
    """A handle's values in a type that numpy computes in."""
    scalar = handle.dtype.scalar
    if scalar not in _EMULATED:
        return handle.data
    return _convert(handle.data, scalar, tl.float32, None).view(np.float32)


def _handle(values: np.ndarray, kind: Any) -> TensorHandle:
    """Computed values as a handle of the kind, or of int1 if an operator compared."""
    values = np.asarray(values)
    if values.dtype == np.bool_:
        return TensorHandle(values, tl.int1)
    if kind in _EMULATED:
        return TensorHandle(_convert(values.astype(np.float32), tl.float32, kind, None), kind)
    if not interpreter._validate_np_data_size(values, kind):
        values = values.astype(_numpy_kind(kind))
    return TensorHandle(values, kind)


def _numpy_kind(kind: Any) -> np.dtype:
    scalar = kind.scalar
    return np.dtype(np.uint64) if isinstance(scalar, tl.pointer_type) else _number_kind(scalar)


def _cast(self: Any, source: TensorHandle, target: Any) -> TensorHandle:
    kind = target.scalar
    if kind in _EMULATED:
        return _handle(_wide(source), kind)
    with np.errstate(over="ignore", invalid="ignore"):
        return TensorHandle(_wide(source).astype(_numpy_kind(target)), kind)


def _binary(self: Any, left: TensorHandle, right: TensorHandle, op: Callable) -> TensorHandle:
    return _handle(op(_wide(left), _wide(right)), left.dtype.scalar)


def _unary(self: Any, value: TensorHandle, op: Callable) -> TensorHandle:
    return _handle(op(_wide(value)), value.dtype.scalar)


def _ternary(self: Any, a: TensorHandle, b: TensorHandle, c: TensorHandle, op: Any) -> TensorHandle:
    return _handle(op(_wide(a), _wide(b), _wide(c)), c.dtype.scalar)


def _fma(self: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
    return _handle(_wide(x) * _wide(y) + _wide(z), z.dtype.scalar)


def _dot(
    self: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, precision: Any, imprecise: Any
) -> TensorHandle:
    kind = d.data.dtype
    # In float64, since an element's float32 sum in a BLAS follows the shape of its tile.
    sums = np.float64 if kind.kind == "f" else kind
    product = np.matmul(_wide(a).astype(sums), _wide(b).astype(sums)).astype(kind)
    return TensorHandle(product + d.data, d.dtype.scalar)


def _of_numbers(op: Callable) -> Callable:
    """The larger or smaller, where one is NaN the other, as GPUs have it."""
    return lambda self, left, right: _binary(self, left, right, op)


def _bfloat16(self: Any, value: float) -> TensorHandle:
    return _handle(np.array([value], dtype=np.float32), tl.bfloat16)


def _check_reduced(self: Any, inputs: tuple[Any, ...]) -> None:
    for argument in inputs:
        if argument.dtype.scalar in _EMULATED:
            raise TypeError(
                f"the interpreter cannot reduce {argument.dtype}: cast to float32 first"
            )
        self.check_axis(argument.shape, self.axis)
