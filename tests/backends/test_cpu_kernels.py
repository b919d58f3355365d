"""Kernels for a CPU against float64, and how they are compiled, kept and run."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.cpu import compiled as module
from quire.backends.cpu.compiled import Call, compiled
from quire.backends.cpu.product import FewRows
from quire.backends.cpu.rows import ACTIVATIONS, CPUGate, CPUNorm
from quire.core.errors import ConfigError
from quire.core.layers.mlp import ACTIVATIONS as EXACT

WIDTHS = st.integers(1, 70) | st.sampled_from((128, 511, 1408))
DTYPES = st.sampled_from((torch.float32, torch.bfloat16))
EPS = 1e-5


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.cache_clear()
    yield tmp_path
    compiled.cache_clear()


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To the size of the result, or of what it is made of where that cancels out."""
    size = expected.norm().clamp(min=0.1 * expected.numel() ** 0.5)
    error = (found.double() - expected).norm() / size
    assert error < (1e-6 if found.dtype is torch.float32 else 4e-3)


@given(rows=st.integers(1, 40), width=WIDTHS, dtype=DTYPES, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_norm(rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1 + seed % 3)
    x, weight = torch.randn(rows, width).to(dtype), torch.randn(width).to(dtype)
    close(CPUNorm(weight, EPS)(x), F.rms_norm(x.double(), (width,), weight.double(), EPS))


def test_heads_are_normed_where_they_stand() -> None:
    qkv, weight = torch.randn(5, 12, 24), torch.randn(24)
    queries = qkv[:, 2:9]
    found = CPUNorm(weight, EPS)(queries)
    close(found, F.rms_norm(queries.double(), (24,), weight.double(), EPS))
    assert found.is_contiguous()


@given(
    rows=st.integers(1, 40), width=WIDTHS, act=st.sampled_from([*ACTIVATIONS]), dtype=DTYPES,
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_gate(rows: int, width: int, act: str, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1 + seed % 3)
    x = (torch.randn(rows, 2 * width) * 4).to(dtype)
    gate, up = x.double().chunk(2, -1)
    close(CPUGate(act)(x), EXACT[act](gate) * up)


@pytest.mark.parametrize("act", [*ACTIVATIONS])
def test_gates_far_out(act: str) -> None:
    ends = torch.tensor([[-1e30, -200.0, -89.0, 0.0, 89.0, 200.0, 1e30]])
    found = CPUGate(act)(torch.cat((ends, torch.ones_like(ends)), 1))
    torch.testing.assert_close(found, EXACT[act](ends), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("x", [torch.ones(2, 16), torch.ones(2, 8, dtype=torch.bfloat16)])
def test_what_a_kernel_would_read_as_something_else_is_refused(x: torch.Tensor) -> None:
    for operation in (CPUNorm(torch.ones(8), EPS), FewRows(torch.ones(4, 8), None)):
        with pytest.raises(ValueError, match="does not fit"):
            operation(x)


def test_a_nan_stays_in_its_row() -> None:
    x = torch.randn(9, 48)
    x[4, 7] = torch.nan
    for operation in (
        CPUNorm(torch.ones(48), EPS),
        CPUGate("silu"),
        FewRows(torch.ones(8, 48), None),
    ):
        broken = operation(x).isnan().any(1)
        assert broken[4]
        assert broken.sum() == 1


@given(
    rows=st.integers(1, 6), outputs=st.integers(1, 40).map(lambda n: 2 * n), inputs=WIDTHS,
    act=st.sampled_from([None, *ACTIVATIONS]),
    parts=st.sets(st.sampled_from(("bias", "norm", "add"))), dtype=DTYPES, seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=80, deadline=None, derandomize=True)
def test_product_and_what_stands_around_it(
    rows: int, outputs: int, inputs: int, act: str | None, parts: set[str], dtype: torch.dtype,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    torch.set_num_threads(1 + seed % 3)
    weight = (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype)
    # Rows that do not lie back to back.
    x = torch.randn(rows, 2 * inputs).to(dtype)[:, :inputs]
    bias = torch.randn(outputs).to(dtype) if "bias" in parts else None
    norm = CPUNorm(torch.randn(inputs).to(dtype), EPS) if "norm" in parts else None
    width = outputs if act is None else outputs // 2
    add = torch.randn(rows, width).to(dtype) if "add" in parts else None
    gate = None if act is None else CPUGate(act)
    found = FewRows(weight, bias)(x, norm=norm, gate=gate, add=add)
    exact = x.double()
    if norm is not None:
        exact = F.rms_norm(exact, (inputs,), norm.weight.double(), EPS)
    exact = F.linear(exact, weight.double(), None if bias is None else bias.double())
    if act is not None:
        first, second = exact.chunk(2, -1)
        exact = EXACT[act](first) * second
    close(found, exact if add is None else exact + add.double())


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_row_does_not_depend_on_the_others(threads: int) -> None:
    torch.set_num_threads(threads)
    for width in (72, 704):
        x = torch.randn(500, 2 * width)
        product = FewRows(torch.randn(40, 2 * width), None)
        for operation in (CPUNorm(torch.randn(2 * width), EPS), CPUGate("silu"), product):
            alone = torch.cat([operation(row[None]) for row in x])
            for rows in (1, 2, 3, 5, 17, 32, 33, 121, 257, 500):
                assert torch.equal(operation(x[:rows]), alone[:rows])


def test_numba_is_not_needed_twice(folder: Path) -> None:
    CPUNorm(torch.ones(8), EPS)
    (kept,) = folder.rglob("*.o")
    code = (
        "import sys, torch; from quire.backends.cpu.rows import CPUNorm;"
        "print(CPUNorm(torch.ones(8), 1e-5)(torch.full((1, 8), 2.0))[0, 0].item());"
        "sys.exit('numba' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(found.stdout) == pytest.approx(1, abs=1e-5)
    assert [*folder.rglob("*.o")] == [kept]


@pytest.mark.parametrize("damage", [b"", b"x\ny\nz", None])
def test_a_damaged_kernel_is_compiled_again(folder: Path, damage: bytes | None) -> None:
    CPUNorm(torch.ones(8), EPS)
    (kept,) = folder.rglob("*.o")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100] if damage is None else damage)
    compiled.cache_clear()
    found = CPUNorm(torch.ones(8), EPS)(torch.full((1, 8), 2.0))
    assert found[0, 0].item() == pytest.approx(1, abs=1e-5)
    assert len(kept.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    found = CPUNorm(torch.ones(8), EPS)(torch.full((1, 8), 2.0))
    assert found[0, 0].item() == pytest.approx(1, abs=1e-5)


def test_without_openmp_one_core_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_together", lambda: None)
    torch.set_num_threads(4)
    x = torch.randn(300, 600)
    close(CPUNorm(torch.ones(600), EPS)(x), F.rms_norm(x.double(), (600,), eps=EPS))


def test_without_numba_the_platform_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    with pytest.raises(ConfigError, match="pip install numba"):
        CPUNorm(torch.ones(8), EPS)


def test_exp() -> None:
    """Within two units in the last place, zero at -inf, and a NaN at a NaN."""
    from numba import cfunc

    from quire.backends.cpu.kernels.simd import exp, load, store

    def kernel(source, target):
        store(32, target, 0, exp(load(32, source, 0)))

    function = cfunc("void(int64, int64)")(kernel)
    call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(function.address)
    x = torch.cat((torch.linspace(-87, 88, 4094), torch.tensor([-torch.inf, torch.nan])))
    found = torch.empty_like(x)
    for at in range(0, len(x), 16):
        call(x[at:].data_ptr(), found[at:].data_ptr())
    exact = x.double().exp()
    assert ((found[:-2] - exact[:-2]).abs() / exact[:-2]).max() < 2**-22
    assert found[-2] == 0
    assert found[-1].isnan()


def test_a_call_keeps_what_stays() -> None:
    """Arguments that vary are given anew each time; counters begin at zero."""
    weight = torch.ones(16)
    call = Call(compiled("norm", 32), 6, (weight.data_ptr(), 16, 0))
    for value in (1.0, 3.0):
        x, out = torch.full((4, 16), value), torch.empty(4, 16)
        call(1, x.data_ptr(), out.data_ptr(), 4, 1, 1, 16)
        assert torch.equal(out, torch.ones(4, 16))
