"""Sampling, first half: one look at the logits, and the draw of every row that this settles.

``scan`` reads the logits once and leaves, for each chunk of a row, its greatest logit and where it
stands, and the sum of its weights; of rows with filters also the greatest logit of every group of
32. ``settle`` then draws. A greedy row takes the first of the best. A row without filters finds
the chunk where the cumulative weight passes its random number, then the token inside. A row with
filters looks only into the groups that hold its best tokens: those whose greatest logit is among
the 256 greatest hold every token above the smallest of these. The threshold of top-k, top-p or
min-p is nearly always among them; a row where it is not is left to ``sampling_narrow``.
"""

import triton
import triton.language as tl

from .sampling_parts import (
    IS_FILTERED,
    IS_SAMPLED,
    NOTHING,
    OUTSIDE,
    UNIT,
    key_of,
    parameters,
    pick,
    to_key,
    uniform,
    weight_of,
)

__all__ = ("scan", "settle")

_INF = tl.constexpr(float("inf"))
_BROKEN = tl.constexpr(-1)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def scan(
    logits,
    stride,
    slots,
    table,
    tops,
    firsts,
    sums,
    lows,
    maxima,
    num_columns,
    num_chunks,
    FILTERS: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One program a chunk: its greatest logit, the first place of it, and its sum of weights.

    Weights are relative to the chunk's greatest logit here, since nobody knows the row's yet.
    """
    chunk, row = tl.program_id(0), tl.program_id(1)
    _, _, temperature, _, _, flags = parameters(table, tl.load(slots + row))
    columns = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = columns < num_columns
    x = tl.load(logits + row.to(tl.int64) * stride + columns, mask=inside, other=-_INF)
    x = x.to(tl.float32)
    # An infinite logit breaks its row as a NaN does, and unlike that wins every comparison.
    x = tl.where(x == x, x, _INF)
    top = tl.max(x, axis=0)
    at = row * num_chunks + chunk
    tl.store(tops + at, top)
    tl.store(firsts + at, tl.min(tl.where(x == top, columns, OUTSIDE), axis=0))
    if flags & IS_SAMPLED:
        reference = tl.where(tl.abs(top) < _INF, top, 0.0)
        weights = tl.exp2((x - reference) * (_LOG2_E / temperature))
        tl.store(sums + at, tl.sum(weights, axis=0))
        if FILTERS:  # noqa: SIM102
            if flags & IS_FILTERED:
                GROUPS: tl.constexpr = CHUNK // GROUP
                groups = at * GROUPS + tl.arange(0, GROUPS)
                tl.store(maxima + groups, tl.max(tl.reshape(x, (GROUPS, GROUP)), axis=1))
                tl.store(lows + at, tl.min(tl.where(x > -_INF, x, _INF), axis=0))


@triton.jit
def settle(
    logits,
    stride,
    slots,
    lengths,
    table,
    tops,
    firsts,
    sums,
    lows,
    maxima,
    chosen,
    state,
    counts,
    tallies,
    out,
    tokens,
    tokens_stride,
    num_columns,
    num_chunks,
    num_groups,
    FILTERS: tl.constexpr,
    REMEMBER: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    CHOSEN: tl.constexpr,
    TALLIES: tl.constexpr,
):
    """One program a row: its token, or for ``sampling_narrow`` where the threshold lies."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if FILTERS:
        tl.store(state + row * 4, tl.full((), 0, tl.int64))
    stream, top_p, temperature, min_score, top_k, flags = parameters(table, slot)
    position = tl.load(lengths + row)
    chunks = tl.arange(0, BLOCK_CHUNKS)
    at, valid = row * num_chunks + chunks, chunks < num_chunks
    chunk_tops = tl.load(tops + at, mask=valid, other=-_INF)
    best = tl.max(chunk_tops, axis=0)
    logits += row.to(tl.int64) * stride
    settled = True
    token = tl.full((), _BROKEN, tl.int32)
    if (best > -_INF) & (best < _INF):
        if (flags & IS_SAMPLED) == 0:
            first = tl.load(firsts + at, mask=valid, other=OUTSIDE)
            token = tl.min(tl.where(chunk_tops == best, first, OUTSIDE), axis=0)
        else:
            chunk_sums = tl.load(sums + at, mask=valid, other=0.0)
            scale = tl.exp(tl.div_rn(chunk_tops - best, temperature)).to(tl.float64)
            weights = (chunk_sums.to(tl.float64) * scale * UNIT).to(tl.int64)
            number = uniform(stream, position)
            draws_freely = True
            if FILTERS:
                draws_freely = (flags & IS_FILTERED) == 0
                if not draws_freely:
                    lowest = tl.min(tl.load(lows + at, mask=valid, other=_INF), axis=0)
                    filters = (top_p, temperature, min_score, top_k)
                    token, settled = _filter(
                        logits,
                        (best, lowest, tl.sum(weights, axis=0)),
                        number,
                        filters,
                        maxima + row * num_groups,
                        chosen + row * CHOSEN,
                        state + row * 4,
                        num_columns,
                        num_groups,
                        GROUP,
                        BLOCK_GROUPS,
                        CHOSEN,
                    )
                    _clear(counts + row, tallies + row * TALLIES, TALLIES)
            if draws_freely:
                token = _draw(
                    logits, chunks, chunk_tops, weights, number, temperature, num_columns, CHUNK
                )
    if settled:
        tl.store(out + row, token.to(tl.int64))
        if REMEMBER:  # noqa: SIM102
            if token >= 0:
                tl.store(tokens + slot * tokens_stride + position, token)


@triton.jit
def _clear(count, tallies, TALLIES: tl.constexpr):
    """What ``sampling_narrow`` adds to."""
    tl.store(count, 0)
    at = tl.arange(0, triton.next_power_of_2(TALLIES))
    tl.store(tallies + at, tl.zeros_like(at).to(tl.int64), mask=at < TALLIES)


@triton.jit
def _draw(logits, chunks, tops, weights, number, temperature, num_columns, CHUNK: tl.constexpr):
    """Draw in a row without filters, given its chunks' weights."""
    total = tl.sum(weights, axis=0)
    target = tl.minimum((number * total.to(tl.float64)).to(tl.int64), total - 1)
    chunk = pick(weights, target)
    here = chunks == chunk
    target -= tl.sum(tl.where(chunks < chunk, weights, 0), axis=0)
    share = target.to(tl.float64) / tl.sum(tl.where(here, weights, 0), axis=0).to(tl.float64)
    top = tl.max(tl.where(here, tops, -_INF), axis=0)
    columns = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + columns, mask=columns < num_columns, other=-_INF)
    inner = weight_of(key_of(x.to(tl.float32), top, temperature))
    return chunk * CHUNK + _place(inner, share)


