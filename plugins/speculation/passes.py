"""What a drafting module computes of a step; on a CPU recorded once for each kind of step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch

from ...backends.cpu.tape import Tape
from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.speculator import SpeculatorContext
from ...core.run.forward import attending

__all__ = ("Pass",)

logger = logging.getLogger(__name__)

Compute = Callable[..., Any]

# More tokens take longer to compute than their operators to be called.
_MOST_TOKENS = 8
# Kinds of steps that are recorded; recording one takes as long as ten of them.
_MOST_KINDS = 16


class Pass:
    """What a module computes of a step.

    On a CPU its kernels take less time than Python takes to call them, and steps of a few tokens
    run without it.

    Args:
        context: what the speculator was built with.
        attention: of the module.
        compute: from token ids and positions, int64 [T], the step's attention, and more tensors; to
            a tensor or a tuple of some. What it does may depend on shapes and not on values.
    """

    def __init__(
        self, context: SpeculatorContext, attention: AttentionBackend, compute: Compute
    ) -> None:
        self._attention = attention
        self._compute = compute
        recorded = "recorded" in attention.capabilities.features
        self._most = _MOST_TOKENS if recorded else 0
        self._longest = context.max_model_len
        self._recorded: dict[Hashable, _Recorded | None] = {}

    def __call__(
        self,
        batch: AttentionBatch,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        *more: torch.Tensor,
    ) -> Any:
        """What ``compute`` gives for the batch's T tokens; till the next call."""
        inputs = token_ids, positions, *more
        if len(token_ids) > self._most:
            return self._as_it_is(batch, inputs)
        kind = (*batch.query_lengths, *(x.shape for x in more))
        recorded = self._recorded.get(kind)
        if recorded is not None:
            return recorded(batch, inputs)
        if kind in self._recorded or len(self._recorded) == _MOST_KINDS:
            return self._as_it_is(batch, inputs)
        self._recorded[kind] = None
        try:
            recorded = _Recorded(self._attention, self._compute, self._longest, batch, inputs)
        except ValueError as reason:
            logger.info("a step of drafting is run as it is: %s", reason)
            return self._as_it_is(batch, inputs)
        self._recorded[kind] = recorded
        return recorded.result

    def _as_it_is(self, batch: AttentionBatch, inputs: tuple[torch.Tensor, ...]) -> Any:
        token_ids, positions, *more = inputs
        attend = attending(self._attention, self._attention.prepare(batch))
        return self._compute(token_ids, positions, attend, *more)


class _Recorded:
    """Steps of one kind.

    Args:
        attention: of the module.
        compute: as of ``Pass``.
        longest: most tokens of a row.
        batch: the first of these steps.
        inputs: its tensors.

    Raises:
        ValueError: where ``compute`` looks at values.
    """

    def __init__(
        self,
        attention: AttentionBackend,
        compute: Compute,
        longest: int,
        batch: AttentionBatch,
        inputs: tuple[torch.Tensor, ...],
    ) -> None:
        self._inputs = tuple([x.clone() for x in inputs])
        rows = len(batch.query_lengths)
        blocks = -(-longest // attention.block_size)
        self._batch = replace(
            batch,
            query_start=batch.query_start.clone(),
            lengths=batch.lengths.clone(),
            block_tables=batch.block_tables.new_zeros(
                rows, max(blocks, batch.block_tables.shape[1])
            ),
            write_slots=batch.write_slots.clone(),
            host_lengths=[longest] * rows,
        )
        self._place(batch)
        # Held here, since the kernels are given addresses of what it is made of.
        self._prepared = attention.prepare(self._batch)
        token_ids, positions, *more = self._inputs
        attend = attending(attention, self._prepared)
        self._tape = Tape(lambda: compute(token_ids, positions, attend, *more))

    @property
    def result(self) -> Any:
        """Of the last step."""
        return self._tape.result

    def __call__(self, batch: AttentionBatch, inputs: tuple[torch.Tensor, ...]) -> Any:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._batch.lengths.copy_(batch.lengths)
        self._batch.write_slots.copy_(batch.write_slots)
        self._place(batch)
        self._tape()
        return self._tape.result

    def _place(self, batch: AttentionBatch) -> None:
        tables = batch.block_tables
        self._batch.block_tables[:, : tables.shape[1]] = tables
