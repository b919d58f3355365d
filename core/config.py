"""The configuration: one frozen struct per concern, from YAML or flags.

"auto" and None mean that ``resolve`` chooses; after it no "auto" is left. Unknown keys are refused
by ``core.config_file``, which names the nearest known one.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = (
    "AttentionConfig",
    "CacheConfig",
    "Config",
    "MetricsConfig",
    "ModelConfig",
    "ParallelConfig",
    "PluginsConfig",
    "ScheduleConfig",
    "ServerConfig",
    "SpeculationConfig",
    "draft_config",
    "known",
    "max_draws",
)

# Sequences that may speculate at full length at the same time, whatever max_num_seqs.
_SPECULATING = 32

Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Gibibytes = Annotated[float, Meta(gt=0, le=2**20)]
Port = Annotated[int, Meta(ge=0, le=65535)]
# A header carries it without spaces around it; an empty key would let in whoever sends none.
Key = Annotated[
    str, Meta(pattern=r"^[^\s\x00-\x1f\x7f]+$", description="one or more visible characters")
]
Name = Annotated[str, Meta(min_length=1, description="one or more characters")]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, and how it is loaded.

    Attributes:
        name: a name that a plugin supplies (``demo``), a folder, or a Hugging Face repository.
        tokenizer: another folder or repository for the tokenizer; None for the model's own.
        revision: of the repository; applies to every file taken from it.
        dtype: of activations and unquantized weights.
        max_model_len: most tokens of one sequence, prompt and output; None for what fits.
        quantization: a method's name, ``none``, or ``auto`` to read the checkpoint; ``fp8`` and
            ``int8`` also quantize a plain checkpoint while it is loaded.
        load_format: ``dummy`` makes weights up.
        trust_remote_code: allow code from the model's repository, for every file of it.
        chat_template: a template file to use in place of the tokenizer's.
        deterministic: the same request gives the same numbers, bit by bit, whatever runs beside it,
            however its prompt is cut into steps, cached or not; slower on a GPU.
        seed: of made-up weights and of requests without a seed of their own.
    """

    name: str = "demo"
    tokenizer: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Positive | None = None
    quantization: str = "auto"
    load_format: Literal["safetensors", "dummy"] = "safetensors"
    trust_remote_code: bool = False
    chat_template: str | None = None
    deterministic: bool = False
    seed: int = 0


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The KV cache.

    Attributes:
        block_size: tokens a block; None lets the attention backend choose.
        gpu_memory_utilization: share of the device's memory for weights, activations and cache.
        memory_gib: size of the cache itself; None for what gpu_memory_utilization leaves (on a
            CPU: what the longest sequence and max_num_seqs ask for, up to 1 GiB).
        num_blocks: exact number of blocks, over every other setting.
        kv_dtype: of keys and values; ``auto`` is the model's.
        prefix_caching: keep full blocks of finished requests for prompts that start alike.
    """

    block_size: Positive | None = None
    gpu_memory_utilization: Fraction = 0.9
    memory_gib: Gibibytes | None = None
    num_blocks: Annotated[int, Meta(ge=2)] | None = None
    kv_dtype: Literal["auto", "float32", "bfloat16", "float16", "fp8"] = "auto"
    prefix_caching: bool = True


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who runs when.

    Attributes:
        scheduler: name of a scheduler.
        policy: name of an order of admission and preemption.
        max_num_seqs: sequences that run at once; None lets the platform choose.
        max_num_batched_tokens: tokens computed in one step; None lets the platform choose.
        chunked_prefill: split long prompts over steps; without it a prompt longer than
            max_num_batched_tokens is refused.
        overlap: plan and launch a step while the one before runs; None lets the platform choose.
        graphs: run decode steps as captured CUDA graphs; None does where every part can.
        max_waiting: requests that may wait; more are refused as overload.
    """

    scheduler: str = "default"
    policy: str = "fcfs"
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    chunked_prefill: bool = True
    overlap: bool | None = None
    graphs: bool | None = None
    max_waiting: Positive = 4096


class AttentionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Attention.

    Attributes:
        backend: name of an attention backend, or ``auto``.
    """

    backend: str = "auto"


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices.

    Attributes:
        platform: name of a platform, or ``auto`` for the best one present.
        executor: name of an executor, or ``auto``.
        tensor_parallel_size: devices that share each layer.
    """

    platform: str = "auto"
    executor: str = "auto"
    tensor_parallel_size: Positive = 1


class SpeculationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Speculative decoding. Field names are those of vLLM's ``--speculative-config``.

    Attributes:
        method: name of a speculator; None for none, unless model is set.
        model: name of the draft model or EAGLE head, where the method has one.
        revision: of its repository.
        quantization: of the draft model or head, as model.quantization; None reads the checkpoint.
        num_speculative_tokens: most drafts verified at once for a sequence; None lets the
            speculator choose.
        adaptive: draft fewer tokens, or none, for a sequence or a batch where drafts do not pay.
        prompt_lookup_min: fewest tokens that must be found again before what followed them is
            proposed.
        prompt_lookup_max: most tokens that are looked for.
    """

    method: str | None = None
    model: str | None = None
    revision: str | None = None
    quantization: str | None = None
    num_speculative_tokens: Annotated[int, Meta(ge=1, le=32)] | None = None
    adaptive: bool = True
    prompt_lookup_min: Positive = 2
    prompt_lookup_max: Positive = 4


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP server.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        api_keys: callers must present one of these, without spaces; no key lets everybody in.
        served_model_name: the name clients use; None for model.name.
        routes: names of the route groups to serve.
        max_body_bytes: larger request bodies are refused.
        max_prompts: prompts in one completions request; prompts times n may be as many, or 128.
        drain_seconds: how long running requests may go on after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    api_keys: tuple[Key, ...] = ()
    served_model_name: Name | None = None
    routes: tuple[str, ...] = ("openai", "health", "metrics")
    max_body_bytes: Positive = 8 * 2**20
    max_prompts: Positive = 256
    drain_seconds: Seconds = 30.0


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics.

    Attributes:
        enabled: collect and export.
        exporter: name of the exporter.
        port: a second port for /metrics alone; None for the server's only.
    """

    enabled: bool = True
    exporter: str = "prometheus"
    port: Port | None = None


class PluginsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plugins beyond the built-in ones; installing a distribution activates nothing.

    Attributes:
        load: names of entry points in the group ``quire.plugins``.
    """

    load: tuple[str, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything, by concern."""

    model: ModelConfig = ModelConfig()
    cache: CacheConfig = CacheConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    attention: AttentionConfig = AttentionConfig()
    parallel: ParallelConfig = ParallelConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    server: ServerConfig = ServerConfig()
    metrics: MetricsConfig = MetricsConfig()
    plugins: PluginsConfig = PluginsConfig()


def max_draws(config: Config) -> int:
    """Most tokens that one step of a resolved configuration draws, one for each draft included."""
    sequences = known(config.schedule.max_num_seqs)
    drafts = config.speculation.num_speculative_tokens
    if config.speculation.method is None or drafts is None:
        return sequences
    return max(sequences, (1 + drafts) * min(sequences, _SPECULATING))


def draft_config(config: SpeculationConfig) -> ModelConfig:
    """The checkpoint that a speculator opens, as a model's section describes one."""
    return ModelConfig(
        name=config.model or "",
        revision=config.revision,
        quantization=config.quantization or "auto",
    )


def known(value: int | None) -> int:
    """A number that resolution has filled in; ValueError when it has not."""
    if value is None:
        raise ValueError("the configuration was not resolved")
    return value
