"""Which Config multiplies which quantized weight: measured choices as data, defaults elsewhere.

``tuned/<device>.jsonl`` holds an Entry a line, measured on a device of that name. A shape or a
device without one gets a choice computed from its numbers.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec
import torch

from .tiles import Config

__all__ = ("BUCKETS", "Entry", "choose", "read")

BUCKETS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Numbers of tokens that are measured; one in between is served by the next larger's choice."""

_WRITTEN_OUT = 512
"""Tokens above which writing weights out costs less than a product that need not."""
_TORCH_BEYOND = 256
"""Tokens above which torch's scaled product is the faster: with 256 both take about as long for an
8B model's four matrices on an H200, with 512 torch's takes almost a tenth less."""
_FOLDER = Path(__file__).parent / "tuned"
_MULTIPROCESSORS = 132


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured choice.

    Attributes:
        kind: "int4" for packed integers of 4 bits, "int8" for such of 8, "byte" for 8-bit
            weights as they are stored with 16-bit activations; "scaled_float8", "scaled_block" and
            "scaled_int8" for such with 8-bit activations, "scaled" where torch's own is no choice.
        n: outputs; behind a gate, of one half.
        k: inputs.
        m: a bucket of tokens.
        config: the fastest.
        gated: whether a gate follows.
        microseconds: that it took.
    """

    kind: str
    n: int
    k: int
    m: int
    config: Config
    gated: bool = False
    microseconds: float = 0.0


def read(path: Path) -> list[Entry]:
    """The entries of a table."""
    return [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()]


def choose(kind: str, tokens: int, n: int, k: int, *, gated: bool, device: torch.device) -> Config:
    """How to multiply tokens x k by k x n, twice that behind a gate."""
    m = next((size for size in BUCKETS if tokens <= size), BUCKETS[-1] + 1)
    return _choose(kind, m, n, k, gated, device)


@cache
def _choose(kind: str, m: int, n: int, k: int, gated: bool, device: torch.device) -> Config:
    table = _table(device)
    # What was measured for more tokens serves fewer, but one token is multiplied in its own ways.
    larger = (size for size in BUCKETS if size == m or size > m > 1)
    found = (
        table[kind, size, n, k, gated] for size in larger if (kind, size, n, k, gated) in table
    )
    return next(found, None) or _default(kind, m, n, k, gated=gated)


def _default(kind: str, m: int, n: int, k: int, *, gated: bool = False) -> Config:
    """A choice from the numbers alone: enough programs for every multiprocessor."""
    if kind.startswith("scaled"):
        if kind == "scaled_float8" and m > _TORCH_BEYOND:
            return Config("library")
        if m <= 64:
            tokens, tiles = max(m, 16), -(-n // 64)
            if gated or kind == "scaled_block":
                # More stages of both halves are too much for some GPUs' shared memory, and for
                # squares were not measured.
                return Config("after", 64, tokens, 4, 4, _split(tiles, k, 2))
            return Config("after", 64, tokens, 4, 6, _split(tiles, k, 1))
        if kind == "scaled_block":
            # Beside another that multiplies while it adds what it multiplied.
            return Config("after", 128, 64, 4, 3, _split(-(-n // 128) * -(-m // 64), k, 2))
        return Config("after", 128, 128, 8, 3, _split(-(-n // 128) * -(-m // 128), k, 1))
    if m > 64:
        if kind != "int4" or m > _WRITTEN_OUT:
            return Config("dense")
        split = _split(-(-n // 128) * -(-m // 128), k, 1)
        return Config("folded", 128, 128, 8, 3, split)
    if m == 1:
        if kind == "byte":
            return Config("vector", 2, 1, 2)
        return Config("apart", 16, 1, 8 if k <= 8192 else 16, 2, _split(-(-n // 16), k, 1))
    stages, held = (4, 1) if m <= 16 else (3, 1 if m <= 32 else 0)
    return Config("after", 64, m, 4, stages, _split(-(-n // 64), k, 4), held)


def _split(tiles: int, k: int, programs: int) -> int:
    """Parts of a depth, so that so many programs run on a multiprocessor."""
    return max(1, min(programs * _MULTIPROCESSORS // tiles, k // 512, 8))


@cache
def _table(device: torch.device) -> dict[tuple[str, int, int, int, bool], Config]:
    if device.type != "cuda":
        return {}
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", torch.cuda.get_device_name(device))
    path = _FOLDER / f"{name}.jsonl"
    entries = read(path) if path.exists() else []
    return {(e.kind, e.m, e.n, e.k, e.gated): e.config for e in entries}
