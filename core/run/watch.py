"""Hidden states on their way to a speculator that drafts from them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import torch

from ..contracts.attention import AttentionBackend, AttentionBatch
from ..contracts.model import Architecture
from ..contracts.speculator import Observed, Speculator
from .forward import forward, needs_lengths
from .slots import SlotTable

__all__ = ("Watch",)

# Of chunks, in one step: the model's and a speculator's.
_PLANS = 2


class Watch:
    """Runs the model, and keeps what a speculator asks to see.

    Args:
        model: with its weights.
        attention: of the model.
        table: the slot table.
        speculator: with the feature ``hidden_states``; None for one without, or for none at all.

    Attributes:
        watches: whether there is such a speculator. Without, no step is shown, whatever is asked.
        exact: whether the host must know how long rows are.
    """

    def __init__(
        self,
        model: Architecture,
        attention: AttentionBackend,
        table: SlotTable,
        speculator: Speculator | None,
    ) -> None:
        self._model = model
        self._attention = attention
        self._table = table
        self._backends = [attention]
        self._layers: tuple[int, ...] | None = None
        if speculator is not None and "hidden_states" in speculator.capabilities.features:
            self._layers = speculator.hidden_layers()
            self._backends += speculator.caches()
        self.watches = self._layers is not None
        self.exact = any(needs_lengths(backend, table.device) for backend in self._backends)
        end = len(model.attention_layers())
        self._shows_end = self._layers is not None and max(self._layers, default=end) >= end
        self._chooses = all(
            "chosen_tokens" in part.capabilities.features for part in (model, attention)
        )
        # A step's geometry has room for the plan of one backend: what is shown has one of its own.
        self.captures_chunks = len(self._backends) <= _PLANS and all(
            "chunk_graphs" in b.capabilities.features for b in self._backends
        )

    def chooses(self, *, shown: bool) -> bool:
        """Whether a step may give the hidden states of chosen tokens alone."""
        return self._chooses and not (shown and self._shows_end)

    def chunk_plans(
        self,
        query_lengths: list[int],
        host_lengths: list[int],
        num_decodes: int,
        num_tokens: int,
        *,
        shown: bool,
    ) -> list[np.ndarray] | None:
        """How each backend divides a step with chunks that is to be captured, if all of them can;
        with ``captures_chunks``, the model's and, of a step that is shown, a speculator's."""
        plans = []
        for backend in self._part(shown=shown):
            plan = backend.chunk_plan(query_lengths, host_lengths, num_decodes, num_tokens)
            if plan is None:
                return None
            plans.append(plan)
        return plans

    def graph_key(
        self, num_rows: int, longest: int, *, shares_prefixes: bool, shown: bool
    ) -> Hashable:
        """What a captured step depends on beside its number of rows."""
        keys = (
            backend.graph_key(num_rows, longest, shares_prefixes=shares_prefixes)
            for backend in self._part(shown=shown)
        )
        return shown and self.watches, *keys

    def forward(
        self,
        token_ids: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        batch: AttentionBatch,
        shown_plan: torch.Tensor | None = None,
        *,
        shown: bool,
        ending: AttentionBatch | None = None,
    ) -> tuple[torch.Tensor, Observed | None]:
        """[T, hidden size] for T tokens, and what to show once the step has drawn.

        Args:
            token_ids: int64 [T].
            slots: int64 [T].
            positions: int64 [T].
            batch: the step's geometry.
            shown_plan: where it has a plan of chunks, the speculator's.
            shown: whether the speculator is to see the step.
            ending: see ``forward``; only where the step ``chooses``.
        """
        taps = _Taps(self._layers) if self._layers and shown else None
        hidden = forward(self._model, self._attention, token_ids, positions, batch, taps, ending)
        if self._layers is None or not shown:
            return hidden, None
        seen = hidden if taps is None else taps.kept()
        table = self._table
        if batch.chunk_plan is not None:
            batch = replace(batch, chunk_plan=shown_plan)
        return hidden, Observed(slots, positions, seen, table.tokens, table.lengths, batch)

    def _part(self, *, shown: bool) -> list[AttentionBackend]:
        """The backends that a step needs."""
        return self._backends if shown else self._backends[:1]


class _Taps:
    """Keeps copies of some layers' inputs, side by side."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self._layers = layers
        self._kept: torch.Tensor | None = None

    def __call__(self, layer: int, x: torch.Tensor) -> None:
        if layer not in self._layers:
            return
        tokens, width = x.shape
        if self._kept is None:
            self._kept = x.new_empty(tokens, len(self._layers) * width)
        first = self._layers.index(layer) * width
        self._kept[:, first : first + width] = x

    def kept(self) -> torch.Tensor:
        """[T, layers * hidden size]."""
        if self._kept is None:
            raise RuntimeError("the model shows no hidden states")
        return self._kept
