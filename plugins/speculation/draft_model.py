"""A draft model: a smaller one with the same vocabulary runs ahead.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding, arXiv 2211.17192.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

from ...core.config import SpeculationConfig, draft_config
from ...core.contracts.attention import AttentionBackend
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.model import Attend
from ...core.contracts.speculator import (
    Drafting,
    HostRows,
    Reader,
    Speculator,
    SpeculatorContext,
    made_for,
)
from ...core.errors import ConfigError
from ...core.registry import Registry
from ...core.run.graph_sizes import graph_rows
from ...core.source import Source, locate
from .passes import Pass
from .single_tokens import Stepper

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

    def reader(self) -> Reader:
        return Reader(self._model, self._attention, _BEHIND)

    def lacks(self, host: HostRows) -> np.ndarray:
        least = host.longest - host.slack
        behind = np.where(host.verified > 0, 0, host.longest - self._computed[host.slots])
        self._computed[host.slots] = least
        lacking: np.ndarray = np.minimum(behind, least).clip(min=_BEHIND) - _BEHIND
        return lacking

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
