"""Qwen3, dense: Qwen2 with norms on query and key heads in place of biases."""

from __future__ import annotations

import msgspec

from ...core.layers.decoder import Decoder, DecoderSpec
from ...core.layers.fields import Fields
from .qwen_windows import read_windows

__all__ = ("Qwen3",)


class Qwen3(Decoder):
    """Qwen3ForCausalLM."""

    @classmethod
    def read(cls, config: Fields) -> DecoderSpec:
        # Qwen3 configs without head_dim mean 128, whatever the hidden size.
        spec = DecoderSpec.read(config, head_dim=128)
        bias = config.flag("attention_bias", False)
        return msgspec.structs.replace(
            spec,
            qkv_bias=bias,
            output_bias=bias,
            head_norms=True,
            windows=read_windows(config, spec.num_layers),
        )
