"""What stands around the model in a decode step, as kernels that a platform may have."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

__all__ = ("FLOATING", "LAST", "OFFSET", "Located", "SlotKernels")

# Of a row of a step that verifies drafts, one number: bits, and from which on the drafts stand that
# come before it in its sequence.
FLOATING = 1
"""Set where the device alone knows the row's position."""
LAST = 2
"""Set for the last row of a sequence, which verifies no draft."""
OFFSET = 2


class Located(NamedTuple):
    """Where the M rows of a decode step stand.

    Attributes:
        token_ids: int64 [M].
        positions: int64 [M], of these tokens.
        lengths: int64 [M], tokens up to and with these: what is drawn behind one stands there.
        counts: int32 [M], the same.
        write_slots: int64 [M], block id * block size + offset.
        block_tables: int32 [M, blocks], the slots' rows.

    Until it is first filled, it is that of tokens 0 at the beginning of nothing.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    counts: torch.Tensor
    write_slots: torch.Tensor
    block_tables: torch.Tensor

    def first(self, rows: int) -> Located:
        """Of the first rows alone."""
        return Located(*(part[:rows] for part in self))


class SlotKernels(Protocol):
    """What the slot table does in captured steps, a kernel each; see ``SlotTable`` and ``verify``.

    They launch and nothing else: no copy from or to the host. ``tokens``, ``known`` and ``blocks``
    are the table's tokens, lengths and blocks.
    """

    def append(self, new: torch.Tensor, blocks: torch.Tensor) -> None:
        """Write N blocks into the table: int64 [3 * N], their slots, columns and numbers."""
        ...

    def locate(
        self,
        slots: torch.Tensor,
        starts: torch.Tensor,
        codes: torch.Tensor | None,
        tokens: torch.Tensor,
        known: torch.Tensor,
        blocks: torch.Tensor,
        *,
        out: Located,
        block_size: int,
        advances: bool,
    ) -> None:
        """See ``SlotTable.locate``."""
        ...

    def verify(
        self,
        drawn: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        codes: torch.Tensor,
        tokens: torch.Tensor,
        known: torch.Tensor,
        *,
        most: int,
        rejected: int,
    ) -> None:
        """See ``verify.verify``; no sequence has more than ``most`` drafts."""
        ...

    def place(
        self,
        drafts: torch.Tensor,
        wanted: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        *,
        vocab_size: int,
    ) -> torch.Tensor:
        """See ``verify.place_drafts``."""
        ...

    def post(self, numbers: torch.Tensor, turn: torch.Tensor, letters: torch.Tensor) -> None:
        """Write the turn, and N numbers behind it, into the letter whose turn it is, and count on.

        Args:
            numbers: int64 [N].
            turn: int64 [1].
            letters: int64 [kept, more than N], perhaps in the host's memory.
        """
        ...

    def receive(
        self,
        turn: torch.Tensor,
        letters: torch.Tensor,
        numbers: torch.Tensor,
        blocks: torch.Tensor,
        *,
        begin: int,
    ) -> None:
        """Take in the letter whose turn it is, and count on.

        Its first number says how many blocks it brings, N, and its second how many numbers, M. Of
        the blocks, the slots, columns and numbers stand behind these, N each; the numbers stand
        from ``begin`` on.

        Args:
            turn: int64 [1].
            letters: int64 [kept, longest], perhaps in the host's memory, which changes between
                launches.
            numbers: int64, of which the first M are replaced.
            blocks: of the slot table.
            begin: see above.
        """
        ...
