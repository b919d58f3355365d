"""Keys and values of one sequence, out of their blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import launch

__all__ = ("gather_tokens",)

_TILE = 16


@triton.jit(do_not_specialize=["tokens", "size"])
def _gather(
    to_keys_ptr,
    to_values_ptr,
    keys_ptr,
    values_ptr,
    blocks_ptr,
    tokens,
    size,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Grid (tiles of TILE tokens, KV_HEADS)."""
    head = tl.program_id(1)
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    held = tl.minimum(token, tokens - 1)
    block = tl.load(blocks_ptr + held // BLOCK_SIZE).to(tl.int64)
    d = tl.arange(0, WIDTH)[None, :]
    source = (((block * KV_HEADS + head) * BLOCK_SIZE + held % BLOCK_SIZE) * D)[:, None] + d
    to = ((token.to(tl.int64) * KV_HEADS + head) * D)[:, None] + d
    mask = (token < size)[:, None] & (d < D)
    k = tl.load(keys_ptr + source, mask=mask, other=0.0)
    v = tl.load(values_ptr + source, mask=mask, other=0.0)
    tl.store(to_keys_ptr + to, k.to(to_keys_ptr.dtype.element_ty), mask=mask)
    tl.store(to_values_ptr + to, v.to(to_values_ptr.dtype.element_ty), mask=mask)


def gather_tokens(
    keys: torch.Tensor,
    values: torch.Tensor,
    blocks: torch.Tensor,
    tokens: int,
    size: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a sequence's keys and values into dense tensors.

    Args:
        keys: a layer's cache, [blocks, kv heads, block size, D].
        values: like keys.
        blocks: int32, the sequence's block table.
        tokens: that stand in the blocks, at least 1.
        size: of the result; past ``tokens`` the last one is repeated.
        dtype: of the result.

    Returns:
        Keys and values, each [size, kv heads, D].
    """
    _, kv_heads, block_size, width = keys.shape
    shape = 2, size, kv_heads, width
    to_keys, to_values = torch.empty(shape, dtype=dtype, device=keys.device).unbind(0)
    constants = kv_heads, width, triton.next_power_of_2(width), block_size, _TILE
    grid = -(-size // _TILE), kv_heads
    launch(_gather, grid, to_keys, to_values, keys, values, blocks, tokens, size, *constants)
    return to_keys, to_values
