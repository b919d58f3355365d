"""Who waits, who runs, and in which slot."""

from __future__ import annotations

from bisect import insort

from ..contracts.policy import Policy
from ..sequence import Sequence, Status

__all__ = ("Roster",)


class Roster:
    """Keeps every sequence in exactly one of two lists, each in the policy's order.

    Attributes:
        sequences: all of them, by request id.
        waiting: without slot and blocks.
        running: with a slot.
        suspects: those that were in a failed step and have not drawn a token since.
    """

    def __init__(self, policy: Policy, max_num_seqs: int) -> None:
        self.policy = policy
        self.sequences: dict[str, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.suspects: list[Sequence] = []
        self._num_slots = max_num_seqs
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._arrivals = 0

    @property
    def has_slot(self) -> bool:
        """Whether another sequence may start."""
        return bool(self._free_slots)

    def enqueue(self, seq: Sequence) -> None:
        """Queue a new sequence, or one that was stopped, by the policy's rank."""
        # A policy may fail: nothing has changed then.
        rank = self.policy.rank(seq.candidate())
        request_id = seq.request.request_id
        if request_id not in self.sequences:
            self.sequences[request_id] = seq
            self._arrivals += 1
            seq.order = self._arrivals
        seq.rank = (*rank, seq.order)
        seq.status = Status.WAITING
        insort(self.waiting, seq, key=_rank)

    def start(self, seq: Sequence) -> None:
        """From waiting to running, in a free slot."""
        self.waiting.remove(seq)
        seq.slot = self._free_slots.pop()
        seq.status = Status.RUNNING
        insort(self.running, seq, key=_rank)

    def stop(self, seq: Sequence) -> None:
        """From running to nowhere: the caller enqueues or forgets it."""
        self.running.remove(seq)
        self._free_slots.append(seq.slot)
        seq.slot = -1

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence for good."""
        if seq.status is Status.RUNNING:
            self.stop(seq)
        else:
            self.waiting.remove(seq)
        if seq.quarantined:
            self.clear(seq)
        seq.status = Status.FINISHED
        del self.sequences[seq.request.request_id]

    def suspect(self) -> Sequence | None:
        """The sequence that must run alone now."""
        return self.suspects[0] if self.suspects else None

    def clear(self, seq: Sequence) -> None:
        """A suspect has proved harmless, or ended."""
        seq.quarantined = False
        self.suspects.remove(seq)

    def check(self) -> None:
        """Every slot and every sequence is in one place; RuntimeError otherwise."""
        slots = [seq.slot for seq in self.running] + self._free_slots
        if sorted(slots) != list(range(self._num_slots)):
            raise RuntimeError(f"slots are lost or shared: {sorted(slots)}")
        placed = [id(seq) for seq in self.running] + [id(seq) for seq in self.waiting]
        if sorted(placed) != sorted(id(seq) for seq in self.sequences.values()):
            raise RuntimeError("a sequence is neither waiting nor running, or both")
        for seq in self.waiting:
            if seq.blocks or seq.slot != -1:
                raise RuntimeError(f"{seq.request.request_id} waits and still holds something")


def _rank(seq: Sequence) -> tuple[float, ...]:
    return seq.rank
