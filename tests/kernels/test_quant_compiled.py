"""Quantized products compiled for Hopper and Ampere: nothing spills, matrix units where meant."""

import re
from pathlib import Path

import pytest
import torch

from quire.backends.kernels.operations import TritonKernels
from quire.core.layers.mlp import TorchGate
from quire.quant import kernels
from quire.quant.kernels import dense, eight_bit, grouped, quantize, scaled, tuned
from quire.quant.kernels.packed import Packed
from quire.quant.kernels.tiles import Config
from quire.quant.kernels.tuned import Entry
from tests.kernels.compiling import SHARED_LIMIT, Compiled, compiling

BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
TABLES = sorted((Path(kernels.__file__).parent / "tuned").glob("*.jsonl"))
N, K = 6144, 4096


class Platform(TritonKernels):
    """The kernels of a device that is not there."""

    def __init__(self, capability: int) -> None:
        super().__init__()
        self.overlaps = capability >= 90


def _empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _packed(n: int, k: int, bits: int = 4, dtype: torch.dtype = BF16) -> Packed:
    words = _empty(n * k * bits // 16, dtype=torch.int16)
    scales, zeros = _empty(k // 128, n, dtype=FP16), _empty(k // 128, n, dtype=dtype)
    if bits == 4:
        zeros = _empty(k // 512, n, dtype=torch.int16)
    return Packed(words, scales, zeros, bits, n, k, 128, 1)


def _multiply(kind: str, m: int, n: int, k: int, config: Config, made: Platform, gated: bool):
    """As the kinds of ``tuned.Entry`` are multiplied."""
    x, act = _empty(m, k), "silu" if gated else None
    add = None if gated else _empty(m, n)
    rows = 2 * n if gated else n
    if kind.startswith("int"):
        packed = _packed(rows, k, int(kind.removeprefix("int")))
        return grouped.multiply(x, packed, config, made, act=act, add=add)
    block = 128 if kind == "scaled_block" else None
    shape = (rows, 1) if block is None else (rows // block, k // block)
    scales = _empty(*shape, dtype=torch.float32)
    dtype = torch.int8 if kind == "scaled_int8" else FP8
    if kind == "byte":
        values = _empty(rows, k, dtype=dtype if made.overlaps else torch.uint8)
        return eight_bit.multiply(x, values, scales, config, made, act=act, add=add)
    values = _empty(rows, k, dtype=dtype)
    q, s = _empty(m, k, dtype=dtype), _empty(m, 1 if block is None else k // block).float()
    return scaled.multiply(q, s, values, scales, config, made, BF16, block=block, act=act, add=add)


def _compile(
    capability: int, kind: str, m: int, config: Config, shape=(N, K), gated=False, stack: int = 0
) -> Compiled:
    with compiling(capability) as compiled:
        _multiply(kind, m, *shape, config, Platform(capability), gated)
    (kernel,) = compiled
    return _checked(kernel, capability, stack)


def _checked(kernel: Compiled, capability: int, stack: int = 0) -> Compiled:
    assert kernel.stack <= stack, f"{kernel.name} spills {kernel.stack} bytes a thread"
    assert kernel.shared <= SHARED_LIMIT[capability]
    assert ("griddepcontrol.wait" in kernel.ptx) == (capability >= 90)
    ttgir = kernel.kernel.asm["ttgir"]
    if re.search(r"warp_group_dot .*: tensor", ttgir):
        # What reads registers must have done so before they are written again.
        pending = set(re.findall(r"warp_group_dot_wait.*pendings = (\d+)", ttgir))
        assert pending == {"0"} or _decodes_behind_waits(kernel.ptx)
    return kernel


def _decodes_behind_waits(ptx: str) -> bool:
    """Whether no 4-bit codes become an operand while matrix units may read one.

    They may at each label, which is jumped to from elsewhere.
    """
    running, decodes = True, 0
    for line in ptx.splitlines():
        if "wgmma.wait_group.sync.aligned 0" in line:
            running = False
        elif "wgmma.mma_async" in line or line.startswith("$L__BB"):
            running = True
        elif "0x000f000f" in line:
            decodes += 1
            if running:
                return False
    return decodes > 0


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", ["int4", "int8", "byte"])
@pytest.mark.parametrize("m", [1, 64])
def test_products_by_default(m: int, kind: str, capability: int) -> None:
    config = tuned._default(kind, m, N, K)
    kernel = _compile(capability, kind, m, config)
    assert kernel.has_wgmma == (capability >= 90 and m > 1)


@pytest.mark.parametrize("capability", [80, 90])
def test_many_tokens_by_default(capability: int) -> None:
    config = tuned._default("int4", 512, N, K)
    assert config.form == "folded"
    assert _compile(capability, "int4", 512, config).has_wgmma == (capability >= 90)


@pytest.mark.parametrize("kind", ["scaled_float8", "scaled_block", "scaled_int8"])
@pytest.mark.parametrize("m", [16, 64, 256])
def test_eight_bit_activations_by_default(m: int, kind: str) -> None:
    for gated in (False, True) if m <= 64 and kind != "scaled_block" else (False,):
        config = tuned._default(kind, m, N, K, gated=gated)
        assert _compile(90, kind, m, config, gated=gated).has_wgmma
        if config.form == "after":
            _compile(89, kind, m, config, gated=gated)
        if kind == "scaled_int8":
            _compile(80, kind, m, config, gated=gated)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_products_that_ship(path: Path) -> None:
    """Hopper's tables are the only ones so far; some of each, as all would take minutes."""
    entries = [entry for entry in tuned.read(path) if entry.config.form not in ("dense", "library")]
    assert entries
    for entry in entries:
        if entry.m == 1 or (entry.m in (64, 512) and entry.n > 6144):
            # The fastest tile of most sums may spill a register or two.
            _compile(90, entry.kind, entry.m, entry.config, (entry.n, entry.k), entry.gated, 40)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_codes_become_operands_without_a_detour(dtype: torch.dtype, capability: int) -> None:
    """From words in the order of the matrix units, two codes an instruction: no way through
    shared memory, no conversion of single numbers."""
    config = Config("after", 64, 8, 4, 4)
    with compiling(capability) as compiled:
        x, weight = _empty(1, K, dtype=dtype), _packed(N, K, dtype=dtype)
        grouped.multiply(x, weight, config, Platform(capability))
    kernel = _checked(compiled[0], capability)
    ttgir = kernel.kernel.asm["ttgir"]
    loop = ttgir[ttgir.index("scf.for") :]
    operands = [line for line in loop.splitlines() if "local_alloc" in line and "64x32x" in line]
    assert not operands
    assert "HADD2" in kernel.sass or "HFMA2" in kernel.sass
    assert "I2F" not in kernel.sass


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("kind", "gated"), [("int4", False), ("int4", True), ("int8", False)])
def test_warps_of_one_token_do_not_wait(kind: str, gated: bool, capability: int) -> None:
    """What the matrix units read comes in their order: shared memory is for the last sums only."""
    kernel = _compile(capability, kind, 1, Config("apart", 16, 1, 8, 2), gated=gated)
    halves, steps, units = 2 if gated else 1, K // 128 // 8, int(kind[3:]) // 2
    assert kernel.sass.count("LDG.E.EF.128") == halves * steps * units
    assert "LDSM" not in kernel.sass
    assert kernel.sass.count("BAR.SYNC") <= 5 < 2 * steps


@pytest.mark.parametrize("capability", [80, 90])
def test_the_others(capability: int) -> None:
    made = Platform(capability)
    x, weight, order = _empty(16, K), _empty(K), _empty(K, dtype=torch.int32)

    class Norm:
        eps = 1e-5

    Norm.weight = weight
    launches = [
        lambda: quantize.gather(x, order, made, norm=Norm),
        lambda: quantize.gather(x, order, made),
        lambda: quantize.quantize(x, torch.int8, made, norm=Norm),
        lambda: quantize.quantize(_empty(16, 2 * 14336), torch.int8, made, gate=TorchGate("silu")),
    ]
    if capability >= 90:
        launches.append(lambda: quantize.quantize(x, FP8, made, block=128))
        launches.append(lambda: quantize.quantize(x, FP8, made, block=128, gate=TorchGate("gelu")))
    for launch in launches:
        with compiling(capability) as compiled:
            launch()
        _checked(compiled[0], capability)
    with compiling(capability) as compiled:
        dense.write_out(_packed(N, K), _empty(N, K), made)
    assert compiled[0].stack == 0


def test_choices_are_found() -> None:
    """A number of tokens is served by what was measured for the next larger, one by its own."""
    table = {("int4", 16, N, K, False): Config("after", 128, 16, 4, 3, 6)}
    original = tuned._table
    tuned._choose.cache_clear()
    tuned._table = lambda _: table
    try:
        for m, form in ((1, "apart"), (2, "after"), (16, "after"), (33, "after"), (4096, "dense")):
            chosen = tuned.choose("int4", m, N, K, gated=False, device=torch.device("cpu"))
            assert chosen.form == form
            assert (chosen.split == 6) == (1 < m <= 16)
    finally:
        tuned._table = original
        tuned._choose.cache_clear()


def test_tables_name_their_kinds() -> None:
    kinds = {"int4", "int8", "byte", "scaled_float8", "scaled_block", "scaled_int8"}
    for path in TABLES:
        entries: list[Entry] = tuned.read(path)
        assert {entry.kind for entry in entries} <= kinds
        assert {entry.m for entry in entries} <= set(tuned.BUCKETS)
