"""Kernels one after the other, in one region of threads."""

from __future__ import annotations

from .simd import long
from .threads import given, run

__all__ = ("make",)


def make():
    """The kernel; its arguments: how many kernels, and int64 [kernels, 2], each one's address and
    that of its arguments. All of a kernel's work is done when it returns, in every thread.
    """

    def sequence(args):
        table = given(args, 1)
        for index in range(given(args, 0)):
            run(long(table, 2 * index), long(table, 2 * index + 1))

    return sequence
