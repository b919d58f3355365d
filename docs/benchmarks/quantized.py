"""Measure how quantized products of an 8B model are best cut, on the GPU that is here.

    python docs/benchmarks/quantized.py check
    python docs/benchmarks/quantized.py compile PART OF KIND:M ...    # some of the kernels, ahead
    python docs/benchmarks/quantized.py sweep OUT.jsonl KIND:M ...

KIND is int4, fp8, block (fp8 with blocks of 128) or int8; M a number of tokens. Every launch of a
sweep reads other weights than those before it, so that the L2 cache does not serve them; launches
follow one another in a CUDA graph. The floor is the bytes of weights and scales at 4.5 TB/s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from quire.backends.kernels.activation import gated
from quire.backends.kernels.launch import compiling_only
from quire.backends.kernels.operations import TritonKernels
from quire.backends.kernels.tuning import seconds
from quire.quant.kernels import dense, eight_bit, grouped, quantize, scaled
from quire.quant.kernels.grouped import Config, Packed
from quire.quant.kernels.layout import SLACK

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
            made.append(Packed(words, scales, scales.bfloat16(), 4, n, k, 128, 1))
        return made

    def eight(self, n: int, k: int, kind: torch.dtype) -> list[torch.Tensor]:
        size = n * k
        count = min(ARENA // size, 16)
        return [self.bytes[i * size : (i + 1) * size].view(kind).view(n, k) for i in range(count)]


def configs(kind: str, m: int, n: int, k: int) -> Iterator[Config]:
    """What is worth trying."""
    forms = ("after", "folded") if kind == "int4" else ("after",)
    if m <= 16 and kind != "scaled":
        tokens = 8 if m <= 8 else 16
        for rows, deep, stages, split in product((16, 32), (4, 8), (3, 4, 6), (1, 2)):
            count = -(-n // rows) * split
            if (m <= 8 or stages < 6) and (split == 1 or count <= 600):
                yield Config("apart", rows, tokens, deep, stages, split, deep)
    if m <= 8:
        cuts, most, forms = [(64, 8, 4), (128, 8, 4)], 1200, ("after",)
    elif m <= 32:
        cuts, most = [(64, m, 4), (128, m, 4)], 800
    elif m <= 64:
        cuts, most = [(64, m, 4), (128, m, 4), (128, m, 8)], 800
    else:
        cuts = [(64, 128, 4), (128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8)]
        if m <= 256:
            cuts = [(64, 64, 4), (128, 64, 4), (64, 128, 4), (128, 128, 8), (128, 128, 4)]
        most, forms = 700, forms[-1:]
    for (rows, tokens, warps), form in product(cuts, forms):
        count = -(-n // rows) * -(-m // tokens)
        splits = [s for s in (1, 2, 3, 4, 6, 8) if s == 1 or count * s <= most]
        good = [s for s in splits if count * s >= 120] or splits[-1:]
        for split, stages in product(good[:3], (3, 4)):
            yield Config(form, rows, tokens, warps, stages, split)


def names(m: int) -> list[str]:
    """The shapes that are measured: behind a gate, by itself and inside the product."""
    return [name for name in SHAPES if name != "gate_up" or m >= 16]


def runs(kind: str, m: int, name: str, arena: Arena) -> Iterator[tuple[Any, Callable[[int], Any]]]:
    """Each way to multiply, as a function of a launch's number."""
    n, k = SHAPES[name]
    x = torch.randn(m, k, device="cuda").bfloat16()
    act = "silu" if name == "gated" else None
    width = n if act is None else n // 2
    if kind == "int4":
        weights = arena.packed(n, k)
        for config in configs(kind, m, width, k):
            yield (
                config,
                lambda i, c=config: grouped.multiply(
                    x, weights[i % len(weights)], c, KERNELS, act=act
                ),
            )
        if name == "gate_up":
            wide = torch.randn(m, n, device="cuda").bfloat16()
            yield "gate", lambda i: gated(wide, "silu", pdl=KERNELS.overlaps)
        if m >= 16 and act is None:
            out = torch.empty(n, k, dtype=torch.bfloat16, device="cuda")

            def through(i: int) -> torch.Tensor:
                dense.write_out(weights[i % len(weights)], out, KERNELS)
                return F.linear(x, out)

            yield "dense", through
            yield "write_out", lambda i: dense.write_out(weights[i % len(weights)], out, KERNELS)
            both = [torch.randn(n, k, device="cuda").bfloat16() for _ in range(3)]
            yield "bf16", lambda i: F.linear(x, both[i % 3])
        return
    block = 128 if kind == "block" else None
    dtype = torch.int8 if kind == "int8" else FP8
    values = arena.eight(n, k, dtype)
    scales = torch.rand((n, 1) if block is None else (n // 128, k // 128), device="cuda")
    if m <= 64:
        for config in configs(kind, m, width, k):
            yield (
                config,
                lambda i, c=config: eight_bit.multiply(
                    x, values[i % len(values)], scales, c, KERNELS, block=block, act=act
                ),
            )
    q, s = quantize.quantize(x, dtype, KERNELS, block=block)
    yield "quantize", lambda i: quantize.quantize(x, dtype, KERNELS, block=block)
    if m >= 16 and act is None:
        for config in configs("scaled", m, n, k):
            yield (
                ("scaled", *config[1:]),
                lambda i, c=config: scaled.multiply(
                    q, s, values[i % len(values)], scales, c, KERNELS, torch.bfloat16, block=block
                ),
            )
    if kind == "fp8" and m >= 16 and act is None:
        yield (
            "torch",
            lambda i: torch._scaled_mm(
                q, values[i % len(values)].t(), s, scales.t(), out_dtype=torch.bfloat16
            ),
        )
    if kind == "int8" and m > 16 and act is None:
        yield "torch", lambda i: torch._int_mm(q, values[i % len(values)].t())


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
    from quire.quant.weights import GroupedWeight

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
                (1, Config("apart", 16, 8, 4, 4, 1, 4)),
                (3, Config("apart", 32, 8, 8, 3, 2, 8)),
                (1, Config("apart", 16, 8, 4, 4, 1, 4)), (3, Config("apart", 32, 8, 8, 3, 2, 8)),
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
                    config = Config("apart", 16, 8, 4, 3, 2, 4)
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
        elif command == "compile":
            arena = Arena()
            for kind, m in (work.split(":") for work in rest[2:]):
                compile_some(kind, int(m), arena, int(rest[0]), int(rest[1]))
        else:
            arena = Arena()
            for kind, m in (work.split(":") for work in rest[1:]):
                sweep(kind, int(m), arena, rest[0])
