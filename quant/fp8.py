"""8-bit floats: checkpoints of quant_method fp8, and any plain checkpoint while it is loaded.

Block scales as DeepSeek-V3 (arXiv 2412.19437) and transformers store them, scales a tensor as
AutoFP8 and transformers do.
"""

from __future__ import annotations

from typing import Any, Self

from ..core.contracts.platform import Platform
from ..core.layers.fields import Fields
from .stored.float8 import Float8Format, Float8Names, to_float8
from .stored.format import Format, OnLoad
from .stored.method import QUANTIZES, StoredMethod
from .stored.names import is_listed

__all__ = ("Float8",)

_BLOCK = 128
_OF_BLOCKS = Float8Names(scale=("weight_scale_inv",))
_OF_TENSORS = Float8Names(
    scale=("weight_scale", "weight_scale_inv"), input_scale=("input_scale", "activation_scale")
)


class Float8(StoredMethod):
    """Reads fp8 checkpoints, and rounds the layers of plain ones while they are loaded.

    Args:
        platform: of the device.
        layer_format: of quantized layers.
        plain: names of modules that are not quantized.
    """

    capabilities = QUANTIZES

    def __init__(self, platform: Platform, layer_format: Format, plain: tuple[str, ...]) -> None:
        super().__init__(platform)
        self._format = layer_format
        self._plain = plain

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        if config is None:
            return cls(platform, OnLoad(to_float8), ())
        fields = Fields(cls.described("fp8", config), "quantization_config.")
        fields.refuse_unless("fmt", "e4m3")
        static = fields.choice("activation_scheme", ("dynamic", "static"), "dynamic") == "static"
        plain = fields.strings("modules_to_not_convert", [])
        plain += fields.strings("ignored_layers", [])
        if not fields.has("weight_block_size"):
            stored = Float8Format("tensor", static, _OF_TENSORS)
            return cls(platform, stored, tuple(plain))
        fields.refuse_unless("weight_block_size", [_BLOCK, _BLOCK])
        if static:
            raise fields.misfit("activation_scheme", "must be dynamic with blocks")
        return cls(platform, Float8Format("block", names=_OF_BLOCKS), tuple(plain))

    def format(self, name: str) -> Format | None:
        # Whoever writes these leaves the head as it is, listed or not.
        if name == "lm_head" or is_listed(name, self._plain):
            return None
        return self._format
