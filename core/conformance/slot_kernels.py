"""Slot kernels: what torch's operators make of the same steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..run.inbox import Inbox
from ..run.mailbox import Mailbox
from ..run.slot_kernels import FLOATING, LAST, OFFSET, SlotKernels
from ..run.slots import SlotTable
from ..run.verify import place_drafts, verify
from .report import ConformanceError, require

__all__ = ("check_slot_kernels",)

_SLOTS, _LENGTH, _BLOCK, _DRAFTS, _VOCABULARY = 70, 20_000, 16, 5, 300
_ROWS = (1, 4, 33)
_PADDING = 3
# Numbers of letters, more of these than a mailbox keeps.
_LETTERS = (1, 2, 127, 128, 129, 300)
# Letters to an inbox, and those of which it must have received one by then.
_TURNS, _WAITS = 30, 2


def check_slot_kernels(
    kernels: SlotKernels, device: torch.device, synchronize: Callable[[], None]
) -> None:
    """Do everything to a table beside one without kernels.

    Args:
        kernels: of a platform.
        device: where they run.
        synchronize: waits for it.

    Raises:
        ConformanceError: naming the first difference.
    """
    generator = torch.Generator().manual_seed(0)
    pair = _Pair(kernels, device, synchronize)
    for rows in _ROWS:
        pair.fill(generator)
        pair.append(rows, generator)
        pair.receive(rows, generator)
        pair.locate(rows, generator)
        pair.verify(rows, generator)
        pair.place(rows, generator)
    mailbox = Mailbox(kernels, max(_LETTERS), device)
    for size in _LETTERS:
        numbers = torch.randint(-3, 2**40, (size,), generator=generator)
        mailbox.post(numbers.to(device))
        posted = mailbox.posted(size)
        synchronize()
        try:
            found = posted.read()
        except RuntimeError as error:
            raise ConformanceError(f"post: {error}") from error
        require(found == numbers.tolist(), f"post: {size} numbers are others in the letter")


class _Pair:
    """Two tables: with the kernels, and, on the host, without."""

    def __init__(
        self, kernels: SlotKernels, device: torch.device, synchronize: Callable[[], None]
    ) -> None:
        self._kernels = kernels
        self._synchronize = synchronize
        self._device = device
        self._theirs, self._plain = (
            SlotTable(
                max_slots=_SLOTS,
                max_model_len=_LENGTH,
                block_size=_BLOCK,
                device=where,
                max_drafts=_DRAFTS,
                kernels=own,
            )
            for own, where in ((kernels, device), (None, torch.device("cpu")))
        )

    def fill(self, generator: torch.Generator) -> None:
        for name, most in (("tokens", _VOCABULARY), ("blocks", 5000), ("lengths", _LENGTH)):
            part = getattr(self._plain, name)
            part.copy_(torch.randint(1, most, part.shape, generator=generator))
            getattr(self._theirs, name).copy_(part)

    def append(self, rows: int, generator: torch.Generator) -> None:
        slots = torch.randperm(_SLOTS, generator=generator)[:rows]
        columns = torch.randint(0, self._plain.blocks.shape[1], (rows,), generator=generator)
        blocks = torch.arange(rows) + 5000
        self._plain.blocks[slots, columns] = blocks.int()
        self._kernels.append(self._there(torch.cat((slots, columns, blocks))), self._theirs.blocks)
        self._same("append")

    def locate(self, rows: int, generator: torch.Generator) -> None:
        """A step without drafts, and one that verifies."""
        slots = torch.randperm(_SLOTS, generator=generator)[:rows]
        slots = torch.cat((slots, torch.full((_PADDING,), _SLOTS)))
        starts = torch.randint(0, _LENGTH - 1, slots.shape, generator=generator)
        starts[rows:] = 0
        for advances in (False, True):
            self._locate(slots, starts, None, advances=advances)
        slots, positions, codes = self._drafted(rows, generator)
        # Where the device alone knows the position, any other is handed over.
        starts = torch.where((codes & FLOATING) > 0, 0, positions)
        self._locate(slots, starts, codes, advances=False)

    def _locate(
        self,
        slots: torch.Tensor,
        starts: torch.Tensor,
        codes: torch.Tensor | None,
        *,
        advances: bool,
    ) -> None:
        found = []
        for table, put in ((self._theirs, self._there), (self._plain, torch.clone)):
            at, moved = table.places(len(slots)), put(starts)
            its_codes = None if codes is None else put(codes)
            table.locate(put(slots), moved, its_codes, at, advances=advances)
            found.append({**at._asdict(), "starts": moved})
        for name, theirs in found[0].items():
            _require_same(f"locate: {name}", theirs, found[1][name])
        self._same("locate")

    def receive(self, rows: int, generator: torch.Generator) -> None:
        """Letters that bring blocks, numbers, both, or nothing, more of them than an inbox keeps;
        some are thrown away and written again."""
        numbers = self._there(torch.zeros(3 * rows, dtype=torch.int64))
        inbox = Inbox(self._kernels, numbers, self._theirs.blocks, rows)
        expected = torch.zeros(3 * rows, dtype=torch.int64)
        for turn in range(_TURNS):
            new = torch.randint(0, 2**40, (rows + turn,), generator=generator)[: 3 * rows]
            slots = torch.randperm(_SLOTS, generator=generator)[: max(rows - turn, 1)]
            most = self._plain.blocks.shape[1]
            columns = torch.randint(0, most, slots.shape, generator=generator)
            blocks = torch.randint(5000, 6000, slots.shape, generator=generator)
            inbox.begin()
            if turn % 3 == 2:
                inbox.append(torch.cat((slots, columns, blocks)).numpy())
                inbox.write(new.numpy())
                inbox.receive()
                inbox.recount()
                inbox.begin()
            if turn % 2:
                inbox.append(torch.cat((slots, columns, blocks)).numpy())
            if turn % 5 < 3:
                inbox.write(new.numpy())
            inbox.receive()
            inbox.launched()
            if turn % 2 or turn % 3 == 2:
                self._plain.blocks[slots, columns] = blocks.int()
            if turn % 5 < 3 or turn % 3 == 2:
                expected[: len(new)] = new
            if turn % _WAITS == 0:
                self._synchronize()
        _require_same("receive: numbers", numbers, expected)
        self._same("receive")

    def verify(self, rows: int, generator: torch.Generator) -> None:
        slots, positions, codes = self._drafted(rows, generator)
        lengths = positions + 1
        drawn = self._plain.tokens[slots, lengths].long()
        wrong = torch.rand(drawn.shape, generator=generator) < 0.3
        drawn[wrong] = torch.randint(-2, _VOCABULARY, (int(wrong.sum()),), generator=generator)
        drawn[len(drawn) - _PADDING :] = 0
        theirs = self._there(drawn)
        verify(drawn, slots, lengths, codes, self._plain)
        slots, lengths, codes = map(self._there, (slots, lengths, codes))
        verify(theirs, slots, lengths, codes, self._theirs)
        _require_same("verify: draws", theirs, drawn)
        self._same("verify")

    def place(self, rows: int, generator: torch.Generator) -> None:
        slots = torch.randperm(_SLOTS, generator=generator)[:rows]
        # Column by column, as a speculator may have made them; some are none, and some no tokens.
        chains = torch.randint(-20, _VOCABULARY + 20, (_DRAFTS, rows), generator=generator).T
        wanted = torch.randint(1, _DRAFTS + 1, (rows,), generator=generator)
        lengths = self._plain.lengths[slots]
        counts = place_drafts(chains, wanted, slots, lengths, self._plain, _VOCABULARY)
        theirs = self._there(chains.T.contiguous()).T
        wanted, slots, lengths = map(self._there, (wanted, slots, lengths))
        found = place_drafts(theirs, wanted, slots, lengths, self._theirs, _VOCABULARY)
        _require_same("place: drafts that stand ready", found, counts)
        self._same("place")

    def _drafted(
        self, rows: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Slots, positions and codes of sequences with drafts, and of padding behind them."""
        drafts = torch.randint(0, _DRAFTS + 1, (rows,), generator=generator)
        counts = torch.cat((drafts + 1, torch.ones(_PADDING, dtype=torch.int64)))
        slots = torch.randperm(_SLOTS, generator=generator)[:rows]
        slots = torch.cat((slots, torch.full((_PADDING,), _SLOTS))).repeat_interleave(counts)
        ends = counts.cumsum(0)
        before = torch.arange(len(slots)) - (ends - counts).repeat_interleave(counts)
        codes = before << OFFSET
        codes[ends - 1] += LAST
        floats = torch.rand(len(counts), generator=generator) < 0.5
        floats[rows:] = False
        codes += FLOATING * floats.repeat_interleave(counts)
        positions = self._plain.lengths[slots] - 1 + before
        positions[len(positions) - _PADDING :] = 0
        return slots, positions, codes

    def _there(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.clone() if self._device.type == "cpu" else numbers.to(self._device)

    def _same(self, what: str) -> None:
        for name in ("tokens", "blocks", "lengths"):
            theirs, plain = getattr(self._theirs, name), getattr(self._plain, name)
            _require_same(f"{what}: the table's {name}", theirs, plain)


def _require_same(what: str, theirs: torch.Tensor, plain: torch.Tensor) -> None:
    same = theirs.dtype == plain.dtype and torch.equal(theirs.cpu(), plain)
    require(same, f"{what} are others than without kernels")
