"""From a resolved configuration to a runner with weights and a cache, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import msgspec
import torch

from ..cache.sizing import size_cache
from ..config import Config, ModelConfig, known, max_draws
from ..contracts.attention import AttentionBackend
from ..contracts.executor import ModelInfo
from ..contracts.model import Architecture, BuildContext, CheckpointModule
from ..contracts.platform import Platform
from ..contracts.quant import QuantMethod
from ..contracts.speculator import OpenModule, Speculator, SpeculatorContext
from ..errors import CapacityError, ConfigError
from ..progress import bytes_bar
from ..registry import Registry
from ..source import Source, locate
from ..weights.load import dummy_weights, load_weights
from ..weights.sizes import held_bytes
from .footprint import measure_worst_step
from .graph_sizes import graph_rows
from .runner import Limits, Runner
from .warmup import warm_up

__all__ = ("build_runner", "speculator_context")

_GIB = 2**30
Module = TypeVar("Module", bound=CheckpointModule)
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
    platform: Platform = registry.make("platform", config.parallel.platform)
    with phase("device"):
        device = platform.setup(deterministic=config.model.deterministic)
    _check_fits(config, registry, source, platform, device)
    before = platform.memory().free
    with phase("weights"), _out_of_memory(config, platform):
        build = _architecture(registry)
        model = _load(config.model, registry, source, platform, device, build)
        speculator: Speculator | None = None
        if config.speculation.method is not None:
            context = speculator_context(config, registry, source, platform, device, model)
            method = config.speculation.method
            speculator = registry.make("speculator", method, config.speculation, context)
        # What packing the weights needed beside them is neither weights nor activations.
        platform.release()
    weights = max(0, before - platform.memory().free)
    with phase("kernels"), _out_of_memory(config, platform):
        attention = _attention(config.attention.backend, config, registry, model, device)
        rows = graph_rows(max_draws(config))
        draw = platform.draw(rows, source.vocab_size(), device)
        runner = Runner(
            model,
            attention,
            _limits(config, source),
            device=device,
            graphs=bool(config.schedule.graphs),
            draw=draw,
            slot_kernels=platform.slot_kernels(),
            speculator=speculator,
        )
        warm_up(runner, platform)
    with phase("memory"), _out_of_memory(config, platform):
        footprint = measure_worst_step(runner, platform, config, weights=weights)
    with phase("cache"), _out_of_memory(config, platform):
        num_blocks = size_cache(
            config.cache,
            bytes_per_block=runner.bytes_per_block(),
            footprint=footprint,
            max_model_len=known(config.model.max_model_len),
            on_host=device.type == "cpu",
        )
        runner.allocate(num_blocks)
    if speculator is not None:
        with phase("drafts"), _out_of_memory(config, platform):
            runner.rehearse()
    return runner, platform, ModelInfo(num_blocks, source.vocab_size())


def _limits(config: Config, source: Source) -> Limits:
    speculation = config.speculation
    return Limits(
        max_slots=known(config.schedule.max_num_seqs),
        max_model_len=known(config.model.max_model_len),
        vocab_size=source.vocab_size(),
        max_tokens=known(config.schedule.max_num_batched_tokens),
        max_draws=max_draws(config),
        max_drafts=known(speculation.num_speculative_tokens) if speculation.method else 0,
    )


def speculator_context(
    config: Config,
    registry: Registry,
    source: Source,
    platform: Platform,
    device: torch.device,
    model: Architecture,
) -> SpeculatorContext:
    """What a speculator is built with.

    Args:
        config: resolved.
        registry: for the parts it names.
        source: of the model.
        platform: of the device.
        device: as the platform set it up.
        model: with its weights.
    """
    open_module = _opener(config, registry, platform, device)
    return SpeculatorContext(
        device=device,
        max_slots=known(config.schedule.max_num_seqs),
        max_model_len=known(config.model.max_model_len),
        max_tokens=known(config.schedule.max_num_batched_tokens),
        vocab_size=source.vocab_size(),
        block_size=known(config.cache.block_size),
        model=model,
        open_model=lambda draft: open_module(draft, _architecture(registry)),
        open_module=open_module,
    )


def _architecture(registry: Registry) -> Callable[[Source, BuildContext], Architecture]:
    def build(source: Source, context: BuildContext) -> Architecture:
        architecture: type[Architecture] = registry.get("model", source.architecture())
        return architecture.build(source.config, context)

    return build


def _method(
    config: ModelConfig, registry: Registry, source: Source, platform: Platform
) -> QuantMethod:
    method: type[QuantMethod] = registry.get("quant", config.quantization)
    return method.from_checkpoint(source.config.get("quantization_config"), platform)


def _load(
    config: ModelConfig,
    registry: Registry,
    source: Source,
    platform: Platform,
    device: torch.device,
    build: Callable[[Source, BuildContext], Module],
) -> Module:
    context = BuildContext(
        dtype=getattr(torch, config.dtype),
        device=device,
        quant=_method(config, registry, source, platform),
        platform=platform,
        max_model_len=known(config.max_model_len),
    )
    module = build(source, context)
    if config.load_format == "dummy":
        dummy_weights(module, device, config.seed)
    else:
        with bytes_bar("weights") as advance:
            load_weights(source, module, advance)
    return module


def _attention(
    name: str, config: Config, registry: Registry, module: CheckpointModule, device: torch.device
) -> AttentionBackend:
    backend: AttentionBackend = registry.make(
        "attention",
        name,
        module.attention_layers(),
        block_size=known(config.cache.block_size),
        kv_dtype=_kv_dtype(config.cache.kv_dtype),
        device=device,
    )
    return backend


def _opener(
    engine: Config, registry: Registry, platform: Platform, device: torch.device
) -> OpenModule:
    """Loads a further checkpoint for the same engine, in the model's dtype."""

    def open_module(
        config: ModelConfig, build: Callable[[Source, BuildContext], Module]
    ) -> tuple[Module, AttentionBackend]:
        files = locate(config, registry)
        quantization = config.quantization
        if quantization == "auto":
            quantization = files.quantization() or "none"
        filled = msgspec.structs.replace(
            config,
            dtype=engine.model.dtype,
            quantization=quantization,
            max_model_len=engine.model.max_model_len,
            deterministic=engine.model.deterministic,
        )
        module = _load(filled, registry, files, platform.for_drafts(), device, build)
        backend = engine.attention.backend
        capabilities = registry.get("attention", backend).capabilities
        for spec in module.attention_layers():
            missing = capabilities.missing(head_size=spec.head_dim)
            if missing is not None:
                raise ConfigError(
                    f"{config.name!r} needs an attention backend with another width of heads: "
                    f"{backend} lacks {missing}; choose another attention.backend"
                )
        return module, _attention(backend, engine, registry, module, device)

    return open_module


