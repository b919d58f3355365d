"""x @ weight.T for up to 64 rows of x, the work cut into equal shares.

Stream-K (Osama et al., arXiv 2301.03598): the tiles of the weights form one line, of which every
program takes the same length, wherever tiles begin and end in it, so that all end together. A tile
that several programs share is added up by the last of them to arrive, in the line's order, so the
result does not depend on who that is. Nor does it depend on the tokens and their number: one Config
for all of them is batch-invariant.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .activation import ACTIVATIONS
from .launch import launch
from .small_product import Config, counters, finish, output, prefetch

__all__ = ("stream_product",)

_MOST_TOKENS = 64


@triton.jit
def _share(
    total, gate, tile, begin, UNITS: tl.constexpr, CHUNKS: tl.constexpr, partial_ptr, counter_ptr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Leave a part of a tile's sum, or as the last to do so, add them up.

    Returns:
        The sums, and whether they are whole.
    """
    HALVES: tl.constexpr = 1 if ACT is None else 2
    SIZE: tl.constexpr = ROWS * TOKENS
    programs = tl.num_programs(0)
    # A program may leave two parts: of the tile it begins in the middle of, and of its last.
    first = ((tile * CHUNKS + 1) * programs - 1) // UNITS
    last = ((tile * CHUNKS + CHUNKS) * programs - 1) // UNITS
    whole = first == last
    if not whole:
        cells = tl.arange(0, ROWS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
        slot = tl.program_id(0) * 2 + (begin <= tile * CHUNKS).to(tl.int32)
        mine = partial_ptr + slot.to(tl.int64) * (HALVES * SIZE) + cells
        tl.store(mine, total)
        if ACT is not None:
            tl.store(mine + SIZE, gate)
        tl.debug_barrier()
        whole = tl.atomic_add(counter_ptr + tile, 1, sem="acq_rel", scope="gpu") == last - first
        if whole:
            tl.store(counter_ptr + tile, 0)
            total = tl.zeros((ROWS, TOKENS), tl.float32)
            gate = total
            for other in range(first, last + 1):
                slot = other * 2 + (other == first).to(tl.int32)
                theirs = partial_ptr + slot.to(tl.int64) * (HALVES * SIZE) + cells
                total += tl.load(theirs, cache_modifier=".cg")
                if ACT is not None:
                    gate += tl.load(theirs + SIZE, cache_modifier=".cg")
    return total, gate, whole


@triton.jit(do_not_specialize=["M"])
def _stream(
    x_ptr, w_ptr, bias_ptr, add_ptr, out_ptr, partial_ptr, counter_ptr, M, N: tl.constexpr,
    K: tl.constexpr, x_stride: tl.constexpr, add_stride: tl.constexpr, out_stride: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, DEPTH: tl.constexpr, AHEAD: tl.constexpr,
    ACT: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    CHUNKS: tl.constexpr = (K + DEPTH - 1) // DEPTH
    UNITS: tl.constexpr = (N + ROWS - 1) // ROWS * CHUNKS
    EDGE: tl.constexpr = K % DEPTH != 0
    begin = tl.program_id(0) * UNITS // tl.num_programs(0)
    end = (tl.program_id(0) + 1) * UNITS // tl.num_programs(0)
    tokens = tl.arange(0, TOKENS)
    columns = tl.arange(0, DEPTH)
    x_at = x_ptr + tl.minimum(tokens, M - 1).to(tl.int64)[None, :] * x_stride + columns[:, None]
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        nearest = tl.minimum(begin // CHUNKS * ROWS + tl.arange(0, ROWS), N - 1).to(tl.int64)
        lines = begin % CHUNKS * DEPTH + tl.arange(0, AHEAD * DEPTH // 64) * 64
        w_lines = w_ptr + nearest[:, None] * K + tl.minimum(lines, K - 1)[None, :]
        prefetch(w_lines)
        if ACT is not None:
            prefetch(w_lines + N * K)
        tl.extra.cuda.gdc_wait()
    for tile in range(begin // CHUNKS, (end - 1) // CHUNKS + 1):
        first = tl.maximum(begin - tile * CHUNKS, 0) * DEPTH
        last = tl.minimum((end - tile * CHUNKS) * DEPTH, K)
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = tl.minimum(rows, N - 1).to(tl.int64)[:, None]
        w_at = w_ptr + inside * K + columns[None, :]
        total = tl.zeros((ROWS, TOKENS), tl.float32)
        gate = total
        for k in range(first, last, DEPTH):
            if EDGE:
                x = tl.load(x_at + k, mask=(k + columns < K)[:, None], other=0)
                mask = (k + columns < K)[None, :]
                w = tl.load(w_at + k, mask=mask, other=0, eviction_policy="evict_first")
            else:
                x = tl.load(x_at + k)
                w = tl.load(w_at + k, eviction_policy="evict_first")
            if ACT is not None:
                gate = tl.dot(w, x, gate)
                if EDGE:
                    mask = (k + columns < K)[None, :]
                    w = tl.load(w_at + N * K + k, mask=mask, other=0, eviction_policy="evict_first")
                else:
                    w = tl.load(w_at + N * K + k, eviction_policy="evict_first")
            total = tl.dot(w, x, total)
        total, gate, whole = _share(
            total, gate, tile, begin, UNITS, CHUNKS, partial_ptr, counter_ptr, ROWS, TOKENS, ACT
        )  # fmt: skip
        if whole:
            out_at = out_ptr + tokens.to(tl.int64)[None, :] * out_stride + rows[:, None]
            add_at = out_at
            if ADD:
                add_at = add_ptr + tokens.to(tl.int64)[None, :] * add_stride + rows[:, None]
            mask = (tokens < M)[None, :] & (rows < N)[:, None]
            finish(total, gate, inside, mask, bias_ptr, add_at, out_at, N, ACT, BIAS, ADD)


def stream_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    config: Config,
    *,
    bias: torch.Tensor | None = None,
    act: str | None = None,
    add: torch.Tensor | None = None,
    pdl: bool = False,
) -> torch.Tensor:
    """add + gate(x @ weight.T + bias) for 1 to 64 tokens; what is None is left out.

    Launches must follow one another on one stream: they share counters.

    Args:
        x: [M, K], rows contiguous, bfloat16 or float16, as all else.
        weight: [N, K] contiguous; behind a gate the gate's rows, then the other half's.
        config: of the form "stream".
        bias: [N].
        act: a key of ACTIVATIONS; the product's first half goes through it and gates the second.
        add: [M, N], or [M, N / 2] behind a gate; the result is written into it, unless it
            is x and still read.
        pdl: as in ``vector_product``.

    Returns:
        [M, N] or [M, N / 2], in x's dtype; add itself if it was given and is not x.

    Raises:
        ValueError: for more tokens, or for more tiles than there are counters.
    """
    count = x.shape[0]
    width, depth = weight.shape
    if act is not None:
        width //= 2
    out = output(x, width, add)
    if not count:
        return out
    if count > _MOST_TOKENS:
        raise ValueError(f"{count} tokens are more than the {_MOST_TOKENS} of this form")
    tokens = 16 if count <= 16 else 32 if count <= 32 else 64
    rows = config.rows
    tiles = -(-width // rows)
    programs = min(config.split, tiles * -(-depth // config.depth))
    size = 2 * programs * rows * tokens * (1 if act is None else 2)
    launch(
        _stream,
        (programs,),
        x,
        weight,
        bias,
        add,
        out,
        torch.empty(size, dtype=torch.float32, device=x.device),
        counters(x.device, tiles),
        count,
        width,
        depth,
        x.stride(0),
        0 if add is None else add.stride(0),
        out.stride(0),
        rows,
        tokens,
        config.depth,
        1 << (config.stages.bit_length() - 1),
        None if act is None else ACTIVATIONS[act],
        bias is not None,
        add is not None,
        pdl,
        num_warps=config.warps,
        num_stages=config.stages,
        launch_pdl=pdl,
    )
    return out
