"""Attention backends: paged keys and values, written and attended to.

Life cycle: ``capabilities`` is read before anything is built; one backend is built for a model;
``allocate`` makes the cache once; then, every step, one ``prepare`` and one ``attend`` a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from .capabilities import Capabilities

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = (
    "CONTRACT_VERSION",
    "AttentionBackend",
    "AttentionBatch",
    "AttentionSpec",
    "Chosen",
    "Rotation",
)

CONTRACT_VERSION = 1


class AttentionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's attention.

    Attributes:
        num_heads: query heads on this rank.
        num_kv_heads: key and value heads on this rank; divides num_heads.
        head_dim: width of a head.
        scale: multiplies query-key products.
        window: positions a query sees, itself included; None for all before it.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap); None for none.
        k_scale: what keys in a cache of 8-bit floats are multiplied by when read; no cache of
            another dtype scales.
        v_scale: likewise for values.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None
    k_scale: float = 1.0
    v_scale: float = 1.0


@dataclass(slots=True)
class Chosen:
    """Rows of single queries among T tokens, of which all keys and values are written.

    Attributes:
        tokens: int64 [R], the token of each row.
        write_slots: int64 [T], where each token's key and value go.
    """

    tokens: torch.Tensor
    write_slots: torch.Tensor


@dataclass(slots=True)
class AttentionBatch:
    """A step's geometry, the same for every layer. T tokens in R rows; rows are back to back.

    The first num_decodes rows have one query each. Query i of row r stands at position
    lengths[r] - (query_start[r+1] - query_start[r]) + i and sees positions 0 to its own.

    Attributes:
        query_start: int32 [R + 1], offsets of the rows in the T tokens.
        lengths: int32 [R], tokens of each row in the cache once this step is written.
        block_tables: int32 [R, max blocks], block ids. Entries past a row's length are padding and
            may name any block; 0 is the null block, which nobody writes.
        write_slots: int64 [T], block id * block size + offset, where each token's key and value go.
        num_decodes: leading rows with a single query.
        query_lengths: host copy of each row's number of queries.
        host_lengths: host copy of lengths.
        shares_prefixes: whether rows that stand together are likely to begin with the same blocks;
            a hint, which a backend may use to read those once.
        siblings: whether rows of single queries may see tokens of each other, so that all keys and
            values must be in the cache before any row attends, as they must in a step with longer
            rows.
        chunk_plan: int32, what the backend's ``chunk_plan`` gave, if the step is captured with rows
            of any number of queries. num_decodes and the host's lengths are then bounds: rows with
            one query lead, rows with none are padding.
        chosen: the rows, of one query each, are chosen among more tokens: queries, keys and values
            of all of those are handed over, and results of the rows come back. Only a backend with
            the feature ``chosen_tokens`` is given such a batch.
    """

    query_start: torch.Tensor
    lengths: torch.Tensor
    block_tables: torch.Tensor
    write_slots: torch.Tensor
    num_decodes: int
    query_lengths: list[int]
    host_lengths: list[int]
    shares_prefixes: bool = False
    siblings: bool = False
    chunk_plan: torch.Tensor | None = None
    chosen: Chosen | None = None

    @property
    def all_slots(self) -> torch.Tensor:
        """Where keys and values of all tokens go that are handed over."""
        return self.write_slots if self.chosen is None else self.chosen.write_slots


@dataclass(slots=True)
class Rotation:
    """A step's rotary positions, the same for every layer.

    Attributes:
        table: [positions, 2, head_dim] in the model's dtype: cosines, then sines with the sign of
            the first half turned, so that x becomes x * cos + halves_swapped(x) * sin.
        positions: int64 [T], of the step's tokens.
    """

    table: torch.Tensor
    positions: torch.Tensor
    _angles: tuple[torch.Tensor, ...] | None = field(default=None, repr=False)

    def angles(self) -> tuple[torch.Tensor, ...]:
        """Cosines and sines of the T positions, [T, 1, head_dim] each."""
        if self._angles is None:
            self._angles = self.table.index_select(0, self.positions).unsqueeze(2).unbind(1)
        return self._angles

    def apply(self, q: torch.Tensor, k: torch.Tensor) -> None:
        """Rotate [T, heads, head_dim] of both in place."""
        cos, sin = self.angles()
        for x in _side_by_side(q, k):
            swapped = x.roll(x.shape[-1] // 2, -1)
            x.mul_(cos).addcmul_(swapped, sin)


def _side_by_side(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries and keys as one tensor where they are halves of one product: one pass serves both."""
    tokens, heads, width = q.shape
    follows = k.data_ptr() == q.data_ptr() + heads * width * q.element_size()
    if follows and q.stride() == k.stride() and q.stride()[1:] == (width, 1):
        return (q.as_strided((tokens, heads + k.shape[1], width), q.stride()),)
    return q, k


