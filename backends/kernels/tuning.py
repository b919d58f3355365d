"""Measure which Config is fastest, on the GPU that is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from triton.runtime.errors import OutOfResources

from ...core.contracts.platform import ProductShape
from ...core.errors import ConfigError
from .activation import gated
from .norm import rms_norm
from .small_product import Config, dot_product, vector_product
from .tuned import BUCKETS, Entry, Table, own_path, read, write

__all__ = ("Arena", "candidates", "measure", "multiply", "seconds", "tune")

_ARENA_BYTES = 2**31 + 2**28
_MARGIN = 0.99
"""A kernel of ours must take at most this part of the library's time to be chosen."""


class Arena:
    """Weights of any shape, as many distinct ones as the L2 cache cannot hold.

    Args:
        device: where.
        dtype: bfloat16 or float16.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        self._data = torch.empty(_ARENA_BYTES // 2, dtype=dtype, device=device)
        self._data.normal_(std=0.02)

    def weights(self, shape: ProductShape) -> list[torch.Tensor]:
        """Distinct [n, k], or [2 * n, k] behind a gate.

        Raises:
            ConfigError: for a shape of which not even two fit.
        """
        rows = 2 * shape.out_features if shape.gated else shape.out_features
        size = rows * shape.in_features
        count = self._data.numel() // size
        if count < 2:
            raise ConfigError(f"weights of {rows} x {shape.in_features} are too large to measure")
        return [
            self._data[i * size : (i + 1) * size].view(rows, shape.in_features)
            for i in range(count)
        ]

    def inputs(self, tokens: int, width: int) -> torch.Tensor:
        """[tokens, width]."""
        return torch.randn(tokens, width, device=self._data.device).to(self._data.dtype)


def candidates(tokens: int, shape: ProductShape) -> list[Config]:
    """What is worth trying for a number of tokens."""
    if tokens == 1:
        rows = (1, 2, 4) if shape.gated else (1, 2, 4, 8)
        cuts = [(r, depth, w) for r in rows for depth, w in ((1024, 1), (1024, 2), (2048, 2))]
        cuts += [(1, 4096, 4), (2, 2048, 4), (4, 512, 1), (2, 4096, 4)]
        return [Config("vector", rows=r, depth=depth, warps=w) for r, depth, w in cuts]
    tiles = -(-shape.out_features // 64)
    # One deep pipeline a processor may beat several, even where not every processor has one.
    splits = [split for split in (1, 2, 3, 4, 6, 8) if split == 1 or tiles * split <= 600]
    tilings = [(128, 3), (128, 4), (128, 6), (128, 8), (256, 2), (256, 3), (64, 3), (64, 4)]
    return [
        Config("dot", rows=rows, depth=depth, warps=4, stages=stages, split=split)
        for rows in ((64,) if shape.gated else (64, 128))
        for depth, stages in tilings
        for split in splits[:4]
    ]


def multiply(
    config: Config, x: torch.Tensor, weight: torch.Tensor, *, gate: bool, pdl: bool
) -> torch.Tensor:
    """One product by a Config, behind it silu's gate if wanted."""
    act = "silu" if gate else None
    if config.form == "vector":
        return vector_product(x, weight, config, act=act, pdl=pdl)
    if config.form == "dot":
        return dot_product(x, weight, config, act=act, pdl=pdl)
    y = F.linear(x, weight)
    return gated(y, "silu", pdl=pdl) if gate else y


def seconds(run: Callable[[int], object], count: int) -> float:
    """Of one of ``count`` launches that follow one another in a CUDA graph; median of seven.

    Args:
        run: launches number i, without waiting for it.
        count: of launches.
    """
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(count):
            run(index)
    times: list[float] = []
    for _ in range(8):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / count)
    return sorted(times[1:])[3]


def measure(shapes: list[ProductShape], device: torch.device, *, pdl: bool) -> Iterator[Entry]:
    """The fastest Config of each shape and bucket, as they are found.

    Each product is measured behind a norm, as it runs in a model: one behind another hides how long
    it takes to begin.

    Args:
        shapes: to measure.
        device: a CUDA device.
        pdl: whether launches overlap, as they will where the choices are used.

    Raises:
        ConfigError: for a shape too large to measure.
    """
    arena = Arena(device)
    for shape in dict.fromkeys(shapes):
        weights = arena.weights(shape)
        for tokens in BUCKETS:
            x = arena.inputs(tokens, shape.in_features)
            times = {}
            for config in [Config("library"), *candidates(tokens, shape)]:
                try:
                    times[config] = _time(config, x, weights, shape, pdl) * 1e6
                except OutOfResources:
                    continue
            library = times.pop(Config("library"))
            best = min(times, key=times.__getitem__, default=Config("library"))
            if times.get(best, library) > _MARGIN * library:
                best = Config("library")
            yield Entry(
                n=shape.out_features,
                k=shape.in_features,
                gated=shape.gated,
                m=tokens,
                config=best,
                microseconds=round(times.get(best, library), 2),
            )


def _time(
    config: Config, x: torch.Tensor, weights: list[torch.Tensor], shape: ProductShape, pdl: bool
) -> float:
    """Of a norm and the product."""
    scale = torch.ones_like(x[0])

    def run(index: int) -> torch.Tensor:
        normed = rms_norm(x, scale, 1e-5, pdl=pdl)
        weight = weights[index % len(weights)]
        return multiply(config, normed, weight, gate=shape.gated, pdl=pdl)

    return seconds(run, max(len(weights), 8))


def tune(shapes: list[ProductShape], out: Path | None, device: torch.device) -> Iterator[str]:
    """Measure, and write the choices among those that are already in the file.

    Args:
        shapes: to measure.
        out: the file; None for the one that later starts read.
        device: a CUDA device.

    Yields:
        A line for each choice, and one for the file.

    Raises:
        ConfigError: for a shape too large to measure, a file of another device, or no table.
    """
    name = torch.cuda.get_device_name(device)
    path = own_path(name) if out is None else out
    entries = {}
    if path.exists():
        table = read(path)
        if table.device != name:
            raise ConfigError(f"{path} is of {table.device}, and this is {name}; use another file")
        entries = {entry.key: entry for entry in table.products}
    # As the kernels will be launched, see operations.
    pdl = torch.cuda.get_device_capability(device) >= (9, 0)
    for entry in measure(shapes, device, pdl=pdl):
        entries[entry.key] = entry
        gate = " x 2" if entry.gated else ""
        yield (
            f"{entry.m:3} x {entry.k} by {entry.n}{gate}: {entry.microseconds:8.2f} us, "
            f"{entry.config.form}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write(Table(device=name, products=list(entries.values())), path)
    yield f"written to {path}"
