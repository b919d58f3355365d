"""Every "auto" becomes a value here, once, with the reason; nothing later changes a setting."""

from __future__ import annotations

from typing import Any

import msgspec

from .config import Config, SpeculationConfig, draft_config
from .contracts.platform import Platform, PlatformDefaults
from .contracts.speculator import Speculator, made_for
from .errors import CapacityError, ConfigError
from .registry import Registry
from .source import Source, locate

__all__ = ("Resolution", "resolve")


class Resolution(msgspec.Struct, frozen=True):
    """A configuration with no question left open.

    Attributes:
        config: resolved.
        reasons: dotted key -> why it has its value, for keys the user left open.
        source: where the model's files are.
    """

    config: Config
    reasons: dict[str, str]
    source: Source


class _Draft:
    """A configuration under construction: dotted keys are set once, each with its reason."""

    def __init__(self, config: Config) -> None:
        self.values = msgspec.to_builtins(config)
        self.reasons: dict[str, str] = {}

    def set(self, key: str, value: Any, reason: str) -> None:
        section, _, field = key.partition(".")
        self.values[section][field] = value
        self.reasons[key] = reason

    def config(self) -> Config:
        return msgspec.convert(self.values, Config)


def resolve(config: Config, registry: Registry) -> Resolution:
    """Choose what the configuration leaves open, and refuse what cannot work together.

    Raises:
        ConfigError: for a name nobody provides, or parts that do not fit together.
        CapacityError: for a context longer than the model's.
        CheckpointError: when the model's files are not there or not understood.
    """
    source = locate(config.model, registry)
    draft = _Draft(config)
    platform = _choose_platform(config, registry, draft)
    defaults = platform.defaults()
    _choose_model(config, registry, source, defaults, draft)
    _choose_executor(config, registry, draft)
    _choose_attention(config, registry, source, platform, draft)
    _choose_speculation(config, registry, source, draft)
    _choose_schedule(config, defaults, draft)
    _choose_graphs(config, registry, source, platform, draft)
    _check_names(config, registry)
    if config.server.served_model_name is None:
        draft.set("server.served_model_name", config.model.name, "the model's name")
    return Resolution(draft.config(), draft.reasons, source)


def _choose_platform(config: Config, registry: Registry, draft: _Draft) -> Platform:
    wanted = config.parallel.platform
    if wanted != "auto":
        platform: Platform = registry.make("platform", wanted)
        if not platform.available():
            raise ConfigError(
                f"parallel.platform is {wanted!r}, and this machine has no such device"
            )
        return platform
    present = [
        (candidate.rank, name, candidate)
        for name in registry.names("platform")
        if (candidate := registry.make("platform", name)).available()
    ]
    if not present:
        raise ConfigError("no platform works here; load a plugin that provides one")
    _, name, platform = max(present, key=lambda item: item[:2])
    others = [other for _, other, _ in present if other != name]
    reason = f"preferred to {', '.join(others)}" if others else "the only one present"
    draft.set("parallel.platform", name, reason)
    return platform


def _choose_model(
    config: Config,
    registry: Registry,
    source: Source,
    defaults: PlatformDefaults,
    draft: _Draft,
) -> None:
    registry.get("model", source.architecture())
    stored = source.dtype()
    if config.model.dtype == "auto":
        if stored in defaults.dtypes:
            draft.set("model.dtype", stored, "the checkpoint's")
        else:
            reason = f"the device's fastest; it does not run the checkpoint's {stored} well"
            draft.set("model.dtype", defaults.dtypes[0], reason)
    elif config.model.dtype not in (offers := defaults.dtypes + defaults.dtypes_on_request):
        offered = ", ".join(offers)
        raise ConfigError(f"model.dtype {config.model.dtype} does not run here; use {offered}")
    longest = source.context_length()
    if config.model.max_model_len is None:
        draft.set("model.max_model_len", longest, "the model's context")
    elif config.model.max_model_len > longest:
        raise CapacityError(
            f"model.max_model_len is {config.model.max_model_len}, and the model was made for "
            f"{longest} tokens; use at most that"
        )
    _choose_quantization(config, registry, source, draft)


