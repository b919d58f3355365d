"""Queries, keys and values of a step as one tensor, and what is done to it on a CPU."""

from __future__ import annotations

import torch

from ...core.contracts.attention import AttentionSpec

__all__ = ("rotate", "side_by_side")


def side_by_side(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spec: AttentionSpec
) -> torch.Tensor:
    """[T, heads + 2 * kv heads, head_dim], which may be the memory of the three."""
    heads, kv_heads, width = spec.num_heads, spec.num_kv_heads, spec.head_dim
    size = width * q.element_size()
    behind = k.data_ptr() - q.data_ptr(), v.data_ptr() - k.data_ptr()
    if behind == (heads * size, kv_heads * size) and q.stride() == k.stride() == v.stride():
        # They are parts of one product.
        return q.as_strided((q.shape[0], heads + 2 * kv_heads, width), q.stride())
    return torch.cat((q, k, v), 1)


def rotate(
    qkv: torch.Tensor, kv_heads: int, cos: torch.Tensor | None, sin: torch.Tensor | None
) -> None:
    """Rotate queries and keys in place, as ``Rotation.apply`` does, by angles if there are any.

    Args:
        qkv: [T, heads + 2 * kv heads, head_dim].
        kv_heads: how many of them are values.
        cos: [T, 1, head_dim].
        sin: likewise.
    """
    if cos is not None and sin is not None:
        x = qkv[:, :-kv_heads]
        swapped = x.roll(x.shape[-1] // 2, -1)
        x.mul_(cos).addcmul_(swapped, sin)
