"""What a step takes of the device, measured and not guessed."""

from __future__ import annotations

import msgspec
import torch

from ..cache.sizing import Footprint
from ..config import Config, known, max_draws
from ..contracts.platform import Platform
from ..request import SamplingParams
from ..step import Newcomer, Plan, Row
from .runner import Captured, Runner

__all__ = ("measure_worst_step",)

# Graphs from whose size that of all is told.
_SAMPLES = 4


def measure_worst_step(
    runner: Runner, platform: Platform, config: Config, *, weights: int
) -> Footprint:
    """Run the largest step there may be, and capture the largest graphs, with a cache of nothing.

    A captured step takes memory of its own beside what all of them share.

    It also loads every kernel that such steps use. On a CPU, whose memory is everybody's, nothing
    is run.

    Args:
        runner: without a cache.
        platform: of the runner's device.
        config: resolved.
        weights: bytes they took.
    """
    loaded = platform.memory()
    if platform.device_type == "cpu":
        return Footprint(loaded, weights=weights)
    runner.allocate(2)
    runner.execute(_worst_plan(runner, config)).wait()
    platform.synchronize()
    # What the step took stays with torch's allocator, so it is no longer free.
    stepped = platform.memory()
    runner.measure_graphs()
    platform.synchronize()
    captured = platform.memory()
    all_graphs = sum(_graphs_bytes(graphs, platform) for graphs in runner.captured())
    runner.forget_graphs()
    platform.release()
    free = captured.free - all_graphs
    return Footprint(
        msgspec.structs.replace(captured, free=free),
        weights=weights,
        activations=loaded.free - stepped.free,
        graphs=stepped.free - free,
    )


@torch.inference_mode()
def _graphs_bytes(graphs: Captured, platform: Platform) -> int:
    """Of all graphs of a kind, told from a few."""
    free = platform.memory().free
    samples = 0
    while samples < _SAMPLES and graphs.capture_ahead():
        samples += 1
    platform.synchronize()
    each = (free - platform.memory().free) // max(samples, 1)
    return each * graphs.num_shapes


def _worst_plan(runner: Runner, config: Config) -> Plan:
    """As many tokens and as many draws as a plan may hold, and as many drafts."""
    tokens = known(config.schedule.max_num_batched_tokens)
    longest = runner.limits.max_model_len - 1
    rows: list[Row] = []
    newcomers: list[Newcomer] = []
    slots = min(known(config.schedule.max_num_seqs), tokens)
    speculates = config.speculation.method is not None
    most = known(config.speculation.num_speculative_tokens) if speculates else 0
    spare = max_draws(config) - slots
    params = SamplingParams(top_p=0.9, top_k=50, frequency_penalty=0.1)
    for slot in range(slots):
        count = min(longest, tokens // slots + (slot < tokens % slots))
        newcomers.append(Newcomer(slot, [0] * count, count, slot, params))
        blocks = [0] * -(-(count + most) // runner.attention.block_size)
        drafts = min(most, count - 1, spare)
        spare -= drafts
        rows.append(Row(slot, 0, count, blocks, True, drafts, 0, most))
    rows.sort(key=lambda row: row.count > 1)
    return Plan(0, newcomers, rows)
