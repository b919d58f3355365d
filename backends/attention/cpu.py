"""Attention on a CPU, by a kernel of its own: one call a layer.

A query's result does not depend on the queries beside it, on how its prompt was cut, or on what was
cached, since the kernel adds every query up in the order of positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from ...core.contracts.attention import AttentionBackend, AttentionBatch, AttentionSpec, Rotation
from ...core.contracts.capabilities import Capabilities
from ...core.errors import ConfigError
from ..cpu.compiled import Call, compiled
from ..cpu.rows import BITS, float_bits
from ..cpu.shapes import ITEM, LANES, LINES

__all__ = ("CPUAttention",)

_PIECE = 32
"""Lines, queries times heads that share keys, that a thread takes at a time."""


@dataclass(slots=True)
class Step:
    """What ``prepare`` hands to ``attend``.

    Attributes:
        batch: of the step; its tensors stay where they are while the step runs.
        num_tokens: whose queries, keys and values are handed over.
        arguments: of the kernel, for each number of heads that share keys, those that
            kernels/attention.py has between the positions and a layer's keys.
        kept: what the arguments are addresses of.
        threads: that run it.
    """

    batch: AttentionBatch
    num_tokens: int
    arguments: dict[int, tuple[int, ...]]
    kept: list[object]
    threads: int


class CPUAttention(AttentionBackend):
    """See AttentionBackend.

    Raises:
        ConfigError: for heads of an odd width.
    """

    capabilities = Capabilities(
        devices=frozenset({"cpu"}),
        dtypes=frozenset({"float32", "bfloat16"}),
        kv_dtypes=frozenset({"float32", "bfloat16"}),
        features=frozenset(
            {
                "sliding_window",
                "soft_cap",
                "overlap",
                "speculation",
                "deterministic",
                "recorded",
                "chosen_tokens",
            }
        ),
    )

    def __init__(
        self,
        layers: list[AttentionSpec],
        *,
        block_size: int,
        kv_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layers, block_size=block_size, kv_dtype=kv_dtype, device=device)
        odd = next((spec.head_dim for spec in layers if spec.head_dim % 2), None)
        if odd is not None:
            raise ConfigError(
                f"the attention backend cpu takes heads of an even width, not {odd}; "
                "set attention.backend to reference"
            )
        self._caches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._calls: dict[tuple[int, torch.dtype], Call] = {}
        self._shared = {spec.num_heads // spec.num_kv_heads for spec in layers}
        self._widest = max(spec.num_heads * spec.head_dim for spec in layers)
        # Where scores of one position begin to share a vector with those of the next.
        self._align = math.lcm(LANES, block_size)
        self._queries = torch.empty(0)
        self._scratch = torch.empty(0)
        self._num_blocks = 0

    def bytes_per_block(self) -> int:
        widths = sum(spec.num_kv_heads * spec.head_dim for spec in self.layers)
        return 2 * widths * self.block_size * self.kv_dtype.itemsize

    def allocate(self, num_blocks: int) -> None:
        self._caches.clear()
        self._calls.clear()
        for spec in self.layers:
            # A vector of positions may reach beyond the last block.
            size = spec.num_kv_heads * num_blocks * self.block_size * spec.head_dim
            keys = torch.zeros(size + LANES, dtype=self.kv_dtype)
            self._caches.append((keys, torch.zeros(size, dtype=self.kv_dtype)))
        self._num_blocks = num_blocks

    def prepare(self, batch: AttentionBatch) -> Step:
        write_slots = batch.all_slots
        num_tokens = len(write_slots)
        if self._queries.numel() < num_tokens * self._widest:
            self._queries = torch.empty(num_tokens * self._widest)
        threads = torch.get_num_threads()
        room = LINES * max(self._widest, max(batch.host_lengths, default=0) + 2 * self._align)
        if self._scratch.numel() < threads * room:
            self._scratch = torch.empty(threads * 2 * room)
        room = self._scratch.numel() // threads // LANES * LANES
        tables = batch.block_tables
        if tables.stride(-1) != 1:
            tables = tables.contiguous()
        arguments: dict[int, tuple[int, ...]] = {}
        kept: list[object] = [write_slots, tables, self._queries, self._scratch]
        for shared in self._shared:
            items = _items(batch, shared)
            kept.append(items)
            arguments[shared] = (
                num_tokens, write_slots.data_ptr(), batch.lengths.data_ptr(),
                tables.data_ptr(), tables.stride(0), items.ctypes.data, len(items),
                self._queries.data_ptr(), self._scratch.data_ptr(), 4 * room, threads,
            )  # fmt: skip
        return Step(batch, num_tokens, arguments, kept, threads)

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: Step,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec = self.layers[layer]
        if len(q) != prepared.num_tokens:
            raise ValueError(f"{len(q)} queries in a step of {prepared.num_tokens}")
        call = self._calls.get((layer, q.dtype)) or self._call(layer, q.dtype)
        width, heads = spec.head_dim, spec.num_heads
        q, k, v = _heads_together(q), _heads_together(k), _heads_together(v)
        out = torch.empty(len(q), heads * width, dtype=q.dtype)
        table = positions = 0
        if rotation is not None:
            table, positions = rotation.table.data_ptr(), rotation.positions.data_ptr()
        call(
            prepared.threads,
            q.data_ptr(), k.data_ptr(), v.data_ptr(), q.stride(0), k.stride(0), v.stride(0),
            out.data_ptr(), table, positions,
            *prepared.arguments[heads // spec.num_kv_heads],
        )  # fmt: skip
        chosen = prepared.batch.chosen
        return out if chosen is None else out.index_select(0, chosen.tokens)

    def _call(self, layer: int, dtype: torch.dtype) -> Call:
        spec, (keys, values) = self.layers[layer], self._caches[layer]
        kernel = compiled("attention", BITS[dtype], BITS[self.kv_dtype])
        fixed = (
            keys.data_ptr(), values.data_ptr(), self._num_blocks, self.block_size,
            spec.num_heads, spec.num_kv_heads, spec.head_dim,
            float_bits(spec.scale, spec.soft_cap or 0.0),
            spec.window or 0, self._align,
        )  # fmt: skip
        call = self._calls[layer, dtype] = Call(kernel, 20, fixed)
        return call


def _heads_together(x: torch.Tensor) -> torch.Tensor:
    """[T, heads, head_dim] with the heads of a token back to back."""
    width = x.shape[2]
    return x if x.stride()[1:] == (width, 1) else x.contiguous()


def _items(batch: AttentionBatch, shared: int) -> np.ndarray:
    """int32 [items, ITEM]: row, first line and one past the last, the row's first token and its
    number of queries; long rows in pieces."""
    counts = batch.query_lengths
    starts = [0, *accumulate(counts)] if batch.chosen is None else batch.chosen.tokens.tolist()
    items = [
        (row, begin, min(begin + _PIECE, shared * count), starts[row], count)
        for row, count in enumerate(counts)
        for begin in range(0, shared * count, _PIECE)
    ]
    return np.array(items, np.int32).reshape(-1, ITEM)
