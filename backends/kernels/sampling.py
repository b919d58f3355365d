"""Drawing tokens on a GPU: greedy, at random, and with top-k, top-p and min-p, without a sort.

A draw is a function of the row's logits, its slot's parameters and the position alone, bit for bit
the same in any batch: however the work is split, partial sums are integers or belong to a chunk of
fixed size. It equals a CPU's draw but for the rounding of exponentials and of sums over chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from .launch import launch
from .sampling_narrow import collect, finish, narrow
from .sampling_scan import scan, settle

__all__ = ("Shape", "TritonDraw")

_MOST_COLUMNS = 2**20


@dataclass(frozen=True)
class Shape:
    """Sizes that decide what a program holds at once.

    Attributes:
        chunk: columns that one program of ``scan`` reads.
        group: columns whose greatest logit stands for all of them.
        chosen: groups that a filtered row looks into.
        pivots: of each narrowing pass.
        passes: of narrowing.
        listed: tokens left over after these that are searched exactly.
    """

    chunk: int = 4096
    group: int = 32
    chosen: int = 256
    pivots: int = 8
    passes: int = 3
    listed: int = 4096


class TritonDraw:
    """Implements ``quire.core.run.sample_table.Draw``.

    Args:
        max_rows: of a batch.
        vocab_size: columns of the logits, at most 2**20.
        device: where all of it lives.
        shape: smaller in tests, so that small rows take every path.

    Raises:
        ValueError: for a larger vocabulary, whose weights could overflow.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        vocab_size: int,
        device: torch.device,
        shape: Shape | None = None,
    ) -> None:
        if not 0 < vocab_size <= _MOST_COLUMNS:
            raise ValueError(f"vocab_size must be 1 to {_MOST_COLUMNS}, not {vocab_size}")
        self.max_rows = max_rows
        self.vocab_size = vocab_size
        self._shape = shape = shape or Shape()
        self._num_chunks = -(-vocab_size // shape.chunk)
        self._num_groups = self._num_chunks * (shape.chunk // shape.group)
        self._processors = _processors(device)

        def scratch(*size: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.empty(max_rows, *size, dtype=dtype, device=device)

        self._tops = scratch(self._num_chunks, dtype=torch.float32)
        self._firsts = scratch(self._num_chunks, dtype=torch.int32)
        self._sums = scratch(self._num_chunks, dtype=torch.float32)
        self._lows = scratch(self._num_chunks, dtype=torch.float32)
        self._maxima = scratch(self._num_groups, dtype=torch.float32)
        self._chosen = scratch(shape.chosen, dtype=torch.int32)
        self._state = scratch(4)
        self._tallies = scratch(shape.passes * 2 * shape.pivots)
        self._masses = scratch(self._num_chunks)
        self._counts = scratch(dtype=torch.int32)
        self._list_keys = scratch(shape.listed, dtype=torch.int32)
        self._list_columns = scratch(shape.listed, dtype=torch.int32)

    def __call__(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        out: torch.Tensor,
        *,
        tokens: torch.Tensor | None = None,
        filters: bool = True,
    ) -> None:
        rows, columns = logits.shape
        if columns != self.vocab_size or rows > self.max_rows or logits.stride(1) != 1:
            raise ValueError(
                f"logits are {list(logits.shape)} with strides {logits.stride()}; this was made "
                f"for up to {self.max_rows} rows of {self.vocab_size} contiguous columns"
            )
        if rows == 0:
            return
        self._scan(logits, slots, table, filters)
        self._settle(logits, slots, lengths, table, out, tokens, filters)
        if filters and self._num_groups > self._shape.chosen:
            self._narrow(logits, slots, table)
            self._finish(logits, slots, lengths, table, out, tokens)

    def _scan(
        self, logits: torch.Tensor, slots: torch.Tensor, table: torch.Tensor, filters: bool
    ) -> None:
        launch(
            scan,
            (self._num_chunks, len(logits)),
            logits,
            logits.stride(0),
            slots,
            table,
            self._tops,
            self._firsts,
            self._sums,
            self._lows,
            self._maxima,
            self.vocab_size,
            self._num_chunks,
            FILTERS=filters,
            CHUNK=self._shape.chunk,
            GROUP=self._shape.group,
            num_warps=8,
        )

    def _settle(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        out: torch.Tensor,
        tokens: torch.Tensor | None,
        filters: bool,
    ) -> None:
        shape = self._shape
        launch(
            settle,
            (len(logits),),
            logits,
            logits.stride(0),
            slots,
            lengths,
            table,
            self._tops,
            self._firsts,
            self._sums,
            self._lows,
            self._maxima,
            self._chosen,
            self._state,
            self._counts,
            self._tallies,
            out,
            out if tokens is None else tokens,
            0 if tokens is None else tokens.stride(0),
            self.vocab_size,
            self._num_chunks,
            self._num_groups,
            FILTERS=filters,
            REMEMBER=tokens is not None,
            CHUNK=shape.chunk,
            GROUP=shape.group,
            BLOCK_CHUNKS=triton.next_power_of_2(self._num_chunks),
            BLOCK_GROUPS=triton.next_power_of_2(self._num_groups),
            CHOSEN=shape.chosen,
            TALLIES=self._tallies.shape[1],
            num_warps=16 if filters else 8,
        )

    def _narrow(self, logits: torch.Tensor, slots: torch.Tensor, table: torch.Tensor) -> None:
        shape = self._shape
        # Programs enough to fill the GPU; more would only take longer to find nothing to do.
        span = max(1, self._num_chunks * len(logits) // (self._processors * 16))
        grid = (-(-self._num_chunks // span), len(logits))
        common = (logits, logits.stride(0), slots, table, self._tops, self._state, self._tallies)
        sizes = (self.vocab_size, self._num_chunks)
        constants = {
            "PASSES": shape.passes,
            "PIVOTS": shape.pivots,
            "CHUNK": shape.chunk,
            "BLOCK_CHUNKS": triton.next_power_of_2(self._num_chunks),
            "LIST": shape.listed,
        }
        for passed in range(shape.passes):
            launch(
                narrow,
                grid,
                *common,
                *sizes,
                passed,
                span,
                **constants,
                WIDTH=min(256, shape.chunk // 4),
                num_warps=8,
            )
        lists = (self._masses, self._counts, self._list_keys, self._list_columns)
        launch(collect, grid, *common, *lists, *sizes, span, **constants, num_warps=8)

    def _finish(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        out: torch.Tensor,
        tokens: torch.Tensor | None,
    ) -> None:
        shape = self._shape
        launch(
            finish,
            (len(logits),),
            logits,
            logits.stride(0),
            slots,
            lengths,
            table,
            self._tops,
            self._state,
            self._tallies,
            self._masses,
            self._counts,
            self._list_keys,
            self._list_columns,
            out,
            out if tokens is None else tokens,
            0 if tokens is None else tokens.stride(0),
            self.vocab_size,
            self._num_chunks,
            REMEMBER=tokens is not None,
            PASSES=shape.passes,
            PIVOTS=shape.pivots,
            CHUNK=shape.chunk,
            BLOCK_CHUNKS=triton.next_power_of_2(self._num_chunks),
            LIST=shape.listed,
            num_warps=16,
        )


def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; any number does where there is none."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
