"""Speculators: proposals of the right shape, row by row, with nothing left of who was there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch

from ..config import SpeculationConfig
from ..contracts.attention import AttentionBatch, AttentionSpec
from ..contracts.model import Architecture, Attend, BuildContext, LastLayer, Tap, TensorHolder
from ..contracts.speculator import Drafting, HostRows, Observed, Speculator, SpeculatorContext
from ..run.reading import Reading
from ..run.staging import Staging
from .report import Unchecked, require

__all__ = ("check_speculator", "make_context")

Factory = Callable[[SpeculationConfig, SpeculatorContext], Speculator]

_LOOP = [5, 6, 7, 8] * 6
_OTHER = [9, 9, 2, 1, 9, 9, 2, 1, 9, 9]
_LONE = [3]
_SLOTS = 4
_MOST = 4
_LENGTH = 64
_BLOCK = 4
_VOCABULARY = 16


def make_context(**changes: Any) -> SpeculatorContext:
    """What the suite builds a speculator with: small, on the host, and without checkpoints."""
    context = SpeculatorContext(
        device=torch.device("cpu"),
        max_slots=_SLOTS,
        max_model_len=_LENGTH,
        max_tokens=32,
        vocab_size=_VOCABULARY,
        block_size=_BLOCK,
        model=_Echo(),
        open_model=_no_checkpoint,
        open_module=_no_checkpoint,
    )
    return replace(context, **changes)


def check_speculator(
    factory: Factory,
    *,
    config: SpeculationConfig | None = None,
    context: SpeculatorContext | None = None,
) -> None:
    """Check a speculator on sequences that repeat themselves and on one that does not.

    Args:
        factory: the class, or whatever makes one from a configuration and a context.
        config: its section.
        context: from ``make_context``, for one that opens checkpoints. Its model runs without
            attention, and a speculator may be shown what comes of that.

    Raises:
        ConformanceError: naming the first broken promise.
        Unchecked: for a speculator with a checkpoint, where the context opens none.
    """
    config, context = config or SpeculationConfig(method="checked"), context or make_context()

    def make() -> _Table:
        with torch.inference_mode():
            speculator = factory(config, context)
        return _Table(speculator, context)

    _check_batches(make())
    _check_independence(make)
    _check_life(make())
    _check_forgetting(make)


class _Seen:
    """Keeps all hidden states."""

    def __init__(self) -> None:
        self.layers: dict[int, torch.Tensor] = {}

    def __call__(self, layer: int, x: torch.Tensor) -> None:
        self.layers[layer] = x.clone()


def _attend_to_nothing(
    layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotation: Any = None
) -> torch.Tensor:
    return torch.zeros_like(q).flatten(1)


class _Echo(Architecture):
    """A model of one layer, whose hidden states are the token as one of many."""

    @classmethod
    def build(cls, config: dict[str, Any], context: BuildContext) -> _Echo:
        return cls()

    def attention_layers(self) -> list[AttentionSpec]:
        return [AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=2, scale=1.0)]

    def holders(self) -> list[TensorHolder]:
        return []

    def ignores(self, name: str) -> bool:
        return False

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(token_ids, _VOCABULARY).float()

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        tap: Tap | None = None,
        last: LastLayer | None = None,
    ) -> torch.Tensor:
        x = self.embed(token_ids)
        for layer in (0, 1):
            if tap is not None:
                tap(layer, x)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class _Table:
    """A slot table around a speculator, with blocks for every position."""

    def __init__(self, speculator: Speculator, context: SpeculatorContext) -> None:
        self.vocab_size = context.vocab_size
        self._speculator = speculator
        self._model = context.model
        reader = speculator.reader()
        self._reading: Reading | None = None
        if reader is not None:
            self._reading = Reading(reader, context.max_tokens, Staging(context.device))
        blocks = -(-(_LENGTH + _MOST) // _BLOCK)
        self._tokens = torch.zeros(_SLOTS + 1, _LENGTH + _MOST, dtype=torch.int32)
        order = torch.arange(1, _SLOTS * blocks + 1, dtype=torch.int32).view(_SLOTS, blocks)
        self._blocks = torch.cat((order, torch.zeros(1, blocks, dtype=torch.int32)))
        self._lengths = [0] * _SLOTS
        self._verified = [0] * _SLOTS
        for backend in speculator.caches():
            backend.allocate(_SLOTS * blocks + 1)

    def enter(self, slot: int, tokens: list[int]) -> None:
        self._lengths[slot] = 0
        self._append(slot, tokens)
        self._verified[slot] = 0
        self._speculator.enter(slot, len(tokens))
        # A prompt may come in parts.
        half = len(tokens) // 2
        for start, end in ((0, half), (half, len(tokens) - 1)):
            self._show(slot, start, end)

    def grow(self, slot: int, tokens: list[int], drafts: int) -> None:
        """Tokens that were drawn while so many drafts were verified."""
        before = self._lengths[slot]
        self._append(slot, tokens)
        self._verified[slot] = drafts
        self._show(slot, before - 1, before + drafts)

    @torch.inference_mode()
    def _show(self, slot: int, start: int, end: int) -> None:
        """Let the speculator see that a step computed these tokens of a slot."""
        if "hidden_states" not in self._speculator.capabilities.features or start >= end:
            return
        positions, count = torch.arange(start, end), end - start
        token_ids, seen = self._tokens[slot, start:end].long(), _Seen()
        hidden = self._model.forward(token_ids, positions, _attend_to_nothing, seen)
        layers = self._speculator.hidden_layers()
        blocks = self._blocks[slot, positions // _BLOCK].long()
        batch = AttentionBatch(
            query_start=torch.tensor([0, count], dtype=torch.int32),
            lengths=torch.tensor([end], dtype=torch.int32),
            block_tables=self._blocks[[slot]],
            write_slots=blocks * _BLOCK + positions % _BLOCK,
            num_decodes=int(count == 1),
            query_lengths=[count],
            host_lengths=[end],
        )
        shown = torch.cat([seen.layers[layer] for layer in layers], -1) if layers else hidden
        self._speculator.observe(
            Observed(
                slots=torch.full((count,), slot),
                positions=positions,
                hidden=shown,
                tokens=self._tokens,
                lengths=torch.tensor([*self._lengths, 1]),
                batch=batch,
            )
        )

    @torch.inference_mode()
    def propose(self, slots: list[int], most: int = _MOST) -> list[list[int]]:
        slack = [self._verified[slot] for slot in slots]
        lengths = np.array([self._lengths[slot] for slot in slots], dtype=np.int64)
        host = HostRows(
            slots=np.array(slots, dtype=np.int64),
            longest=lengths + np.array(slack, dtype=np.int64),
            slack=np.array(slack, dtype=np.int64),
            wanted=np.full(len(slots), most, dtype=np.int64),
            verified=np.array(slack, dtype=np.int64),
        )
        before = self._tokens.clone()
        drafting = Drafting(
            slots=torch.tensor(slots),
            lengths=torch.from_numpy(lengths),
            wanted=torch.from_numpy(host.wanted),
            most=most,
            tokens=self._tokens,
            blocks=self._blocks,
            draw=lambda logits, rows, index: logits.argmax(-1),
            host=host,
        )
        if self._reading is not None:
            self._reading.catch_up(host, self._speculator.lacks(host), lambda: drafting)
        drafts = self._speculator.propose(drafting)
        require(bool((before == self._tokens).all()), "propose changes the slots' tokens")
        return self._checked(drafts, len(slots), most)

    def _append(self, slot: int, tokens: list[int]) -> None:
        start = self._lengths[slot]
        self._lengths[slot] += len(tokens)
        self._tokens[slot, start : self._lengths[slot]] = torch.tensor(tokens)

    def _checked(self, drafts: Any, rows: int, most: int) -> list[list[int]]:
        right = isinstance(drafts, torch.Tensor) and drafts.dtype == torch.int64
        require(right, f"propose must give an int64 tensor, not {drafts!r:.80}")
        shape = list(drafts.shape)
        require(shape == [rows, most], f"propose gave {shape} where [{rows}, {most}] is due")
        chains: list[list[int]] = drafts.tolist()
        for chain in chains:
            size = self.vocab_size
            known = all(-1 <= token < size for token in chain)
            require(known, f"propose gave {chain}, which leaves the vocabulary of {size}")
            ended = chain[chain.index(-1) :] if -1 in chain else []
            require(set(ended) <= {-1}, f"propose gave {chain}, which goes on after its end")
        return chains


def _check_batches(table: _Table) -> None:
    for slot, tokens in {0: _LOOP, 2: _OTHER, 1: _LONE}.items():
        table.enter(slot, tokens)
    for most in (1, _MOST):
        for slots in ([2], [0, 1, 2], [2, 0]):
            table.propose(slots, most)


def _check_independence(make: Callable[[], _Table]) -> None:
    sequences = {0: _LOOP, 2: _OTHER, 1: _LONE}
    table = make()
    for slot, tokens in sequences.items():
        table.enter(slot, tokens)
    for slot, drafts in zip(sequences, table.propose(list(sequences)), strict=True):
        lone = make()
        lone.enter(slot, sequences[slot])
        alone = lone.propose([slot])[0]
        require(
            alone == drafts,
            f"slot {slot} is proposed {alone} alone and {drafts} beside others",
        )


def _check_life(table: _Table) -> None:
    """Sequences grow by all, some and none of what was proposed, for some rounds."""
    table.enter(0, _LOOP)
    table.enter(1, _OTHER)
    for turn in range(10):
        drafts, _ = table.propose([0, 1], 3)
        kept = min(sum(token >= 0 for token in drafts), turn % 4)
        table.grow(0, [*drafts[:kept], 5 + turn % 4], 3)
        table.grow(1, [9], 3)
    table.enter(0, _LONE)
    table.propose([1, 0], 3)


def _check_forgetting(make: Callable[[], _Table]) -> None:
    used, fresh = make(), make()
    used.enter(1, _LOOP)
    used.propose([1])
    used.grow(1, [5, 6], _MOST)
    for table in (used, fresh):
        table.enter(1, _OTHER)
    require(
        used.propose([1]) == fresh.propose([1]),
        "a slot that was given up still knows its former sequence",
    )


def _no_checkpoint(config: Any, build: Any = None) -> NoReturn:
    raise Unchecked("it opens a checkpoint, and none is given to the suite")
