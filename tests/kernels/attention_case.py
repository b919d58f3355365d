"""One step of paged attention against float64, with NaN wherever nothing may be read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import torch
import torch.nn.functional as F

from quire.backends.attention.triton_paged import TritonPaged
from quire.core.contracts.attention import AttentionBatch, AttentionSpec, Chosen, Rotation

__all__ = (
    "AttentionCase",
    "check_alike",
    "check_captured_chunks",
    "check_step",
    "check_writing_before",
    "poisoned_memory",
)

_TOLERANCE = {
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
    torch.float8_e4m3fn: 3e-2,
}


@dataclass(frozen=True)
class AttentionCase:
    """A step.

    Attributes:
        spec: of the layer.
        rows: (queries, tokens in the cache once they are written), those with one query first.
        seed: of everything drawn.
        block_size: tokens a block.
        dtype: of queries.
        kv_dtype: of the cache.
        rotate: whether the backend rotates.
        scales: of keys and values.
        shared: blocks that all tables begin with; each row must have more.
        backend: what attends.
        bound: tokens that the host takes rows for, where they have fewer.
    """

    spec: AttentionSpec
    rows: tuple[tuple[int, int], ...]
    seed: int = 0
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype = torch.float32
    rotate: bool = True
    scales: tuple[float, float] = (1.0, 1.0)
    shared: int = 0
    backend: type[TritonPaged] = TritonPaged
    bound: int = 0


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, ``torch.empty`` gives NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check_step(case: AttentionCase, device: str = "cpu") -> TritonPaged:
    """Run the case's step, which must give the oracle's output and write what it should.

    Raises:
        AssertionError: at the first difference.
    """
    step = _Step(case, torch.device(device))
    step.check(step.run())
    return step.backend


def check_writing_before(case: AttentionCase, device: str = "cpu") -> None:
    """Single queries whose tokens are cached before, as beside a prompt, give the same bits.

    Raises:
        AssertionError: where they do not.
    """
    found, caches = [], []
    for before in (False, True):
        step = _Step(case, torch.device(device))
        step.batch.siblings = before
        found.append(step.run())
        caches.append([cache.view(torch.uint8).clone() for cache in step.caches()])
    assert torch.equal(*found)
    for one, other in zip(*caches, strict=True):
        assert torch.equal(one, other)


def check_last_tokens(case: AttentionCase, device: str = "cpu") -> None:
    """The last tokens of all rows, chosen, get what they get among all, which is the oracle's.

    Raises:
        AssertionError: where they do not.
    """
    whole, some = (_Step(case, torch.device(device)) for _ in range(2))
    expected = whole.run()
    caches = [cache.view(torch.uint8).clone() for cache in whole.caches()]
    whole.check(expected)
    last = whole.batch.query_start[1:].long().cpu() - 1
    found = some.run_last()
    torch.testing.assert_close(found.float(), expected[last].float(), atol=2e-2, rtol=2e-2)
    for one, other in zip(some.caches(), caches, strict=True):
        assert torch.equal(one.view(torch.uint8), other)


def check_captured_chunks(case: AttentionCase, num_tokens: int, device: str = "cpu") -> None:
    """The step as a graph for ``num_tokens`` holds it, which gives what the oracle does.

    Raises:
        AssertionError: where it does not.
    """
    step = _Step(case, torch.device(device))
    step.check(step.run_captured(num_tokens))


def check_alike(case: AttentionCase, num_tokens: int, device: str = "cpu") -> None:
    """A token's bits are the same in whole rows, in a captured step and as its row's last one.

    Raises:
        AssertionError: where they are not.
    """
    whole, captured, alone = (_Step(case, torch.device(device)) for _ in range(3))
    found = whole.run()
    whole.check(found)
    assert torch.equal(captured.run_captured(num_tokens), found)
    last = whole.batch.query_start[1:].long().cpu() - 1
    assert torch.equal(alone.run_last(), found[last])


class _Step:
    """A backend with a filled cache, the batch, and what should come out."""

    def __init__(self, case: AttentionCase, device: torch.device) -> None:
        self.case = case
        spec, size = case.spec, case.block_size
        generator = torch.Generator().manual_seed(case.seed)
        rng = random.Random(case.seed)
        used = [-(-length // size) for _, length in case.rows]
        blocks = list(range(1, sum(used) + 3))
        rng.shuffle(blocks)
        self.tables = [[blocks.pop() for _ in range(count)] for count in used]
        self.tables = [
            self.tables[0][: case.shared] + table[case.shared :] if length > 1 else table
            for table, (_, length) in zip(self.tables, case.rows, strict=True)
        ]
        k_scale, v_scale = case.scales
        spec = msgspec.structs.replace(spec, k_scale=k_scale, v_scale=v_scale)
        self.backend = case.backend([spec], block_size=size, kv_dtype=case.kv_dtype, device=device)
        self.backend.allocate(sum(used) + 3)
        self.batch = _batch(case, self.tables, device)
        self.heads = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
        tokens = sum(count for count, _ in case.rows)
        shape = (tokens, sum(self.heads), spec.head_dim)
        self.qkv = torch.randn(shape, generator=generator).to(case.dtype)
        self.cached = [
            torch.randn(2, length, spec.num_kv_heads, spec.head_dim, generator=generator)
            for _, length in case.rows
        ]
        for cached, (_, length) in zip(self.cached, case.rows, strict=True):
            if length > 1:
                cached[:, : case.shared * size] = self.cached[0][:, : case.shared * size]
        positions = torch.cat([torch.arange(end - n, end) for n, end in case.rows])
        longest = max(length for _, length in case.rows)
        angles = torch.rand(longest, spec.head_dim // 2, generator=generator) * 7
        cos, sin = angles.cos(), angles.sin()
        table = torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)), 1)
        self.table, self.positions = table.to(case.dtype), positions
        self.rotation = None
        if case.rotate:
            self.rotation = Rotation(self.table.to(device), positions.to(device))
        self._fill()

    def _fill(self) -> None:
        """NaN in every slot but those of tokens cached before the step."""
        scales = self.case.scales
        for cache, scale, part in zip(self.caches(), scales, (0, 1), strict=True):
            whole = torch.full(cache.shape, torch.nan)
            for row, (count, length) in enumerate(self.case.rows):
                for position in range(length - count):
                    block, offset = self._place(row, position)
                    whole[block, :, offset] = self.cached[row][part, position] / scale
            cache.copy_(whole.to(cache.dtype))

    def run(self) -> torch.Tensor:
        """What the backend gives, on the CPU."""
        with poisoned_memory():
            prepared = self.backend.prepare(self.batch)
            q, k, v = self.qkv.clone().to(self.batch.lengths.device).split(self.heads, 1)
            return self.backend.attend(0, q, k, v, prepared, self.rotation).cpu()

    def run_last(self) -> torch.Tensor:
        """What the backend gives for the rows' last tokens alone, on the CPU."""
        batch, rows = self.batch, len(self.case.rows)
        device = batch.lengths.device
        last = batch.query_start[1:].long() - 1
        self.batch = AttentionBatch(
            query_start=torch.arange(rows + 1, dtype=torch.int32, device=device),
            lengths=batch.lengths,
            block_tables=batch.block_tables,
            write_slots=batch.write_slots[last],
            num_decodes=rows,
            query_lengths=[1] * rows,
            host_lengths=batch.host_lengths,
            chosen=Chosen(last, batch.write_slots),
        )
        return self.run()

    def run_captured(self, num_tokens: int) -> torch.Tensor:
        """What the backend gives as a graph for so many tokens holds it, on the CPU."""
        batch, missing = self.batch, num_tokens - len(self.batch.write_slots)
        device = batch.lengths.device
        plan = self.backend.chunk_plan(
            batch.query_lengths, batch.host_lengths, batch.num_decodes, num_tokens
        )
        assert plan is not None and len(plan) == len(self.backend.chunk_plan([], [], 0, num_tokens))
        rows = num_tokens - len(batch.lengths)
        total = len(batch.write_slots)
        self.batch = AttentionBatch(
            query_start=F.pad(batch.query_start, (0, rows), value=total),
            lengths=F.pad(batch.lengths, (0, rows)),
            block_tables=F.pad(batch.block_tables, (0, 0, 0, rows)),
            write_slots=F.pad(batch.write_slots, (0, missing)),
            num_decodes=num_tokens,
            query_lengths=[1] * num_tokens,
            host_lengths=[5000] * num_tokens,
            chunk_plan=torch.from_numpy(plan).to(torch.int32).to(device),
        )
        self.qkv = F.pad(self.qkv, (0, 0, 0, 0, 0, missing))
        if self.rotation is not None:
            self.rotation.positions = F.pad(self.rotation.positions, (0, missing))
        found = self.run()[:total]
        for cache in self.caches():
            cache[0] = torch.nan  # Where tokens of nobody go.
        self.qkv = self.qkv[:total]
        return found

    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self.backend._layers[0]
        return layer.keys, layer.values

    def _place(self, row: int, position: int) -> tuple[int, int]:
        size = self.case.block_size
        return self.tables[row][position // size], position % size

    def _stored(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """As the cache gives it back."""
        return (x.float() / scale).to(self.case.kv_dtype).double() * scale

    def check(self, found: torch.Tensor) -> None:
        case = self.case
        q, k, v = self.qkv.double().split(self.heads, 1)
        if case.rotate:
            cos, sin = self.table[self.positions].double().unsqueeze(2).unbind(1)
            half = case.spec.head_dim // 2
            q, k = (x * cos + x.roll(half, -1) * sin for x in (q, k))
            # As a rotation in place leaves it.
            k = k.to(case.dtype).double()
        expected, begin = [], 0
        keys, values = (cache.float().cpu().double() for cache in self.caches())
        touched = torch.zeros(keys.shape[0], case.block_size, dtype=torch.bool)
        coarser = max(torch.finfo(dtype).eps for dtype in (case.dtype, case.kv_dtype))
        for row, (count, length) in enumerate(case.rows):
            end = begin + count
            old, fresh = self.cached[row][:, : length - count], (k[begin:end], v[begin:end])
            mine = [
                self._stored(torch.cat((old[part].double(), fresh[part])), case.scales[part])
                for part in (0, 1)
            ]
            for position in range(length):
                block, offset = self._place(row, position)
                touched[block, offset] = True
                for cache, own, scale in zip((keys, values), mine, case.scales, strict=True):
                    # One unit in the last place: the kernel rotates in float32, and rounds as the
                    # keys came before it rounds as the cache keeps them.
                    torch.testing.assert_close(
                        cache[block, :, offset] * scale,
                        own[position],
                        rtol=2.1 * coarser,
                        atol=1e-2 if case.kv_dtype.itemsize == 1 else 1e-6,
                    )
            expected.append(_attention(case.spec, q[begin:end], *mine))
            begin = end
        assert keys[~touched[:, None].expand(keys.shape[:3])].isnan().all()
        assert found.dtype is case.dtype
        tolerance = max(_TOLERANCE[case.dtype], _TOLERANCE[case.kv_dtype])
        torch.testing.assert_close(
            found.double(), torch.cat(expected), rtol=tolerance, atol=tolerance
        )


def _attention(
    spec: AttentionSpec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """[n, heads, d] over [length, kv heads, d], the n being the last positions."""
    group = spec.num_heads // spec.num_kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,lhd->hnl", q, k) * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    at = torch.arange(len(k) - len(q), len(k))[:, None]
    key = torch.arange(len(k))[None]
    hidden = key > at
    if spec.window is not None:
        hidden |= key <= at - spec.window
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hnl,lhd->nhd", weights, v).flatten(1)


def _batch(case: AttentionCase, tables: list[list[int]], device: torch.device) -> AttentionBatch:
    """Tables are padded by blocks of others, as where longer rows were before."""
    size = case.block_size
    widest = max(len(table) for table in tables)
    strange = [block for table in tables for block in table] + [0] * widest
    padded = [table + strange[: widest - len(table)] for table in tables]
    slots = [
        table[position // size] * size + position % size
        for table, (count, length) in zip(tables, case.rows, strict=True)
        for position in range(length - count, length)
    ]
    starts = [0]
    for count, _ in case.rows:
        starts.append(starts[-1] + count)
    lengths = [length for _, length in case.rows]
    return AttentionBatch(
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_tables=torch.tensor(padded, dtype=torch.int32, device=device),
        write_slots=torch.tensor(slots, dtype=torch.int64, device=device),
        num_decodes=sum(count == 1 for count, _ in case.rows),
        query_lengths=[count for count, _ in case.rows],
        host_lengths=[max(length, case.bound) for length in lengths],
        shares_prefixes=case.shared > 0,
    )
