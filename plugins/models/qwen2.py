"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from __future__ import annotations

import msgspec

from ...core.layers.decoder import Decoder, DecoderSpec
from ...core.layers.fields import Fields
from .qwen_windows import read_windows

__all__ = ("Qwen2",)


class Qwen2(Decoder):
    """Qwen2ForCausalLM."""

    @classmethod
    def read(cls, config: Fields) -> DecoderSpec:
        spec = DecoderSpec.read(config)
        return msgspec.structs.replace(
            spec, qkv_bias=True, windows=read_windows(config, spec.num_layers)
        )
