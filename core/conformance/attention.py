"""Attention backends, checked against a dense oracle in float64.

The oracle keeps each sequence's keys and values in plain lists of tensors and knows nothing of
blocks. ``check_backend`` runs a fixed choice of scenarios; ``check_attention`` runs one.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field

import msgspec
import torch

from ..contracts.attention import (
    AttentionBackend,
    AttentionBatch,
    AttentionSpec,
    Chosen,
    Rotation,
)
from .recorded import check_recorded
from .report import Unchecked, require

__all__ = ("Scenario", "check_attention", "check_backend", "check_cache")

_HEAD_SIZES = (16, 64, 128, 96, 80, 256)


@dataclass(frozen=True)
class Scenario:
    """A random run of several steps.

    Attributes:
        seed: of everything drawn.
        layers: geometry, a spec each.
        block_size: tokens a block.
        rows: sequences.
        steps: how many.
        longest: most new tokens of one row in one step.
        dtype: of queries and cache.
        rotate: leave the rotation of queries and keys to the backend.
        siblings: hand every query over as a row of its own.
        chosen: ask for some tokens' results alone.
    """

    seed: int
    layers: tuple[AttentionSpec, ...]
    block_size: int = 16
    rows: int = 3
    steps: int = 5
    longest: int = 20
    dtype: torch.dtype = torch.float32
    rotate: bool = False
    siblings: bool = False
    chosen: bool = False


@dataclass
class _Sequence:
    """A row as the oracle sees it: one (keys, values) list a layer."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)


def check_attention(
    backend: type[AttentionBackend], scenario: Scenario, device: str = "cpu"
) -> None:
    """Run random steps, with blocks in random order and rubbish in every other block.

    Raises:
        ConformanceError: where an output differs from the oracle's.
    """
    generator = torch.Generator().manual_seed(scenario.seed)
    rng = random.Random(scenario.seed)
    at = torch.device(device)
    attention = backend(
        list(scenario.layers), block_size=scenario.block_size, kv_dtype=scenario.dtype, device=at
    )
    most = -(-scenario.steps * scenario.longest // scenario.block_size)
    num_blocks = scenario.rows * most + 4
    attention.allocate(num_blocks)
    require(attention.bytes_per_block() > 0, "bytes_per_block must be positive")
    free = list(range(1, num_blocks))
    rng.shuffle(free)
    _poison(attention, scenario, free, at)
    sequences = [_new(scenario) for _ in range(scenario.rows)]
    for _ in range(scenario.steps):
        present = rng.sample(sequences, rng.randint(1, len(sequences)))
        counts = [rng.choice((1, 1, rng.randint(1, scenario.longest))) for _ in present]
        # Rows with a single query lead, as the contract says.
        order = sorted(range(len(present)), key=lambda index: counts[index] > 1)
        chosen = [(present[index], counts[index]) for index in order]
        batch = _batch(chosen, free, scenario.block_size, at)
        if scenario.siblings or scenario.chosen:
            batch = _unfolded(batch)
        kept = list(range(sum(counts)))
        if scenario.chosen:
            kept = sorted(rng.sample(kept, rng.randint(1, len(kept))))
            batch = _some(batch, torch.tensor(kept, device=at))
        prepared = attention.prepare(batch)
        for layer, spec in enumerate(scenario.layers):
            total = sum(counts)
            q = _draw(total, spec.num_heads, spec.head_dim, scenario, generator)
            k = _draw(total, spec.num_kv_heads, spec.head_dim, scenario, generator)
            v = _draw(total, spec.num_kv_heads, spec.head_dim, scenario, generator)
            # One merged product, as models hand it over: the three are views with gaps.
            merged = torch.cat((q, k, v), 1).to(at)
            heads, both = spec.num_heads, spec.num_heads + spec.num_kv_heads
            views = merged[:, :heads], merged[:, heads:both], merged[:, both:]
            rotation = None
            if scenario.rotate:
                rotation = _rotation(chosen, spec, scenario, generator, at)
                q, k = _rotated(rotation, q, k)
            found = attention.attend(layer, *views, prepared, rotation)
            expected = _oracle(chosen, layer, spec, q, k, v)[kept]
            _compare(found.cpu(), expected, scenario, layer)
        for sequence, count in chosen:
            sequence.length += count


def _unfolded(batch: AttentionBatch) -> AttentionBatch:
    """Every query as a row, as drafts are verified."""
    counts = torch.tensor(batch.query_lengths)
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    query = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    host = torch.tensor(batch.host_lengths)[rows] - counts[rows] + query + 1
    at = batch.lengths.device
    return AttentionBatch(
        query_start=torch.arange(len(rows) + 1, dtype=torch.int32, device=at),
        lengths=host.to(torch.int32).to(at),
        block_tables=batch.block_tables[rows.to(at)],
        write_slots=batch.write_slots,
        num_decodes=len(rows),
        query_lengths=[1] * len(rows),
        host_lengths=host.tolist(),
        siblings=True,
    )


def _some(batch: AttentionBatch, tokens: torch.Tensor) -> AttentionBatch:
    """Of a batch of single queries those of some tokens."""
    return AttentionBatch(
        query_start=torch.arange(len(tokens) + 1, dtype=torch.int32, device=tokens.device),
        lengths=batch.lengths[tokens],
        block_tables=batch.block_tables[tokens],
        write_slots=batch.write_slots[tokens],
        num_decodes=len(tokens),
        query_lengths=[1] * len(tokens),
        host_lengths=[batch.host_lengths[token] for token in tokens.tolist()],
        chosen=Chosen(tokens, batch.write_slots),
    )


def check_backend(backend: type[AttentionBackend]) -> None:
    """Run scenarios of every kind that the backend's capabilities promise.

    Raises:
        ConformanceError: naming the first broken promise.
        Unchecked: when this machine has no device that the backend runs on.
    """
    offered = backend.capabilities
    device = _device(offered.devices)
    width = next(
        (w for w in _HEAD_SIZES if offered.head_sizes is None or w in offered.head_sizes), None
    )
    width = width or min(offered.head_sizes or (16,))
    plain = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=width, scale=width**-0.5)
    single = AttentionSpec(num_heads=3, num_kv_heads=3, head_dim=width, scale=0.2)
    kinds = [(plain,), (single, single)]
    if "sliding_window" in offered.features:
        kinds.append((msgspec.structs.replace(plain, window=7), plain))
    if "soft_cap" in offered.features:
        kinds.append((msgspec.structs.replace(plain, soft_cap=3.0),))
    size = backend.default_block_size
    if "recorded" in offered.features:
        check_recorded(backend)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        if offered.missing(dtype=name, kv_dtype=name) is not None:
            continue
        for seed, layers in enumerate(kinds):
            check_attention(backend, Scenario(seed, layers, size, dtype=dtype), device)
            long = Scenario(seed, layers, size, rows=6, steps=3, longest=3 * size, dtype=dtype)
            check_attention(backend, long, device)
            rotated = dataclasses.replace(long, rotate=True)
            check_attention(backend, rotated, device)
            if "speculation" in offered.features:
                check_attention(backend, dataclasses.replace(rotated, siblings=True), device)
            if "chosen_tokens" in offered.features:
                check_attention(backend, dataclasses.replace(rotated, chosen=True), device)


