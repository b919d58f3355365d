"""Attention over paged keys and values: rotate, write and attend in one region of threads.

Keys lie with positions side by side, [kv heads, blocks, head_dim, block size], so that a vector
holds sixteen of them and no lane is ever added to another; values as [kv heads, blocks, block size,
head_dim]. A line is one query of one head. Its scores, their sum and its result are added up in the
order of positions whatever lines stand beside it, so that it gets the same bits in every batch.
"""

from __future__ import annotations

import numpy as np

from ..shapes import ITEM, LANES, LINES
from .simd import (
    called,
    exp,
    fma,
    get,
    greatest,
    inlined,
    integer,
    load,
    load_some,
    long,
    maximum,
    put,
    splat,
    store,
    store_some,
    tanh,
    total,
    within,
)
from .threads import given, given_float, room_of_thread, take, wait_for

__all__ = ("make",)

_ZERO, _ONE = np.float32(0), np.float32(1)
_NEVER = np.float32(-np.inf)


@inlined
def _scored(scores, scale, cap):
    """Scores times their scale; cap * tanh(scores / cap) of that where there is a cap."""
    scores = scores * splat(scale)
    if cap == _ZERO:
        return scores
    return splat(cap) * tanh(scores * splat(_ONE / cap))


@called
def _softmax(scores, count, top):
    """Turn so many scores into weights; one over their sum."""
    highest, summed = splat(top), splat(_ZERO)
    for at in range(0, count, LANES):
        weights = exp(load(32, scores, at) - highest)
        store(32, scores, at, weights)
        summed = summed + weights
    return _ONE / total(summed)


@inlined
def _rotated(bits, x, at, half, count, table, cos):
    """So many lanes of both halves of a head, rotated if there is a table."""
    low, high = load_some(bits, x, at, count), load_some(bits, x, at + half, count)
    if table == 0:
        return low, high
    sin = cos + 2 * half
    return (
        fma(
            high,
            load_some(bits, table, sin, count),
            low * load_some(bits, table, cos, count),
        ),
        fma(
            low,
            load_some(bits, table, sin + half, count),
            high * load_some(bits, table, cos + half, count),
        ),
    )


@called
def _write(bits, kv_bits, args, token, mine):
    """Keep a token's keys and values, and its rotated queries in float32."""
    q, k, v = given(args, 0), given(args, 1), given(args, 2)
    q_stride, k_stride, v_stride = given(args, 3), given(args, 4), given(args, 5)
    table, positions, slots, queries = (
        given(args, 7),
        given(args, 8),
        given(args, 10),
        given(args, 16),
    )
    keys, values, num_blocks, block_size = (
        given(args, 20), given(args, 21), given(args, 22), given(args, 23),
    )  # fmt: skip
    heads, kv_heads, dim = given(args, 24), given(args, 25), given(args, 26)
    slot = long(slots, token)
    block, offset = slot // block_size, slot % block_size
    half = dim // 2
    row = long(positions, token) * 2 * dim if table != 0 else 0
    for head in range(heads):
        begin, to = token * q_stride + head * dim, (token * heads + head) * dim
        for at in range(0, half, LANES):
            count = min(LANES, half - at)
            low, high = _rotated(bits, q, begin + at, half, count, table, row + at)
            store_some(32, queries, to + at, count, low)
            store_some(32, queries, to + half + at, count, high)
    for head in range(kv_heads):
        begin, to = (
            token * k_stride + head * dim,
            (head * num_blocks + block) * block_size * dim,
        )
        for at in range(0, half, LANES):
            count = min(LANES, half - at)
            low, high = _rotated(bits, k, begin + at, half, count, table, row + at)
            store_some(32, mine, at, count, low)
            store_some(32, mine, half + at, count, high)
        for d in range(dim):
            put(kv_bits, keys, to + d * block_size + offset, get(32, mine, d))
        begin, to = token * v_stride + head * dim, to + offset * dim
        for at in range(0, dim, LANES):
            count = min(LANES, dim - at)
            store_some(kv_bits, values, to + at, count, load_some(bits, v, begin + at, count))


