"""Rotary frequencies: how a config's scaling bends them for contexts longer than in training.

Formulas as in the ``modeling_rope_utils`` of transformers, whose names the configs use: linear
position interpolation (arXiv 2306.15595), dynamic NTK, YaRN (arXiv 2309.00071), and Llama 3.1's.
"""

from __future__ import annotations

import math

import msgspec
import torch

from ..errors import CheckpointError
from .fields import Fields

__all__ = ("RopeSpec",)

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


class RopeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding as a config describes it.

    Attributes:
        head_dim: width of a head; all of it is rotated.
        max_positions: the config's max_position_embeddings.
        base: rope_theta.
        kind: of scaling, one of default, linear, dynamic, llama3, yarn.
        factor: of scaling.
        original_positions: context of the training before scaling (llama3, yarn).
        low_freq_factor: llama3: wavelengths above original_positions / this are stretched whole.
        high_freq_factor: llama3: wavelengths below original_positions / this are left alone.
        beta_fast: yarn: rotations above which a frequency is left alone.
        beta_slow: yarn: rotations below which a frequency is stretched whole.
        attention_factor: multiplies cos and sin (yarn).
        truncate: yarn: round the bounds of the ramp to whole dimensions.
    """

    head_dim: int
    max_positions: int
    base: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True

    @classmethod
    def read(cls, config: Fields, head_dim: int) -> RopeSpec:
        """Read ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (4).

        Raises:
            CheckpointError: for a scaling that is not supported, or a value that does not fit.
        """
        if head_dim % 2:
            raise CheckpointError(f"head_dim in config.json must be even; found {head_dim}")
        newer = config.has("rope_parameters")
        rope = config.section("rope_parameters" if newer else "rope_scaling")
        base = (rope if newer and rope.has("rope_theta") else config).number("rope_theta", 10000.0)
        kind = rope.choice("rope_type" if rope.has("rope_type") else "type", _KINDS, "default")
        rope.refuse_unless("partial_rotary_factor", 1.0)
        config.refuse_unless("partial_rotary_factor", 1.0)
        max_positions = config.integer("max_position_embeddings")
        if kind == "default":
            return cls(head_dim=head_dim, max_positions=max_positions, base=base)
        spec = cls(
            head_dim=head_dim,
            max_positions=max_positions,
            base=base,
            kind=kind,
            factor=rope.number("factor"),
            original_positions=rope.integer("original_max_position_embeddings", max_positions),
        )
        if kind == "llama3":
            return msgspec.structs.replace(
                spec,
                low_freq_factor=rope.number("low_freq_factor"),
                high_freq_factor=rope.number("high_freq_factor"),
            )
        if kind == "yarn":
            return msgspec.structs.replace(
                spec,
                beta_fast=rope.number("beta_fast", 32.0),
                beta_slow=rope.number("beta_slow", 1.0),
                attention_factor=_yarn_attention_factor(rope, spec.factor),
                truncate=rope.flag("truncate", True),
            )
        return spec

    def frequencies(self, max_model_len: int) -> torch.Tensor:
        """Radians a position, float32 [head_dim / 2].

        Dynamic scaling depends on the length of the text; here it is the longest one that may
        occur, since keys in a cache shared between texts must not change with a text's length.

        Args:
            max_model_len: positions that may occur.
        """
        base = self.base
        if self.kind == "dynamic":
            stretch = self.factor * max(max_model_len, self.max_positions) / self.max_positions
            base *= (stretch - (self.factor - 1)) ** (self.head_dim / (self.head_dim - 2))
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / base**steps
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "yarn":
            return self._yarn(plain)
        return plain

    def _llama3(self, plain: torch.Tensor) -> torch.Tensor:
        rotations = self.original_positions * plain / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        smooth = ((rotations - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * plain / self.factor + smooth * plain

    def _yarn(self, plain: torch.Tensor) -> torch.Tensor:
        low = self._yarn_dimension(self.beta_fast)
        high = self._yarn_dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.head_dim - 1)
        if low == high:
            high += 0.001
        ramp = (torch.arange(self.head_dim // 2, dtype=torch.float32) - low) / (high - low)
        kept = 1 - ramp.clamp(0, 1)
        return plain / self.factor * (1 - kept) + plain * kept

    def _yarn_dimension(self, rotations: float) -> float:
        """The dimension that turns this many times over the original context."""
        turns = self.original_positions / (rotations * 2 * math.pi)
        return self.head_dim * math.log(turns) / (2 * math.log(self.base))


def _yarn_attention_factor(rope: Fields, factor: float) -> float:
    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.has("attention_factor"):
        return rope.number("attention_factor")
    if rope.has("mscale") and rope.has("mscale_all_dim"):
        return scale(rope.number("mscale")) / scale(rope.number("mscale_all_dim"))
    return scale(1.0)
