"""Vectors of sixteen float32 for numba, which has none: what kernels for a CPU are written in.

LLVM makes one AVX-512 register of a vector, two of AVX2, four of NEON. Every operation rounds as
written: nothing is reordered and only ``fma`` fuses, so that a row of numbers gets the same bits in
every loop that treats it alike.

An address is an int64, and an index counts elements of 32 bits (float32) or 16 (bfloat16).
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin

from ..shapes import LANES

__all__ = (
    "absolute",
    "called",
    "defined",
    "exp",
    "fma",
    "get",
    "greatest",
    "inlined",
    "integer",
    "load",
    "load_some",
    "long",
    "maximum",
    "minimum",
    "pointer",
    "put",
    "put_long",
    "splat",
    "store",
    "store_some",
    "tanh",
    "total",
    "with_sign",
    "within",
)

# As numpy has errors: none is raised, and no kernel needs the interpreter.
_FAST = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
called = njit(**_FAST)
inlined = njit(**_FAST, forceinline=True)

_SHORT = ir.IntType(16)
_INT = ir.IntType(32)
_LONG = ir.IntType(64)
_FLOAT = ir.FloatType()


def _vector(element, lanes=LANES):
    return ir.VectorType(element, lanes)


_SHORTS, _INTS = _vector(_SHORT), _vector(_INT)
_FLOATS = _vector(_FLOAT)


class _FloatsType(types.Type):  # type: ignore[misc]
    """Numba's type of a vector."""

    def __init__(self):
        super().__init__(name="Floats")


@register_default(_FloatsType)
class _FloatsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


Floats = _FloatsType()


def defined(result, parameters, make):
    """An intrinsic of such types; ``make(builder, *values)`` gives its result."""

    def generate(context, builder, signature, args):
        made = make(builder, *args)
        return context.get_dummy_value() if result is types.void else made

    return result(*parameters), generate


def _constant(value):
    return ir.Constant(_INTS, [value] * LANES)


def _same(builder, scalar, kind):
    """A vector of one scalar."""
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, _constant(0))


def pointer(builder, address, index, element):
    """To an element of this type."""
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [index])


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _mask(builder, count):
    """The first so many lanes."""
    lanes = ir.Constant(_INTS, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _same(builder, builder.trunc(count, _INT), _INTS))


def _widened(builder, shorts):
    """The float32 of bfloat16s."""
    one = isinstance(shorts.type, ir.IntType)
    ints, floats, shift = (
        (_INT, _FLOAT, ir.Constant(_INT, 16)) if one else (_INTS, _FLOATS, _constant(16))
    )
    return builder.bitcast(builder.shl(builder.zext(shorts, ints), shift), floats)


def _narrowed(builder, value):
    """The nearest bfloat16, ties to even; a NaN stays one."""
    one = value.type == _FLOAT
    ints, shorts = (_INT, _SHORT) if one else (_INTS, _SHORTS)

    def number(constant):
        return ir.Constant(_INT, constant) if one else _constant(constant)

    bits = builder.bitcast(value, ints)
    odd = builder.and_(builder.lshr(bits, number(16)), number(1))
    rounded = builder.add(bits, builder.add(odd, number(0x7FFF)))
    quiet = builder.or_(bits, number(0x400000))
    rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(rounded, number(16)), shorts)


def _is_wide(bits):
    return bool(bits.literal_value == 32)


@intrinsic(prefer_literal=True)
def load(context, bits, address, index):
    """Sixteen elements of so many bits, a constant, from the index on."""
    wide = _is_wide(bits)

    def make(builder, _, address, index):
        element, vector = (_FLOAT, _FLOATS) if wide else (_SHORT, _SHORTS)
        place = pointer(builder, address, index, element)
        found = builder.load(builder.bitcast(place, vector.as_pointer()), align=4 if wide else 2)
        return found if wide else _widened(builder, found)

    return defined(Floats, (bits, types.int64, types.int64), make)


@intrinsic(prefer_literal=True)
def load_some(context, bits, address, index, count):
    """The first so many of sixteen elements; the rest are zeros and not read."""
    wide = _is_wide(bits)

    def make(builder, _, address, index, count):
        element, vector, name = (_FLOAT, _FLOATS, "v16f32") if wide else (_SHORT, _SHORTS, "v16i16")
        place = builder.bitcast(pointer(builder, address, index, element), vector.as_pointer())
        zeros = ir.Constant(vector, None)
        found = _call(
            builder,
            f"llvm.masked.load.{name}.p0",
            vector,
            place,
            ir.Constant(_INT, 4 if wide else 2),
            _mask(builder, count),
            zeros,
        )
        return found if wide else _widened(builder, found)

    return defined(Floats, (bits, types.int64, types.int64, types.int64), make)


