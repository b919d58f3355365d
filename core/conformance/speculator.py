"""Speculators: proposals of the right shape, slot by slot, with nothing left of who was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..contracts.speculator import Speculator
from .report import require

__all__ = ("check_speculator",)

_LOOP = [5, 6, 7, 8] * 6
_OTHER = [9, 9, 2, 1, 9, 9, 2, 1, 9, 9]
_LONE = [3]


def check_speculator(factory: Callable[[], Speculator], vocab_size: int = 16) -> None:
    """Check a speculator.

    Args:
        factory: makes one, without arguments, for at least 3 slots and 64 tokens a sequence.
        vocab_size: proposals must be below it; at least 16.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    speculator = factory()
    sequences = {0: _LOOP, 2: _OTHER, 1: _LONE}
    for slot, tokens in sequences.items():
        speculator.begin(slot, tokens)
    for most in (0, 1, 4):
        for slots in ([], [2], [0, 1, 2], [2, 0]):
            _proposals(speculator, slots, most, vocab_size)
    _check_independence(speculator, sequences, vocab_size)
    _check_life(factory(), vocab_size)
    _check_forgetting(factory, vocab_size)


def _check_independence(
    speculator: Speculator, sequences: dict[int, list[int]], vocab_size: int
) -> None:
    together = _proposals(speculator, list(sequences), 4, vocab_size)
    for slot, drafts in zip(sequences, together, strict=True):
        alone = _proposals(speculator, [slot], 4, vocab_size)[0]
        require(
            alone == drafts,
            f"slot {slot} is proposed {alone} alone and {drafts} beside others",
        )


def _check_life(speculator: Speculator, vocab_size: int) -> None:
    """Sequences grow by all, some and none of what was proposed, for many rounds."""
    speculator.begin(0, _LOOP)
    speculator.begin(1, _OTHER)
    for turn in range(12):
        drafts, others = _proposals(speculator, [0, 1], 3, vocab_size)
        kept = min(len(drafts), turn % 4)
        speculator.accepted(0, [*drafts[:kept], 5 + turn % 4], kept)
        if turn % 2:
            speculator.accepted(1, [9], 1 if others[:1] == [9] else 0)
    speculator.end(0)
    _proposals(speculator, [1], 3, vocab_size)
    speculator.end(1)


def _check_forgetting(factory: Callable[[], Speculator], vocab_size: int) -> None:
    used, fresh = factory(), factory()
    used.begin(1, _LOOP)
    _proposals(used, [1], 4, vocab_size)
    used.accepted(1, [5, 6], 0)
    used.end(1)
    for speculator in (used, fresh):
        speculator.begin(1, _OTHER)
    after = _proposals(used, [1], 4, vocab_size)
    require(
        after == _proposals(fresh, [1], 4, vocab_size),
        "a slot that was given up still knows its former sequence",
    )


def _proposals(
    speculator: Speculator, slots: Sequence[int], most: int, vocab_size: int
) -> list[list[int]]:
    drafts = speculator.propose(slots, most)
    require(
        isinstance(drafts, list) and len(drafts) == len(slots),
        f"propose must give a list for each of {len(slots)} slots, not {drafts!r}",
    )
    for chain in drafts:
        require(
            isinstance(chain, list) and len(chain) <= most,
            f"propose gave {chain!r} where at most {most} tokens were asked for",
        )
        require(
            all(isinstance(token, int) and 0 <= token < vocab_size for token in chain),
            f"propose gave {chain!r}, which has tokens outside the vocabulary of {vocab_size}",
        )
    return drafts
