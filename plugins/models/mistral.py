"""Mistral: Llama with grouped heads and a sliding window on every layer."""

from __future__ import annotations

import msgspec

from ...core.layers.decoder import Decoder, DecoderSpec
from ...core.layers.fields import Fields

__all__ = ("Mistral",)


class Mistral(Decoder):
    """MistralForCausalLM."""

    @classmethod
    def read(cls, config: Fields) -> DecoderSpec:
        spec = DecoderSpec.read(config)
        if not config.has("sliding_window"):
            return spec
        window = config.integer("sliding_window")
        return msgspec.structs.replace(spec, windows=(window,) * spec.num_layers)