def _device(devices: frozenset[str]) -> str:
    if "*" in devices or "cpu" in devices:
        return "cpu"
    for name in sorted(devices):
        module = getattr(torch, name, None)
        if module is not None and module.is_available():
            return name
    raise Unchecked(f"it runs on {', '.join(sorted(devices))}, which this machine has not")


def check_cache(backend: type[AttentionBackend], device: str = "cpu") -> None:
    """Sizes are honest, and a second ``allocate`` replaces the cache by an empty one.

    Raises:
        ConformanceError: otherwise.
    """
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
    for layers in (1, 3):
        attention = backend(
            [spec] * layers, block_size=8, kv_dtype=torch.float32, device=torch.device(device)
        )
        counted = attention.bytes_per_block() == layers * 2 * 8 * 2 * 16 * 4
        require(counted, "bytes_per_block does not count keys and values of every layer")
        attention.allocate(4)
        attention.allocate(2)


def _new(scenario: Scenario) -> _Sequence:
    return _Sequence(
        keys=[torch.zeros(0, s.num_kv_heads, s.head_dim) for s in scenario.layers],
        values=[torch.zeros(0, s.num_kv_heads, s.head_dim) for s in scenario.layers],
    )


def _poison(
    attention: AttentionBackend, scenario: Scenario, blocks: list[int], device: torch.device
) -> None:
    """Leave NaN in every block, as a sequence whose numbers went wrong would."""
    size = scenario.block_size
    slots = [block * size + offset for block in sorted(blocks) for offset in range(size)]
    batch = AttentionBatch(
        query_start=torch.tensor([0, len(slots)], dtype=torch.int32, device=device),
        lengths=torch.tensor([len(slots)], dtype=torch.int32, device=device),
        block_tables=torch.tensor([sorted(blocks)], dtype=torch.int32, device=device),
        write_slots=torch.tensor(slots, device=device),
        num_decodes=0,
        query_lengths=[len(slots)],
        host_lengths=[len(slots)],
    )
    prepared = attention.prepare(batch)
    for layer, spec in enumerate(scenario.layers):
        shapes = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        q, k, v = (
            torch.full(
                (len(slots), heads, spec.head_dim), torch.nan, dtype=scenario.dtype, device=device
            )
            for heads in shapes
        )
        attention.attend(layer, q, k, v, prepared)