def _choose_quantization(config: Config, registry: Registry, source: Source, draft: _Draft) -> None:
    stored = source.quantization()
    method = config.model.quantization
    if method == "auto":
        method = stored or "none"
        draft.set("model.quantization", method, "what the checkpoint says")
    elif stored is not None and method != stored:
        raise ConfigError(
            f"model.quantization is {method!r} and the checkpoint was quantized by {stored!r}; "
            "leave the setting out"
        )
    chosen = registry.get("quant", method)
    if stored is None and method != "none" and "quantizes" not in chosen.capabilities.features:
        raise ConfigError(
            f"model.quantization is {method!r}, which reads checkpoints that it was made for, and "
            f"this one is not quantized; `quire quantize --method {method}` makes one, and "
            "fp8 and int8 quantize while loading"
        )


def _choose_executor(config: Config, registry: Registry, draft: _Draft) -> None:
    name = config.parallel.executor
    if name == "auto":
        name = "inline"
        draft.set("parallel.executor", name, "one device")
    executor = registry.get("executor", name)
    size = config.parallel.tensor_parallel_size
    if size > 1 and "tensor_parallel" not in executor.capabilities.features:
        raise ConfigError(
            f"parallel.tensor_parallel_size is {size}, and executor {name!r} runs one device; "
            "use 1, or load a plugin with an executor for several"
        )


def _choose_attention(
    config: Config, registry: Registry, source: Source, platform: Platform, draft: _Draft
) -> None:
    values = draft.values
    dtype = values["model"]["dtype"]
    auto = config.attention.backend == "auto"
    names = platform.defaults().attention if auto else (config.attention.backend,)
    kv_dtype = config.cache.kv_dtype
    if kv_dtype == "auto":
        kv_dtype, reason = dtype, "the model's dtype"
        if source.quantizes_kv():
            missing = registry.get("attention", names[0]).capabilities.missing(kv_dtype="fp8")
            if missing is None:
                kv_dtype, reason = "fp8", "what the checkpoint was made for"
            else:
                reason = f"the model's dtype; the checkpoint's fp8 needs more than {names[0]}"
        draft.set("cache.kv_dtype", kv_dtype, reason)
    wanted = {
        "device": platform.device_type,
        "dtype": dtype,
        "kv_dtype": kv_dtype,
        "head_size": source.head_size(),
        "features": ("deterministic",) if config.model.deterministic else (),
    }
    refused: list[str] = []
    for name in names:
        backend = registry.get("attention", name)
        missing = backend.capabilities.missing(**wanted)
        if missing is None:
            break
        refused.append(f"{name} lacks {missing}")
    else:
        raise ConfigError(f"no attention backend fits: {'; '.join(refused)}")
    if auto:
        reason = f"first choice on {platform.device_type}" if not refused else "; ".join(refused)
        draft.set("attention.backend", name, reason)
    if config.cache.block_size is None:
        draft.set("cache.block_size", backend.default_block_size, f"what {name} runs best")


