"""A draft model: a smaller one with the same vocabulary runs ahead.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import torch

from ...core.config import ModelConfig, SpeculationConfig
from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.speculator import Drafting, Speculator, SpeculatorContext
from ...core.errors import ConfigError
from ...core.registry import Registry
from ...core.run.forward import forward
from ...core.source import Source, locate

__all__ = ("DraftModel",)

# Tokens of a sequence that a draft model has not computed after all of its drafts were accepted:
# the last draft, and the token drawn behind it.
_BEHIND = 2


class DraftModel(Speculator):
    """Drafts one token after the other, each drawn as the request would draw it.

    The model's cache uses the blocks of the sequences, and is filled when drafts are first asked
    for: computed tokens catch up with known ones here as in the engine.
    """

    capabilities = Capabilities(features=frozenset({"overlap", "graphs"}))

    @classmethod
    def check(cls, config: SpeculationConfig, target: Source, registry: Registry) -> None:
        if config.model is None:
            raise ConfigError(
                "speculation.method 'draft_model' needs speculation.model: a checkpoint with the "
                "same tokenizer as the model's"
            )
        source = locate(_as_model(config), registry)
        registry.get("model", source.architecture())
        if source.vocab_size() != target.vocab_size():
            raise ConfigError(
                f"speculation.model {config.model!r} has a vocabulary of {source.vocab_size()} and "
                f"the model one of {target.vocab_size()}; drafts need the same tokenizer"
            )

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        self._model, self._attention = context.open_model(_as_model(config))
        self._block_size = context.block_size
        self._max_tokens = context.max_tokens
        self._last_position = context.max_model_len - 1
        self._exact = (
            context.device.type == "cpu" or "graphs" not in self._attention.capabilities.features
        )
        # Leading tokens of each slot whose keys and values are in the cache, at least.
        self._computed = np.zeros(context.max_slots, dtype=np.int64)

    def caches(self) -> list[AttentionBackend]:
        return [self._attention]

    def enter(self, slot: int, num_tokens: int) -> None:
        self._computed[slot] = 0

    def graph_key(self, num_rows: int, longest: int) -> Hashable:
        key = self._attention.graph_key
        return key(_BEHIND * num_rows, longest, shares_prefixes=True), key(num_rows, longest)

    def prepare(self, drafting: Drafting) -> None:
        """Compute what a sequence knows, but for its last tokens."""
        host = drafting.host
        least = host.longest - host.slack
        behind = np.where(host.verified > 0, _BEHIND, host.longest - self._computed[host.slots])
        behind = np.clip(behind, 1, least)
        self._computed[host.slots] = least
        late = np.flatnonzero(behind > _BEHIND)
        for rows, starts, counts in self._pieces(late, behind):
            self._fill(drafting, rows, starts, counts)

    def propose(self, drafting: Drafting) -> torch.Tensor:
        longest = self._lengths(drafting)
        rows = torch.arange(len(longest), device=drafting.slots.device)
        # The last two tokens of each row: the first of them may be computed already.
        both = rows.repeat_interleave(_BEHIND, output_size=_BEHIND * len(longest))
        second = torch.arange(len(both), device=both.device) % _BEHIND
        positions = (drafting.lengths[both] + second - _BEHIND).clamp(min=0)
        bounds = np.repeat(longest, _BEHIND) - np.tile((1, 0), len(longest))
        token_ids = drafting.tokens[drafting.slots[both], positions].long()
        hidden = self._run(drafting, both, positions, token_ids, np.maximum(bounds, 1), True)
        chain = [drafting.draw(self._model.logits(hidden[_BEHIND - 1 :: _BEHIND]), None, 0)]
        for index in range(1, drafting.most):
            active = self._active(drafting, index)
            chosen = rows if active is None else active
            positions = (drafting.lengths + (index - 1)).clamp(max=self._last_position)[chosen]
            bounds = (longest + index)[drafting.host.wanted > index]
            last = chain[-1][chosen].clamp(min=0)
            hidden = self._run(drafting, chosen, positions, last, bounds, False, index)
            drawn = drafting.draw(self._model.logits(hidden), active, index)
            if active is not None:
                drawn = torch.full_like(rows, -1).index_copy_(0, active, drawn)
            chain.append(drawn)
        return torch.stack(chain, 1)

    def _active(self, drafting: Drafting, index: int) -> torch.Tensor | None:
        """Rows that want so many drafts and one more; None for all of them."""
        wanted = drafting.host.wanted > index
        if wanted.all():
            return None
        return _send(np.flatnonzero(wanted), drafting.slots.device)

    def _run(
        self,
        drafting: Drafting,
        rows: torch.Tensor,
        positions: torch.Tensor,
        token_ids: torch.Tensor,
        longest: np.ndarray,
        siblings: bool,
        index: int = 0,
    ) -> torch.Tensor:
        """Hidden states of single tokens, each of a row of the call.

        Beyond the drafts that a row can use, positions only must exist: nothing is kept there.
        """
        tables = drafting.blocks[drafting.slots[rows]]
        size, count = self._block_size, len(rows)
        blocks = tables.gather(1, (positions // size).unsqueeze(-1)).squeeze(-1).long()
        kept = index < drafting.wanted[rows]
        batch = AttentionBatch(
            query_start=torch.arange(count + 1, dtype=torch.int32, device=rows.device),
            lengths=(positions + 1).to(torch.int32),
            block_tables=tables,
            write_slots=torch.where(kept, blocks * size + positions % size, 0),
            num_decodes=count,
            query_lengths=[1] * count,
            host_lengths=longest.tolist(),
            shares_prefixes=siblings,
            siblings=siblings,
        )
        return forward(self._model, self._attention, token_ids, positions, batch)

    def _lengths(self, drafting: Drafting) -> np.ndarray:
        """Tokens of each row, or bounds where the attention needs no more."""
        return drafting.lengths.cpu().numpy() if self._exact else drafting.host.longest

    def _pieces(
        self, late: np.ndarray, behind: np.ndarray
    ) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Rows, how far from their ends they start, and tokens: no more at once than a step has."""
        rows: list[int] = []
        starts: list[int] = []
        counts: list[int] = []
        for row in late.tolist():
            left = int(behind[row])
            while left > _BEHIND:
                room = self._max_tokens - sum(counts)
                if not room or row in rows:
                    yield rows, starts, counts
                    rows, starts, counts = [], [], []
                    continue
                count = min(left - _BEHIND, room)
                rows.append(row)
                starts.append(left)
                counts.append(count)
                left -= count
        if rows:
            yield rows, starts, counts

    def _fill(
        self, drafting: Drafting, rows: list[int], starts: list[int], counts: list[int]
    ) -> None:
        """Compute ``counts`` tokens of each row from ``starts`` before its end on."""
        order = sorted(range(len(rows)), key=lambda at: counts[at] > 1)
        chosen = np.array(rows)[order]
        count, start = np.array(counts)[order], np.array(starts)[order]
        offsets = np.concatenate(([0], np.cumsum(count)))
        shift = np.arange(offsets[-1]) - np.repeat(offsets[:-1] + start, count)
        parts = (np.repeat(chosen, count), shift, chosen, offsets, count - start)
        sent = _send(np.concatenate(parts), drafting.slots.device)
        row_of, shifts, which, query_start, ends = torch.split_with_sizes(sent, [*map(len, parts)])
        positions = drafting.lengths[row_of] + shifts
        slots = drafting.slots[row_of]
        blocks = drafting.blocks[slots, positions // self._block_size].long()
        batch = AttentionBatch(
            query_start=query_start.to(torch.int32),
            lengths=(drafting.lengths[which] + ends).to(torch.int32),
            block_tables=drafting.blocks[drafting.slots[which]],
            write_slots=blocks * self._block_size + positions % self._block_size,
            num_decodes=int((count == 1).sum()),
            query_lengths=count.tolist(),
            host_lengths=(self._lengths(drafting)[chosen] + count - start).tolist(),
        )
        token_ids = drafting.tokens[slots, positions].long()
        forward(self._model, self._attention, token_ids, positions, batch)


def _as_model(config: SpeculationConfig) -> ModelConfig:
    return ModelConfig(
        name=config.model or "",
        revision=config.revision,
        quantization=config.quantization or "auto",
    )


def _send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """int64 on the device, without waiting for it."""
    sent = torch.from_numpy(values)
    if device.type == "cuda":
        sent = sent.pin_memory()
    return sent.to(device, non_blocking=True)
