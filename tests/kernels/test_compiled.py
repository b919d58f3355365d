"""Compiled for Hopper and Ampere: no spills, matrix and wide instructions where meant."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quire.backends import kernels
from quire.backends.kernels import tuned
from quire.backends.kernels.activation import gated
from quire.backends.kernels.lookup import TritonLookup
from quire.backends.kernels.norm import rms_norm
from quire.backends.kernels.slots import TritonSlots
from quire.backends.kernels.small_product import Config, dot_product, vector_product
from quire.core.run.slots import SlotTable
from quire.core.run.verify import place_drafts, verify
from tests.kernels.compiling import SHARED_LIMIT, Compiled, compiling

MULTIPROCESSORS = {80: 108, 90: 132}
SHAPES = {"qkv": (6144, 4096), "gate_up": (14336, 4096), "down": (4096, 14336)}
TABLES = sorted((Path(kernels.__file__).parent / "tuned").glob("*.json"))


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _compile(capability: int, launch: Callable[[], object], stack: int = 0) -> Compiled:
    with compiling(capability) as compiled:
        launch()
    (kernel,) = compiled
    assert kernel.stack <= stack, f"{kernel.name} spills {kernel.stack} bytes a thread"
    assert kernel.shared <= SHARED_LIMIT[capability]
    return kernel


def _multiply(config: Config, m: int, n: int, k: int, *, gate: bool, pdl: bool) -> object:
    x, weight = _empty(m, k), _empty(2 * n if gate else n, k)
    act, add = ("silu", None) if gate else (None, _empty(m, n))
    multiply = dot_product if config.form == "dot" else vector_product
    return multiply(x, weight, config, act=act, add=add, pdl=pdl)


@pytest.mark.parametrize(("n", "k"), [(512, 256), (1152, 896)])
@pytest.mark.parametrize("gate", [False, True])
def test_shallow_products_request_their_weights_ahead(n: int, k: int, *, gate: bool) -> None:
    limits = {"multiprocessors": MULTIPROCESSORS[90], "shared": SHARED_LIMIT[90]}
    config = tuned.default(16, n, k, gated=gate, **limits)
    assert config.stages == 1
    kernel = _compile(90, lambda: _multiply(config, 16, n, k, gate=gate, pdl=True))
    ahead, behind = kernel.ptx.split("griddepcontrol.wait")
    assert "ld.global.L1::evict_first" in ahead
    assert "ld.global.L1::evict_first" not in behind


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m", [1, 16, 64])
def test_products_by_default(m: int, shape: str, capability: int) -> None:
    n, k = SHAPES[shape]
    gate = shape == "gate_up"
    config = tuned.default(
        m,
        n,
        k,
        gated=gate,
        multiprocessors=MULTIPROCESSORS[capability],
        shared=SHARED_LIMIT[capability],
    )
    kernel = _compile(
        capability, lambda: _multiply(config, m, n, k, gate=gate, pdl=capability >= 90)
    )
    if config.form == "vector":
        assert "LDG.E.EF.128" in kernel.sass
    else:
        assert kernel.has_wgmma == (capability >= 90)
        assert "LDGSTS.E.BYPASS.128" in kernel.sass or "cp.async.cg" in kernel.ptx
    assert ("griddepcontrol.wait" in kernel.ptx) == (capability >= 90)


@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("m", [1, 16, 32, 64, 1000])
def test_products_that_are_alike(m: int, gate: bool, capability: int) -> None:
    shared = SHARED_LIMIT[capability]
    config = tuned.alike(tuned.bucket(m), gated=gate, shared=shared)
    kernel = _compile(
        capability, lambda: _multiply(config, m, 4096, 4096, gate=gate, pdl=capability >= 90)
    )
    assert kernel.has_wgmma == (capability >= 90)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_products_that_ship(path: Path) -> None:
    """Hopper's tables are the only ones so far."""
    table = tuned.read(path)
    assert table.device.replace(" ", "_") == path.stem
    for entry in table.products:
        if entry.config.form != "library":
            _compile(
                90,
                lambda e=entry: _multiply(e.config, e.m, e.n, e.k, gate=e.gated, pdl=True),
                # A vector product over a long depth was fastest in spite of this.
                stack=40,
            )


@pytest.mark.parametrize("capability", [80, 90])
def test_the_others(capability: int) -> None:
    pdl = capability >= 90
    x, weight = _empty(16, 4096), _empty(4096)
    for launch in (
        lambda: rms_norm(x, weight, 1e-5, pdl=pdl),
        lambda: gated(_empty(16, 28672), "gelu", pdl=pdl),
    ):
        kernel = _compile(capability, launch)
        assert "ld.global.v4.b32" in kernel.ptx or "LDG.E.128" in kernel.sass


@pytest.mark.parametrize("capability", [80, 90])
def test_what_surrounds_the_model(capability: int) -> None:
    table = SlotTable(
        max_slots=512,
        max_model_len=8192,
        block_size=16,
        device=torch.device("meta"),
        max_drafts=8,
        kernels=TritonSlots(),
    )
    rows = _empty(64, dtype=torch.int64)
    at, drafts = table.places(64), _empty(64, 8, dtype=torch.int64)
    lookup = TritonLookup(1, 32, 2)
    for launch in (
        lambda: TritonSlots().append(rows, table.blocks),
        lambda: table.locate(rows, rows, None, at, advances=True),
        lambda: table.locate(rows, rows, rows, at, advances=False),
        lambda: TritonSlots().receive(
            rows, _empty(4, 65, dtype=torch.int64), rows, table.blocks, begin=2
        ),
        lambda: TritonSlots().post(rows, rows, _empty(4, 65, dtype=torch.int64)),
        lambda: verify(rows, rows, rows, rows, table),
        lambda: place_drafts(drafts, rows, rows, rows, table, 128_256),
        lambda: lookup(table.tokens, rows, rows, 8),
    ):
        _compile(capability, launch)
