"""A draft model: a smaller one with the same vocabulary runs ahead.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import torch

from ...core.config import SpeculationConfig, draft_config
from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.model import Attend
from ...core.contracts.speculator import Drafting, Speculator, SpeculatorContext, made_for
from ...core.errors import ConfigError
from ...core.registry import Registry
from ...core.run.forward import forward
from ...core.run.graph_sizes import graph_rows
from ...core.source import Source, locate
from .passes import Pass
from .single_tokens import Stepper, send

__all__ = ("DraftModel",)

# Tokens of a sequence that a draft model has not computed after all of its drafts were accepted:
# the last draft, and the token drawn behind it.
_BEHIND = 2


class DraftModel(Speculator):
    """Drafts one token after the other, each drawn as the request would draw it.

    The model's cache uses the blocks of the sequences, and is filled when drafts are first asked
    for: computed tokens catch up with known ones here as in the engine.
    """

    capabilities = Capabilities(features=frozenset({"overlap", "graphs", "rehearsed"}))

    @classmethod
    def check(cls, config: SpeculationConfig, target: Source, registry: Registry) -> None:
        if config.model is None:
            raise ConfigError(
                "speculation.method 'draft_model' needs speculation.model: a checkpoint with the "
                "same tokenizer as the model's"
            )
        source = locate(draft_config(config), registry)
        other = made_for(source, registry)
        if other is not None:
            raise ConfigError(
                f"speculation.model {config.model!r} is made for the method {other!r}, and "
                f"speculation.method is 'draft_model'; make it {other!r}, or leave it out"
            )
        registry.get("model", source.architecture())
        if source.vocab_size() != target.vocab_size():
            raise ConfigError(
                f"speculation.model {config.model!r} has a vocabulary of {source.vocab_size()} and "
                f"the model one of {target.vocab_size()}; drafts need the same tokenizer"
            )

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        self._model, self._attention = context.open_model(draft_config(config))
        self._block_size = context.block_size
        self._max_tokens = context.max_tokens
        self._stepper = Stepper(context, self._attention, _BEHIND * graph_rows(context.max_slots))
        self._first = Pass(context, self._attention, self._logits_of_seconds)
        self._next = Pass(context, self._attention, self._logits)
        self._on_host = context.device.type == "cpu"
        # Leading tokens of each slot whose keys and values are in the cache, at least; and with
        # them the drafts of the last call, if they were right.
        self._computed = np.zeros(context.max_slots, dtype=np.int64)
        self._drafted = np.zeros(context.max_slots, dtype=np.int64)

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
        longest = self._stepper.lengths(drafting)
        lacks_one = self._on_host and self._lacks_one(drafting, longest)
        # Of the last two tokens of each row the first may be computed already.
        count, first = (1, self._next) if lacks_one else (_BEHIND, self._first)
        tokens = self._stepper.siblings(drafting, count, longest)
        return self._stepper.chain(
            drafting,
            first(tokens.batch, tokens.token_ids, tokens.positions),
            lambda tokens: self._next(tokens.batch, tokens.token_ids, tokens.positions),
            behind=0,
            longest=longest,
        )

    def _lacks_one(self, drafting: Drafting, longest: np.ndarray) -> bool:
        """Whether only the last token of each row is not computed, as a host can know that looks
        at lengths: where the last draft was wrong, those before it are computed."""
        host = drafting.host
        right = longest - 1 <= self._drafted[host.slots]
        self._drafted[host.slots] = longest + host.wanted - 1
        return bool(((host.verified > 0) & right).all())

    def _logits_of_seconds(
        self, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        hidden = self._model.forward(token_ids, positions, attend)
        return self._model.logits(hidden[_BEHIND - 1 :: _BEHIND])

    def _logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        return self._model.logits(self._model.forward(token_ids, positions, attend))

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
        sent = send(np.concatenate(parts), drafting.slots.device)
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
            host_lengths=(self._stepper.lengths(drafting)[chosen] + count - start).tolist(),
        )
        token_ids = drafting.tokens[slots, positions].long()
        forward(self._model, self._attention, token_ids, positions, batch)
