"""Sampling, second half: rows whose threshold lies among more tokens than ``settle`` looks at.

For these ``settle`` left an interval of keys that holds the threshold. Each pass of ``narrow``
counts and weighs the tokens above 8 pivots inside and so makes it 9 times as narrow; ``collect``
lists the few thousand tokens that are left between and weighs those above; ``finish`` finds the
exact threshold in the list and draws. Other rows' programs end at once.
"""

import triton
import triton.language as tl

from .sampling_parts import (
    OUTSIDE,
    UNIT,
    key_of,
    parameters,
    pick,
    row_best,
    to_key,
    uniform,
    weight_of,
)

__all__ = ("collect", "finish", "narrow")

_INF = tl.constexpr(float("inf"))


@triton.jit(do_not_specialize=["passed", "span"])
def narrow(
    logits,
    stride,
    slots,
    table,
    tops,
    state,
    tallies,
    num_columns,
    num_chunks,
    passed,
    span,
    PASSES: tl.constexpr,
    PIVOTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    LIST: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Count and weigh ``span`` chunks' tokens above each pivot, after some passes."""
    row = tl.program_id(1)
    if tl.load(state + row * 4) == 0:
        return
    _, _, temperature, _, top_k, _ = parameters(table, tl.load(slots + row))
    tallies += row * PASSES * PIVOTS * 2
    low, high, _, done = _interval(
        state + row * 4, tallies, top_k, num_columns, passed, PIVOTS, LIST
    )
    if done:
        return
    best = row_best(tops, row, num_chunks, BLOCK_CHUNKS)
    whole_row = (logits + row.to(tl.int64) * stride, best, temperature, num_columns, num_chunks)
    pivots = _pivots(low, high, PIVOTS)[:, None, None]
    # Four columns a thread and strip, added up before any threads meet.
    strip = tl.arange(0, WIDTH)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    first = tl.program_id(0) * span
    for chunk in range(first, tl.minimum(first + span, num_chunks)):
        counts = tl.zeros((PIVOTS, WIDTH), tl.int32)
        masses = tl.zeros((PIVOTS, WIDTH), tl.float32)
        for start in tl.static_range(0, CHUNK, WIDTH * 4):
            keys = _keys(chunk * CHUNK + start + strip, whole_row)
            weights = tl.exp(-keys.to(tl.float32, bitcast=True))
            above = keys < pivots
            counts += tl.sum(above.to(tl.int32), axis=2)
            masses += tl.sum(tl.where(above, weights, 0.0), axis=2)
        at = tallies + passed * PIVOTS * 2 + tl.arange(0, PIVOTS)
        mass = tl.sum(masses, axis=1).to(tl.float64) * UNIT
        tl.atomic_add(at, tl.sum(counts, axis=1).to(tl.int64), sem="relaxed")
        tl.atomic_add(at + PIVOTS, mass.to(tl.int64), sem="relaxed")


@triton.jit(do_not_specialize=["span"])
def collect(
    logits,
    stride,
    slots,
    table,
    tops,
    state,
    tallies,
    masses,
    counts,
    list_keys,
    list_columns,
    num_columns,
    num_chunks,
    span,
    PASSES: tl.constexpr,
    PIVOTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    LIST: tl.constexpr,
):
    """List the tokens inside the interval, in any order, and weigh each chunk's above it."""
    row = tl.program_id(1)
    if tl.load(state + row * 4) == 0:
        return
    _, _, temperature, _, top_k, _ = parameters(table, tl.load(slots + row))
    low, high, _, _ = _interval(
        state + row * 4,
        tallies + row * PASSES * PIVOTS * 2,
        top_k,
        num_columns,
        PASSES,
        PIVOTS,
        LIST,
    )
    low = tl.where(_is_few(top_k, LIST), 0, low)
    best = row_best(tops, row, num_chunks, BLOCK_CHUNKS)
    whole_row = (logits + row.to(tl.int64) * stride, best, temperature, num_columns, num_chunks)
    first = tl.program_id(0) * span
    for chunk in range(first, tl.minimum(first + span, num_chunks)):
        columns = chunk * CHUNK + tl.arange(0, CHUNK)
        keys = _keys(columns, whole_row)
        mass = tl.sum(tl.where(keys < low, weight_of(keys), 0), axis=0)
        tl.store(masses + row * num_chunks + chunk, mass)
        among = (keys >= low) & (keys < high)
        count = tl.sum(among.to(tl.int32), axis=0)
        if count > 0:
            place = tl.cumsum(among.to(tl.int32), axis=0) - 1
            place += tl.atomic_add(counts + row, count, sem="relaxed")
            fits = among & (place < LIST)
            tl.store(list_keys + row * LIST + place, keys, mask=fits)
            tl.store(list_columns + row * LIST + place, columns, mask=fits)


@triton.jit
def finish(
    logits,
    stride,
    slots,
    lengths,
    table,
    tops,
    state,
    tallies,
    masses,
    counts,
    list_keys,
    list_columns,
    out,
    tokens,
    tokens_stride,
    num_columns,
    num_chunks,
    REMEMBER: tl.constexpr,
    PASSES: tl.constexpr,
    PIVOTS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    LIST: tl.constexpr,
):
    """One program a row: the exact threshold, and the draw.

    A row whose list overflowed (thousands of equal scores), or that has both a large top_k and a
    top_p, is searched whole instead: correct, and slow.
    """
    row = tl.program_id(0)
    if tl.load(state + row * 4) == 0:
        return
    slot = tl.load(slots + row)
    stream, top_p, temperature, min_score, top_k, _ = parameters(table, slot)
    low, high, count_low, _ = _interval(
        state + row * 4,
        tallies + row * PASSES * PIVOTS * 2,
        top_k,
        num_columns,
        PASSES,
        PIVOTS,
        LIST,
    )
    best = row_best(tops, row, num_chunks, BLOCK_CHUNKS)
    whole_row = (logits + row.to(tl.int64) * stride, best, temperature, num_columns, num_chunks)
    chunks = tl.arange(0, BLOCK_CHUNKS)
    at, valid = masses + row * num_chunks + chunks, chunks < num_chunks
    chunk_masses = tl.load(at, mask=valid, other=0)
    few = _is_few(top_k, LIST)
    both = (top_k < num_columns) & (top_p < 1.0)
    found = tl.load(counts + row)
    is_whole = (found > LIST) | (both & (not few))
    items = tl.arange(0, LIST)
    valid = (items < found) & (not is_whole)
    keys = tl.load(list_keys + row * LIST + items, mask=valid, other=OUTSIDE)
    columns = tl.load(list_columns + row * LIST + items, mask=valid, other=0)
    weights = weight_of(keys)
    count_above = tl.where(few, 0, count_low)
    listed = (keys, weights, count_above, tl.sum(chunk_masses, axis=0), is_whole)

    limit = tl.load(state + row * 4 + 3).to(tl.float64, bitcast=True)
    low = _last(low, high, top_k, limit, listed, whole_row, CHUNK)
    if both:
        # Of tokens that share the last key, as many count as make up top_k.
        count, mass = _above(low, listed, whole_row, CHUNK)
        upto = _above(low + 1, listed, whole_row, CHUNK)[0]
        missing = tl.minimum(top_k, upto) - count
        limit = top_p * (mass + missing * weight_of(low)).to(tl.float64)
        high = tl.minimum(low, to_key(min_score)) + 1
        low = _last(low * 0, high, top_k, limit, listed, whole_row, CHUNK)
    if is_whole:
        for chunk in range(num_chunks):
            inner = _keys(chunk * CHUNK + tl.arange(0, CHUNK), whole_row)
            mass = tl.sum(tl.where(inner <= low, weight_of(inner), 0), axis=0)
            chunk_masses = tl.where(chunks == chunk, mass, chunk_masses)
    weights = tl.where(keys <= low, weights, 0)
    position = tl.load(lengths + row)
    number = uniform(stream, position)
    token = _pick(number, low, chunks, chunk_masses, columns, weights, whole_row, CHUNK)
    tl.store(out + row, token.to(tl.int64))
    if REMEMBER:
        tl.store(tokens + slot * tokens_stride + position, token)


@triton.jit
def _pick(number, last, chunks, chunk_masses, columns, weights, whole_row, CHUNK: tl.constexpr):
    """The token where the cumulative weight passes a share of all of it.

    A chunk's weight is what stands above the list, in ``chunk_masses``, and what is listed.
    """
    total = tl.sum(chunk_masses, axis=0) + tl.sum(weights, axis=0)
    target = tl.minimum((number * total.to(tl.float64)).to(tl.int64), total - 1)
    # The last chunk before which the weight does not pass the target.
    chunk, end, before = 0, whole_row[4], total * 0
    while end - chunk > 1:
        middle = chunk + (end - chunk) // 2
        mass = tl.sum(tl.where(chunks < middle, chunk_masses, 0), axis=0)
        mass += tl.sum(tl.where(columns < middle * CHUNK, weights, 0), axis=0)
        fits = mass <= target
        before = tl.where(fits, mass, before)
        chunk = tl.where(fits, middle, chunk)
        end = tl.where(fits, end, middle)
    keys = _keys(chunk * CHUNK + tl.arange(0, CHUNK), whole_row)
    kept = tl.where(keys <= last, weight_of(keys), 0)
    return chunk * CHUNK + pick(kept, target - before)


@triton.jit
def _last(low, high, top_k, limit, listed, whole_row, CHUNK: tl.constexpr):
    """A key from ``low``, which stays, to below ``high`` that parts what stays from the rest."""
    count_low = _above(low, listed, whole_row, CHUNK)[0]
    count_high = _above(high, listed, whole_row, CHUNK)[0]
    # What has as much above it as ``low`` has stays too: a single token between need not be found.
    while (high - low > 1) & (count_high - count_low > 1):
        middle = low + (high - low) // 2
        count, mass = _above(middle, listed, whole_row, CHUNK)
        fits = (count < top_k) & (mass.to(tl.float64) < limit)
        low = tl.where(fits, middle, low)
        high = tl.where(fits, high, middle)
        count_low = tl.where(fits, count, count_low)
        count_high = tl.where(fits, count_high, count)
    return high - 1


@triton.jit
def _above(bound, listed, whole_row, CHUNK: tl.constexpr):
    """Number and weight of a row's tokens with keys below the bound, from the list or anew."""
    keys, weights, count, mass, is_whole = listed
    if is_whole:
        count = count * 0
        mass = mass * 0
        for chunk in range(whole_row[4]):
            inner = _keys(chunk * CHUNK + tl.arange(0, CHUNK), whole_row)
            count += tl.sum((inner < bound).to(tl.int32), axis=0)
            mass += tl.sum(tl.where(inner < bound, weight_of(inner), 0), axis=0)
    else:
        count += tl.sum((keys < bound).to(tl.int32), axis=0)
        mass += tl.sum(tl.where(keys < bound, weights, 0), axis=0)
    return count, mass


@triton.jit
def _keys(columns, whole_row):
    """Keys of some columns of a row, which is (logits, best, temperature, width, chunks)."""
    logits, best, temperature, num_columns, _ = whole_row
    x = tl.load(logits + columns, mask=columns < num_columns, other=-_INF)
    return key_of(x.to(tl.float32), best, temperature)


@triton.jit
def _is_few(top_k, LIST: tl.constexpr):
    """Whether all of the best top_k tokens are listed, so that top-p can be searched there too."""
    return top_k <= LIST // 2


@triton.jit
def _pivots(low, high, PIVOTS: tl.constexpr):
    """Keys between two, evenly spaced by their scores."""
    share = (tl.arange(0, PIVOTS) + 1).to(tl.float32) / (PIVOTS + 1)
    first = low.to(tl.float32, bitcast=True)
    last = high.to(tl.float32, bitcast=True)
    return (first + (last - first) * share).to(tl.int32, bitcast=True)


@triton.jit
def _interval(
    state,
    tallies,
    top_k,
    num_columns,
    passed,
    PIVOTS: tl.constexpr,
    LIST: tl.constexpr,
):
    """What some passes leave of a row's interval.

    Returns:
        low (stays), high (does not, or nothing is known of it), tokens above low, and whether
        what is left can be listed.
    """
    pair = tl.load(state + 1)
    low, high = pair.to(tl.int32), (pair >> 32).to(tl.int32)
    count_low, count_high = tl.load(state + 2).to(tl.int32), num_columns
    limit = tl.load(state + 3).to(tl.float64, bitcast=True)
    few = _is_few(top_k, LIST)
    done = tl.where(few, count_high, count_high - count_low) <= LIST
    at = tl.arange(0, PIVOTS)
    for i in range(passed):
        if not done:
            pivots = _pivots(low, high, PIVOTS)
            count = tl.load(tallies + i * PIVOTS * 2 + at).to(tl.int32)
            mass = tl.load(tallies + i * PIVOTS * 2 + PIVOTS + at)
            fits = (count < top_k) & (mass.to(tl.float64) < limit)
            low = tl.maximum(low, tl.max(tl.where(fits, pivots, 0), axis=0))
            high = tl.minimum(high, tl.min(tl.where(fits, OUTSIDE, pivots), axis=0))
            count_low = tl.maximum(count_low, tl.max(tl.where(fits, count, 0), axis=0))
            count_high = tl.minimum(count_high, tl.min(tl.where(fits, OUTSIDE, count), axis=0))
            done = tl.where(few, count_high, count_high - count_low) <= LIST
    return low, high, count_low, done
