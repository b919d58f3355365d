"""Inputs of a decode step, gathered from the slot table in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("StepInputs", "step_inputs")

_BLOCK = 256


class StepInputs(NamedTuple):
    """One token a row, R rows.

    Attributes:
        token_ids: int64 [R].
        positions: int64 [R].
        lengths: int32 [R], tokens each row attends to, its own included.
        write_slots: int64 [R], where the row's key and value go.
        block_tables: int32 [R, B]; undefined beyond a row's ceil(length / block_size) entries.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    write_slots: torch.Tensor
    block_tables: torch.Tensor


@triton.jit
def _step_inputs(
    slots_ptr,
    starts_ptr,
    tokens_ptr,
    blocks_ptr,
    token_ids_ptr,
    positions_ptr,
    lengths_ptr,
    write_slots_ptr,
    tables_ptr,
    tokens_stride,
    blocks_stride,
    tables_stride,
    block_size,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    start = tl.load(starts_ptr + row).to(tl.int64)
    blocks_ptr += slot * blocks_stride
    token = tl.load(tokens_ptr + slot * tokens_stride + start)
    block = tl.load(blocks_ptr + start // block_size).to(tl.int64)
    tl.store(token_ids_ptr + row, token.to(tl.int64))
    tl.store(positions_ptr + row, start)
    tl.store(lengths_ptr + row, (start + 1).to(tl.int32))
    tl.store(write_slots_ptr + row, block * block_size + start % block_size)
    tables_ptr += row.to(tl.int64) * tables_stride
    count = (start // block_size + 1).to(tl.int32)
    for first in range(0, count, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        mask = columns < count
        tl.store(tables_ptr + columns, tl.load(blocks_ptr + columns, mask=mask), mask=mask)


def step_inputs(
    slots: torch.Tensor,
    starts: torch.Tensor,
    tokens: torch.Tensor,
    blocks: torch.Tensor,
    block_size: int,
) -> StepInputs:
    """Gather what a step of one token a row needs.

    Args:
        slots: int32 or int64 [R], rows of the tables.
        starts: int32 or int64 [R], each row's position.
        tokens: int32 [S, L], of every slot.
        blocks: int32 [S, B], block table of every slot.
        block_size: tokens a block.
    """
    rows, device = len(slots), slots.device
    wide = torch.empty((3, rows), dtype=torch.int64, device=device)
    inputs = StepInputs(
        token_ids=wide[0],
        positions=wide[1],
        lengths=torch.empty(rows, dtype=torch.int32, device=device),
        write_slots=wide[2],
        block_tables=torch.empty((rows, blocks.shape[1]), dtype=torch.int32, device=device),
    )
    if rows:
        launch(
            _step_inputs,
            (rows,),
            slots,
            starts,
            tokens,
            blocks,
            inputs.token_ids,
            inputs.positions,
            inputs.lengths,
            inputs.write_slots,
            inputs.block_tables,
            tokens.stride(0),
            blocks.stride(0),
            inputs.block_tables.stride(0),
            block_size,
            _BLOCK,
        )
    return inputs
