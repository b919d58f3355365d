"""Which products a model is made of, found by walking through it without any weights."""

from __future__ import annotations

import torch

from ..config import Config, known
from ..contracts.attention import AttentionSpec, Rotation
from ..contracts.model import Architecture, BuildContext
from ..contracts.platform import (
    Gate,
    Memory,
    Norm,
    Platform,
    PlatformDefaults,
    Product,
    ProductShape,
)
from ..layers.mlp import TorchGate
from ..layers.norm import TorchNorm
from ..registry import Registry
from ..source import locate

__all__ = ("product_shapes",)


def product_shapes(config: Config, registry: Registry) -> list[ProductShape]:
    """The distinct shapes of a model's plain products, in the order of their first use.

    Args:
        config: resolved.
        registry: for the parts it names.

    Raises:
        CheckpointError: when the model's config is not understood.
    """
    source = locate(config.model, registry)
    meta = torch.device("meta")
    recorder = _Recorder()
    method = registry.get("quant", config.model.quantization)
    context = BuildContext(
        dtype=getattr(torch, config.model.dtype),
        device=meta,
        quant=method.from_checkpoint(source.config.get("quantization_config"), recorder),
        platform=recorder,
        max_model_len=known(config.model.max_model_len),
    )
    model: Architecture = registry.get("model", source.architecture()).build(source.config, context)
    for holder in model.holders():
        holder.finish()
    none = torch.zeros(1, dtype=torch.int64, device=meta)
    model.logits(model.forward(none, none, _Attend(model.attention_layers())))
    return list(recorder.shapes)


class _Attend:
    """Attention that only has the right shape."""

    def __init__(self, layers: list[AttentionSpec]) -> None:
        self._layers = layers

    def __call__(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor:
        spec = self._layers[layer]
        return q.new_empty(q.shape[0], spec.num_heads * spec.head_dim)


class _Recorder(Platform):
    """A platform of nothing, whose products note that they were used."""

    device_type = "meta"

    def __init__(self) -> None:
        self.shapes: dict[ProductShape, None] = {}

    def available(self) -> bool:
        return True

    def setup(self, *, deterministic: bool = False) -> torch.device:
        return torch.device("meta")

    def defaults(self) -> PlatformDefaults:
        return PlatformDefaults(
            dtypes=(), attention=(), overlap=False, max_num_seqs=1, max_num_batched_tokens=1
        )

    def memory(self) -> Memory:
        return Memory(0, 0)

    def norm(self, weight: torch.Tensor, eps: float) -> Norm:
        return TorchNorm(weight, eps)

    def gate(self, act: str) -> Gate:
        return TorchGate(act)

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        return _Recorded(weight, self.shapes)

    def release(self) -> None:
        """Nothing is held."""

    def synchronize(self) -> None:
        pass


class _Recorded:
    """A product that notes its shape and computes nothing."""

    def __init__(self, weight: torch.Tensor, shapes: dict[ProductShape, None]) -> None:
        self._weight = weight
        self._shapes = shapes

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        rows, columns = self._weight.shape
        width = rows if gate is None else rows // 2
        self._shapes[ProductShape(width, columns, gate is not None)] = None
        return x.new_empty(x.shape[0], width)
