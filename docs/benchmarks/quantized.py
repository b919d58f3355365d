"""Measure how quantized products of an 8B model are best cut, on the GPU that is here.

    python docs/benchmarks/quantized.py check
    python docs/benchmarks/quantized.py compile PART OF KIND:M ...    # some of the kernels, ahead
    python docs/benchmarks/quantized.py sweep OUT.jsonl KIND:M ...
    python docs/benchmarks/quantized.py table SWEEP.jsonl TABLE.jsonl
    python docs/benchmarks/quantized.py layers

KIND is int4, fp8, block (fp8 with blocks of 128) or int8; M a number of tokens. Every launch of a
sweep reads other weights than those before it, so that the L2 cache does not serve them; launches
follow one another in a CUDA graph, each behind the norm or the rounding to 8 bits that it stands
behind in a model, which are part of its time: one product behind another hides how long it takes to
begin. The floor is the bytes of weights and scales at 4.5 TB/s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F

from quire.backends.kernels.activation import gated
from quire.backends.kernels.launch import compiling_only
from quire.backends.kernels.norm import rms_norm
from quire.backends.kernels.operations import TritonKernels
from quire.backends.kernels.tuning import seconds
from quire.core.contracts.platform import GatedProduct
from quire.plugins.platforms.cuda import CUDA
from quire.quant.kernels import dense, eight_bit, grouped, quantize, scaled
from quire.quant.kernels.layout import SLACK
from quire.quant.kernels.packed import Packed
from quire.quant.kernels.products import Float8Product, GroupedProduct, Int8Product
from quire.quant.kernels.tiles import Config
from quire.quant.kernels.tuned import Entry, read
from quire.quant.weights import Float8Weight, GroupedWeight, Int8Weight

SHAPES = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gated": (28672, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
}
KERNELS = TritonKernels()
RATE = 4.5e12
ARENA = 3 * 2**29
FP8 = torch.float8_e4m3fn


class Arena:
    """Bytes of which every weight is a slice."""

    def __init__(self) -> None:
        words = torch.randint(-(2**30), 2**30, (ARENA // 4,), dtype=torch.int32, device="cuda")
        # As float8: no NaN.
        self.bytes = words.bitwise_and_(-0x08080809).view(torch.int8)
        self.half = (torch.randn(2**24, device="cuda") * 0.01).half()

    def packed(self, n: int, k: int) -> list[Packed]:
        count = n * k // 2 + 2 * SLACK
        groups = k // 128
        made = []
        for i in range(min(ARENA // count, 16)):
            words = self.bytes[i * count : (i + 1) * count].view(torch.int16)
            scales = self.half[i * groups * n : (i + 1) * groups * n].view(groups, n)
            if scales.numel() < groups * n:
                scales = self.half[: groups * n].view(groups, n)
            zeros = words[: -(-groups // 4) * n].view(-1, n)
            made.append(Packed(words, scales, zeros, 4, n, k, 128, 1))
        return made

    def eight(self, n: int, k: int, kind: torch.dtype) -> list[torch.Tensor]:
        size = n * k
        count = min(ARENA // size, 16)
        return [self.bytes[i * size : (i + 1) * size].view(kind).view(n, k) for i in range(count)]


def configs(kind: str, m: int, n: int) -> Iterator[Config]:
    """What is worth trying."""
    form, stages = "after", (3, 4)
    if m == 1 and kind != "int4":
        for rows, warps in product((1, 2, 4), (1, 2, 4)):
            yield Config("vector", rows, 1, warps)
        return
    if m == 1:
        for warps, ahead, split in product((4, 8, 16), (1, 2, 4), (1, 2)):
            if split == 1 or -(-n // 16) * split <= 600:
                yield Config("apart", 16, 1, warps, ahead, split)
        cuts, most, stages = [(64, 8, 4), (128, 8, 4)], 1200, (3,)
    elif m <= 32:
        cuts, most = [(64, m, 4), (128, m, 4)], 800
    elif m <= 64:
        cuts, most = [(64, m, 4), (128, m, 4), (128, m, 8)], 800
    elif m <= 256:
        cuts, most = [(64, 64, 4), (128, 64, 4), (64, 128, 4), (128, 128, 8), (128, 128, 4)], 700
        cuts += [(128, 256, 8)] if m > 128 else []
        form, stages = "folded", (3,)
    else:
        cuts, most = [(64, 128, 4), (128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8)], 700
        form = "folded"
    held: tuple[int, ...] = (0, 1, 2, 4) if kind == "int4" and 1 < m <= 32 else (0,)
    if kind != "int4":
        # One deep pipeline a processor may beat several, even where not every processor has one.
        form, stages = "after", (3, 4, 6, 8, 12) if m <= 128 else (3, 4)
    if kind == "block" and m > 64:
        cuts = [(128, 64, 4), (64, 128, 4), (128, 128, 4), (128, 128, 8)]
    for rows, tokens, warps in cuts:
        count = -(-n // rows) * -(-m // tokens)
        splits = [s for s in (1, 2, 3, 4, 6, 8) if s == 1 or count * s <= most]
        good = [s for s in splits if s == 1 or count * s >= 120]
        for split, depth, ahead in product(good[:4], stages, held):
            yield Config(form, rows, tokens, warps, depth, split, ahead)


def names(m: int) -> list[str]:
    """The shapes that are measured: a gate is inside the product up to 64 tokens."""
    return ["qkv", "o", "gated" if m <= 64 else "gate_up", "down"]


def _inside(kind: str, m: int) -> bool:
    """Whether such a product takes a gate in."""
    return kind != "block" or m == 1


Runs = Iterator[tuple[Any, Callable[[int], Any]]]


def runs(kind: str, m: int, name: str, arena: Arena) -> Runs:
    """Each way to multiply, as a function of a launch's number."""
    n, k = SHAPES[name]
    x = torch.randn(m, 6144 if name == "o" else k, device="cuda").bfloat16()[:, :k]
    act = "silu" if name == "gated" and _inside(kind, m) else None
    around: dict[str, Any] = {"act": act}
    around["add"] = torch.randn(m, n, device="cuda").bfloat16() if name in ("o", "down") else None
    tried = configs(kind, m, n if act is None else n // 2)
    if kind == "int4":
        return _grouped(x, arena.packed(n, k), tried, around)
    block = 128 if kind == "block" else None
    values = arena.eight(n, k, torch.int8 if kind == "int8" else FP8)
    scales = torch.rand((n, 1) if block is None else (n // 128, k // 128), device="cuda")
    if m == 1:
        return _bytes(x, values, scales, block, tried, around)
    return _scaled(x, values, scales, block, tried, around, library=kind == "fp8")


def _norm(x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """x as the layer's norm gives it, anew each time."""
    weight = torch.ones_like(x[0])
    return lambda: rms_norm(x, weight, 1e-5, pdl=KERNELS.overlaps)


def _added(y: torch.Tensor, around: Any) -> torch.Tensor:
    """y and what is added to it, by a pass of its own."""
    return y if around["add"] is None else around["add"].add_(y)


def _grouped(x: torch.Tensor, weights: list[Packed], tried: Any, around: Any) -> Runs:
    normed = _norm(x)
    for config in tried:
        yield (
            config,
            lambda i, c=config: grouped.multiply(
                normed(), weights[i % len(weights)], c, KERNELS, **around
            ),
        )
    n, k = weights[0].n, weights[0].k
    if len(x) > 64:
        out = torch.empty(n, k, dtype=torch.bfloat16, device="cuda")

        def through(i: int) -> torch.Tensor:
            dense.write_out(weights[i % len(weights)], out, KERNELS)
            return _added(F.linear(normed(), out), around)

        yield "dense", through
    both = [torch.randn(n, k, device="cuda").bfloat16() for _ in range(3)]
    yield "bf16", lambda i: F.linear(normed(), both[i % 3])


def _bytes(x: torch.Tensor, values: Any, scales: Any, block: Any, tried: Any, around: Any) -> Runs:
    normed = _norm(x)
    for config in tried:
        yield (
            config,
            lambda i, c=config: eight_bit.multiply(
                normed(), values[i % len(values)], scales, c, KERNELS, block=block, **around
            ),
        )


def _scaled(
    x: torch.Tensor,
    values: Any,
    scales: Any,
    block: Any,
    tried: Any,
    around: Any,
    *,
    library: bool,
) -> Runs:
    def rounded() -> tuple[torch.Tensor, torch.Tensor]:
        return quantize.quantize(x, values[0].dtype, KERNELS, block=block)

    for config in tried:
        yield (
            config,
            lambda i, c=config: scaled.multiply(
                *rounded(), values[i % len(values)], scales, c, KERNELS, torch.bfloat16,
                block=block, **around,
            ),
        )  # fmt: skip
    if library:

        def by_torch(i: int) -> torch.Tensor:
            q, s = rounded()
            w = values[i % len(values)].t()
            y = torch._scaled_mm(q, w, s, scales.t(), out_dtype=torch.bfloat16, use_fast_accum=True)
            return _added(gated(y, "silu", pdl=KERNELS.overlaps) if around["act"] else y, around)

        yield "library", by_torch


def sweep(kind: str, m: int, arena: Arena, out: str) -> None:
    rows = []
    for name in names(m):
        n, k = SHAPES[name]
        size = n * k * (0.5 + 4 / 128 if kind == "int4" else 1)
        floor = size / RATE * 1e6
        timed = []
        for config, run in runs(kind, m, name, arena):
            try:
                timed.append((seconds(run, 12) * 1e6, config))
            except Exception as error:
                print(f"{name} {config}: {type(error).__name__} {str(error)[:80]}")
                torch.cuda.synchronize()
        named = [(t, c) for t, c in timed if isinstance(c, str)]
        timed = sorted((t, c) for t, c in timed if not isinstance(c, str))
        row = {"kind": kind, "m": m, "name": name, "n": n, "k": k, "floor": floor}
        times = [(round(t, 2), list(c)) for t, c in timed]
        rows.append(row | {"times": times, "named": named})
        print(f"{kind} M={m} {name}: floor {floor:.1f} us", *(f"{c} {t:.1f}" for t, c in named))
        for t, c in timed[:4]:
            flops = 2 * m * n * k / t / 1e6
            print(f"   {t:8.2f} us  {floor / t:.2f} of the floor  {flops:6.0f} TFLOP/s  {list(c)}")
    with open(out, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


KINDS = {"int4": "int4", "fp8": "scaled_float8", "block": "scaled_block", "int8": "scaled_int8"}


def table(sweeps: str, out: str) -> None:
    """The fastest of a sweep as ``quant.kernels.tuned`` reads them, beside what OUT already has."""
    entries: dict[tuple[str, int, int, int, bool], Entry] = {}
    for line in Path(sweeps).read_text().splitlines():
        row = json.loads(line)
        gated_too = row["name"] == "gated" and _inside(row["kind"], row["m"])
        choices = [(t, Config(*c)) for t, c in row["times"]]
        best = min(choices)
        for t, name in row["named"]:
            if name in ("dense", "library") and t < best[0]:
                best = (t, Config(name))
        kind = "byte" if row["m"] == 1 and row["kind"] != "int4" else KINDS[row["kind"]]
        n = row["n"] // 2 if gated_too else row["n"]
        key = (kind, row["m"], n, row["k"], gated_too)
        if key not in entries or best[0] < entries[key].microseconds:
            entries[key] = Entry(
                kind=kind, n=n, k=row["k"], m=row["m"], gated=gated_too, config=best[1],
                microseconds=round(best[0], 2),
            )  # fmt: skip
    known = read(Path(out)) if Path(out).exists() else []
    entries = {(e.kind, e.m, e.n, e.k, e.gated): e for e in known} | entries
    lines = [msgspec.json.encode(entries[key]) + b"\n" for key in sorted(entries)]
    Path(out).write_bytes(b"".join(lines))


def layers() -> None:
    """Whole decoder layers' products, with norms, gates and additions; 8 of them, and the head."""
    platform = CUDA()
    platform.setup()
    shapes = {name: SHAPES[name] for name in ("qkv", "o", "gate_up", "down")}
    head = platform.product(torch.randn(128256, 4096, device="cuda").bfloat16() * 0.02, None)
    norm = platform.norm(torch.rand(4096, device="cuda").bfloat16() + 0.5, 1e-5)
    gate = platform.gate("silu")

    def made(kind: str, n: int, k: int) -> Any:
        if kind == "bf16":
            return platform.product(torch.randn(n, k, device="cuda").bfloat16() * 0.02, None)
        if kind in ("int4", "order"):
            codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, device="cuda")
            scales = torch.full((n, k // 128), 0.004, device="cuda").half()
            zeros = torch.full((n, k // 128), 7, dtype=torch.uint8, device="cuda")
            order = torch.randperm(k, device="cuda") if kind == "order" else None
            weight = GroupedWeight(codes, scales, zeros, 4, 128, order)
            return GroupedProduct(weight, None, torch.bfloat16, platform)
        raw = torch.randn(n, k, device="cuda") * 20
        if kind == "int8":
            scales = torch.full((n, 1), 0.001, device="cuda")
            return Int8Product(
                Int8Weight(raw.to(torch.int8), scales), None, torch.bfloat16, platform
            )
        block = 128 if kind == "block" else None
        shape = (n, 1) if block is None else (n // 128, k // 128)
        weight = Float8Weight(raw.to(FP8), torch.full(shape, 0.001, device="cuda"), block)
        return Float8Product(weight, None, torch.bfloat16, platform)

    for kind in ("bf16", "int4", "order", "fp8", "block", "int8"):
        made_all = [{name: made(kind, *shapes[name]) for name in shapes} for _ in range(8)]
        torch.cuda.empty_cache()
        for m in (1, 16, 64, 256, 512, 2048):
            x = torch.randn(m, 4096, device="cuda").bfloat16()

            def step(_: int, x: torch.Tensor = x, all_of: Any = made_all) -> None:
                for layer in all_of:
                    y = layer["qkv"](x, norm=norm)
                    x = layer["o"](y[:, :4096], add=x)
                    down = layer["down"]
                    if isinstance(down, GatedProduct) and down.takes_gate(len(x)):
                        x = down.behind_gate(layer["gate_up"](x, norm=norm), gate, add=x)
                    else:
                        x = down(layer["gate_up"](x, norm=norm, gate=gate), add=x)

            def last(_: int, x: torch.Tensor = x) -> None:
                head(x[:64])

            times = seconds(step, 2), seconds(last, 4)
            total = times[0] * 4 + times[1]
            print(f"{kind:6} M={m:5}: a layer {times[0] / 8 * 1e6:8.1f} us, 32 and the head "
                  f"{total * 1e3:7.3f} ms")  # fmt: skip
        del made_all, step


def compile_some(kind: str, m: int, arena: Arena, part: int, of: int) -> None:
    with compiling_only():
        number = 0
        for name in names(m):
            for config, run in runs(kind, m, name, arena):
                number += 1
                if number % of == part and not isinstance(config, str):
                    try:
                        run(0)
                    except Exception as error:
                        print(kind, m, config, type(error).__name__, str(error)[:200])


def check() -> None:
    """Against float64, with the device's own instructions."""

    def error(got: torch.Tensor, expected: torch.Tensor) -> float:
        return float((got.double() - expected).norm() / expected.norm())

    for dtype in (torch.bfloat16, torch.float16):
        for bits, group, zeros in ((4, 128, True), (4, 64, False), (8, 32, True), (3, 128, True)):
            n, k = 1000, 1536
            codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, device="cuda")
            scales = ((torch.rand(n, k // group, device="cuda") + 0.5) * 0.01).half()
            z = torch.randint(0, 2**bits, (n, k // group), dtype=torch.uint8, device="cuda")
            weight = GroupedWeight(codes, scales, z if zeros else None, bits, group)
            offset = z.double() if zeros else torch.full_like(scales.double(), 2 ** (bits - 1))
            dense_w = codes.double().view(n, -1, group) - offset[..., None]
            dense_w = (dense_w * scales.double()[..., None]).view(n, k)
            packed = Packed.of(weight, dtype)
            for m, config in (
                (1, Config("apart", 16, 1, 4, 2)), (3, Config("apart", 16, 1, 8, 1, 2)),
                (1, Config("after", 64, 8, 4, 4, 2)), (5, Config("after", 32, 8, 2, 3)),
                (16, Config("after", 64, 16, 4, 4, 3)), (50, Config("after", 128, 64, 8, 3)),
                (300, Config("folded", 128, 128, 4, 3)), (300, Config("folded", 128, 256, 8, 3, 2)),
            ):  # fmt: skip
                if config.form == "folded" and packed.bits == 8:
                    continue
                x = torch.randn(m, k + 64, device="cuda").to(dtype)[:, :k]
                got = grouped.multiply(x, packed, config, KERNELS)
                print(dtype, bits, group, m, config, f"{error(got, x.double() @ dense_w.T):.2e}")
            out = torch.empty(n, k, dtype=dtype, device="cuda")
            dense.write_out(packed, out, KERNELS)
            print("   written out", f"{error(out, dense_w):.2e}")
    n, k = 1024, 1536
    for kind in (FP8, torch.int8, torch.uint8):
        for block in (None, 128):
            raw = torch.randn(n, k, device="cuda") * 30
            values = raw.to(torch.int8) if kind is torch.int8 else raw.to(FP8)
            scales = torch.rand((n, 1) if block is None else (n // 128, k // 128), device="cuda")
            wide = scales.double()
            if block:
                wide = wide.repeat_interleave(128, 0).repeat_interleave(128, 1)
            dense_w = values.double() * wide
            stored = values.view(kind)
            for m in (1, 16, 40):
                x = torch.randn(m, k, device="cuda").bfloat16()
                config = Config("after", 64, 16, 4, 3, 2)
                if m == 1:
                    config = Config("vector", 2, 1, 2)
                got = eight_bit.multiply(x, stored, scales, config, KERNELS, block=block)
                print(kind, block, m, f"{error(got, x.double() @ dense_w.T):.2e}")
            if kind is torch.uint8:
                continue
            x = torch.randn(200, k, device="cuda").bfloat16()
            q, s = quantize.quantize(x, kind, KERNELS, block=block)
            wide = s.double().repeat_interleave(block or k, 1)
            expected = (q.double() * wide) @ dense_w.T
            config = Config("after", 128, 128, 8, 3, 2)
            got = scaled.multiply(
                q, s, values, scales, config, KERNELS, torch.bfloat16, block=block
            )
            print("   scaled", f"{error(got, expected):.2e}", "of 16 bits",
                  f"{error(got, x.double() @ dense_w.T):.2e}")  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    command, *rest = sys.argv[1:]
    with torch.inference_mode():
        if command == "check":
            check()
        elif command == "layers":
            layers()
        elif command == "table":
            table(*rest)
        elif command == "compile":
            arena = Arena()
            for kind, m in (work.split(":") for work in rest[2:]):
                compile_some(kind, int(m), arena, int(rest[0]), int(rest[1]))
        else:
            arena = Arena()
            for kind, m in (work.split(":") for work in rest[1:]):
                sweep(kind, int(m), arena, rest[0])
