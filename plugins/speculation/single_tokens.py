"""Steps of a drafting module: one token a row, in the blocks of the rows' sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.speculator import Drafting, SpeculatorContext
from ...core.layers.scripted import Recorded
from ...core.run.forward import attending

__all__ = ("Pass", "SingleTokens", "Stepper", "send")


@dataclass(frozen=True, slots=True)
class SingleTokens:
    """A tokens to compute, each of a row of the call.

    Attributes:
        rows: int64 [A], their rows.
        token_ids: int64 [A].
        positions: int64 [A], where they stand in the module's cache.
        batch: the same for its attention.
    """

    rows: torch.Tensor
    token_ids: torch.Tensor
    positions: torch.Tensor
    batch: AttentionBatch


class Pass:
    """What a module computes of single tokens.

    On a CPU its operators take less time than Python takes to call them, and it is recorded.

    Args:
        attention: of the module.
        compute: from token ids and positions, int64 [A], the step's attention, and more tensors.
    """

    def __init__(
        self,
        attention: AttentionBackend,
        compute: Callable[..., Any],
    ) -> None:
        self._attention = attention
        self._compute = compute
        records = "recorded" in attention.capabilities.features
        self._recorded = Recorded(self._prepared) if records else None

    def __call__(self, tokens: SingleTokens, *more: torch.Tensor) -> Any:
        """What ``compute`` gives for the tokens."""
        prepared = self._attention.prepare(tokens.batch)
        args = prepared, tokens.token_ids, tokens.positions, *more
        if self._recorded is None:
            return self._prepared(*args)
        return self._recorded(len(tokens.rows), *args)

    def _prepared(
        self, prepared: Any, token_ids: torch.Tensor, positions: torch.Tensor, *more: torch.Tensor
    ) -> Any:
        attend = attending(self._attention, prepared)
        return self._compute(token_ids, positions, attend, *more)


class Stepper:
    """Makes the steps.

    Args:
        context: what the speculator was built with.
        attention: of the module.
    """

    def __init__(self, context: SpeculatorContext, attention: AttentionBackend) -> None:
        self._block_size = context.block_size
        self._last_position = context.max_model_len - 1
        self._exact = (
            context.device.type == "cpu" or "graphs" not in attention.capabilities.features
        )

    def lengths(self, drafting: Drafting) -> np.ndarray:
        """Tokens of each row, or bounds where the attention needs no more."""
        return drafting.lengths.cpu().numpy() if self._exact else drafting.host.longest

    def chain(
        self,
        drafting: Drafting,
        logits: torch.Tensor,
        advance: Callable[[SingleTokens], torch.Tensor],
        *,
        behind: int,
        longest: np.ndarray,
    ) -> torch.Tensor:
        """Draw chains of drafts, one token after the other.

        Args:
            drafting: the call, of N rows.
            logits: [N, V], of the first drafts.
            advance: computes some rows' last drafts, and gives the logits behind them: [A, V].
            behind: by how many positions a draft's entry in the cache is behind its own.
            longest: from ``lengths``.

        Returns:
            int64 [N, most], as ``propose`` gives it.
        """
        rows = torch.arange(len(longest), device=drafting.slots.device)
        chain = [drafting.draw(logits, None, 0)]
        for index in range(1, drafting.most):
            active = _active(drafting, index)
            chosen = rows if active is None else active
            shift = index - 1 - behind
            positions = (drafting.lengths + shift).clamp(min=0, max=self._last_position)[chosen]
            bounds = np.maximum(longest + shift + 1, 1)[drafting.host.wanted > index]
            last = chain[-1][chosen].clamp(min=0)
            tokens = self.tokens(drafting, chosen, last, positions, bounds, index=index)
            drawn = drafting.draw(advance(tokens), active, index)
            if active is not None:
                drawn = torch.full_like(rows, -1).index_copy_(0, active, drawn)
            chain.append(drawn)
        return torch.stack(chain, 1)

    def tokens(
        self,
        drafting: Drafting,
        rows: torch.Tensor,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        longest: np.ndarray,
        *,
        siblings: bool = False,
        index: int = 0,
    ) -> SingleTokens:
        """Single tokens with their attention.

        Beyond the drafts that a row can use, positions only must exist: nothing is kept there.

        Args:
            drafting: the call.
            rows: int64 [A], their rows.
            token_ids: int64 [A].
            positions: int64 [A].
            longest: int64 [A], positions and one more, or bounds.
            siblings: whether some of them see each other.
            index: of the draft whose logits they give.
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
        return SingleTokens(rows, token_ids, positions, batch)


def send(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """int64 on the device, without waiting for it."""
    sent = torch.from_numpy(values)
    if device.type == "cuda":
        sent = sent.pin_memory()
    return sent.to(device, non_blocking=True)


def _active(drafting: Drafting, index: int) -> torch.Tensor | None:
    """Rows that want so many drafts and one more; None for all of them."""
    wanted = drafting.host.wanted > index
    if wanted.all():
        return None
    return send(np.flatnonzero(wanted), drafting.slots.device)
