"""The block pool by property: whatever is done, states and counts stay true."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.cache.pool import BlockPool, chain_hash, root_hash


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_sequence_of_uses(data) -> None:
    pool = BlockPool(data.draw(st.integers(2, 9)))
    held: list[list[int]] = []
    published: dict[bytes, int] = {}
    for number in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["take", "give", "publish", "share"]))
        if action == "take" and pool.num_free:
            taken = pool.take(data.draw(st.integers(1, pool.num_free)))
            assert len(set(taken)) == len(taken)
            for content, block in list(published.items()):
                if block in taken:
                    assert pool.find(content) is None
                    del published[content]
            held.append(taken)
        elif action == "give" and held:
            pool.give_back(held.pop(data.draw(st.integers(0, len(held) - 1))))
        elif action == "publish" and held:
            block = held[-1][0]
            if block not in published.values():
                content = b"%d" % number
                pool.publish(block, content)
                published[content] = block
        elif action == "share" and published:
            content = data.draw(st.sampled_from(sorted(published)))
            block = pool.find(content)
            assert block == published[content]
            pool.share(block)
            held.append([block])
        owners = Counter(block for blocks in held for block in blocks)
        pool.check(owners)
        assert pool.num_free + pool.num_used == pool.num_blocks - 1


def test_least_recently_used_contents_go_first() -> None:
    pool = BlockPool(5)
    blocks = pool.take(4)
    for block in blocks[:3]:
        pool.publish(block, b"%d" % block)
    pool.give_back(blocks[:2])
    pool.give_back(blocks[2:])
    # The block without contents first, then the oldest; of one table the deepest block first.
    assert pool.take(4) == [blocks[3], blocks[1], blocks[0], blocks[2]]


def test_a_block_returned_twice_is_noticed() -> None:
    pool = BlockPool(3)
    taken = pool.take(1)
    pool.give_back(taken)
    with pytest.raises(RuntimeError, match="more often than taken"):
        pool.give_back(taken)


def test_hashes_depend_on_salt_and_on_everything_before() -> None:
    a, b = root_hash(""), root_hash("tenant")
    assert a != b
    assert chain_hash(a, [1, 2]) != chain_hash(b, [1, 2])
    assert chain_hash(chain_hash(a, [1]), [2]) != chain_hash(chain_hash(a, [3]), [2])
    assert chain_hash(a, [1, 2]) == chain_hash(a, [1, 2])
    assert len(a) == 32
