"""Which Config multiplies what: measured choices that ship as data, defaults elsewhere.

``tuned/<device>.json`` holds what was measured on a device of that name; ``quire tune`` writes
another such file into the user's cache folder, which goes before it. A shape or a device that is in
neither gets a choice computed from its numbers.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import msgspec
import torch
from triton.runtime import driver

from ...core.errors import ConfigError
from .small_product import Config

__all__ = (
    "BUCKETS",
    "Entry",
    "Table",
    "alike",
    "bucket",
    "choose",
    "choose_alike",
    "default",
    "own_path",
    "read",
    "use",
    "write",
)

BUCKETS = (1, 16, 32, 64)
"""Numbers of tokens that are measured; one in between is served by the next larger's choice."""

_LIBRARY = Config("library")
_SHALLOW = 1024
"""Inputs up to which few tokens' product is one tile deep, cut among a few programs."""
_FOLDER = Path(__file__).parent / "tuned"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured choice.

    Attributes:
        n: outputs; behind a gate, of one half.
        k: inputs.
        gated: whether a gate follows.
        m: a bucket of tokens.
        config: the fastest.
        microseconds: that it took, 0 if unknown.
    """

    n: int
    k: int
    m: int
    config: Config
    gated: bool = False
    microseconds: float = 0.0

    @property
    def key(self) -> tuple[int, int, bool, int]:
        """What it is the choice for."""
        return self.n, self.k, self.gated, self.m


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All choices of a device.

    Attributes:
        device: its name, as ``torch.cuda.get_device_name`` has it.
        products: in any order.
    """

    device: str
    products: list[Entry]


_used: dict[tuple[int, int, bool, int], Config] | None = None


def bucket(tokens: int) -> int | None:
    """The bucket of a number of tokens, or None above all."""
    return next((size for size in BUCKETS if tokens <= size), None)


def choose(tokens: int, n: int, k: int, *, gated: bool, x: torch.Tensor) -> Config:
    """How to multiply tokens x k by k x n (twice that behind a gate), where x is."""
    if tokens > BUCKETS[-1] or x.dtype.itemsize != 2 or k % 8:
        return _LIBRARY
    return _choose(bucket(tokens) or 0, n, k, gated, x.device)


def choose_alike(tokens: int, *, gated: bool, x: torch.Tensor) -> Config:
    """The same depth and split for any number of tokens, which a token's bits depend on.

    Few tokens read far ahead, with one program a multiprocessor; many keep several busy.
    """
    return alike(bucket(tokens), gated=gated, shared=_shared_memory(x.device))


def alike(m: int | None, *, gated: bool, shared: int) -> Config:
    """See ``choose_alike``.

    Args:
        m: a bucket, or None above all.
        gated: whether a gate follows.
        shared: bytes of shared memory that one program may have.
    """
    rows, depth, stages = 64, 128, 2
    if m is not None:
        tile = 2 * depth * (rows * (2 if gated else 1) + max(m, 16))
        stages = max(2, min(8, shared // tile))
    return Config("dot", rows=rows, depth=depth, warps=4, stages=stages)


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may have; of a GPU's some where there is none."""
    if device.type != "cuda":
        return 2**16
    properties = driver.active.utils.get_device_properties(device.index or 0)
    return int(properties["max_shared_mem"])


@cache
def _choose(m: int, n: int, k: int, gated: bool, device: torch.device) -> Config:
    table = _tables(device) if _used is None else _used
    config = table.get((n, k, gated, m))
    if config is not None:
        return config
    count = 1
    if device.type == "cuda":
        count = torch.cuda.get_device_properties(device).multi_processor_count
    shared = _shared_memory(device)
    return default(m, n, k, gated=gated, multiprocessors=count, shared=shared)


def default(m: int, n: int, k: int, *, gated: bool, multiprocessors: int, shared: int) -> Config:
    """A choice from the numbers alone: enough bytes in flight on every multiprocessor.

    Args:
        m: a bucket.
        n: outputs; behind a gate, of one half.
        k: inputs.
        gated: whether a gate follows.
        multiprocessors: of the device.
        shared: bytes of shared memory that one program may have.
    """
    if m == 1:
        depth = next((size for size in (4096, 2048, 1024, 512) if k % size == 0), 1024)
        rows = 1 if gated or depth == 4096 else 2
        return Config("vector", rows=rows, depth=depth, warps=max(depth // 1024, 1))
    if m == BUCKETS[1] and k <= _SHALLOW:
        # What a small matrix takes is latency: its weights are requested ahead, all at once.
        warps = 8 if gated else 4
        return Config("dot", rows=64, depth=256, warps=warps, stages=1, split=-(-k // 256))
    rows, depth = 64, 128
    tile = 2 * depth * (rows * (2 if gated else 1) + m)
    # Two programs a multiprocessor hide each other's beginnings and ends.
    stages = max(2, min(4, shared // 2 // tile))
    tiles = -(-n // rows)
    split = min(2 * multiprocessors // tiles, k // (4 * depth), 8)
    return Config("dot", rows=rows, depth=depth, warps=4, stages=stages, split=max(split, 1))


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        ConfigError: for a file that is none, naming what is wrong in it.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Table)
    except (msgspec.MsgspecError, OSError) as error:
        raise ConfigError(
            f"{path} holds no table of tuned products ({error}); remove it or run quire tune again"
        ) from None


def write(table: Table, path: Path) -> None:
    """Write a table, one entry a line."""
    lines = ",\n".join("    " + msgspec.json.encode(entry).decode() for entry in table.products)
    device = msgspec.json.encode(table.device).decode()
    path.write_text(f'{{\n  "device": {device},\n  "products": [\n{lines}\n  ]\n}}\n')


def use(table: Table | None) -> None:
    """Choose from this table alone from now on; None for those in files."""
    global _used
    _used = None if table is None else _by_shape(table)
    _choose.cache_clear()


def _by_shape(table: Table) -> dict[tuple[int, int, bool, int], Config]:
    return {entry.key: entry.config for entry in table.products}


@cache
def _tables(device: torch.device) -> dict[tuple[int, int, bool, int], Config]:
    """What ships for a device, and above it what was measured here."""
    if device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(device)
    choices: dict[tuple[int, int, bool, int], Config] = {}
    for path in (_FOLDER / _file_name(name), own_path(name)):
        if path.exists():
            choices |= _by_shape(read(path))
    return choices


def own_path(device_name: str) -> Path:
    """Where ``quire tune`` writes what it measured on a device of this name."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "quire" / "tuned" / _file_name(device_name)


def _file_name(device_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", device_name) + ".json"