class AttentionBackend(ABC):
    """Computes softmax(q k^T * scale) v over a paged cache.

    With the feature ``recorded``, on a CPU, what ``prepare`` gave serves later steps with the same
    query lengths as well, whose lengths, slots and blocks were written where those of its batch
    stand; its ``host_lengths`` are bounds. ``attend`` then does the same whatever they are.

    Args:
        layers: one spec a layer.
        block_size: tokens a block.
        kv_dtype: torch dtype of the cache.
        device: torch device of the cache.
    """

    capabilities: ClassVar[Capabilities]
    default_block_size: ClassVar[int] = 16

    def __init__(
        self,
        layers: list[AttentionSpec],
        *,
        block_size: int,
        kv_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.block_size = block_size
        self.kv_dtype = kv_dtype
        self.device = device

    @abstractmethod
    def bytes_per_block(self) -> int:
        """Bytes that one block takes over all layers, keys and values."""

    @abstractmethod
    def allocate(self, num_blocks: int) -> None:
        """Make the cache, zeroed, block 0 (the null block) included; a second call replaces it."""

    @abstractmethod
    def prepare(self, batch: AttentionBatch) -> Any:
        """Whatever ``attend`` needs once a step; handed to each layer's ``attend``."""

    def graph_key(self, num_rows: int, longest: int, *, shares_prefixes: bool = False) -> Hashable:
        """What a captured decode step depends on beside its number of rows.

        Asked only of a backend with the feature ``graphs``. Its ``prepare`` and ``attend`` on a
        batch of single queries then read lengths and block tables on the device alone, launch
        without waiting or copying, and a step captured with ``host_lengths`` of ``longest`` serves
        every step of as many rows that gives the same key, or whose rows are shorter.

        Args:
            num_rows: rows of the step.
            longest: tokens of its longest row.
            shares_prefixes: as of the batch.
        """
        return None

    def chunk_plan(
        self,
        query_lengths: list[int],
        host_lengths: list[int],
        num_decodes: int,
        num_tokens: int,
    ) -> np.ndarray | None:
        """The host's part of a captured step's plan, sent to the device before each launch.

        Asked only of a backend with the feature ``chunk_graphs``: a step captured with it serves
        every step of rows with one query and rows with more. Its size depends on ``num_tokens``
        alone.

        Args:
            query_lengths: of each row.
            host_lengths: of each row.
            num_decodes: leading rows with one query.
            num_tokens: that the step is captured for; no fewer than there are.

        Returns:
            int64, flat; None for a step that does not fit.
        """
        return None

    @abstractmethod
    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        prepared: Any,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        """Write k and v into the cache, then attend.

        Args:
            layer: index into layers.
            q: [T, num_heads, head_dim], positions already rotated in unless rotation is given.
            k: [T, num_kv_heads, head_dim], likewise.
            v: [T, num_kv_heads, head_dim].
            prepared: of this step's ``prepare``.
            rotation: what to rotate q and k by first, as its ``apply`` does; q and k may be changed
                in place.

        Returns:
            [T, num_heads * head_dim] in q's dtype; [R, num_heads * head_dim] where rows are chosen.
        """
