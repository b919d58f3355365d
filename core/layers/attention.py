"""Self-attention: projections, optional head norms and rotary positions around a backend."""

from __future__ import annotations

import msgspec
import torch

from ..contracts.attention import AttentionSpec, Rotation
from ..contracts.model import Attend, BuildContext, TensorHolder
from ..contracts.platform import Norm
from .kv_scales import KVScales
from .linear import make_linear
from .norm import RMSNorm

__all__ = ("AttentionBlock", "AttentionParts")


class AttentionParts(msgspec.Struct, frozen=True, kw_only=True):
    """What an attention block has beside its geometry.

    Attributes:
        hidden_size: width of its output, and of its input unless that is given.
        input_size: width of its input, where it is another.
        qkv_bias: whether the query, key and value projections have a bias.
        output_bias: whether the output projection has one.
        head_norm_eps: of an RMS norm on every query and key head; None for no such norm.
    """

    hidden_size: int
    input_size: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    head_norm_eps: float | None = None


class AttentionBlock:
    """One layer's attention.

    Args:
        name: of the module in the checkpoint.
        index: of the layer, handed to the backend.
        spec: geometry.
        parts: biases and norms.
        context: what to build with.
    """

    def __init__(
        self,
        name: str,
        index: int,
        spec: AttentionSpec,
        parts: AttentionParts,
        context: BuildContext,
    ) -> None:
        heads, kv_heads, head_dim = spec.num_heads, spec.num_kv_heads, spec.head_dim
        self._qkv = make_linear(
            (f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"),
            (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim),
            parts.input_size or parts.hidden_size,
            bias=parts.qkv_bias,
            context=context,
        )
        self._output = make_linear(
            (f"{name}.o_proj",),
            (parts.hidden_size,),
            heads * head_dim,
            bias=parts.output_bias,
            context=context,
        )
        self._norms: tuple[RMSNorm, RMSNorm] | None = None
        if parts.head_norm_eps is not None:
            self._norms = (
                RMSNorm(f"{name}.q_norm", head_dim, parts.head_norm_eps, context),
                RMSNorm(f"{name}.k_norm", head_dim, parts.head_norm_eps, context),
            )
        self._spec = spec
        self._scales = KVScales(name)
        self._index = index
        self._parts = [heads, kv_heads, kv_heads]
        self._view = (-1, heads + 2 * kv_heads, head_dim)

    @property
    def spec(self) -> AttentionSpec:
        """Geometry, with the scales of keys and values once they are loaded."""
        return msgspec.structs.replace(
            self._spec, k_scale=self._scales.k_scale, v_scale=self._scales.v_scale
        )

    def holders(self) -> list[TensorHolder]:
        """Projections, norms and scales."""
        return [self._qkv, self._output, self._scales, *(self._norms or ())]

    def __call__(
        self,
        x: torch.Tensor,
        rotation: Rotation,
        attend: Attend,
        *,
        norm: Norm | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[T, input size] -> [T, hidden_size].

        Args:
            x: the input.
            rotation: of the T positions.
            attend: this step's attention.
            norm: applied to x first.
            add: [T, hidden_size] to add the result to; it may be written into.
        """
        qkv = self._qkv.fused(x, norm=norm).view(self._view)
        q, k, v = qkv.split_with_sizes(self._parts, 1)
        if self._norms is not None:
            q.copy_(self._norms[0](q))
            k.copy_(self._norms[1](k))
        return self._output.fused(attend(self._index, q, k, v, rotation), add=add)