def _batch(
    chosen: list[tuple[_Sequence, int]], free: list[int], block_size: int, device: torch.device
) -> AttentionBatch:
    starts, lengths, slots = [0], [], []
    for sequence, count in chosen:
        end = sequence.length + count
        while len(sequence.blocks) * block_size < end:
            sequence.blocks.append(free.pop())
        slots += [
            sequence.blocks[position // block_size] * block_size + position % block_size
            for position in range(sequence.length, end)
        ]
        starts.append(starts[-1] + count)
        lengths.append(end)
    # Past a row's end stand blocks of others, as where a longer row was before.
    widest = max(len(sequence.blocks) for sequence, _ in chosen)
    strange = free + [0] * widest
    tables = [s.blocks + strange[: widest - len(s.blocks)] for s, _ in chosen]
    return AttentionBatch(
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
        write_slots=torch.tensor(slots, dtype=torch.int64, device=device),
        num_decodes=sum(count == 1 for _, count in chosen),
        query_lengths=[count for _, count in chosen],
        host_lengths=lengths,
    )


def _draw(
    tokens: int, heads: int, width: int, scenario: Scenario, generator: torch.Generator
) -> torch.Tensor:
    return torch.randn(tokens, heads, width, generator=generator).to(scenario.dtype)


def _rotation(
    chosen: list[tuple[_Sequence, int]],
    spec: AttentionSpec,
    scenario: Scenario,
    generator: torch.Generator,
    device: torch.device,
) -> Rotation:
    """Any table of cosines and sines, and the positions of a step's tokens."""
    longest = max(sequence.length + count for sequence, count in chosen)
    angles = torch.rand(longest, spec.head_dim // 2, generator=generator) * 6.3
    sines = torch.cat((-angles.sin(), angles.sin()), 1)
    table = torch.stack((torch.cat((angles.cos(),) * 2, 1), sines), 1).to(scenario.dtype)
    positions = [
        position
        for sequence, count in chosen
        for position in range(sequence.length, sequence.length + count)
    ]
    return Rotation(table.to(device), torch.tensor(positions, device=device))


def _rotated(
    rotation: Rotation, q: torch.Tensor, k: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a backend must make of queries and keys, as the contract's formula says."""
    cos, sin = rotation.table.cpu()[rotation.positions.cpu()].float().unsqueeze(2).unbind(1)
    turned = []
    for x in (q, k):
        x = x.float()
        turned.append((x * cos + x.roll(x.shape[-1] // 2, -1) * sin).to(q.dtype))
    return turned[0], turned[1]


def _oracle(
    chosen: list[tuple[_Sequence, int]],
    layer: int,
    spec: AttentionSpec,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
) -> torch.Tensor:
    outputs = []
    begin = 0
    group = spec.num_heads // spec.num_kv_heads
    for sequence, count in chosen:
        end = begin + count
        sequence.keys[layer] = torch.cat((sequence.keys[layer], k[begin:end].float()))
        sequence.values[layer] = torch.cat((sequence.values[layer], v[begin:end].float()))
        for query in range(count):
            position = sequence.length + query
            low = 0 if spec.window is None else max(0, position - spec.window + 1)
            keys = sequence.keys[layer][low : position + 1].double()
            values = sequence.values[layer][low : position + 1].double()
            for head in range(spec.num_heads):
                row = q[begin + query, head].double()
                scores = keys[:, head // group] @ row * spec.scale
                if spec.soft_cap is not None:
                    scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
                outputs.append(scores.softmax(0) @ values[:, head // group])
        begin = end
    return torch.cat(outputs).view(begin, -1)


def _compare(found: torch.Tensor, expected: torch.Tensor, scenario: Scenario, layer: int) -> None:
    same = found.shape == expected.shape and found.dtype == scenario.dtype
    require(same, f"layer {layer}: got {found.dtype} {list(found.shape)}")
    tolerance = 2e-5 if scenario.dtype is torch.float32 else 4e-2
    error = (found.double() - expected).abs().max().item()
    require(error <= tolerance, f"layer {layer} is off by {error} in {scenario}")
