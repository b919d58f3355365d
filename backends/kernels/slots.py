"""What stands around the model in a decode step on a GPU: a kernel where torch needs a dozen."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ...core.run.slot_kernels import FLOATING, LAST, OFFSET, Located
from .launch import launch

__all__ = ("TritonSlots",)

_TILE = 1024
_POSTED = 128
_RECEIVED = 512
_FLOATING = tl.constexpr(FLOATING)
_LAST = tl.constexpr(LAST)
_OFFSET = tl.constexpr(OFFSET)


@triton.jit(do_not_specialize=["count", "num_blocks"])
def _append(new_ptr, blocks_ptr, count, num_blocks, TILE: tl.constexpr):
    """Grid (tiles of TILE new blocks)."""
    index = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = index < count
    new_ptr += index
    at = tl.load(new_ptr, mask=inside, other=0) * num_blocks
    at += tl.load(new_ptr + count, mask=inside, other=0)
    block = tl.load(new_ptr + 2 * count, mask=inside, other=0)
    tl.store(blocks_ptr + at, block.to(tl.int32), mask=inside)


@triton.jit(do_not_specialize=["stride", "num_blocks", "padding"])
def _locate(
    ids_ptr,
    positions_ptr,
    lengths_ptr,
    counts_ptr,
    write_slots_ptr,
    tables_ptr,
    slots_ptr,
    starts_ptr,
    codes_ptr,
    tokens_ptr,
    known_ptr,
    blocks_ptr,
    stride,
    num_blocks,
    padding,
    BLOCK_SIZE: tl.constexpr,
    VERIFIES: tl.constexpr,
    ADVANCES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Grid (rows)."""
    row = tl.program_id(0)
    slot, at = tl.load(slots_ptr + row), tl.load(starts_ptr + row)
    blocks_ptr += slot * num_blocks
    if VERIFIES:
        code = tl.load(codes_ptr + row)
        if code & _FLOATING:
            at = tl.load(known_ptr + slot) - 1 + (code >> _OFFSET)
    block = tl.load(blocks_ptr + at // BLOCK_SIZE).to(tl.int64)
    tables_ptr += row.to(tl.int64) * num_blocks
    for begin in range(0, num_blocks, TILE):
        column = begin + tl.arange(0, TILE)
        inside = column < num_blocks
        held = tl.load(blocks_ptr + column, mask=inside)
        tl.store(tables_ptr + column, held, mask=inside)
    tl.store(ids_ptr + row, tl.load(tokens_ptr + slot * stride + at).to(tl.int64))
    tl.store(positions_ptr + row, at)
    tl.store(lengths_ptr + row, at + 1)
    tl.store(counts_ptr + row, (at + 1).to(tl.int32))
    tl.store(write_slots_ptr + row, block * BLOCK_SIZE + at % BLOCK_SIZE)
    if ADVANCES:
        tl.store(starts_ptr + row, at + (slot != padding))


@triton.jit(do_not_specialize=["num_rows", "stride"])
def _verify(
    drawn_ptr,
    slots_ptr,
    lengths_ptr,
    codes_ptr,
    tokens_ptr,
    known_ptr,
    num_rows,
    stride,
    REJECTED: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid (rows): the program of a sequence's first row does the work of all its rows."""
    row = tl.program_id(0)
    if (tl.load(codes_ptr + row) >> _OFFSET) == 0:
        index = tl.arange(0, WINDOW)
        codes = tl.load(codes_ptr + row + index, mask=row + index < num_rows, other=_LAST)
        last = tl.min(tl.where((codes & _LAST) != 0, index, WINDOW), axis=0)
        mine = index <= last
        slot, length = tl.load(slots_ptr + row), tl.load(lengths_ptr + row)
        drawn_at = drawn_ptr + row + index
        place = tokens_ptr + slot * stride + length + index
        drawn = tl.load(drawn_at, mask=mine, other=0)
        drafts = tl.load(place, mask=index < last, other=0)
        wrong = (index >= last) | (drawn != drafts)
        kept = tl.min(tl.where(wrong, index, WINDOW), axis=0)
        counts = index <= kept
        tl.store(drawn_at, tl.where(counts, drawn, REJECTED), mask=mine)
        # A failed draw is kept as a harmless 0.
        tl.store(place, tl.maximum(drawn, 0).to(tl.int32), mask=counts)
        tl.store(known_ptr + slot, length + kept + 1)


@triton.jit(do_not_specialize=["count", "stride"])
def _post(
    turn_ptr, numbers_ptr, letters_ptr, count, stride, KEPT: tl.constexpr, TILE: tl.constexpr
):
    """One program."""
    turn = tl.load(turn_ptr)
    letters_ptr += turn % KEPT * stride
    for begin in range(0, count, TILE):
        index = begin + tl.arange(0, TILE)
        inside = index < count
        number = tl.load(numbers_ptr + index, mask=inside)
        tl.store(letters_ptr + 1 + index, number, mask=inside)
    tl.debug_barrier()
    tl.store(letters_ptr, turn)
    tl.store(turn_ptr, turn + 1)


@triton.jit(do_not_specialize=["stride", "begin", "num_blocks"])
def _receive(
    turn_ptr,
    letters_ptr,
    numbers_ptr,
    blocks_ptr,
    stride,
    begin,
    num_blocks,
    KEPT: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program. The host has written the letter since the kernel before read another, so that
    nothing of it may come from a cache."""
    turn = tl.load(turn_ptr)
    letters_ptr += turn % KEPT * stride
    grown = tl.load(letters_ptr, volatile=True)
    count = tl.load(letters_ptr + 1, volatile=True)
    for first in range(0, count, TILE):
        index = first + tl.arange(0, TILE)
        inside = index < count
        number = tl.load(letters_ptr + begin + index, mask=inside, volatile=True)
        tl.store(numbers_ptr + index, number, mask=inside)
    for first in range(0, grown, TILE):
        index = first + tl.arange(0, TILE)
        inside = index < grown
        new_ptr = letters_ptr + 2 + index
        at = tl.load(new_ptr, mask=inside, other=0, volatile=True) * num_blocks
        at += tl.load(new_ptr + grown, mask=inside, other=0, volatile=True)
        block = tl.load(new_ptr + 2 * grown, mask=inside, other=0, volatile=True)
        tl.store(blocks_ptr + at, block.to(tl.int32), mask=inside)
    tl.debug_barrier()
    tl.store(turn_ptr, turn + 1)


@triton.jit(do_not_specialize=["row_stride", "column_stride", "stride", "largest"])
def _place(
    counts_ptr,
    drafts_ptr,
    wanted_ptr,
    slots_ptr,
    lengths_ptr,
    tokens_ptr,
    row_stride,
    column_stride,
    stride,
    largest,
    MOST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Grid (rows)."""
    row = tl.program_id(0)
    index = tl.arange(0, WIDTH)
    inside = index < MOST
    drafts_ptr += row * row_stride + index * column_stride
    drafts = tl.load(drafts_ptr, mask=inside, other=-1)
    tokens_ptr += tl.load(slots_ptr + row) * stride + tl.load(lengths_ptr + row) + index
    # Filling is as good as any other wrong draft.
    tl.store(tokens_ptr, tl.minimum(tl.maximum(drafts, 0), largest).to(tl.int32), mask=inside)
    there = tl.min(tl.where(drafts < 0, index, MOST), axis=0)
    tl.store(counts_ptr + row, tl.minimum(there.to(tl.int64), tl.load(wanted_ptr + row)))


class TritonSlots:
    """Implements ``quire.core.run.slot_kernels.SlotKernels``."""

    def append(self, new: torch.Tensor, blocks: torch.Tensor) -> None:
        count = new.numel() // 3
        grid = (-(-count // _TILE),)
        launch(_append, grid, new, blocks, count, blocks.shape[1], TILE=_TILE)

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
        num_blocks = blocks.shape[1]
        launch(
            _locate,
            (len(slots),),
            *out,
            slots,
            starts,
            starts if codes is None else codes,
            tokens,
            known,
            blocks,
            tokens.stride(0),
            num_blocks,
            len(blocks) - 1,
            BLOCK_SIZE=block_size,
            VERIFIES=codes is not None,
            ADVANCES=advances,
            TILE=min(_TILE, triton.next_power_of_2(num_blocks)),
        )

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
        launch(
            _verify,
            (len(drawn),),
            drawn,
            slots,
            lengths,
            codes,
            tokens,
            known,
            len(drawn),
            tokens.stride(0),
            REJECTED=rejected,
            WINDOW=triton.next_power_of_2(most + 1),
            num_warps=1,
        )

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
        counts = torch.empty_like(slots)
        launch(
            _place,
            (len(slots),),
            counts,
            drafts,
            wanted,
            slots,
            lengths,
            tokens,
            *drafts.stride(),
            tokens.stride(0),
            vocab_size - 1,
            MOST=drafts.shape[1],
            WIDTH=triton.next_power_of_2(drafts.shape[1]),
            num_warps=1,
        )
        return counts

    def post(self, numbers: torch.Tensor, turn: torch.Tensor, letters: torch.Tensor) -> None:
        kept, stride = letters.shape
        launch(_post, (1,), turn, numbers, letters, len(numbers), stride, KEPT=kept, TILE=_POSTED)

    def receive(
        self,
        turn: torch.Tensor,
        letters: torch.Tensor,
        numbers: torch.Tensor,
        blocks: torch.Tensor,
        *,
        begin: int,
    ) -> None:
        kept, stride = letters.shape
        launch(
            _receive,
            (1,),
            turn,
            letters,
            numbers,
            blocks,
            stride,
            begin,
            blocks.shape[1],
            KEPT=kept,
            TILE=_RECEIVED,
        )
