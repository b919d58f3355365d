"""What followed the longest run of last tokens that a row has had before."""

from __future__ import annotations

from .simd import called, integer, long, put_long
from .threads import given, take, wait_for

__all__ = ("make",)


@called
def _found(tokens, length, least, longest):
    """Length and end of the latest of the longest runs that are also a row's last tokens."""
    best, place = 0, 0
    for end in range(length - 1, 0, -1):
        run = 0
        while run < min(longest, end) and integer(tokens, end - 1 - run) == integer(
            tokens, length - 1 - run
        ):
            run += 1
        if run > best:
            best, place = run, end
            if best == longest:
                break
    return (best, place) if best >= least else (0, 0)


def make():
    """The kernel.

    Its arguments: int32 tokens [slots, positions] and from one row to the next; int64 slots and
    lengths of the rows, and how many rows; the tokens of a run, at least and at most; drafts for
    each of them, 0 for as many as there may be; int64 [rows, drafts] to be filled, -1 where nothing
    is proposed, and how many drafts.
    """

    def lookup(args):
        stride, rows, least, longest = (
            given(args, 1), given(args, 4), given(args, 5), given(args, 6),
        )  # fmt: skip
        each, out, most = given(args, 7), given(args, 8), given(args, 9)
        while True:
            row = take(args, 0)
            if row >= rows:
                break
            tokens = given(args, 0) + long(given(args, 2), row) * stride * 4
            length = long(given(args, 3), row)
            run, place = _found(tokens, length, least, longest)
            trusted = most if each == 0 else min(most, each * run)
            if run == 0:
                trusted = 0
            for draft in range(most):
                known = draft < trusted and place + draft < length
                put_long(out, row * most + draft, integer(tokens, place + draft) if known else -1)
            take(args, 1)
        wait_for(args, 1, rows)

    return lookup