def _kv_dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = torch.float8_e4m3fn if name == "fp8" else getattr(torch, name)
    return dtype


def _check_fits(
    config: Config, registry: Registry, source: Source, platform: Platform, device: torch.device
) -> None:
    """Compare what the weights will take with the device's memory before reading any of them."""
    if config.model.load_format == "dummy":
        return
    method = _method(config.model, registry, source, platform)
    needed = held_bytes(source.folder, method, getattr(torch, config.model.dtype), device)
    memory = platform.memory()
    usable = min(memory.free, int(memory.total * config.cache.gpu_memory_utilization))
    if needed > usable:
        raise CapacityError(
            f"the model's weights take {needed / _GIB:.1f} GiB, and the device has "
            f"{memory.free / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free; use a smaller or "
            "quantized model, or raise cache.gpu_memory_utilization"
        )


class _out_of_memory(AbstractContextManager[None]):  # noqa: N801
    """Turns the allocator's error into one that says what to change."""

    def __init__(self, config: Config, platform: Platform) -> None:
        self._config = config
        self._platform = platform

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # On the host torch raises a plain RuntimeError.
        on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        if on_host or isinstance(error, torch.OutOfMemoryError):
            memory = self._platform.memory()
            raise CapacityError(
                f"the device ran out of memory while starting ({memory.free / _GIB:.1f} of "
                f"{memory.total / _GIB:.1f} GiB are free now); lower "
                "model.max_model_len, schedule.max_num_batched_tokens or schedule.max_num_seqs, or "
                "use a smaller or quantized model"
            ) from error
