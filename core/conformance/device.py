"""A device that checks what a real one would silently get wrong.

Its "model" draws the next token as a hash of every token before it, read through the block table
from a pretend KV cache. A block used twice, freed too early or filled with other tokens changes
what is read, which the device notices at once, since it also knows the true tokens of each slot.
"""

import hashlib
from collections.abc import Callable

from ..step import Outcome, Plan
from .report import require

__all__ = ("VOCABULARY", "FakeDevice", "FakePending", "expected", "next_token")

VOCABULARY = 50


def next_token(tokens: list[int]) -> int:
    """The model: any change of any token changes what follows."""
    digest = hashlib.blake2b(repr(tokens).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % VOCABULARY


def expected(prompt: list[int], max_tokens: int, stop_ids: tuple[int, ...] = ()) -> list[int]:
    """What plain decoding gives."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


class FakePending:
    """A step that has run, or failed."""

    def __init__(self, outcome: Outcome | Exception) -> None:
        self._outcome = outcome

    def wait(self) -> Outcome:
        """What it drew; raises what it raised."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


class FakeDevice:
    """Executes plans over a pretend cache of tokens.

    Args:
        block_size: tokens a block.
        fault: called with the plan before it runs; may raise.
    """

    def __init__(self, block_size: int, fault: Callable[[Plan], None] | None = None) -> None:
        self.block_size = block_size
        self.fault = fault
        self.cache: dict[int, dict[int, int]] = {}
        self.tables: dict[int, list[int]] = {}
        self.tokens: dict[int, list[int]] = {}

    def execute(self, plan: Plan) -> FakePending:
        """Run a step at once.

        Raises:
            ConformanceError: when a row reads, writes or draws what it must not.
        """
        for newcomer in plan.newcomers:
            self.tokens[newcomer.slot] = list(newcomer.token_ids)
            self.tables[newcomer.slot] = []
        for row in plan.rows:
            self.tables[row.slot] += row.new_blocks
        try:
            if self.fault is not None:
                self.fault(plan)
        except Exception as error:
            for row in plan.rows:
                self._write(row.slot, row.start, row.count, garbage=True)
            return FakePending(error)
        for row in plan.rows:
            self._write(row.slot, row.start, row.count)
        drawn: list[list[int]] = []
        for row in plan.rows:
            end = row.start + row.count
            seen = [self._read(row.slot, position) for position in range(end)]
            own = seen == self.tokens[row.slot][:end]
            require(own, f"slot {row.slot} reads a cache that is not its own")
            if row.samples:
                known = len(self.tokens[row.slot])
                require(known == end, "a row draws before its last token is computed")
                self.tokens[row.slot].append(next_token(self.tokens[row.slot]))
                drawn.append([self.tokens[row.slot][-1]])
            else:
                drawn.append([])
        return FakePending(Outcome(plan.step, drawn))

    def _write(self, slot: int, start: int, count: int, *, garbage: bool = False) -> None:
        for position in range(start, start + count):
            block = self.tables[slot][position // self.block_size]
            require(block != 0, "a row writes to the null block")
            token = -1 if garbage else self.tokens[slot][position]
            self.cache.setdefault(block, {})[position % self.block_size] = token

    def _read(self, slot: int, position: int) -> int | None:
        block = self.tables[slot][position // self.block_size]
        return self.cache.get(block, {}).get(position % self.block_size)
