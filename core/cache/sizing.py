"""How many blocks the KV cache gets."""

from __future__ import annotations

import msgspec

from ..config import CacheConfig
from ..contracts.platform import Memory
from ..errors import CapacityError

__all__ = ("Footprint", "size_cache")

_GIB = 2**30
# Host memory is shared with everything else on the machine, so the default there is modest.
_HOST_DEFAULT = _GIB // 4


class Footprint(msgspec.Struct, frozen=True):
    """What the device holds before the cache.

    Attributes:
        memory: with all of it in place.
        weights: bytes.
        activations: bytes of the largest step.
        graphs: bytes of captured steps.
    """

    memory: Memory
    weights: int = 0
    activations: int = 0
    graphs: int = 0

    def describe(self) -> str:
        """The parts, for a message."""
        memory = self.memory
        return (
            f"{_size(self.weights)} of weights, {_size(self.activations)} of activations and "
            f"{_size(self.graphs)} of graphs, with {_size(memory.free)} of "
            f"{_size(memory.total)} free"
        )


def size_cache(
    config: CacheConfig,
    *,
    bytes_per_block: int,
    footprint: Footprint,
    max_model_len: int,
    on_host: bool,
) -> int:
    """Blocks of the cache, the null block included.

    Args:
        config: resolved.
        bytes_per_block: over all layers, keys and values.
        footprint: of everything else.
        max_model_len: tokens of the longest sequence, which must fit.
        on_host: the device's memory is the machine's.

    Raises:
        CapacityError: when the longest sequence does not fit, with the numbers and the settings
            that would.
    """
    memory = footprint.memory
    block_size = config.block_size or 1
    needed = (-(-max_model_len // block_size) + 1) * bytes_per_block
    spare = int(memory.total * config.gpu_memory_utilization) - (memory.total - memory.free)
    if config.num_blocks is not None:
        budget = config.num_blocks * bytes_per_block
    elif config.memory_gib is not None:
        budget = int(config.memory_gib * _GIB)
    elif on_host:
        budget = min(max(_HOST_DEFAULT, needed), memory.free)
    else:
        budget = spare
    if budget > memory.free:
        raise CapacityError(
            f"the KV cache would take {_size(budget)} and {_size(memory.free)} are "
            "free; lower cache.memory_gib or cache.num_blocks"
        )
    if budget < needed:
        tokens = max(0, budget // bytes_per_block - 1) * block_size
        shorter = f"set model.max_model_len to {tokens} or less, or " if tokens else ""
        raise CapacityError(
            f"a sequence of model.max_model_len {max_model_len} tokens needs {_size(needed)} "
            f"of KV cache and there are {_size(max(0, budget))} "
            f"beside {footprint.describe()}; {shorter}raise "
            "cache.memory_gib, cache.num_blocks or cache.gpu_memory_utilization, or free memory"
        )
    return budget // bytes_per_block


def _size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / _GIB:.2f} GiB" if count >= _GIB else f"{count / 2**20:.2f} MiB"
