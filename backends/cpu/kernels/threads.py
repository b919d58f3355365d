"""What a kernel's threads share: arguments, room, and counters by which they divide their work.

A kernel is a function of one address, where its arguments lie as int64: first counters, which are
zero when it begins, and then the others. Threads take items of work by counting, and no thread
waits for one that has not come.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..shapes import COUNTERS
from .simd import defined, get, inlined, long, pointer

__all__ = (
    "given",
    "given_float",
    "peek",
    "room_of_thread",
    "run",
    "take",
    "wait_for",
)

_LONG = ir.IntType(64)


@intrinsic
def take(context, address, index):
    """An int64 that threads count with: its value, before it becomes one more.

    What a thread wrote before is seen by those that count later.
    """

    def make(builder, address, index):
        place = pointer(builder, address, index, _LONG)
        return builder.atomic_rmw("add", place, ir.Constant(_LONG, 1), "acq_rel")

    return defined(types.int64, (types.int64, types.int64), make)


@intrinsic
def peek(context, address, index):
    """Such a counter's value."""

    def make(builder, address, index):
        place = pointer(builder, address, index, _LONG)
        return builder.load_atomic(place, "acquire", 8)

    return defined(types.int64, (types.int64, types.int64), make)


@inlined
def given(args, index):
    """An argument of a kernel."""
    return long(args, COUNTERS + index)


@inlined
def given_float(args, index, half):
    """The first or second float32 of an argument."""
    return get(32, args, 2 * (COUNTERS + index) + half)


@inlined
def room_of_thread(args, index):
    """Of three arguments, room, its bytes a thread and for how many threads: where this thread's
    begins, counted by the first counter; 0 for one too many."""
    which = take(args, 0)
    if which >= given(args, index + 2):
        return 0
    return given(args, index) + which * given(args, index + 1)


@inlined
def wait_for(args, counter, count):
    """Until threads have counted so far."""
    while peek(args, counter) < count:
        pass


@intrinsic
def run(context, kernel, args):
    """Run the kernel at an address."""

    def make(builder, kernel, args):
        kind = ir.FunctionType(ir.VoidType(), [_LONG])
        builder.call(builder.inttoptr(kernel, kind.as_pointer()), [args])

    return defined(types.void, (types.int64, types.int64), make)
