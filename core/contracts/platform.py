"""Platforms: a kind of device, what it has, and its fastest products, norms and gates.

Life cycle: ``available`` without side effects; ``setup`` once in the process that computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    import torch

    from ..run.sample_table import Draw
    from ..run.slot_kernels import SlotKernels

__all__ = (
    "CONTRACT_VERSION",
    "Gate",
    "Kernels",
    "Memory",
    "Norm",
    "Platform",
    "PlatformDefaults",
    "Product",
    "ProductShape",
)

CONTRACT_VERSION = 1


class Memory(msgspec.Struct, frozen=True):
    """Bytes of the device, as a whole and not in use."""

    total: int
    free: int


class PlatformDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What ``resolve`` uses where the configuration says nothing.

    Attributes:
        dtypes: supported activation dtypes, best first.
        attention: backend names, best first.
        overlap: whether the overlapped loop pays.
        max_num_seqs: sequences at once.
        max_num_batched_tokens: tokens a step.
        dtypes_on_request: that run as well, but that "auto" does not choose.
    """

    dtypes: tuple[str, ...]
    attention: tuple[str, ...]
    overlap: bool
    max_num_seqs: int
    max_num_batched_tokens: int
    dtypes_on_request: tuple[str, ...] = ()


class Norm(Protocol):
    """An RMS norm: x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

    @property
    def weight(self) -> torch.Tensor:
        """[size]."""
        ...

    @property
    def eps(self) -> float:
        """Added to the mean square."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size] -> [..., size] in the same dtype, accumulated in float32."""
        ...


class Gate(Protocol):
    """A gated activation: act(first half) * second half of the last dimension."""

    @property
    def act(self) -> str:
        """``hidden_act`` of a Hugging Face config: silu, gelu, gelu_new, gelu_pytorch_tanh."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[T, 2 * size] -> [T, size] in the same dtype."""
        ...


class Product(Protocol):
    """A linear layer's product with what stands around it, which a device may do in one go."""

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        gate: Gate | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """add + gate(norm(x) @ weight.T + bias), without what is None.

        Args:
            x: [T, in].
            norm: applied to x first.
            gate: applied to the product.
            add: [T, out], or [T, out / 2] behind a gate; the result may be written into it.
        """
        ...


class GatedProduct(ABC):
    """What a ``Product`` is as well if it can take in a gate before it."""

    @abstractmethod
    def takes_gate(self, tokens: int) -> bool:
        """Whether that costs less than the gate by itself or behind the product before."""

    @abstractmethod
    def behind_gate(
        self, x: torch.Tensor, gate: Gate, *, add: torch.Tensor | None = None
    ) -> torch.Tensor:
        """add + gate(x) @ weight.T + bias; see ``Product``.

        Args:
            x: [T, 2 * in].
            gate: applied to x first.
            add: [T, out] or None; the result may be written into it.
        """


class ProductShape(msgspec.Struct, frozen=True):
    """What a product multiplies.

    Attributes:
        out_features: width of the result; behind a gate, of one half.
        in_features: width of the input.
        gated: whether a gate follows.
    """

    out_features: int
    in_features: int
    gated: bool = False


class Kernels(Protocol):
    """What the platform's own kernels are made of, for kernels that live elsewhere.

    ``activate``, ``conclude`` and ``finish`` are functions in the kernels' language, to be handed
    to a kernel as constants.
    """

    @property
    def overlaps(self) -> bool:
        """Whether a kernel may be launched into the end of the one before."""
        ...

    @property
    def alike(self) -> bool:
        """Whether a row must have the same bits whichever rows stand beside it."""
        ...

    @property
    def activations(self) -> Mapping[str, str]:
        """``Gate.act`` -> what ``activate``, ``conclude`` and ``finish`` call it."""
        ...

    @property
    def activate(self) -> Any:
        """An activation, of float32."""
        ...

    @property
    def conclude(self) -> Any:
        """What follows a product's sums: other parts of its depth, bias, gate, addition, store."""
        ...

    @property
    def finish(self) -> Any:
        """What follows once all parts are added up."""
        ...

    @property
    def launch(self) -> Callable[..., None]:
        """Launch a kernel with little of the host's time."""
        ...

    @property
    def counters(self) -> Callable[[torch.device, int], torch.Tensor]:
        """int32 of at least so many, zero between launches, by which ``conclude`` counts parts."""
        ...


class Platform(ABC):
    """One kind of device."""

    device_type: ClassVar[str]
    rank: ClassVar[int] = 0
    """Among available platforms, "auto" takes the greatest."""

    @abstractmethod
    def available(self) -> bool:
        """Whether this machine has such a device, and torch can use it."""

    @abstractmethod
    def setup(self, *, deterministic: bool = False) -> torch.device:
        """Prepare this process (threads, allocator) and return the device to compute on.

        Args:
            deterministic: products, norms and gates give a row the same bits whichever rows stand
                beside it.
        """

    @abstractmethod
    def defaults(self) -> PlatformDefaults:
        """Values for what the configuration leaves open."""

    @abstractmethod
    def memory(self) -> Memory:
        """Of the device, now."""

    @abstractmethod
    def norm(self, weight: torch.Tensor, eps: float) -> Norm:
        """The fastest RMS norm here, over a last dimension of len(weight)."""

    @abstractmethod
    def gate(self, act: str) -> Gate:
        """The fastest gated activation here; the names are ``Gate.act``'s."""

    @abstractmethod
    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """The fastest x -> x @ weight.T + bias here; may repack, and then keeps only the repack.

        Args:
            weight: [out, in].
            bias: [out] or None.
        """

    def for_drafts(self) -> Platform:
        """The same device for modules that only draft, whose bits may depend on anything."""
        return self

    def kernels(self) -> Kernels | None:
        """For those who bring kernels of their own; None where only torch's operators run."""
        return None

    def draw(self, max_rows: int, vocab_size: int, device: torch.device) -> Draw | None:
        """Kernels that draw tokens from logits; None where torch's operators do.

        Args:
            max_rows: of a batch.
            vocab_size: columns of the logits.
            device: as ``setup`` returned it.
        """
        return None

    def slot_kernels(self) -> SlotKernels | None:
        """Kernels for what surrounds the model in a step; None where torch's operators do."""
        return None

    def compiling(self) -> AbstractContextManager[None]:
        """Inside, kernels are compiled, many at a time, and need not run; results mean nothing."""
        return nullcontext()

    def tune(self, shapes: list[ProductShape], out: Path | None) -> Iterator[str]:
        """Measure what multiplies fastest here, and write it down for later starts.

        Args:
            shapes: of products, distinct.
            out: where to; None for where later starts look.

        Yields:
            What was chosen, a line each.

        Raises:
            ConfigError: where there is nothing to choose from.
        """
        raise ConfigError(f"there is nothing to tune on the platform {self.device_type}")

    @abstractmethod
    def release(self) -> None:
        """Give memory that nothing refers to any more back to the device."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device is idle."""
