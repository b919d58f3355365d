"""The KV cache as the scheduler sees it: sequences take blocks, share prefixes, give back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..sequence import Sequence
from .pool import BlockPool, chain_hash, root_hash

__all__ = ("CacheManager",)


class CacheManager:
    """Gives every running sequence the blocks its tokens need.

    Who may touch a block of a sequence's table, by region (b = block size):

        | full, committed   | full or partial, not committed | not yet written |
        0                   num_committed * b                num_computed      len(blocks) * b

        committed:     read by this sequence and by any that found it; written by nobody.
        not committed: read and written by steps of this sequence alone. The last num_slack of it
                       may hold rejected drafts, and are written again.
        A table only grows at its end; the blocks return to the pool together, when the sequence
        finishes or is preempted. A step already launched may still write to them: whoever takes
        them next is written by a later step, and the device runs steps in order.

    Args:
        num_blocks: of the cache, the null block included.
        block_size: tokens a block.
        prefix_caching: share full blocks of equal prefixes.
    """

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.queries = 0
        self.hits = 0

    @property
    def max_tokens(self) -> int:
        """Most tokens one sequence can hold."""
        return (self.pool.num_blocks - 1) * self.block_size

    def match(self, seq: Sequence) -> None:
        """Start an empty sequence with the longest cached prefix.

        At least one token is left to compute, since its hidden state draws the next one. A
        request for prompt log-probabilities computes its whole prompt.
        """
        if not self.prefix_caching or seq.request.params.prompt_logprobs is not None:
            return
        size = self.block_size
        for index in range((len(seq.token_ids) - 1) // size):
            block = self.pool.find(self._hash(seq, index))
            if block is None:
                break
            self.pool.share(block)
            seq.blocks.append(block)
        seq.num_committed = len(seq.blocks)
        seq.num_computed = len(seq.blocks) * size

    def count(self, seq: Sequence) -> None:
        """Count an admitted sequence's look-up in the statistics."""
        if self.prefix_caching:
            self.queries += len(seq.token_ids)
            self.hits += seq.num_computed

    def missing(self, seq: Sequence, num_tokens: int) -> int:
        """Blocks the sequence must still take to hold num_tokens tokens."""
        return max(0, -(-num_tokens // self.block_size) - len(seq.blocks))

    def grow(self, seq: Sequence, num_tokens: int) -> list[int]:
        """Append the missing blocks, which the caller knows to be free; they are returned."""
        missing = self.missing(seq, num_tokens)
        if not missing:
            return []
        taken = self.pool.take(missing)
        seq.blocks += taken
        return taken

    def commit(self, seq: Sequence) -> None:
        """Publish blocks that are full of tokens both seen by the host and computed.

        Computed may mean by the step being planned: a layer writes the keys of the whole step
        before any row attends, so even rows of the same step may read them.
        """
        if not self.prefix_caching:
            return
        size = self.block_size
        full = min(seq.num_computed - seq.num_slack, len(seq.token_ids)) // size
        for index in range(seq.num_committed, full):
            self.pool.publish(seq.blocks[index], self._hash(seq, index))
        seq.num_committed = max(full, seq.num_committed)

    def release(self, seq: Sequence) -> None:
        """Take every block from the sequence; it holds nothing computed afterwards."""
        self.pool.give_back(seq.blocks)
        seq.blocks = []
        seq.num_committed = 0
        seq.num_computed = 0

    def _hash(self, seq: Sequence, index: int) -> bytes:
        """Of a block full of known tokens; each is computed once, since known tokens stay."""
        hashes, size = seq.block_hashes, self.block_size
        while len(hashes) <= index:
            parent = hashes[-1] if hashes else root_hash(seq.request.cache_salt)
            start = len(hashes) * size
            hashes.append(chain_hash(parent, seq.token_ids[start : start + size]))
        return hashes[index]

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Every block has exactly the owners it should have; RuntimeError otherwise."""
        owners: Counter[int] = Counter()
        for seq in sequences:
            owners.update(seq.blocks)
        self.pool.check(owners)
