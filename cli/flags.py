"""The flags of every command that takes a model, as data: alias -> key of the configuration."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from ..core.errors import ConfigError

__all__ = ("FLAGS", "Flag", "Kind", "parse_section", "parse_size")

Kind = Literal["text", "integer", "number", "size", "switch", "off", "list", "section"]


class Flag(msgspec.Struct, frozen=True):
    """A flag that sets one key.

    Attributes:
        names: as typed; a switch has the forms for true and for false, where there is one; ``off``
            is a switch that has the form for false alone.
        key: dotted, of the configuration; of a ``section``, where its keys belong.
        kind: of the value; a ``size`` may be written 32k (thousands) or 32K (times 1024), a
            ``list`` flag may be repeated, a ``section`` is a JSON object.
        help: for ``--help``.
    """

    names: tuple[str, ...]
    key: str
    kind: Kind
    help: str

    @property
    def parameter(self) -> str:
        """The name under which the value reaches Python."""
        return "flag_" + self.names[0].lstrip("-").replace("-", "_")


FLAGS: tuple[Flag, ...] = (
    Flag(("--tokenizer",), "model.tokenizer", "text", "Folder or repository of the tokenizer."),
    Flag(("--revision",), "model.revision", "text", "Revision of the model's repository."),
    Flag(("--dtype",), "model.dtype", "text", "Kind of number to compute with."),
    Flag(("--max-model-len",), "model.max_model_len", "size", "Most tokens of one sequence."),
    Flag(("--quantization", "-q"), "model.quantization", "text", "How weights are stored."),
    Flag(("--load-format",), "model.load_format", "text", "safetensors, or dummy."),
    Flag(
        ("--trust-remote-code",),
        "model.trust_remote_code",
        "switch",
        "Allow code from the model's repository.",
    ),
    Flag(("--chat-template",), "model.chat_template", "text", "File with a chat template."),
    Flag(("--seed",), "model.seed", "integer", "Of requests without a seed of their own."),
    Flag(
        ("--gpu-memory-utilization",),
        "cache.gpu_memory_utilization",
        "number",
        "Share of the device's memory to use, up to 1.",
    ),
    Flag(("--block-size",), "cache.block_size", "integer", "Tokens in a block of the cache."),
    Flag(("--kv-cache-dtype",), "cache.kv_dtype", "text", "Kind of number in the cache."),
    Flag(
        ("--enable-prefix-caching", "--no-enable-prefix-caching"),
        "cache.prefix_caching",
        "switch",
        "Reuse the cache of prompts that start alike.",
    ),
    Flag(("--max-num-seqs",), "schedule.max_num_seqs", "integer", "Sequences that run at once."),
    Flag(
        ("--max-num-batched-tokens",),
        "schedule.max_num_batched_tokens",
        "size",
        "Most tokens computed in one step.",
    ),
    Flag(
        ("--enable-chunked-prefill", "--no-enable-chunked-prefill"),
        "schedule.chunked_prefill",
        "switch",
        "Split long prompts over steps.",
    ),
    Flag(("--scheduling-policy",), "schedule.policy", "text", "Order of admission."),
    Flag(("--enforce-eager",), "schedule.graphs", "off", "Run no step as a captured graph."),
    Flag(("--attention-backend",), "attention.backend", "text", "How attention is computed."),
    Flag(
        ("--tensor-parallel-size", "-tp"),
        "parallel.tensor_parallel_size",
        "integer",
        "Devices that share each layer.",
    ),
    Flag(("--speculative-model",), "speculation.model", "text", "Draft model."),
    Flag(
        ("--speculative-config",),
        "speculation",
        "section",
        "Speculative decoding, as JSON with the keys of that section.",
    ),
    Flag(("--host",), "server.host", "text", "Address to listen on."),
    Flag(("--port",), "server.port", "integer", "Port to listen on; 0 takes a free one."),
    Flag(("--served-model-name",), "server.served_model_name", "text", "Name clients use."),
    Flag(("--api-key",), "server.api_keys", "list", "Key that clients must send; repeatable."),
    Flag(
        ("--enable-metrics", "--no-enable-metrics"),
        "metrics.enabled",
        "switch",
        "Collect and export metrics.",
    ),
    Flag(("--metrics-port",), "metrics.port", "integer", "Second port for /metrics alone."),
    Flag(("--plugin",), "plugins.load", "list", "Plugin to load; repeatable."),
)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_FACTORS = {
    "": 1,
    "k": 10**3, "m": 10**6, "g": 10**9,
    "K": 2**10, "M": 2**20, "G": 2**30,
}  # fmt: skip


def parse_size(text: str, flag: str) -> int:
    """A whole number that may end in k, m, g (powers of 1000) or K, M, G (powers of 1024).

    Args:
        text: as typed, such as ``32k``, ``1M`` or ``25.6k``.
        flag: for the message.

    Raises:
        ConfigError: when it is no such number, or not whole.
    """
    match = _SIZE.fullmatch(text.strip())
    if match:
        value = float(match[1]) * _FACTORS[match[2]]
        if value == int(value):
            return int(value)
    raise ConfigError(
        f"{flag} must be a whole number such as 32768, 32k (32000) or 32K (32768), not {text!r}"
    )


def parse_section(text: str, flag: Flag) -> dict[str, Any]:
    """A section of the configuration written as a JSON object, as dotted keys and values.

    Args:
        text: as typed.
        flag: whose value it is.

    Raises:
        ConfigError: when it is no JSON object.
    """
    try:
        values = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{flag.names[0]} must be a JSON object such as "
            f'\'{{"method": "ngram"}}\', not {text[:80]!r}'
        ) from error
    return {f"{flag.key}.{name}": value for name, value in values.items()}
