"""Llama 2, 3 and 3.x, and models saved under their architecture."""

from __future__ import annotations

import msgspec

from ...core.layers.decoder import Decoder, DecoderSpec
from ...core.layers.fields import Fields

__all__ = ("Llama",)


class Llama(Decoder):
    """LlamaForCausalLM."""

    @classmethod
    def read(cls, config: Fields) -> DecoderSpec:
        bias = config.flag("attention_bias", False)
        return msgspec.structs.replace(
            DecoderSpec.read(config),
            qkv_bias=bias,
            output_bias=bias,
            mlp_bias=config.flag("mlp_bias", False),
        )