@inlined
def _hidden(scores, position, low, high, end):
    """Scores of sixteen positions from one on, without those that a line does not see."""
    if position >= low and position + LANES <= min(high, end):
        return scores
    return within(scores, position, low, min(high, end))


@inlined
def _values_at(kv_bits, values, at, lanes):
    return load(kv_bits, values, at) if lanes == LANES else load_some(kv_bits, values, at, lanes)


@called
def _score_one(kv_bits, query, line, keys, blocks, scores):
    """Scores of one line, and the greatest; see ``_attend``."""
    low, high = line
    cache, num_blocks, size, dim, head = keys
    table, first, scale, cap = blocks
    store(32, scores, (high - first - 1) // LANES * LANES, splat(_NEVER))
    top = splat(_NEVER)
    for block in range(first // size, (high - 1) // size + 1):
        begin = (head * num_blocks + integer(table, block)) * size * dim
        end = (block + 1) * size
        for position in range(block * size, min(high, end), LANES):
            at = begin + position - block * size
            even = odd = splat(_ZERO)
            for d in range(0, dim, 2):
                even = fma(splat(get(32, query, d)), load(kv_bits, cache, at), even)
                odd = fma(splat(get(32, query, d + 1)), load(kv_bits, cache, at + size), odd)
                at += 2 * size
            found = _hidden(_scored(even + odd, scale, cap), position, low, high, end)
            store(32, scores, position - first, found)
            top = maximum(top, found)
    return greatest(top)


@called
def _score_four(kv_bits, queries, lines, keys, blocks, scores, room):
    """Scores of four lines; see ``_attend``."""
    q0, q1, q2, q3 = queries
    (low0, high0), (low1, high1), (low2, high2), (low3, high3) = lines
    high = max(max(high0, high1), max(high2, high3))
    cache, num_blocks, size, dim, head = keys
    table, first, scale, cap = blocks
    s0, s1, s2, s3 = scores, scores + room, scores + 2 * room, scores + 3 * room
    last = (high - first - 1) // LANES * LANES
    store(32, s0, last, splat(_NEVER))
    store(32, s1, last, splat(_NEVER))
    store(32, s2, last, splat(_NEVER))
    store(32, s3, last, splat(_NEVER))
    top0 = top1 = top2 = top3 = splat(_NEVER)
    for block in range(first // size, (high - 1) // size + 1):
        begin = (head * num_blocks + integer(table, block)) * size * dim
        end = (block + 1) * size
        for position in range(block * size, min(high, end), LANES):
            at = begin + position - block * size
            even0 = odd0 = even1 = odd1 = even2 = odd2 = even3 = odd3 = splat(_ZERO)
            for d in range(0, dim, 2):
                even, odd = load(kv_bits, cache, at), load(kv_bits, cache, at + size)
                even0 = fma(splat(get(32, q0, d)), even, even0)
                even1 = fma(splat(get(32, q1, d)), even, even1)
                even2 = fma(splat(get(32, q2, d)), even, even2)
                even3 = fma(splat(get(32, q3, d)), even, even3)
                odd0 = fma(splat(get(32, q0, d + 1)), odd, odd0)
                odd1 = fma(splat(get(32, q1, d + 1)), odd, odd1)
                odd2 = fma(splat(get(32, q2, d + 1)), odd, odd2)
                odd3 = fma(splat(get(32, q3, d + 1)), odd, odd3)
                at += 2 * size
            found0 = _hidden(_scored(even0 + odd0, scale, cap), position, low0, high0, end)
            found1 = _hidden(_scored(even1 + odd1, scale, cap), position, low1, high1, end)
            found2 = _hidden(_scored(even2 + odd2, scale, cap), position, low2, high2, end)
            found3 = _hidden(_scored(even3 + odd3, scale, cap), position, low3, high3, end)
            store(32, s0, position - first, found0)
            store(32, s1, position - first, found1)
            store(32, s2, position - first, found2)
            store(32, s3, position - first, found3)
            top0, top1 = maximum(top0, found0), maximum(top1, found1)
            top2, top3 = maximum(top2, found2), maximum(top3, found3)
    return greatest(top0), greatest(top1), greatest(top2), greatest(top3)


@called
def _weigh_one(bits, kv_bits, line, values, blocks, scores, share, out):
    """One line's values, weighted; see ``_attend``."""
    low, high = line
    cache, num_blocks, size, dim, head = values
    table, first, _, _ = blocks
    whole = dim // (4 * LANES) * 4 * LANES
    for d in range(0, whole, 4 * LANES):
        sum0 = sum1 = sum2 = sum3 = splat(_ZERO)
        for block in range(low // size, (high - 1) // size + 1):
            start, end = max(low, block * size), min(high, (block + 1) * size)
            at = (head * num_blocks + integer(table, block)) * size * dim + d
            for position in range(start, end):
                weight = splat(get(32, scores, position - first))
                row = at + (position - block * size) * dim
                sum0 = fma(weight, load(kv_bits, cache, row), sum0)
                sum1 = fma(weight, load(kv_bits, cache, row + LANES), sum1)
                sum2 = fma(weight, load(kv_bits, cache, row + 2 * LANES), sum2)
                sum3 = fma(weight, load(kv_bits, cache, row + 3 * LANES), sum3)
        store(bits, out[0], out[1] + d, sum0 * share)
        store(bits, out[0], out[1] + d + LANES, sum1 * share)
        store(bits, out[0], out[1] + d + 2 * LANES, sum2 * share)
        store(bits, out[0], out[1] + d + 3 * LANES, sum3 * share)
    for d in range(whole, dim, LANES):
        lanes = min(LANES, dim - d)
        summed = splat(_ZERO)
        for block in range(low // size, (high - 1) // size + 1):
            start, end = max(low, block * size), min(high, (block + 1) * size)
            at = (head * num_blocks + integer(table, block)) * size * dim + d
            for position in range(start, end):
                weight = splat(get(32, scores, position - first))
                found = _values_at(kv_bits, cache, at + (position - block * size) * dim, lanes)
                summed = fma(weight, found, summed)
        store_some(bits, out[0], out[1] + d, lanes, summed * share)


@called
def _weigh_four(bits, kv_bits, low, high, values, blocks, scores, room, shares, outs):
    """Four lines' values, weighted; those that a line does not see have the weight zero."""
    cache, num_blocks, size, dim, head = values
    table, first, _, _ = blocks
    s0, s1, s2, s3 = scores, scores + room, scores + 2 * room, scores + 3 * room
    for d in range(0, dim, LANES):
        lanes = min(LANES, dim - d)
        sum0 = sum1 = sum2 = sum3 = splat(_ZERO)
        for block in range(low // size, (high - 1) // size + 1):
            start, end = max(low, block * size), min(high, (block + 1) * size)
            at = (head * num_blocks + integer(table, block)) * size * dim + d
            for position in range(start, end):
                found = _values_at(kv_bits, cache, at + (position - block * size) * dim, lanes)
                sum0 = fma(splat(get(32, s0, position - first)), found, sum0)
                sum1 = fma(splat(get(32, s1, position - first)), found, sum1)
                sum2 = fma(splat(get(32, s2, position - first)), found, sum2)
                sum3 = fma(splat(get(32, s3, position - first)), found, sum3)
        store_some(bits, outs[0], outs[1] + d, lanes, sum0 * splat(shares[0]))
        store_some(bits, outs[0], outs[2] + d, lanes, sum1 * splat(shares[1]))
        store_some(bits, outs[0], outs[3] + d, lanes, sum2 * splat(shares[2]))
        store_some(bits, outs[0], outs[4] + d, lanes, sum3 * splat(shares[3]))


@inlined
def _placed(line, row, heads):
    """Where a line's query and result are, and the positions [low, high) that it sees."""
    start, before, window = row
    head, shared, num_heads, dim = heads
    query, which = line // shared, head * shared + line % shared
    high = before + query + 1
    low = max(0, high - window) if window != 0 else 0
    return ((start + query) * num_heads + which) * dim, low, high


@called
def _attend(bits, kv_bits, args, item, head, mine):
    """The lines of an item: some of a row's, of the heads that share a key head."""
    out, lengths, tables = given(args, 6), given(args, 11), given(args, 12)
    queries, each = given(args, 16), given(args, 18) // LINES
    keys, values, num_blocks, size = (
        given(args, 20),
        given(args, 21),
        given(args, 22),
        given(args, 23),
    )
    heads, kv_heads, dim = given(args, 24), given(args, 25), given(args, 26)
    scale, cap = given_float(args, 27, 0), given_float(args, 27, 1)
    window, align = given(args, 28), given(args, 29)
    items, item = given(args, 14), ITEM * item
    row, line, end = integer(items, item), integer(items, item + 1), integer(items, item + 2)
    before = integer(lengths, row) - integer(items, item + 4)
    row_of = integer(items, item + 3), before, window
    heads_of = head, heads // kv_heads, heads, dim
    table = tables + row * given(args, 13) * 4
    held, worth = (keys, num_blocks, size, dim, head), (values, num_blocks, size, dim, head)
    while line < end:
        at0, low0, high0 = _placed(line, row_of, heads_of)
        first = low0 // align * align
        known = table, first, scale, cap
        if line + LINES > end:
            top = _score_one(kv_bits, queries + at0 * 4, (low0, high0), held, known, mine)
            share = splat(_softmax(mine, high0 - first, top))
            _weigh_one(bits, kv_bits, (low0, high0), worth, known, mine, share, (out, at0))
            line += 1
            continue
        at1, low1, high1 = _placed(line + 1, row_of, heads_of)
        at2, low2, high2 = _placed(line + 2, row_of, heads_of)
        at3, low3, high3 = _placed(line + 3, row_of, heads_of)
        top0, top1, top2, top3 = _score_four(
            kv_bits,
            (queries + at0 * 4, queries + at1 * 4, queries + at2 * 4, queries + at3 * 4),
            ((low0, high0), (low1, high1), (low2, high2), (low3, high3)),
            held, known, mine, each,
        )  # fmt: skip
        shares = (
            _softmax(mine, high3 - first, top0),
            _softmax(mine + each, high3 - first, top1),
            _softmax(mine + 2 * each, high3 - first, top2),
            _softmax(mine + 3 * each, high3 - first, top3),
        )
        outs = out, at0, at1, at2, at3
        _weigh_four(bits, kv_bits, low0, high3, worth, known, mine, each, shares, outs)
        line += LINES


def make(bits: int, kv_bits: int):
    """The kernel for queries and results of so many bits, and for keys and values.

    Its arguments, behind the counters: q, k, v and from one token to the next in each; out; the
    table of rotations, 0 for none, and positions; tokens and their slots; lengths, block_tables
    and the width of these; items, int32 [items, ITEM], a row, its lines from one to before another,
    its first token and its number of queries, and how many items; rotated queries; room, its bytes
    a thread, and for how many. Then, of the layer: keys, values, blocks and their size; heads, key
    heads and their width; float32 scale and soft cap, 0 for none; window, 0 for none; and what a
    first score's position is a multiple of.
    """

    def attention(args):
        mine = room_of_thread(args, 17)
        num_tokens = given(args, 9)
        while mine:
            token = take(args, 1)
            if token >= num_tokens:
                break
            _write(bits, kv_bits, args, token, mine)
            take(args, 2)
        wait_for(args, 2, num_tokens)
        kv_heads = given(args, 25)
        end = given(args, 15) * kv_heads
        while mine:
            item = take(args, 3)
            if item >= end:
                break
            _attend(bits, kv_bits, args, item // kv_heads, item % kv_heads, mine)
            take(args, 4)
        wait_for(args, 4, end)

    return attention
