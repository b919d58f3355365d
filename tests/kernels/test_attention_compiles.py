"""Attention kernels compile for GPUs from 8.0 on, within their shared memory and registers."""

from __future__ import annotations

import pytest
import torch

from quire.backends.attention import triton_paged
from quire.backends.attention.triton_paged import TritonPaged
from quire.backends.attention.triton_tiles import MANY_ROWS
from quire.backends.kernels.gather import gather_tokens
from quire.core.contracts.attention import AttentionBatch, AttentionSpec, Rotation
from tests.kernels.compiling import SHARED_LIMIT, Compiled, compiling

FLOAT8 = torch.float8_e4m3fn
SPILLED = {
    ("paged_prefill", 80, 128, torch.float32): 16,
    ("paged_prefill", 80, 80, torch.bfloat16): 32,
    ("paged_prefill", 80, 128, torch.bfloat16): 88,
    ("paged_prefill", 80, 128, torch.float16): 88,
    ("paged_prefill", 80, 256, torch.bfloat16): 200,
    ("paged_prefill", 90, 256, FLOAT8): 32,
}
"""(kernel, capability, head_dim, kv_dtype) -> bytes of stack that are tolerated."""


def _compile(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    head_dim: int,
    kv_dtype: torch.dtype,
    counts: tuple[int, ...],
) -> list[Compiled]:
    """The kernels of one step, of a model with eight key heads and groups of four."""
    monkeypatch.setattr(triton_paged, "_processors", lambda device, kv_dtype: 132)
    spec = AttentionSpec(num_heads=32, num_kv_heads=8, head_dim=head_dim, scale=0.1)
    meta = torch.device("meta")
    backend = TritonPaged([spec], block_size=16, kv_dtype=kv_dtype, device=meta)
    backend.allocate(10)
    rows, tokens = len(counts), sum(counts)
    dtype = torch.float32 if kv_dtype is torch.float32 else torch.bfloat16
    batch = AttentionBatch(
        query_start=torch.empty(rows + 1, dtype=torch.int32, device=meta),
        lengths=torch.empty(rows, dtype=torch.int32, device=meta),
        block_tables=torch.empty(rows, 40, dtype=torch.int32, device=meta),
        write_slots=torch.empty(tokens, dtype=torch.int64, device=meta),
        num_decodes=sum(count == 1 for count in counts),
        query_lengths=list(counts),
        host_lengths=[600] * rows,
        shares_prefixes=rows > 2,
    )
    q, k, v = torch.empty(tokens, 48, head_dim, dtype=dtype, device=meta).split([32, 8, 8], 1)
    table = torch.empty(1000, 2, head_dim, dtype=dtype, device=meta)
    rotation = Rotation(table, torch.empty(tokens, dtype=torch.int64, device=meta))
    with compiling(capability) as kernels:
        backend.attend(0, q, k, v, backend.prepare(batch), rotation)
    return kernels


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("head_dim", "kv_dtype"),
    [
        (64, torch.bfloat16),
        (80, torch.bfloat16),
        (128, torch.bfloat16),
        (128, torch.float16),
        (128, torch.float32),
        (256, torch.bfloat16),
        (128, FLOAT8),
        (256, FLOAT8),
    ],
)
def test_resources(
    monkeypatch: pytest.MonkeyPatch, capability: int, head_dim: int, kv_dtype: torch.dtype
) -> None:
    if kv_dtype is FLOAT8 and capability < 89:
        pytest.skip("float8 needs compute capability 8.9")
    for kernel in _compile(monkeypatch, capability, head_dim, kv_dtype, (1, 100)):
        assert kernel.shared <= SHARED_LIMIT[capability], kernel.name
        budget = SPILLED.get((kernel.name, capability, head_dim, kv_dtype), 0)
        assert kernel.stack <= budget, (kernel.name, kernel.options, kernel.stack)
        if kernel.name in ("paged_decode", "paged_prefill"):
            assert "cp.async" in kernel.ptx
        if kernel.name == "paged_prefill" and kv_dtype is not torch.float32:
            assert kernel.has_wgmma == (capability == 90)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16])
def test_gathering(capability: int, kv_dtype: torch.dtype) -> None:
    cache = torch.empty(2, 10, 8, 16, 80, dtype=kv_dtype, device="meta")
    blocks = torch.empty(10, dtype=torch.int32, device="meta")
    with compiling(capability) as kernels:
        gather_tokens(*cache.unbind(0), blocks, 100, 128, torch.bfloat16)
    assert [kernel.stack for kernel in kernels] == [0]


def test_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few tokens, as speculation makes them."""
    for count, wide in ((4, False), (10, True)):
        *_, prefill = _compile(monkeypatch, 90, 128, torch.bfloat16, (count,))
        assert prefill.has_wgmma == wide and prefill.stack == 0


def test_shared_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    for kv_dtype in (torch.bfloat16, FLOAT8):
        kernels = _compile(monkeypatch, 90, 128, kv_dtype, (1,) * 20)
        (shared,) = (kernel for kernel in kernels if kernel.name == "paged_shared")
        assert shared.has_wgmma and shared.stack == 0 and shared.shared <= SHARED_LIMIT[90]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16])
def test_many_rows(monkeypatch: pytest.MonkeyPatch, capability: int, kv_dtype: torch.dtype) -> None:
    """Programs of one warp, many of which a processor runs."""
    kernels = _compile(monkeypatch, capability, 128, kv_dtype, (1,) * MANY_ROWS)
    decode = next(kernel for kernel in kernels if kernel.name == "paged_decode")
    assert decode.options["num_warps"] == 1 and "cp.async" in decode.ptx
    assert decode.stack == 0 and 3 * decode.shared <= SHARED_LIMIT[capability]
