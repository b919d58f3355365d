"""Sampling parameters by slot, and the tensors that a batch of slots needs of them.

Where kernels draw, they read the parameters from a table on the device. Everything else stays on
the host: tensors are made for one list of slots and used again while steps keep that list, so a
steady decode step touches no parameter and copies none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..step import Newcomer
from .sample_edits import Allowed, BadWords, Bias, EarlyStops, Edits, Penalties
from .sample_random import stream_of
from .sample_table import FILTERED, PARAMETERS, SAMPLED, ParameterTable

__all__ = ("RandomDraws", "SamplingRows", "Selection")

# Lists of slots whose tensors are kept: steps that verify drafts and draw some take turns.
_SELECTIONS = 16
_FLOATS = ("temperature", "top_p", "min_score", "repetition", "presence", "frequency")
_INTEGERS = ("stream", "top_k", "num_prompt")


@dataclass(frozen=True, slots=True)
class RandomDraws:
    """How R rows of a batch draw with torch's operators.

    Attributes:
        rows: int64 [R], which of the batch; empty when all are greedy.
        streams: int64 [R], of random numbers.
        temperature: float32 [R, 1].
        filtered: int64 [F], which of the R have a top_k or top_p; None where none has.
        top_k: int64 [F].
        top_p: float64 [F].
        min_score: float32 [R, 1], log of min_p; None where no row has one.
    """

    rows: torch.Tensor
    streams: torch.Tensor
    temperature: torch.Tensor
    filtered: torch.Tensor | None
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_score: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a batch of M slots asks for.

    Attributes:
        edits: of the logits; None where no row asks.
        draws: None where kernels draw.
        filters: whether a row draws with top_k, top_p or min_p.
        logprobs: alternatives asked for by each row that reports log-probabilities.
        logprob_rows: these rows, int64 on the device and as a list.
    """

    edits: Edits | None
    draws: RandomDraws | None
    filters: bool
    logprobs: list[int]
    logprob_rows: tuple[torch.Tensor, list[int]]


