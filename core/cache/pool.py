"""The pool of KV blocks and the index of what full blocks hold."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

__all__ = ("NULL_BLOCK", "BlockPool", "chain_hash", "root_hash")

NULL_BLOCK = 0


def root_hash(salt: str) -> bytes:
    """The hash before the first block: requests of different salts share no block."""
    return hashlib.sha256(b"quire\0" + salt.encode()).digest()


def chain_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """SHA-256 of a full block's tokens and of all before them.

    A cryptographic hash, because a caller who finds a collision would read another's cache.
    """
    return hashlib.sha256(parent + array("I", token_ids).tobytes()).digest()


class BlockPool:
    """Counts references to blocks and remembers contents of free ones until they are reused.

    A block is in one of three states:

        free      refs 0, no hash      front of the queue, reused first
        cached    refs 0, hash         behind them, least recently used first
        used      refs > 0, maybe hash not in the queue

    Block 0 is the null block: padding reads and writes it, nobody owns it.

    Args:
        num_blocks: of the cache, the null block included; at least 2.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise ValueError("a pool needs the null block and one more")
        self.num_blocks = num_blocks
        self.refs = [0] * num_blocks
        self._hash: list[bytes | None] = [None] * num_blocks
        self._index: dict[bytes, int] = {}
        self._queue: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that ``take`` can give, cached ones included."""
        return len(self._queue)

    @property
    def num_used(self) -> int:
        """Blocks somebody refers to."""
        return self.num_blocks - 1 - len(self._queue)

    def take(self, count: int) -> list[int]:
        """Blocks with unspecified contents and one reference each; the caller checked num_free."""
        taken = []
        for _ in range(count):
            block, _ = self._queue.popitem(last=False)
            self._forget(block)
            self.refs[block] = 1
            taken.append(block)
        return taken

    def share(self, block: int) -> None:
        """One more reference to a block that ``find`` gave."""
        if self.refs[block] == 0:
            del self._queue[block]
        self.refs[block] += 1

    def give_back(self, blocks: Iterable[int]) -> None:
        """One reference less each; the first of those that become free is evicted last."""
        for block in reversed(list(blocks)):
            self.refs[block] -= 1
            if self.refs[block] < 0:
                raise RuntimeError(f"block {block} was returned more often than taken")
            if self.refs[block] == 0:
                self._queue[block] = None
                if self._hash[block] is None:
                    self._queue.move_to_end(block, last=False)

    def find(self, content: bytes) -> int | None:
        """The block that holds this content, free or used."""
        return self._index.get(content)

    def publish(self, block: int, content: bytes) -> None:
        """Let others find a full block; the first block of a content stays the one to find."""
        if content not in self._index:
            self._index[content] = block
            self._hash[block] = content

    def forget_all(self) -> None:
        """Nothing that was published is to be trusted any more."""
        self._index.clear()
        self._hash = [None] * self.num_blocks

    def check(self, expected_refs: dict[int, int]) -> None:
        """Compare with the references the caller knows of.

        Raises:
            RuntimeError: naming the first block that differs.
        """
        for block in range(1, self.num_blocks):
            wanted = expected_refs.get(block, 0)
            if self.refs[block] != wanted:
                raise RuntimeError(f"block {block} has {self.refs[block]} references, not {wanted}")
            if (wanted == 0) != (block in self._queue):
                raise RuntimeError(f"block {block} is in the wrong state for {wanted} references")
        for content, block in self._index.items():
            if self._hash[block] != content:
                raise RuntimeError(f"block {block} is published under a content it does not hold")
        if NULL_BLOCK in self._queue or expected_refs.get(NULL_BLOCK):
            raise RuntimeError("the null block was given away")

    def _forget(self, block: int) -> None:
        content = self._hash[block]
        if content is not None:
            self._hash[block] = None
            del self._index[content]