@triton.jit
def _filter(
    logits,
    row,
    number,
    filters,
    maxima,
    chosen,
    state,
    num_columns,
    num_groups,
    GROUP: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    CHOSEN: tl.constexpr,
):
    """Draw among the best groups of one row: (token, whether it could be done).

    ``row`` is its best and lowest logit and its weight. Tokens with keys below ``bound`` are all
    in sight.
    """
    best, lowest, total = row
    top_p, temperature, min_score, top_k = filters
    groups = tl.arange(0, BLOCK_GROUPS)
    x = tl.load(maxima + groups, mask=groups < num_groups, other=-_INF)
    group_keys = key_of(x, best, temperature)
    bound = _bound(group_keys, CHOSEN)
    selected = group_keys < bound
    place = tl.cumsum(selected.to(tl.int32), axis=0) - 1
    tl.store(chosen + place, groups, mask=selected)
    num_chosen = tl.sum(selected.to(tl.int32), axis=0)
    tl.debug_barrier()
    items = tl.arange(0, CHOSEN * GROUP)
    valid = items // GROUP < num_chosen
    columns = tl.load(chosen + items // GROUP, mask=valid, other=0) * GROUP + items % GROUP
    x = tl.load(logits + columns, mask=valid & (columns < num_columns), other=-_INF)
    keys = key_of(x.to(tl.float32), best, temperature)
    keys = tl.where(valid & (keys < bound), keys, OUTSIDE)
    weights = weight_of(keys)

    count = tl.sum((keys < OUTSIDE).to(tl.int32), axis=0)
    mass = tl.sum(weights, axis=0)
    all_in_sight = bound == NOTHING
    by_count, by_mass = top_k < num_columns, top_p < 1.0
    floor = to_key(min_score)
    limit = tl.where(by_mass, top_p * total.to(tl.float64), _INF)
    enough = (count >= top_k) | ((not by_count) & (mass.to(tl.float64) >= limit))
    settled = all_in_sight | enough | ((floor < bound) & (not (by_count & by_mass)))
    token = tl.full((), 0, tl.int32)
    if settled:
        last = bound - 1
        if by_count & by_mass:
            last = _last(keys, weights, top_k, _INF, bound)
            limit = top_p * _sum_of_best(keys, weights, last, top_k)
        last = _last(keys, weights, top_k, limit, tl.minimum(last, floor) + 1)
        kept = tl.where(keys <= last, weights, 0)
        token = tl.sum(tl.where(items == _place(kept, number), columns, 0), axis=0)
    else:
        high = to_key(tl.div_rn(lowest - best, temperature)) + 1
        if by_count & by_mass:
            # top-k is searched for first, and leaves top-p its total.
            limit = limit * 0 + _INF
        else:
            high = tl.minimum(high, floor + 1)
        if by_mass & (not by_count):
            # Tokens beyond this score could not make up what top-p leaves out.
            left = tl.log((1.0 - top_p) * (total.to(tl.float64) / UNIT) / num_columns)
            high = tl.minimum(high, to_key(tl.minimum(left.to(tl.float32), 0.0) - 0.125))
        interval = bound.to(tl.int64) | (tl.maximum(high, bound + 1).to(tl.int64) << 32)
        tl.store(state, tl.full((), 1, tl.int64))
        tl.store(state + 1, interval)
        tl.store(state + 2, count.to(tl.int64))
        tl.store(state + 3, limit.to(tl.int64, bitcast=True))
    return token, settled


@triton.jit
def _place(weights, number):
    """Where the cumulative weight passes a share of all of it."""
    total = tl.sum(weights, axis=0)
    return pick(weights, tl.minimum((number * total.to(tl.float64)).to(tl.int64), total - 1))


@triton.jit
def _bound(group_keys, CHOSEN: tl.constexpr):
    """A key with at most CHOSEN groups below it, and if that can be not many fewer."""
    low, high = 0, NOTHING + 0
    if tl.sum((group_keys < NOTHING).to(tl.int32), axis=0) <= CHOSEN:
        low = NOTHING + 0
    num_below = 0
    while (high - low > 1) & (num_below < CHOSEN - CHOSEN // 4):
        middle = low + (high - low) // 2
        found = tl.sum((group_keys < middle).to(tl.int32), axis=0)
        fits = found <= CHOSEN
        num_below = tl.where(fits, found, num_below)
        low = tl.where(fits, middle, low)
        high = tl.where(fits, high, middle)
    return low


@triton.jit
def _last(keys, weights, top_k, limit, high):
    """A key below ``high`` that parts what stays, with fewer than top_k and less than the limit
    above it, from the rest."""
    low, count_low = 0, 0
    count_high = tl.sum((keys < high).to(tl.int32), axis=0)
    # What has as much above it as ``low`` has stays too: a single token between need not be found.
    while (high - low > 1) & (count_high - count_low > 1):
        middle = low + (high - low) // 2
        above = keys < middle
        count = tl.sum(above.to(tl.int32), axis=0)
        mass = tl.sum(tl.where(above, weights, 0), axis=0)
        fits = (count < top_k) & (mass.to(tl.float64) < limit)
        low = tl.where(fits, middle, low)
        high = tl.where(fits, high, middle)
        count_low = tl.where(fits, count, count_low)
        count_high = tl.where(fits, count_high, count)
    return high - 1


@triton.jit
def _sum_of_best(keys, weights, last, top_k):
    """Weight of exactly top_k tokens, of which several may share the last key."""
    above = keys < last
    mass = tl.sum(tl.where(above, weights, 0), axis=0)
    same = tl.sum((keys == last).to(tl.int32), axis=0)
    missing = tl.minimum(top_k - tl.sum(above.to(tl.int32), axis=0), same)
    return (mass + missing * weight_of(last)).to(tl.float64)
