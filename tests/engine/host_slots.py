"""Slot kernels on the host: what torch's operators do, behind the interface of kernels."""

from __future__ import annotations

import torch

from quire.core.run import verify as operators
from quire.core.run.slot_kernels import Located
from quire.core.run.slots import SlotTable

__all__ = ("HostSlots",)


class HostSlots:
    """Implements ``quire.core.run.slot_kernels.SlotKernels``.

    Attributes:
        compiles: whether launches run nothing, as where kernels are only compiled.
    """

    def __init__(self) -> None:
        self.compiles = False

    def append(self, new, blocks) -> None:
        if not self.compiles:
            slots, columns, numbers = new.view(3, -1)
            blocks[slots, columns] = numbers.int()

    def locate(
        self, slots, starts, codes, tokens, known, blocks, *, out: Located, block_size, advances
    ) -> None:
        if not self.compiles:
            table = _table(tokens, known, blocks, block_size)
            table.locate(slots, starts, codes, out, advances=advances)

    def verify(self, drawn, slots, lengths, codes, tokens, known, *, most, rejected) -> None:
        if not self.compiles:
            table = _table(tokens, known, tokens[:, :1])
            operators.verify(drawn, slots, lengths, codes, table)

    def place(self, drafts, wanted, slots, lengths, tokens, *, vocab_size) -> torch.Tensor:
        if self.compiles:
            return torch.zeros_like(wanted)
        table = _table(tokens, lengths, tokens[:, :1])
        return operators.place_drafts(drafts, wanted, slots, lengths, table, vocab_size)

    def post(self, numbers, turn, letters) -> None:
        if not self.compiles:
            letter = letters[int(turn) % len(letters)]
            letter[0], letter[1 : 1 + len(numbers)] = turn, numbers
            turn += 1

    def receive(self, turn, letters, numbers, blocks, *, begin) -> None:
        if not self.compiles:
            letter = letters[int(turn) % len(letters)]
            grown, count = letter[:2].tolist()
            self.append(letter[2 : 2 + 3 * grown], blocks)
            numbers[:count] = letter[begin : begin + count]
            turn += 1


def _table(tokens, lengths, blocks, block_size: int = 1) -> SlotTable:
    """One without kernels that has these tensors."""
    table = SlotTable(
        max_slots=len(blocks) - 1, max_model_len=1, block_size=block_size, device=tokens.device
    )
    table.tokens, table.lengths, table.blocks, table._host = tokens, lengths, blocks, None
    return table
