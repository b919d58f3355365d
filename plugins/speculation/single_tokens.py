"""Steps of a drafting module: one token a row, in the blocks of the rows' sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...core.contracts.attention import AttentionBackend, AttentionBatch
from ...core.contracts.speculator import Drafting, SpeculatorContext
from ...core.run.forward import needs_lengths

__all__ = ("SingleTokens", "Stepper", "send")


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


class Stepper:
    """Makes the steps.

    Args:
        context: what the speculator was built with.
        attention: of the module.
        most_tokens: of a step.
    """

    def __init__(
        self, context: SpeculatorContext, attention: AttentionBackend, most_tokens: int
    ) -> None:
        self._block_size = context.block_size
        self._last_position = context.max_model_len - 1
        self._rows = torch.arange(most_tokens + 1, device=context.device)
        self._query_start = self._rows.to(torch.int32)
        self._exact = needs_lengths(attention, context.device)

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

        Beyond the drafts that a row can use, positions only must exist: nothing is kept there.

        Args:
            drafting: the call, of N rows.
            logits: [N, V], of the first drafts.
            advance: computes some rows' last drafts, and gives the logits behind them: [A, V].
            behind: by how many positions a draft's entry in the cache is behind its own.
            longest: from ``lengths``.

        Returns:
            int64 [N, most], as ``propose`` gives it.
        """
        chain = [drafting.draw(logits, None, 0)]
        if drafting.most == 1:
            return chain[0].unsqueeze(1)
        ahead = torch.arange(1, drafting.most, device=drafting.slots.device)
        shifts = (ahead - 1 - behind).unsqueeze(-1)
        # Of all steps at once, [steps, N].
        positions = (drafting.lengths + shifts).clamp(min=0, max=self._last_position)
        tables = self._tables(drafting, longest)
        kept = ahead.unsqueeze(-1) < drafting.wanted
        places = torch.where(kept, self._places(tables, positions.T).T, 0)
        for index, at, place in zip(range(1, drafting.most), positions, places, strict=True):
            active = _active(drafting, index)
            bounds = np.maximum(longest + (index - behind), 1)
            last = chain[-1].clamp(min=0)
            if active is None:
                tokens = self.single(self._rows[: len(last)], last, at, place, tables, bounds)
            else:
                tokens = self.single(
                    active,
                    last[active],
                    at[active],
                    place[active],
                    tables[active],
                    bounds[drafting.host.wanted > index],
                )
            drawn = drafting.draw(advance(tokens), active, index)
            if active is not None:
                drawn = torch.full_like(last, -1).index_copy_(0, active, drawn)
            chain.append(drawn)
        return torch.stack(chain, 1)

    def siblings(self, drafting: Drafting, count: int, longest: np.ndarray) -> SingleTokens:
        """The last ``count`` tokens of each row, which see each other.

        Args:
            drafting: the call.
            count: tokens of a row.
            longest: from ``lengths``.
        """
        rows = self._rows[: len(longest)].repeat_interleave(count, output_size=count * len(longest))
        behind = self._rows[:count] - count
        positions = (drafting.lengths.unsqueeze(-1) + behind).clamp(min=0)
        tables = self._tables(drafting, longest)
        places = self._places(tables, positions)
        token_ids = drafting.tokens[drafting.slots.unsqueeze(-1), positions].long()
        bounds = np.maximum(longest[:, None] + np.arange(1 - count, 1), 1)
        return self.single(
            rows,
            token_ids.flatten(),
            positions.flatten(),
            places.flatten(),
            tables[rows],
            bounds.ravel(),
            siblings=count > 1,
        )

    def _tables(self, drafting: Drafting, longest: np.ndarray) -> torch.Tensor:
        """int32 [N, blocks] of the rows, as far as they reach with drafts if that is known."""
        tables = drafting.blocks
        if self._exact:
            tables = tables[:, : -(-(int(longest.max()) + drafting.most) // self._block_size)]
        return tables.index_select(0, drafting.slots)

    def _places(self, tables: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Where in the cache positions [N, k] of N rows are: int64 [N, k]."""
        size = self._block_size
        return tables.gather(1, positions // size).long() * size + positions % size

    def single(
        self,
        rows: torch.Tensor,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        tables: torch.Tensor,
        longest: np.ndarray,
        *,
        siblings: bool = False,
    ) -> SingleTokens:
        """Tokens with their attention.

        Args:
            rows: int64 [A], of the call.
            token_ids: int64 [A].
            positions: int64 [A].
            places: int64 [A], where in the cache they belong.
            tables: int32 [A, blocks].
            longest: int64 [A], positions and one more, or bounds.
            siblings: whether some of them see each other.
        """
        count = len(longest)
        batch = AttentionBatch(
            query_start=self._query_start[: count + 1],
            lengths=(positions + 1).to(torch.int32),
            block_tables=tables,
            write_slots=places,
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
