"""Attention backends whose steps may be recorded, checked against themselves."""

from __future__ import annotations

import dataclasses

import torch

from ..contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec
from .report import require

__all__ = ("check_recorded",)

_BLOCKS = 8
_STEPS = 60


@torch.inference_mode()
def check_recorded(backend: type[AttentionBackend]) -> None:
    """What was prepared once serves steps whose numbers were written where its batch's stood.

    Raises:
        ConformanceError: where it gives something else than a step that was prepared by itself.
    """
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, scale=0.2)
    size, cpu = backend.default_block_size, torch.device("cpu")
    once, anew = (
        backend([spec], block_size=size, kv_dtype=torch.float32, device=cpu) for _ in range(2)
    )
    for attention in (once, anew):
        attention.allocate(2 * _BLOCKS + 1)
    fixed = AttentionBatch(
        query_start=torch.tensor([0, 1, 3], dtype=torch.int32),
        lengths=torch.tensor([1, 2], dtype=torch.int32),
        block_tables=torch.zeros(2, _BLOCKS, dtype=torch.int32),
        write_slots=torch.zeros(3, dtype=torch.int64),
        num_decodes=1,
        query_lengths=[1, 2],
        host_lengths=[_BLOCKS * size] * 2,
    )
    prepared = once.prepare(fixed)
    generator = torch.Generator().manual_seed(0)
    tables = torch.randperm(2 * _BLOCKS, generator=generator).to(torch.int32).view(2, -1) + 1
    for first in range(1, min(_STEPS, _BLOCKS * size // 2)):
        lengths = torch.tensor([first, 2 * first], dtype=torch.int32)
        places = [(0, first - 1), (1, 2 * first - 2), (1, 2 * first - 1)]
        slots = torch.tensor([int(tables[r, at // size]) * size + at % size for r, at in places])
        batch = dataclasses.replace(
            fixed,
            lengths=lengths,
            block_tables=tables,
            write_slots=slots,
            host_lengths=lengths.tolist(),
        )
        fixed.lengths.copy_(lengths)
        fixed.write_slots.copy_(slots)
        fixed.block_tables.copy_(tables)
        q, k, v = (torch.randn(3, heads, 32, generator=generator) for heads in (4, 2, 2))
        found = once.attend(0, q.clone(), k.clone(), v.clone(), prepared)
        expected = anew.attend(0, q, k, v, anew.prepare(batch))
        require(
            torch.equal(found, expected),
            f"a step that was prepared for others of its kind differs at {first} tokens, which the "
            "feature 'recorded' rules out",
        )
