"""The inputs of captured decode steps: they go to the device only where it does not have them.

A step leaves its inputs as the next one needs them where each row goes on by a token, or where all
verify as many drafts as before, so that steady decoding sends nothing to the device.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from ..step import Plan
from .slot_kernels import FLOATING, LAST, OFFSET
from .slots import SlotTable
from .staging import aligned

__all__ = ("NOBODY", "DecodeInputs", "Layout", "Tokens")

# Slots of a step that is nothing but padding.
NOBODY = np.empty(0, dtype=np.int64)


class Tokens(NamedTuple):
    """A step's tokens, M of them.

    Attributes:
        slots: int64 [M].
        starts: int64 [M], positions; of those that the device alone knows, always the same.
        codes: int64 [M], see ``slot_kernels``; None where there are no drafts.
    """

    slots: np.ndarray
    starts: np.ndarray
    codes: np.ndarray | None = None

    @property
    def next(self) -> Tokens:
        """Those of the next step, if each row goes on by a token."""
        return Tokens(self.slots, self.starts + 1)

    def are(self, other: Tokens) -> bool:
        """Whether others are the same."""
        if other is self:
            return True
        if len(other.slots) != len(self.slots):
            return False
        if other.codes is not self.codes and (
            other.codes is None or self.codes is None or (other.codes != self.codes).any()
        ):
            return False
        return bool((other.slots == self.slots).all() and (other.starts == self.starts).all())


class Layout(NamedTuple):
    """The tokens of a step that verifies drafts, sequence by sequence.

    Attributes:
        key: what all of it depends on: each row's slot, its tokens, and whether the device alone
            knows where it starts.
        rows: of each token, its row in the plan.
        host_slots: of each token.
        slots: the same, int64.
        offsets: int64, tokens of its row before each.
        codes: int64, see ``slot_kernels``.
        known: bool, whether the host knows where a token stands; None where it does of none.
        floating: the tokens, as the device alone knows where they stand.
    """

    key: list[tuple[int, int, bool]]
    rows: list[int]
    host_slots: list[int]
    slots: np.ndarray
    offsets: np.ndarray
    codes: np.ndarray
    known: np.ndarray | None
    floating: Tokens

    def tokens(self, plan: Plan) -> Tokens:
        """Those of a plan with this layout."""
        if self.known is None:
            return self.floating
        begins = np.array([row.start for row in plan.rows])[self.rows]
        starts = np.where(self.known, begins + self.offsets, 0)
        return Tokens(self.slots, starts, self.codes)


class DecodeInputs:
    """Slots, positions and codes of a step on the device, padded to one of a few sizes.

    Args:
        table: the slot table.
        max_rows: of a step.
    """

    def __init__(self, table: SlotTable, max_rows: int) -> None:
        self._table = table
        room = 3 * aligned(max_rows)
        # Somebody's, where kernels are only compiled and nothing is received.
        self._inputs = torch.zeros(room, dtype=torch.int64, device=table.device)
        self._inbox = table.inbox(self._inputs, max_rows)
        # As they will be once all that was launched has run, where that is known.
        self._ready: tuple[int, Tokens] | None = None
        # Of the last step with drafts: the next one is often like it.
        self._layout: Layout | None = None

    def part(self, index: int, size: int) -> torch.Tensor:
        """Slots, positions or codes of so many rows: int64."""
        return self._inputs[index * aligned(size) :][:size]

    def put(self, tokens: Tokens, size: int, grown: np.ndarray) -> None:
        """Have a step's tokens there, padded to so many rows, and new blocks in the table."""
        ready, self._ready = self._ready, None
        self._inbox.begin()
        if not self._inbox.append(grown):
            self._table.append(grown)
        if ready is None or ready[0] != size or not ready[1].are(tokens):
            self._fill(tokens, size)

    def receive(self) -> None:
        """Launch what takes in what was put, so that a graph can hold it."""
        self._inbox.receive()

    def keep(self, tokens: Tokens, size: int) -> None:
        """The step that was launched leaves these there."""
        self._ready = size, tokens
        self._inbox.launched()

    def pad(self, size: int, *, verifies: bool) -> None:
        """Have nothing but padding there."""
        self._ready = None
        self._inbox.begin()
        self._fill(Tokens(NOBODY, NOBODY, NOBODY if verifies else None), size)

    def recount(self) -> None:
        """Launches that were no steps may have taken in what was put."""
        self._inbox.recount()

    def arrange(self, plan: Plan) -> Layout:
        """How the tokens of a plan with drafts stand side by side."""
        key = [(row.slot, row.count, row.slack > 0) for row in plan.rows]
        if self._layout is None or self._layout.key != key:
            self._layout = _layout(key, self._table)
        return self._layout

    def _fill(self, tokens: Tokens, size: int) -> None:
        slots, starts, codes = tokens
        room, count = aligned(size), len(slots)
        values = np.zeros(3 * room if codes is not None else 2 * room, dtype=np.int64)
        values[:count] = slots
        values[count:size] = self._table.padding
        values[room : room + count] = starts
        if codes is not None:
            values[2 * room :] = LAST  # Padding is the last row of itself.
            values[2 * room : 2 * room + count] = codes
        self._inbox.write(values)


def _layout(key: list[tuple[int, int, bool]], table: SlotTable) -> Layout:
    """See ``Layout``; steps of few sequences are laid out anew in less time than numpy's calls
    take."""
    order, _ = table.by_prefix(np.array([slot for slot, _, _ in key]))
    rows: list[int] = []
    host_slots: list[int] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for row in order.tolist():
        slot, count, floats = key[row]
        rows += [row] * count
        host_slots += [slot] * count
        parts.append(_pattern(count, floats=floats))
    slots = np.array(host_slots)
    offsets, codes = map(np.concatenate, zip(*parts, strict=True))
    known = None
    if not all(floats for _, _, floats in key):
        known = np.array([not key[row][2] for row in rows])
    floating = Tokens(slots, np.zeros_like(slots), codes)
    return Layout(key, rows, host_slots, slots, offsets, codes, known, floating)


@cache
def _pattern(count: int, *, floats: bool) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and codes of a row's tokens."""
    offsets = np.arange(count)
    codes = (offsets << OFFSET) + FLOATING * floats
    codes[-1] += LAST
    return offsets, codes