def _choose_speculation(config: Config, registry: Registry, source: Source, draft: _Draft) -> None:
    speculation = config.speculation
    method, model = speculation.method, speculation.model
    if method is None and model is None:
        return
    if method is None and model is not None:
        # vLLM's name of a method that has no model.
        if model.startswith("[") and model.endswith("]"):
            method, reason, model = model[1:-1], f"written as {model}", None
            draft.set("speculation.model", None, reason)
        else:
            method, reason = _method_of(speculation, registry)
        draft.set("speculation.method", method, reason)
    speculator: type[Speculator] = registry.get("speculator", method or "")
    chosen = msgspec.structs.replace(speculation, method=method, model=model)
    speculator.check(chosen, source, registry)
    if speculation.num_speculative_tokens is None:
        reason = f"what {method} does best"
        draft.set("speculation.num_speculative_tokens", speculator.default_length, reason)
    for kind, name in (
        ("attention", draft.values["attention"]["backend"]),
        ("executor", draft.values["parallel"]["executor"]),
    ):
        if "speculation" not in registry.get(kind, name).capabilities.features:
            raise ConfigError(
                f"speculation.method is {method!r}, and {kind} {name!r} cannot verify drafts; "
                "choose another one, or leave speculation out"
            )
    architecture = source.architecture()
    shown = "hidden_states" in registry.get("model", architecture).capabilities.features
    if "hidden_states" in speculator.capabilities.features and not shown:
        raise ConfigError(
            f"speculation.method {method!r} drafts from the model's hidden states, and "
            f"{architecture} does not show them; choose another method"
        )
    if "overlap" not in speculator.capabilities.features:
        if config.schedule.overlap:
            raise ConfigError(
                f"schedule.overlap is true, and speculator {method!r} needs each step's tokens "
                "before the next one is planned; leave the setting out"
            )
        draft.set("schedule.overlap", False, f"speculator {method} reads tokens on the host")


def _method_of(speculation: SpeculationConfig, registry: Registry) -> tuple[str, str]:
    """The method that a checkpoint is made for, and why."""
    name = made_for(locate(draft_config(speculation), registry, "speculation.model"), registry)
    if name is None:
        return "draft_model", "what has a model and no other method"
    return name, "what the checkpoint is made for"


def _choose_schedule(config: Config, defaults: PlatformDefaults, draft: _Draft) -> None:
    schedule = config.schedule
    if schedule.max_num_seqs is None:
        draft.set("schedule.max_num_seqs", defaults.max_num_seqs, "the platform's default")
    if schedule.overlap is None and "schedule.overlap" not in draft.reasons:
        reason = "hides the host behind the device" if defaults.overlap else "nothing to hide"
        draft.set("schedule.overlap", defaults.overlap, reason)
    longest: int = draft.values["model"]["max_model_len"]
    tokens = schedule.max_num_batched_tokens
    if tokens is None:
        tokens = defaults.max_num_batched_tokens
        reason = "the platform's default"
        if not schedule.chunked_prefill and tokens < longest:
            tokens, reason = longest, "a whole prompt, since chunked prefill is off"
        draft.set("schedule.max_num_batched_tokens", tokens, reason)
    elif not schedule.chunked_prefill and tokens < longest:
        raise ConfigError(
            f"schedule.max_num_batched_tokens is {tokens}, less than the context of {longest}, and "
            "chunked prefill is off; raise it, lower model.max_model_len, or turn it on"
        )


def _choose_graphs(
    config: Config, registry: Registry, source: Source, platform: Platform, draft: _Draft
) -> None:
    named = (
        ("attention", draft.values["attention"]["backend"]),
        ("quant", draft.values["model"]["quantization"]),
        ("model", source.architecture()),
    )
    without = [
        f"{kind} {name}"
        for kind, name in named
        if "graphs" not in registry.get(kind, name).capabilities.features
    ]
    method = draft.values["speculation"]["method"]
    if method is not None:
        # What it is shown is part of the step.
        features = registry.get("speculator", method).capabilities.features
        if "hidden_states" in features and "graphs" not in features:
            without.append(f"speculator {method}")
    if platform.device_type != "cuda":
        without = [f"platform {draft.values['parallel']['platform']}"]
    if config.schedule.graphs is None:
        reason = f"not possible with {', '.join(without)}" if without else "every part can"
        draft.set("schedule.graphs", not without, reason)
    elif config.schedule.graphs and without:
        raise ConfigError(
            f"schedule.graphs is true, and {', '.join(without)} cannot run in a CUDA graph; "
            "leave the setting out"
        )


def _check_names(config: Config, registry: Registry) -> None:
    """Everything named must exist before any work starts; the server imports its own parts."""
    registry.get("scheduler", config.schedule.scheduler)
    registry.get("policy", config.schedule.policy)
    for route in config.server.routes:
        registry.require("route", route)
    if config.metrics.enabled:
        registry.require("exporter", config.metrics.exporter)
