"""A draft model: a smaller one with the same vocabulary runs ahead.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192.
"""

from __future__ import annotations

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

    Drawing with the request's own parameters and random numbers makes drafts and draws fall
    together more often than taking the likeliest token does. The model's cache uses the blocks of
    the sequences, and is filled when drafts are first asked for: computed tokens catch up with
    known ones here as in the engine.
    """

    capabilities = Capabilities(features=frozenset({"overlap"}))

    @classmethod
    def check(cls, config: SpeculationConfig, target: Source, registry: Registry) -> None:
        if config.model is None:
            raise ConfigError(
                "speculation.method 'draft_model' needs speculation.model: a checkpoint with the "
                "same tokenizer as the model's"
            )
        source = _locate(config, registry)
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
        self._exact = (
            context.device.type == "cpu" or "graphs" not in self._attention.capabilities.features
        )
        # Leading tokens of each slot whose keys and values are in the cache, at least.
        self._computed = np.zeros(context.max_slots, dtype=np.int64)

    def caches(self) -> list[AttentionBackend]:
        return [self._attention]

    def enter(self, slot: int, num_tokens: int) -> None:
        self._computed[slot] = 0

    def propose(self, drafting: Drafting) -> torch.Tensor:
        host = drafting.host
        least = host.longest - host.slack
        behind = np.where(host.verified > 0, _BEHIND, host.longest - self._computed[host.slots])
        behind = np.clip(behind, 1, least)
        self._computed[host.slots] = least
        longest = drafting.lengths.cpu().numpy() if self._exact else host.longest
        rows = _Rows(drafting, longest, self._block_size)
        hidden = self._catch_up(rows, behind)
        chain = [drafting.draw(self._model.logits(hidden), rows.active, 0)]
        for index in range(1, drafting.most):
            hidden = self._run(rows.next(chain[-1], index))
            drawn = drafting.draw(self._model.logits(hidden), rows.active, index)
            chain.append(rows.spread(drawn))
        return torch.stack(chain, 1)

    def _catch_up(self, rows: _Rows, behind: np.ndarray) -> torch.Tensor:
        """Compute each row's last ``behind`` tokens: the hidden state of the last, [N, size]."""
        if behind.sum() > self._max_tokens:
            # A few at a time, and with nothing drawn from them.
            for index in np.flatnonzero(behind > _BEHIND):
                for left in range(int(behind[index]), _BEHIND, -self._max_tokens):
                    count = min(self._max_tokens, left - _BEHIND)
                    self._run(rows.last(np.array([index]), np.array([left]), np.array([count])))
            behind = np.minimum(behind, _BEHIND)
        order = np.argsort(behind > 1, kind="stable")
        counts = behind[order]
        hidden = self._run(rows.last(order, counts, counts))
        ends = np.empty_like(order)
        ends[order] = np.cumsum(counts) - 1
        return hidden[rows.send(ends)]

    def _run(self, inputs: tuple[torch.Tensor, torch.Tensor, AttentionBatch]) -> torch.Tensor:
        token_ids, positions, batch = inputs
        return forward(self._model, self._attention, token_ids, positions, batch)


class _Rows:
    """The rows of a call, as batches for the draft model.

    Attributes:
        active: int64 [A], the rows that want more drafts; None for all of them.

    Args:
        drafting: the call.
        longest: int64 [N], tokens of each row, or bounds from above.
        block_size: tokens a block.
    """

    def __init__(self, drafting: Drafting, longest: np.ndarray, block_size: int) -> None:
        self.active: torch.Tensor | None = None
        self._drafting = drafting
        self._longest = longest
        self._block_size = block_size
        self._device = drafting.slots.device
        self._tables = drafting.blocks[drafting.slots]

    def send(self, values: np.ndarray) -> torch.Tensor:
        """int64 on the device, without waiting for it."""
        sent = torch.from_numpy(values)
        if self._device.type == "cuda":
            sent = sent.pin_memory()
        return sent.to(self._device, non_blocking=True)

    def last(
        self, order: np.ndarray, behind: np.ndarray, counts: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
        """Tokens, positions and geometry of ``counts`` tokens that begin ``behind`` the end."""
        offsets = np.concatenate(([0], np.cumsum(counts)))
        row_of = np.repeat(order, counts)
        shift = np.arange(offsets[-1]) - np.repeat(offsets[:-1] + behind, counts)
        rows, shifts, chosen, starts, ends = torch.split_with_sizes(
            self.send(np.concatenate((row_of, shift, order, offsets, counts - behind))),
            [len(row_of), len(row_of), len(order), len(offsets), len(order)],
        )
        drafting = self._drafting
        positions = drafting.lengths[rows] + shifts
        batch = AttentionBatch(
            query_start=starts.to(torch.int32),
            lengths=(drafting.lengths[chosen] + ends).to(torch.int32),
            block_tables=self._tables[chosen],
            write_slots=self._write_slots(self._tables[rows], positions),
            num_decodes=int((counts == 1).sum()),
            query_lengths=counts.tolist(),
            host_lengths=(self._longest[order] + counts - behind).tolist(),
        )
        return drafting.tokens[drafting.slots[rows], positions].long(), positions, batch

    def next(
        self, drafts: torch.Tensor, index: int
    ) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
        """The same for one more token of each active row: the draft before the one ``index``."""
        active = np.flatnonzero(self._drafting.host.wanted > index)
        lengths, tables = self._drafting.lengths, self._tables
        self.active = None
        if len(active) < len(drafts):
            self.active = self.send(active)
            drafts, lengths, tables = (
                drafts[self.active],
                lengths[self.active],
                tables[self.active],
            )
        positions = lengths + (index - 1)
        batch = AttentionBatch(
            query_start=torch.arange(len(active) + 1, dtype=torch.int32, device=self._device),
            lengths=(positions + 1).to(torch.int32),
            block_tables=tables,
            write_slots=self._write_slots(tables, positions),
            num_decodes=len(active),
            query_lengths=[1] * len(active),
            host_lengths=(self._longest[active] + index).tolist(),
        )
        return drafts.clamp(min=0), positions, batch

    def spread(self, drawn: torch.Tensor) -> torch.Tensor:
        """Drafts of the active rows as drafts of all rows."""
        if self.active is None:
            return drawn
        return torch.full_like(self._drafting.slots, -1).index_copy_(0, self.active, drawn)

    def _write_slots(self, tables: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        size = self._block_size
        blocks = tables.gather(1, (positions // size).unsqueeze(-1)).squeeze(-1)
        return blocks.long() * size + positions % size


def _as_model(config: SpeculationConfig) -> ModelConfig:
    return ModelConfig(
        name=config.model or "", revision=config.revision, quantization=config.quantization
    )


def _locate(config: SpeculationConfig, registry: Registry) -> Source:
    return locate(_as_model(config), registry)
