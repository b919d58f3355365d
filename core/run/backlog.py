"""Steps that a speculator will be shown together, once somebody drafts."""

from __future__ import annotations

import numpy as np
import torch

from ..contracts.attention import AttentionBatch
from ..contracts.speculator import Observed
from .slots import SlotTable

__all__ = ("Backlog",)


class Backlog:
    """Keeps what steps have computed until a speculator needs it.

    On a CPU a head takes little longer for the tokens of many steps than for those of one, and
    nobody needs what it makes of them where nobody drafts.

    Args:
        table: the slot table, on a CPU.
        most: tokens that are kept.
    """

    def __init__(self, table: SlotTable, most: int) -> None:
        self._table = table
        self._most = most
        self._steps: list[Observed] = []
        self._tokens = 0

    def has_room(self, observed: Observed) -> bool:
        """Whether a step can be kept beside the others."""
        return not self._steps or self._tokens + len(observed.slots) <= self._most

    def add(self, observed: Observed) -> None:
        """Keep a step."""
        self._steps.append(observed)
        self._tokens += len(observed.slots)

    def take(self) -> Observed | None:
        """All that is kept as one step, without what later steps have replaced; None for nothing.

        To be called before a slot gets another sequence.
        """
        steps, self._steps, self._tokens = self._steps, [], 0
        return self._merged(steps) if len(steps) > 1 else next(iter(steps), None)

    def _merged(self, steps: list[Observed]) -> Observed | None:
        slots = np.concatenate([step.slots.numpy() for step in steps])
        positions = np.concatenate([step.positions.numpy() for step in steps])
        places = np.concatenate([step.batch.write_slots.numpy() for step in steps])
        # A draft's place is another token's where it was rejected, and a block may be another
        # sequence's by now: the last who wrote counts, if the token behind it is known.
        _, latest = np.unique(places[::-1], return_index=True)
        kept = len(places) - 1 - latest
        kept = kept[positions[kept] + 1 < self._table.lengths.numpy()[slots[kept]]]
        if not len(kept):
            return None
        kept = _single_first(kept, slots, positions)
        index = torch.from_numpy(kept)
        slots, positions = slots[kept], positions[kept]
        return Observed(
            slots=torch.from_numpy(slots),
            positions=torch.from_numpy(positions),
            hidden=torch.cat([step.hidden for step in steps])[index],
            tokens=self._table.tokens,
            lengths=self._table.lengths,
            batch=self._batch(slots, positions, places[kept]),
        )

    def _batch(
        self, slots: np.ndarray, positions: np.ndarray, places: np.ndarray
    ) -> AttentionBatch:
        """Geometry of tokens whose rows are back to back, those of one token first."""
        offsets = _bounds(slots, positions)
        counts, last = np.diff(offsets), offsets[1:] - 1
        ends = positions[last] + 1
        blocks = -(-int(ends.max()) // self._table.block_size)
        return AttentionBatch(
            query_start=torch.from_numpy(offsets.astype(np.int32)),
            lengths=torch.from_numpy(ends.astype(np.int32)),
            block_tables=self._table.blocks[torch.from_numpy(slots[last]), :blocks],
            write_slots=torch.from_numpy(places),
            num_decodes=int((counts == 1).sum()),
            query_lengths=counts.tolist(),
            host_lengths=ends.tolist(),
            siblings=True,
        )


def _bounds(slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Offsets of the runs of tokens that follow one another in their sequence, and the end."""
    follows = (np.diff(slots) == 0) & (np.diff(positions) == 1)
    return np.concatenate(([0], np.flatnonzero(~follows) + 1, [len(slots)]))


def _single_first(kept: np.ndarray, slots: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The tokens run by run, those of one token first."""
    kept = kept[np.lexsort((positions[kept], slots[kept]))]
    counts = np.diff(_bounds(slots[kept], positions[kept]))
    return kept[np.argsort(np.repeat(counts > 1, counts), kind="stable")]