@intrinsic(prefer_literal=True)
def store(context, bits, address, index, value):
    """Write sixteen elements of so many bits, a constant."""
    wide = _is_wide(bits)

    def make(builder, _, address, index, value):
        element, vector = (_FLOAT, _FLOATS) if wide else (_SHORT, _SHORTS)
        place = builder.bitcast(pointer(builder, address, index, element), vector.as_pointer())
        builder.store(value if wide else _narrowed(builder, value), place, align=4 if wide else 2)

    return defined(types.void, (bits, types.int64, types.int64, Floats), make)


@intrinsic(prefer_literal=True)
def store_some(context, bits, address, index, count, value):
    """Write the first so many of sixteen elements."""
    wide = _is_wide(bits)

    def make(
        builder,
        _,
        address,
        index,
        count,
        value,
    ):
        element, vector, name = (_FLOAT, _FLOATS, "v16f32") if wide else (_SHORT, _SHORTS, "v16i16")
        place = builder.bitcast(pointer(builder, address, index, element), vector.as_pointer())
        _call(
            builder,
            f"llvm.masked.store.{name}.p0",
            ir.VoidType(),
            value if wide else _narrowed(builder, value),
            place,
            ir.Constant(_INT, 4 if wide else 2),
            _mask(builder, count),
        )

    return defined(types.void, (bits, types.int64, types.int64, types.int64, Floats), make)


@intrinsic(prefer_literal=True)
def get(context, bits, address, index):
    """One element of so many bits, a constant, as float32."""
    wide = _is_wide(bits)

    def make(builder, _, address, index):
        found = builder.load(pointer(builder, address, index, _FLOAT if wide else _SHORT))
        return found if wide else _widened(builder, found)

    return defined(types.float32, (bits, types.int64, types.int64), make)


@intrinsic(prefer_literal=True)
def put(context, bits, address, index, value):
    """Write one element of so many bits, a constant."""
    wide = _is_wide(bits)

    def make(builder, _, address, index, value):
        place = pointer(builder, address, index, _FLOAT if wide else _SHORT)
        builder.store(value if wide else _narrowed(builder, value), place)

    return defined(types.void, (bits, types.int64, types.int64, types.float32), make)


@intrinsic
def integer(context, address, index):
    """One int32 as int64."""

    def make(builder, address, index):
        return builder.sext(builder.load(pointer(builder, address, index, _INT)), _LONG)

    return defined(types.int64, (types.int64, types.int64), make)


@intrinsic
def long(context, address, index):
    """One int64."""

    def make(builder, address, index):
        return builder.load(pointer(builder, address, index, _LONG))

    return defined(types.int64, (types.int64, types.int64), make)


@intrinsic
def put_long(context, address, index, value):
    """Write one int64."""

    def make(builder, address, index, value):
        builder.store(value, pointer(builder, address, index, _LONG))

    return defined(types.void, (types.int64, types.int64, types.int64), make)


@intrinsic
def splat(context, value):
    """A vector of one float32."""
    return defined(Floats, (types.float32,), lambda builder, x: _same(builder, x, _FLOATS))


@intrinsic
def fma(context, a, b, c):
    """a * b + c, rounded once."""

    def make(builder, *args):
        return _call(builder, "llvm.fma.v16f32", _FLOATS, *args)

    return defined(Floats, (Floats, Floats, Floats), make)


@intrinsic
def maximum(context, a, b):
    """The greater of each pair; of a NaN and a number, the number."""

    def make(builder, *args):
        return _call(builder, "llvm.maxnum.v16f32", _FLOATS, *args)

    return defined(Floats, (Floats, Floats), make)


def _operator(function, name):
    """Give vectors an operator."""

    @infer_global(function)
    class Operator(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(Floats, Floats, Floats)]

    @lower_builtin(function, Floats, Floats)
    def operate(context, builder, kinds, args):
        return getattr(builder, name)(*args)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


@intrinsic
def within(context, value, first, low, high):
    """The vector with -inf in lanes whose number, counted from ``first``, is not in [low, high)."""

    def make(builder, value, first, low, high):
        lanes = ir.Constant(_INTS, list(range(LANES)))

        def limit(end):
            return _same(builder, builder.trunc(builder.sub(end, first), _INT), _INTS)

        inside = builder.and_(
            builder.icmp_signed(">=", lanes, limit(low)),
            builder.icmp_signed("<", lanes, limit(high)),
        )
        return builder.select(inside, value, ir.Constant(_FLOATS, [float("-inf")] * LANES))

    return defined(Floats, (Floats, types.int64, types.int64, types.int64), make)


