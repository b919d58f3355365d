"""Rotary positions and the write of keys and values into the paged cache, in one pass."""

import triton
import triton.language as tl

__all__ = ("load_heads", "rotated", "write_cache")


@triton.jit
def load_heads(ptr, d, D: tl.constexpr, WIDTH: tl.constexpr):
    """Load heads of D elements, d being [1, WIDTH]; a mask only where it hides something."""
    return tl.load(ptr) if D == WIDTH else tl.load(ptr, mask=d < D, other=0.0)


@triton.jit
def rotated(x_ptr, angles_ptr, offsets, d, mask, D: tl.constexpr, ROTATE: tl.constexpr):
    """Load x_ptr[offsets + d] and rotate it (Su et al., arXiv 2104.09864): float32, rounded.

    To x's dtype, since steps that rotate in place and steps that do not must cache the same bits.

    Args:
        x_ptr: queries or keys.
        angles_ptr: of this position, [2, D]: cosines, then sines with the first half's sign turned.
        offsets: where heads begin, [heads, 1].
        d: elements of a head, [1, width].
        mask: [heads, width].
    """
    x = tl.load(x_ptr + offsets + d, mask=mask, other=0.0).to(tl.float32)
    if ROTATE:
        half: tl.constexpr = D // 2
        swapped = tl.where(d < half, d + half, d - half)
        other = tl.load(x_ptr + offsets + swapped, mask=mask, other=0.0).to(tl.float32)
        cos = tl.load(angles_ptr + d, mask=d < D, other=0.0).to(tl.float32)
        sin = tl.load(angles_ptr + D + d, mask=d < D, other=0.0).to(tl.float32)
        x = (x * cos + other * sin).to(x_ptr.dtype.element_ty).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["first_token"])
def write_cache(
    q_ptr,
    k_ptr,
    v_ptr,
    keys_ptr,
    values_ptr,
    slots_ptr,
    positions_ptr,
    table_ptr,
    first_token,
    q_stride,
    k_stride,
    v_stride,
    k_inverse_scale,
    v_inverse_scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Grid (tokens, tiles of TILE heads): keys and values first, then queries if they are rotated.

    Queries and keys are rotated in place; rotated keys, and values, go to cache slot
    slots_ptr[token]. The cache is [blocks, KV_HEADS, BLOCK_SIZE, D].
    """
    token = (first_token + tl.program_id(0)).to(tl.int64)
    tile = tl.program_id(1)
    kv_tiles: tl.constexpr = (KV_HEADS + TILE - 1) // TILE
    d = tl.arange(0, WIDTH)[None, :]
    angles_ptr = table_ptr
    if ROTATE:
        angles_ptr = table_ptr + tl.load(positions_ptr + token) * (2 * D)
    if tile < kv_tiles:
        head = tile * TILE + tl.arange(0, TILE)[:, None]
        mask = (head < KV_HEADS) & (d < D)
        offsets = token * k_stride + head * D
        k = rotated(k_ptr, angles_ptr, offsets, d, mask, D, ROTATE)
        if ROTATE:
            # Both halves are read by all threads before either is overwritten.
            tl.debug_barrier()
            tl.store(k_ptr + offsets + d, k.to(k_ptr.dtype.element_ty), mask=mask)
        v = tl.load(v_ptr + token * v_stride + head * D + d, mask=mask, other=0.0).to(tl.float32)
        slot = tl.load(slots_ptr + token)
        block = slot // BLOCK_SIZE
        to = ((block * KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE) * D + d
        tl.store(keys_ptr + to, (k * k_inverse_scale).to(keys_ptr.dtype.element_ty), mask=mask)
        tl.store(values_ptr + to, (v * v_inverse_scale).to(values_ptr.dtype.element_ty), mask=mask)
    else:
        head = (tile - kv_tiles) * TILE + tl.arange(0, TILE)[:, None]
        mask = (head < HEADS) & (d < D)
        offsets = token * q_stride + head * D
        q = rotated(q_ptr, angles_ptr, offsets, d, mask, D, ROTATE)
        tl.debug_barrier()
        tl.store(q_ptr + offsets + d, q.to(q_ptr.dtype.element_ty), mask=mask)
