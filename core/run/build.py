"""From a resolved configuration to a runner with weights and a cache, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from ..cache.sizing import size_cache
from ..config import Config, known
from ..contracts.attention import AttentionBackend
from ..contracts.executor import ModelInfo
from ..contracts.model import Architecture, BuildContext
from ..contracts.platform import Platform
from ..errors import CapacityError
from ..progress import bytes_bar
from ..registry import Registry
from ..request import SamplingParams
from ..source import Source, locate
from ..step import Newcomer, Plan, Row
from ..weights.load import dummy_weights, load_weights
from .runner import Runner

__all__ = ("build_runner",)

_GIB = 2**30
Phase = Callable[[str], AbstractContextManager[None]]


def build_runner(
    config: Config, registry: Registry, phase: Phase
) -> tuple[Runner, Platform, ModelInfo]:
    """Load the model and make its cache.

    Args:
        config: resolved.
        registry: for the parts it names.
        phase: times the part of the start that runs inside it.

    Raises:
        CheckpointError: when the files do not fit the architecture.
        CapacityError: when the model or its cache do not fit into memory.
    """
    source = locate(config.model, registry)
    platform: Platform = registry.get("platform", config.parallel.platform)()
    with phase("device"):
        device = platform.setup()
    _check_fits(config, source, platform)
    with phase("weights"), _out_of_memory(config, platform):
        model = _load(config, registry, source, platform, device)
    with phase("cache"), _out_of_memory(config, platform):
        attention = _attention(config, registry, model, device)
        runner = Runner(
            model,
            attention,
            max_slots=known(config.schedule.max_num_seqs),
            max_model_len=known(config.model.max_model_len),
            vocab_size=source.vocab_size(),
            device=device,
            graphs=bool(config.schedule.graphs),
        )
        num_blocks = _size(config, runner, platform, device)
        attention.allocate(num_blocks)
    return runner, platform, ModelInfo(num_blocks, source.vocab_size())


def _load(
    config: Config,
    registry: Registry,
    source: Source,
    platform: Platform,
    device: torch.device,
) -> Architecture:
    method = registry.get("quant", config.model.quantization)
    context = BuildContext(
        dtype=getattr(torch, config.model.dtype),
        device=device,
        quant=method.from_checkpoint(source.config.get("quantization_config"), platform),
        platform=platform,
        max_model_len=known(config.model.max_model_len),
    )
    architecture = registry.get("model", source.architecture())
    model: Architecture = architecture.build(source.config, context)
    if config.model.load_format == "dummy":
        dummy_weights(model, device, config.model.seed)
    else:
        with bytes_bar("weights") as advance:
            load_weights(source, model, advance)
    return model


def _attention(
    config: Config, registry: Registry, model: Architecture, device: torch.device
) -> AttentionBackend:
    backend: AttentionBackend = registry.get("attention", config.attention.backend)(
        model.attention_layers(),
        block_size=known(config.cache.block_size),
        kv_dtype=getattr(torch, config.cache.kv_dtype),
        device=device,
    )
    return backend


def _size(config: Config, runner: Runner, platform: Platform, device: torch.device) -> int:
    """Blocks of the cache, with the worst step's activations measured on a device of its own."""
    if device.type != "cpu":
        _run_worst_step(config, runner)
        platform.synchronize()
    return size_cache(
        config.cache,
        bytes_per_block=runner.attention.bytes_per_block(),
        memory=platform.memory(),
        max_model_len=known(config.model.max_model_len),
        on_host=device.type == "cpu",
    )


def _run_worst_step(config: Config, runner: Runner) -> None:
    """One step with as many tokens and as many draws as a plan may hold.

    What it allocates stays with torch's allocator, so the memory that is free afterwards is what
    the worst step leaves.
    """
    tokens = known(config.schedule.max_num_batched_tokens)
    longest = known(config.model.max_model_len) - 1
    rows: list[Row] = []
    newcomers: list[Newcomer] = []
    slots = min(known(config.schedule.max_num_seqs), tokens)
    for slot in range(slots):
        count = min(longest, tokens // slots + (slot < tokens % slots))
        params = SamplingParams(top_p=0.9, top_k=50, frequency_penalty=0.1)
        newcomers.append(Newcomer(slot, [0] * count, count, slot, params))
        blocks = [0] * -(-count // runner.attention.block_size)
        rows.append(Row(slot, 0, count, blocks, samples=True))
    rows.sort(key=lambda row: row.count > 1)
    runner.attention.allocate(2)
    runner.execute(Plan(0, newcomers, rows)).wait()


def _check_fits(config: Config, source: Source, platform: Platform) -> None:
    """Compare the files' size with the device's memory before reading any of them."""
    if config.model.load_format == "dummy":
        return
    needed = source.weight_bytes()
    memory = platform.memory()
    usable = min(memory.free, int(memory.total * config.cache.gpu_memory_utilization))
    if needed > usable:
        raise CapacityError(
            f"the model's files hold {needed / _GIB:.1f} GiB of weights, and the device has "
            f"{memory.free / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free; use a smaller or "
            "quantized model, or raise cache.gpu_memory_utilization"
        )


class _out_of_memory(AbstractContextManager[None]):  # noqa: N801
    """Turns the allocator's error into one that says what to change."""

    def __init__(self, config: Config, platform: Platform) -> None:
        self._config = config
        self._platform = platform

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            memory = self._platform.memory()
            raise CapacityError(
                f"the device ran out of memory while starting ({memory.free / _GIB:.1f} of "
                f"{memory.total / _GIB:.1f} GiB are free now); lower "
                "schedule.max_num_batched_tokens or schedule.max_num_seqs, or use a smaller or "
                "quantized model"
            ) from error
