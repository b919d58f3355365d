"""A device that checks what a real one would silently get wrong.

Its "model" draws the next token as a hash of every token before it, read through the block table
from a pretend KV cache. A block used twice, freed too early or filled with other tokens changes
what is read, which the device notices at once, since it also knows the true tokens of each slot.
"""

import hashlib
from collections.abc import Callable

from ..step import Outcome, Plan, Row
from .report import require

__all__ = ("VOCABULARY", "FakeDevice", "FakePending", "expected", "guess", "next_token")

VOCABULARY = 50


def next_token(tokens: list[int]) -> int:
    """The model: any change of any token changes what follows."""
    digest = hashlib.blake2b(repr(tokens).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % VOCABULARY


def guess(tokens: list[int], most: int) -> list[int]:
    """Drafts: some number of the tokens that do follow, then others; sometimes fewer than most."""
    digest = hashlib.blake2b(repr(tokens).encode(), digest_size=2, key=b"guess").digest()
    right, count = digest[0] % 5, most - (digest[1] % 4 == 0)
    ahead = list(tokens)
    for position in range(max(0, count)):
        ahead.append((next_token(ahead) + (position >= right)) % VOCABULARY)
    return ahead[len(tokens) :]


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
        self.drafts: dict[int, list[int]] = {}
        # Slots of steps that failed: until somebody enters them, nobody knows what they hold.
        self.lost: set[int] = set()
        # Slots of sequences of which a step was not shown to the speculator.
        self.unseen: set[int] = set()

    def execute(self, plan: Plan) -> FakePending:
        """Run a step at once.

        Raises:
            ConformanceError: when a row reads, writes or draws what it must not.
        """
        for newcomer in plan.newcomers:
            self.tokens[newcomer.slot] = list(newcomer.token_ids)
            self.tables[newcomer.slot] = []
            self.drafts[newcomer.slot] = []
            self.lost.discard(newcomer.slot)
            self.unseen.discard(newcomer.slot)
        if not plan.shown:
            self.unseen.update(row.slot for row in plan.rows)
        for row in plan.rows:
            self.tables[row.slot] += row.new_blocks
        try:
            if self.fault is not None:
                self.fault(plan)
        except Exception as error:
            for row in plan.rows:
                self._write(row, garbage=True)
                self.lost.add(row.slot)
            return FakePending(error)
        for row in plan.rows:
            self._write(row)
        outcome = Outcome(plan.step, [])
        for index, row in enumerate(plan.rows):
            outcome.tokens.append(self._draw(row) if row.samples else [])
            blind = row.propose and row.slot in self.unseen
            require(not blind, "drafts are asked for behind a step that was not shown")
            if row.propose and row.slot not in self.lost:
                self.drafts[row.slot] = guess(self.tokens[row.slot], row.propose)
                outcome.proposed[index] = len(self.drafts[row.slot])
                last = len(self.tokens[row.slot]) + row.propose - 2
                held = last // self.block_size < len(self.tables[row.slot])
                require(held, "drafts are to be proposed where no block is")
        return FakePending(outcome)

    def _draw(self, row: Row) -> list[int]:
        """Draw behind the last token and behind each draft, up to the first that is wrong."""
        if row.slot in self.lost:
            return [0]
        tokens, start = self.tokens[row.slot], self._start(row)
        known = start + row.count - row.drafts
        require(known == len(tokens), "a row draws before its last token is computed")
        drafts, drawn = self._drafts(row), []
        for position in range(known, start + row.count + 1):
            seen = [self._read(row.slot, at) for at in range(position)]
            require(seen == tokens, f"slot {row.slot} reads a cache that is not its own")
            tokens.append(next_token(tokens))
            drawn.append(tokens[-1])
            if drafts[position - known : position - known + 1] != drawn[-1:]:
                break
        return drawn

    def _start(self, row: Row) -> int:
        """Where the row truly starts."""
        if not row.slack:
            return row.start
        start = len(self.tokens[row.slot]) - 1
        right = row.start - row.slack <= start <= row.start
        require(right, f"a row starts at {row.start}, {row.slack} less at most, and not at {start}")
        return start

    def _drafts(self, row: Row) -> list[int]:
        """The drafts it verifies, filled up with what nobody proposed."""
        ready = self.drafts[row.slot][: row.drafts]
        return [*ready, *[0] * (row.drafts - len(ready))]

    def _write(self, row: Row, *, garbage: bool = False) -> None:
        garbage = garbage or row.slot in self.lost
        start = row.start if garbage else self._start(row)
        tokens = self.tokens[row.slot] + self._drafts(row)
        for position in range(start, start + row.count):
            block = self.tables[row.slot][position // self.block_size]
            require(block != 0, "a row writes to the null block")
            token = -1 if garbage else tokens[position]
            self.cache.setdefault(block, {})[position % self.block_size] = token

    def _read(self, slot: int, position: int) -> int | None:
        block = self.tables[slot][position // self.block_size]
        return self.cache.get(block, {}).get(position % self.block_size)