def _folded(builder, value, fold):
    """All lanes in one, halves by halves."""
    half = LANES // 2
    while half:
        kind = _vector(_INT, half)
        low = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(half))))
        high = builder.shuffle_vector(value, value, ir.Constant(kind, list(range(half, 2 * half))))
        value, half = fold(low, high, half), half // 2
    return builder.extract_element(value, ir.Constant(_INT, 0))


@intrinsic
def total(context, value):
    """The sum of all lanes."""

    def make(builder, value):
        return _folded(builder, value, lambda low, high, half: builder.fadd(low, high))

    return defined(types.float32, (Floats,), make)


@intrinsic
def greatest(context, value):
    """The greatest of all lanes."""

    def make(builder, value):
        def fold(low, high, half):
            return _call(builder, f"llvm.maxnum.v{half}f32", _vector(_FLOAT, half), low, high)

        return _folded(builder, value, fold)

    return defined(types.float32, (Floats,), make)


@intrinsic
def scaled(context, value, shifted):
    """value * 2 ** n, where n is in the last bits of ``shifted``, which is 1.5 * 2 ** 23 + n."""

    def make(builder, value, shifted):
        exponent = builder.shl(builder.bitcast(shifted, _INTS), _constant(23))
        return builder.bitcast(builder.add(builder.bitcast(value, _INTS), exponent), _FLOATS)

    return defined(Floats, (Floats, Floats), make)


_LEAST, _MOST = np.float32(-87.0), np.float32(88.0)
_SHIFT = np.float32(1.5 * 2**23)
_LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts, the first with zeros at its end so that n times it is exact.
_LN_2, _LN_2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ONE, _TWO = np.float32(1), np.float32(2)
# Cephes' polynomial of degree 5 for (e**r - 1 - r) / r**2, |r| <= ln(2) / 2.
_C0, _C1, _C2 = (
    np.float32(1.9875691500e-4),
    np.float32(1.3981999507e-3),
    np.float32(8.3334519073e-3),
)
_C3, _C4 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1)
_C5 = np.float32(5.0000001201e-1)


@inlined
def exp(x):
    """e ** x within 2 units in the last place; x is held in [-87, 88], and -inf gives 0.

    After Cephes' expf (S. Moshier, netlib.org/cephes).
    """
    held = minimum(maximum(x, splat(_LEAST)), splat(_MOST))
    shifted = fma(held, splat(_LOG2_E), splat(_SHIFT))
    n = shifted - splat(_SHIFT)
    r = fma(n, splat(-_LN_2), held)
    r = fma(n, splat(-_LN_2_REST), r)
    p = fma(splat(_C0), r, splat(_C1))
    p = fma(p, r, splat(_C2))
    p = fma(p, r, splat(_C3))
    p = fma(p, r, splat(_C4))
    p = fma(p, r, splat(_C5))
    p = fma(p, r * r, r) + splat(_ONE)
    return where_finite(x, scaled(p, shifted))


@inlined
def tanh(x):
    """Within 2e-7, and no closer to a zero than that."""
    return splat(_ONE) - splat(_TWO) / (exp(x + x) + splat(_ONE))


@intrinsic
def minimum(context, a, b):
    """The lesser of each pair; of a NaN and a number, the number."""

    def make(builder, *args):
        return _call(builder, "llvm.minnum.v16f32", _FLOATS, *args)

    return defined(Floats, (Floats, Floats), make)


@intrinsic
def where_finite(context, x, value):
    """The value, but 0 where x is -inf, and x where it is a NaN."""

    def make(builder, x, value):
        least = ir.Constant(_FLOATS, [float("-inf")] * LANES)
        value = builder.select(
            builder.fcmp_ordered("==", x, least), ir.Constant(_FLOATS, None), value
        )
        return builder.select(builder.fcmp_unordered("uno", x, x), x, value)

    return defined(Floats, (Floats, Floats), make)


@intrinsic
def absolute(context, x):
    """The vector without signs."""

    def make(builder, x):
        return _call(builder, "llvm.fabs.v16f32", _FLOATS, x)

    return defined(Floats, (Floats,), make)


@intrinsic
def with_sign(context, x, sign):
    """The vector with the signs of another."""

    def make(builder, *args):
        return _call(builder, "llvm.copysign.v16f32", _FLOATS, *args)

    return defined(Floats, (Floats, Floats), make)