class SamplingRows:
    """One row of parameters a slot.

    Args:
        max_slots: rows.
        vocab_size: token ids beyond it are dropped, since the device cannot address them.
        device: of the tensors in a selection.
        table: filled as well, where kernels draw.
    """

    def __init__(
        self,
        *,
        max_slots: int,
        vocab_size: int,
        device: torch.device,
        table: ParameterTable | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.device = device
        self._table = table
        self._values: dict[str, np.ndarray] = {
            **{name: np.zeros(max_slots, dtype=np.float64) for name in _FLOATS},
            **{name: np.zeros(max_slots, dtype=np.int64) for name in _INTEGERS},
        }
        self._sampled: set[int] = set()
        self._filtered: set[int] = set()
        self._min_p: set[int] = set()
        self._penalised: set[int] = set()
        self._logprobs: dict[int, int] = {}
        self._bias: dict[int, list[tuple[int, float]]] = {}
        self._allowed: dict[int, list[int]] = {}
        self._early_stops: dict[int, list[tuple[int, int]]] = {}
        self._bad_words: dict[int, list[list[int]]] = {}
        self._selections: dict[tuple[int, ...], Selection] = {}

    def enter(self, newcomer: Newcomer) -> None:
        """Replace a slot's parameters by a newcomer's."""
        slot, params, size = newcomer.slot, newcomer.params, self.vocab_size
        # The one best token is the greedy one; drawing it would need no less work.
        sampled = not params.greedy and params.top_k != 1
        top_k = params.top_k if 0 < params.top_k < size else size
        row: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_score": np.log(params.min_p) if params.min_p > 0 else -np.inf,
            "repetition": params.repetition_penalty,
            "presence": params.presence_penalty,
            "frequency": params.frequency_penalty,
            "stream": stream_of(newcomer.seed),
            "top_k": top_k,
            "num_prompt": newcomer.num_prompt,
        }
        for name, value in row.items():
            self._values[name][slot] = value
        if self._table is not None:
            filters = top_k < size or params.top_p < 1 or params.min_p > 0
            flags = (SAMPLED | (FILTERED if filters else 0)) if sampled else 0
            names = PARAMETERS.names or ()
            values = tuple((row | {"flags": flags})[name] for name in names)
            self._table.enter(slot, np.array(values, dtype=PARAMETERS))
        penalties = params.presence_penalty or params.frequency_penalty
        _mark(self._sampled, slot, sampled)
        _mark(self._filtered, slot, sampled and (top_k < size or params.top_p < 1))
        _mark(self._min_p, slot, sampled and params.min_p > 0)
        _mark(self._penalised, slot, bool(penalties) or params.repetition_penalty != 1)
        first_stop = newcomer.num_prompt + params.min_tokens
        stops = [(token, first_stop) for token in newcomer.stop_ids if token < size]
        bias = (params.logit_bias or {}).items()
        bad_words = [word for word in newcomer.bad_word_ids if word and max(word) < size]
        _keep(self._bias, slot, [(token, value) for token, value in bias if token < size])
        _keep(self._early_stops, slot, stops if params.min_tokens else [])
        _keep(self._bad_words, slot, bad_words)
        self._allowed.pop(slot, None)
        if params.allowed_token_ids is not None:
            self._allowed[slot] = [t for t in params.allowed_token_ids if t < size]
        self._logprobs.pop(slot, None)
        if params.logprobs is not None:
            self._logprobs[slot] = params.logprobs
        self._selections.clear()

    def select(self, slots: list[int]) -> Selection:
        """The tensors for these slots, in this order."""
        key = tuple(slots)
        found = self._selections.get(key)
        if found is not None:
            return found
        asking = [row for row, slot in enumerate(slots) if slot in self._logprobs]
        selection = Selection(
            edits=self._edits(slots),
            draws=self._draws(slots) if self._table is None else None,
            filters=self.filters(slots),
            logprobs=[self._logprobs[slots[row]] for row in asking],
            logprob_rows=(self._tensor(asking), asking),
        )
        if len(self._selections) == _SELECTIONS:
            self._selections.clear()
        self._selections[key] = selection
        return selection

    def filters(self, slots: list[int]) -> bool:
        """Whether one of these slots draws with top_k, top_p or min_p."""
        return not (self._filtered.isdisjoint(slots) and self._min_p.isdisjoint(slots))

    def plain(self, slots: list[int]) -> bool:
        """Whether none of these slots edits its logits or reports log-probabilities."""
        asking = (
            self._penalised,
            self._bias.keys(),
            self._allowed.keys(),
            self._early_stops.keys(),
            self._bad_words.keys(),
            self._logprobs.keys(),
        )
        return all(not members or members.isdisjoint(slots) for members in asking)

    def _draws(self, slots: list[int]) -> RandomDraws:
        sampled = [row for row, slot in enumerate(slots) if slot in self._sampled]
        drawing = [slots[row] for row in sampled]
        filtered = [row for row, slot in enumerate(drawing) if slot in self._filtered]
        filtering = [drawing[row] for row in filtered]
        min_p = not self._min_p.isdisjoint(drawing)
        return RandomDraws(
            rows=self._tensor(sampled),
            streams=self._column("stream", drawing),
            temperature=self._column("temperature", drawing, torch.float32).unsqueeze(-1),
            filtered=self._tensor(filtered) if filtered else None,
            top_k=self._column("top_k", filtering),
            top_p=self._column("top_p", filtering),
            min_score=(
                self._column("min_score", drawing, torch.float32).unsqueeze(-1) if min_p else None
            ),
        )

    def _edits(self, slots: list[int]) -> Edits | None:
        made: dict[str, Any] = {}
        groups: tuple[tuple[str, Iterable[int], Callable[[list[int], list[int]], Any]], ...] = (
            ("bias", self._bias, self._make_bias),
            ("allowed", self._allowed, self._make_allowed),
            ("early_stops", self._early_stops, self._make_early_stops),
            ("bad_words", self._bad_words, self._make_bad_words),
            ("penalties", self._penalised, self._make_penalties),
        )
        for name, asking, make in groups:
            rows = [row for row, slot in enumerate(slots) if slot in asking] if asking else []
            if rows:
                made[name] = make(rows, slots)
        return Edits(**made) if made else None

    def _make_bias(self, rows: list[int], slots: list[int]) -> Bias:
        entries = [(row, *entry) for row in rows for entry in self._bias[slots[row]]]
        at, ids, values = zip(*entries, strict=True)
        return Bias(self._tensor(at), self._tensor(ids), self._tensor(values, np.float32))

    def _make_allowed(self, rows: list[int], slots: list[int]) -> Allowed:
        entries = [(row, token) for row in rows for token in self._allowed[slots[row]]]
        at = [row for row, _ in entries]
        ids = [token for _, token in entries]
        return Allowed(self._tensor(rows), self._tensor(at), self._tensor(ids))

    def _make_early_stops(self, rows: list[int], slots: list[int]) -> EarlyStops:
        entries = [(row, *entry) for row in rows for entry in self._early_stops[slots[row]]]
        at, ids, until = zip(*entries, strict=True)
        return EarlyStops(self._tensor(at), self._tensor(ids), self._tensor(until))

    def _make_bad_words(self, rows: list[int], slots: list[int]) -> BadWords:
        entries = [(row, word) for row in rows for word in self._bad_words[slots[row]]]
        width = max(len(word) - 1 for _, word in entries)
        prefix = [[-1] * (width - len(word) + 1) + word[:-1] for _, word in entries]
        at = [row for row, _ in entries]
        return BadWords(
            rows=self._tensor(at),
            last=self._tensor([word[-1] for _, word in entries]),
            prefix=self._tensor(prefix).view(len(entries), width),
        )

    def _make_penalties(self, rows: list[int], slots: list[int]) -> Penalties:
        chosen = [slots[row] for row in rows]
        return Penalties(
            rows=self._tensor(rows),
            num_prompt=self._column("num_prompt", chosen).unsqueeze(-1),
            repetition=self._column("repetition", chosen, torch.float32).unsqueeze(-1),
            presence=self._column("presence", chosen, torch.float32).unsqueeze(-1),
            frequency=self._column("frequency", chosen, torch.float32).unsqueeze(-1),
        )

    def _column(
        self, name: str, slots: list[int], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        column = self._send(self._values[name][slots])
        return column if dtype is None else column.to(dtype)

    def _tensor(self, values: Any, dtype: Any = np.int64) -> torch.Tensor:
        return self._send(np.array(values, dtype=dtype))

    def _send(self, array: np.ndarray) -> torch.Tensor:
        """To the device; from ordinary memory the host would wait for what runs there."""
        values = torch.from_numpy(array)
        if self.device.type == "cuda" and len(array):
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)


def _mark(members: set[int], slot: int, belongs: bool) -> None:
    (members.add if belongs else members.discard)(slot)


def _keep(table: dict[int, Any], slot: int, entries: list[Any]) -> None:
    if entries:
        table[slot] = entries
    else:
        table.pop(slot, None)
