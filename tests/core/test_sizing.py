"""The size of the cache, and the words when nothing fits."""

import pytest

from quire.core.cache.sizing import Footprint, size_cache
from quire.core.config import CacheConfig
from quire.core.contracts.platform import Memory
from quire.core.errors import CapacityError

GIB = 2**30
BLOCK = 2**20


def blocks(memory: Memory, *, on_host: bool = False, longest: int = 160, **cache) -> int:
    return size_cache(
        CacheConfig(block_size=16, **cache),
        bytes_per_block=BLOCK,
        footprint=Footprint(memory, weights=3 * GIB),
        max_model_len=longest,
        on_host=on_host,
    )


def test_a_device_of_its_own_gives_what_utilization_leaves() -> None:
    memory = Memory(total=10 * GIB, free=6 * GIB)
    assert blocks(memory, gpu_memory_utilization=0.9) == 5 * 1024


def test_explicit_sizes_win() -> None:
    memory = Memory(total=10 * GIB, free=10 * GIB)
    assert blocks(memory, memory_gib=2.0) == 2048
    assert blocks(memory, memory_gib=2.0, num_blocks=77) == 77


def test_a_host_gives_a_modest_share_or_what_the_longest_sequence_needs() -> None:
    memory = Memory(total=10 * GIB, free=10 * GIB)
    assert blocks(memory, on_host=True) == 256
    assert blocks(memory, on_host=True, longest=16 * 1000) == 1001


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"num_blocks": 8}, "set model.max_model_len to 112 or less"),
        ({"memory_gib": 100.0}, "10.00 GiB are free"),
        ({"gpu_memory_utilization": 0.001}, "raise cache.memory_gib"),
    ],
)
def test_what_does_not_fit_says_what_would(cache, words) -> None:
    with pytest.raises(CapacityError, match=words):
        blocks(Memory(total=10 * GIB, free=10 * GIB), **cache)


def test_a_host_short_of_memory_still_serves_what_fits() -> None:
    assert blocks(Memory(total=100 * GIB, free=GIB), on_host=True) == 256
    with pytest.raises(CapacityError, match="or free memory"):
        blocks(Memory(total=100 * GIB, free=BLOCK // 2), on_host=True)
