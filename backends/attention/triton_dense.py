"""Long prompts by cuDNN's attention, over dense tensors: what torch is fastest at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.contracts.attention import AttentionBatch
from ..kernels.gather import gather_tokens

__all__ = ("DenseRow", "attend_dense", "dense_rows")

DENSE_STEP = 1024
"""Lengths are rounded up to multiples of it: cuDNN plans anew for every length it meets.

Measured on an H200, bf16, 32 heads of 128: 628 TFLOP/s on a prompt of 16,384 tokens and 653 on
8,192 behind as many, where the paged kernel has 413 and 409."""
_FEWEST_STEPS = 4
"""Rows of fewer keys stay with the paged kernel: too much of them would be padding."""
_WIDEST_HEAD = 128


@dataclass(slots=True)
class DenseRow:
    """A row of queries: tokens [begin, end) of the step, the last of ``length`` in ``blocks``."""

    begin: int
    end: int
    length: int
    blocks: torch.Tensor


def dense_rows(
    batch: AttentionBatch, *, window: int, head_dim: int, kv_dtype: torch.dtype
) -> dict[int, DenseRow]:
    """Rows that are attended here, by their number in the batch.

    A soft cap excludes a layer too; the caller knows of it.
    """
    if window or head_dim > _WIDEST_HEAD or kv_dtype.itemsize != 2:
        return {}
    rows: dict[int, DenseRow] = {}
    begin = 0
    for row, (count, length) in enumerate(
        zip(batch.query_lengths, batch.host_lengths, strict=True)
    ):
        # With more padding than a quarter of the queries, the paged kernel is as fast.
        if length >= _FEWEST_STEPS * DENSE_STEP and 4 * count >= 3 * _rounded(count):
            rows[row] = DenseRow(begin, begin + count, length, batch.block_tables[row])
        begin += count
    return rows


def attend_dense(
    row: DenseRow,
    out: torch.Tensor,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
) -> None:
    """Fill the row's part of out.

    The keys are cut at the last multiple of DENSE_STEP that all queries see. Everything before is
    seen by all of them; from there on queries and keys make a triangle, with room before the first
    query for keys that are older. The two attentions are weighed by their sums of exponentials.

    Args:
        row: which.
        out: [T, heads * head_dim].
        q: [T, heads, head_dim], rotated.
        keys: the layer's cache, [blocks, kv heads, block size, head_dim], with this step's tokens.
        values: like keys.
        scale: of products.
    """
    count = row.end - row.begin
    cut = (row.length - count) // DENSE_STEP * DENSE_STEP
    older = row.length - count - cut
    size = _rounded(older + count)
    dense = gather_tokens(keys, values, row.blocks, row.length, cut + size, q.dtype)
    k, v = (x.transpose(0, 1).unsqueeze(0) for x in dense)
    to = out[row.begin : row.end].view(count, *q.shape[1:])
    q = q[row.begin : row.end]
    triangle = _padded(q, older, size)
    own, own_lse = _attention(triangle, k[:, :, cut:], v[:, :, cut:], scale, causal=True)
    own, own_lse = own[older : older + count], own_lse[older : older + count]
    if not cut:
        to.copy_(own)
        return
    whole = _padded(q, 0, _rounded(count))
    found, lse = _attention(whole, k[:, :, :cut], v[:, :, :cut], scale, causal=False)
    torch.lerp(own, found[:count], torch.sigmoid(lse[:count] - own_lse).to(own.dtype), out=to)


def _rounded(length: int) -> int:
    return -(-length // DENSE_STEP) * DENSE_STEP


def _padded(q: torch.Tensor, before: int, size: int) -> torch.Tensor:
    """[n, heads, d] as the rows from ``before`` on of [1, heads, size, d], zeros around them."""
    if len(q) < size:
        few, q = q, q.new_zeros(size, *q.shape[1:])
        q[before : before + len(few)] = few
    return q.transpose(0, 1).unsqueeze(0)


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, heads, n, d] over [1, kv heads, m, d]: [n, heads, d], and logs of sums [n, heads, 1]."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out[0].transpose(0, 1), lse.view(*q.shape[1:3], 1).transpose(0, 1)
