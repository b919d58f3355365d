"""Long prompts by cuDNN's attention, over dense tensors: what torch is fastest at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.contracts.attention import AttentionBatch

__all__ = ("DenseRow", "attend_dense", "dense_rows")

DENSE_STEP = 1024
"""Rows of a multiple of so many queries, behind a multiple of so many cached, are attended here.

Measured on an H200, bf16, 32 heads of 128: 628 TFLOP/s on a prompt of 16,384 tokens and 653 on
8,192 behind as many, where the paged kernel has 413 and 409. But cuDNN plans anew for every length
it meets, so that only chunks of round lengths, as a scheduler cuts them, are worth it."""
_WIDEST_HEAD = 128


@dataclass(slots=True)
class DenseRow:
    """A row of queries: tokens [begin, end) of the step, behind ``cached`` tokens in ``blocks``."""

    begin: int
    end: int
    cached: int
    blocks: torch.Tensor | None


def dense_rows(
    batch: AttentionBatch, *, window: int, head_dim: int, kv_dtype: torch.dtype, block_size: int
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
        cached = length - count
        if count % DENSE_STEP == 0 and cached % DENSE_STEP == 0:
            blocks = batch.block_tables[row, : -(-cached // block_size)] if cached else None
            rows[row] = DenseRow(begin, begin + count, cached, blocks)
        begin += count
    return rows


def attend_dense(
    row: DenseRow,
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
) -> None:
    """Fill the row's part of out.

    The row sees its cached tokens, all of them, and its own up to each query's: two attentions,
    whose results are weighed by their sums of exponentials.

    Args:
        row: which.
        out: [T, heads * head_dim].
        q: [T, heads, head_dim], rotated, as k is.
        k: [T, kv heads, head_dim].
        v: like k.
        keys: the layer's cache, [blocks, kv heads, block size, head_dim].
        values: like keys.
        scale: of products.
    """
    to = out[row.begin : row.end].view(row.end - row.begin, *q.shape[1:])
    q, k, v = (x[row.begin : row.end].transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    own, own_lse = _attention(q, k, v, scale, causal=True)
    if row.blocks is None:
        to.copy_(own)
        return
    cached = row.blocks, row.cached
    k, v = _gather(keys, *cached).to(q.dtype), _gather(values, *cached).to(q.dtype)
    found, lse = _attention(q, k, v, scale, causal=False)
    torch.lerp(own, found, torch.sigmoid(lse - own_lse).to(own.dtype), out=to)


def _gather(cache: torch.Tensor, blocks: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` tokens of a block table: [1, kv heads, count, head_dim]."""
    return cache[blocks].transpose(0, 1).flatten(1, 2)[None, :, :count]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, heads, n, d] over [1, kv heads, m, d]: [n, heads, d], and logs of sums [n, heads, 1]."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out[0].transpose(0, 1), lse.view(*q.shape[1:3], 1).transpose(0, 1)
