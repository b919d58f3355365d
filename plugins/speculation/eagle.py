"""EAGLE: a small head goes on from the model's own hidden states.

Li et al., EAGLE, arXiv 2401.15077, and EAGLE-3, arXiv 2503.01840. Drafts are chains.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import torch

from ...core.config import SpeculationConfig, draft_config
from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.model import Attend
from ...core.contracts.speculator import Drafting, Observed, Speculator, SpeculatorContext
from ...core.errors import ConfigError
from ...core.registry import Registry
from ...core.run.forward import attending
from ...core.run.graph_sizes import graph_rows
from ...core.source import Source, locate
from .eagle_heads import Eagle1Head, Eagle3Head, Head, head_config, version_of
from .passes import Pass
from .single_tokens import SingleTokens, Stepper

__all__ = ("Eagle", "Eagle3")

# Of the model, an entry of the head's cache is made of a token's hidden state and of the token
# after it; it stands where that of the former stands in the model's cache.
_BEHIND = 1
# On a CPU, where shapes may depend on values: tokens above which no more than their entries is
# computed of all but the last ones.
_FEW_TOKENS = 16


class Eagle(Speculator):
    """Fills the head's cache along with the model's, from the hidden states of steps.

    An entry stands in the block of the token whose hidden state it is made of, and so is there for
    every sequence that shares the block. Only the last entry of a block depends on a token behind
    it: a sequence that goes on in another way than the one that wrote the block finds that token's
    entry there, which may cost a draft and never a result.
    """

    capabilities = Capabilities(
        features=frozenset({"overlap", "graphs", "hidden_states", "rehearsed"})
    )
    method: ClassVar[str] = "eagle"
    version: ClassVar[int] = 1
    head_class: ClassVar[type[Head]] = Eagle1Head

    @classmethod
    def recognises(cls, source: Source) -> bool:
        return version_of(source) == cls.version

    @classmethod
    def check(cls, config: SpeculationConfig, target: Source, registry: Registry) -> None:
        if config.model is None:
            raise ConfigError(
                f"speculation.method {cls.method!r} needs speculation.model: an EAGLE head that "
                "was trained for the model"
            )
        source = locate(draft_config(config), registry)
        version = version_of(source)
        if version is None:
            raise ConfigError(
                f"speculation.model {config.model!r} is no EAGLE head, and speculation.method is "
                f"{cls.method!r}; leave the method out for an ordinary draft model"
            )
        if version != cls.version:
            other = "eagle" if version == 1 else "eagle3"
            raise ConfigError(
                f"speculation.model {config.model!r} is a head of EAGLE-{version}, and "
                f"speculation.method is {cls.method!r}; make it {other!r}, or leave it out"
            )
        vocabulary = head_config(source).get("vocab_size")
        if vocabulary != target.vocab_size():
            raise ConfigError(
                f"speculation.model {config.model!r} has a vocabulary of {vocabulary} and the "
                f"model one of {target.vocab_size()}; it was trained for another model"
            )

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        with torch.inference_mode():
            one = context.model.embed(torch.zeros(1, dtype=torch.int64, device=context.device))
        size = one.shape[-1]
        self._head, self._attention = context.open_module(
            draft_config(config),
            lambda source, build: self.head_class(source, build, context.model, size),
        )
        self._layers = self._head.hidden_layers(len(context.model.attention_layers()))
        self._stepper = Stepper(context, self._attention, graph_rows(context.max_slots))
        self._begin = Pass(context, self._attention, self._from_model)
        self._next = Pass(context, self._attention, self._from_itself)
        self._padding = context.max_slots
        self._on_host = context.device.type == "cpu"
        # What the head makes of each slot's last token; the last row is nobody's.
        self._last = one.new_zeros(context.max_slots + 1, self._head.spec.hidden_size)

    def caches(self) -> list[AttentionBackend]:
        return [self._attention]

    def hidden_layers(self) -> tuple[int, ...]:
        return self._layers

    def graph_key(self, num_rows: int, longest: int) -> Hashable:
        return self._attention.graph_key(num_rows, longest)

    def observe(self, observed: Observed) -> None:
        slots, positions = observed.slots, observed.positions
        following = observed.tokens[slots, positions + 1].long()
        last = positions + _BEHIND + 1 == observed.lengths[slots]
        if self._on_host and len(slots) > _FEW_TOKENS:
            self._remember(observed, following)
            self._look_at_last(observed, following, last.nonzero().squeeze(1))
            return
        hidden = self._begin(observed.batch, following, positions, observed.hidden)
        self._last[torch.where(last, slots, self._padding)] = hidden

    def _remember(self, observed: Observed, following: torch.Tensor) -> None:
        """Fill the cache, whose entries do not depend on what their tokens attend to: each sees
        one position of the null block."""
        count = len(following)
        batch = AttentionBatch(
            query_start=torch.arange(count + 1, dtype=torch.int32),
            lengths=torch.ones(count, dtype=torch.int32),
            block_tables=torch.zeros(count, 1, dtype=torch.int32),
            write_slots=observed.batch.write_slots,
            num_decodes=count,
            query_lengths=[1] * count,
            host_lengths=[1] * count,
        )
        attend = attending(self._attention, self._attention.prepare(batch))
        shown = self._head.fuse(observed.hidden)
        self._head.attended(shown, following, observed.positions, attend)

    def _look_at_last(
        self, observed: Observed, following: torch.Tensor, chosen: torch.Tensor
    ) -> None:
        """Go on from the last tokens of slots, whose entries are in the cache."""
        if not len(chosen):
            return
        batch, slots = observed.batch, observed.slots[chosen]
        row_of = torch.repeat_interleave(torch.tensor(batch.query_lengths))
        positions = observed.positions[chosen]
        tokens = self._stepper.single(
            slots,
            following[chosen],
            positions,
            batch.write_slots[chosen],
            batch.block_tables[row_of[chosen]],
            positions.numpy() + 1,
        )
        shown = observed.hidden[chosen]
        self._last[slots] = self._begin(tokens.batch, tokens.token_ids, positions, shown)

    def propose(self, drafting: Drafting) -> torch.Tensor:
        hidden = self._last[drafting.slots]

        def advance(tokens: SingleTokens) -> torch.Tensor:
            going, logits = self._next(
                tokens.batch, tokens.token_ids, tokens.positions, hidden, tokens.rows
            )
            hidden.index_copy_(0, tokens.rows, going)
            found: torch.Tensor = logits
            return found

        return self._stepper.chain(
            drafting,
            self._head.logits(hidden),
            advance,
            behind=_BEHIND,
            longest=self._stepper.lengths(drafting),
        )

    def _from_model(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        shown: torch.Tensor,
    ) -> torch.Tensor:
        return self._head.forward(self._head.fuse(shown), token_ids, positions, attend)

    def _from_itself(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        hidden: torch.Tensor,
        rows: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        going = self._head.forward(hidden[rows], token_ids, positions, attend)
        return going, self._head.logits(going)


class Eagle3(Eagle):
    """The same with a head of EAGLE-3."""

    method = "eagle3"
    version = 3
    head_class = Eagle3Head
