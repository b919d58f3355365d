"""Model architectures: from a checkpoint's config to hidden states and logits.

Life cycle: ``build`` reads the config and makes the module without weights; the loader streams
tensors into ``parameters_by_name`` holders and calls ``finish``; then ``forward`` and ``logits``
every step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from .capabilities import Capabilities

if TYPE_CHECKING:
    import torch

    from .attention import AttentionSpec, Rotation
    from .platform import Platform
    from .quant import QuantMethod

__all__ = (
    "CONTRACT_VERSION",
    "Architecture",
    "Attend",
    "BuildContext",
    "CheckpointModule",
    "LastLayer",
    "Tap",
    "TensorHolder",
)

CONTRACT_VERSION = 1


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What an architecture is built with.

    Attributes:
        dtype: torch dtype of activations and unquantized weights.
        device: torch device of the weights.
        quant: stores and multiplies linear layers.
        platform: of the device.
        max_model_len: positions that may occur.
    """

    dtype: torch.dtype
    device: torch.device
    quant: QuantMethod
    platform: Platform
    max_model_len: int


class Attend(Protocol):
    """The step's attention: (layer, q, k, v) -> [T, heads * head_dim]; shapes as in attention.

    With a rotation, q and k are rotated by it first; they may be changed in place.
    """

    def __call__(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotation: Rotation | None = None,
    ) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class LastLayer:
    """How the last layer runs where the hidden states of few tokens are wanted.

    Attributes:
        tokens: int64 [M], those.
        attend: takes q, k and v of all T tokens, and gives [M, heads * head_dim].
    """

    tokens: torch.Tensor
    attend: Attend


class Tap(Protocol):
    """Looks at a step's hidden states: (layer, x) before each layer reads x, [T, hidden size].

    The last norm counts as one more layer. What is to last must be copied.
    """

    def __call__(self, layer: int, x: torch.Tensor) -> None: ...


class TensorHolder(Protocol):
    """Takes tensors of a checkpoint by their names; LinearWeights is one."""

    def names(self) -> set[str]: ...

    def optional(self) -> set[str]: ...

    def load(self, name: str, tensor: torch.Tensor) -> None: ...

    def make_up(self, generator: torch.Generator) -> None: ...

    def finish(self) -> None: ...


class CheckpointModule(Protocol):
    """What is filled from a checkpoint and attends; ``Architecture`` says what each does."""

    def attention_layers(self) -> list[AttentionSpec]: ...

    def holders(self) -> list[TensorHolder]: ...

    def ignores(self, name: str) -> bool: ...


class Architecture(ABC):
    """A decoder that maps T tokens of many sequences, back to back, to hidden states.

    Features that a class may declare: ``graphs``; ``hidden_states``, if ``forward`` takes a tap and
    ``embed`` is there, for speculators that draft from the model's hidden states;
    ``chosen_tokens``, if it takes ``last``, so that what nobody wants of a prompt's last layer is
    not computed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()

    @classmethod
    @abstractmethod
    def build(cls, config: dict[str, Any], context: BuildContext) -> Self:
        """Make the model from config.json's values (as transformers 4 or 5 writes them).

        Raises:
            CheckpointError: for values that are missing or not supported, naming the key.
        """

    @abstractmethod
    def attention_layers(self) -> list[AttentionSpec]:
        """One spec a layer that calls ``attend``, by layer index; asked for once weights are in."""

    @abstractmethod
    def holders(self) -> list[TensorHolder]:
        """Everything that takes tensors; each tensor name belongs to exactly one holder."""

    @abstractmethod
    def ignores(self, name: str) -> bool:
        """Whether a checkpoint may hold this tensor without anybody taking it."""

    @abstractmethod
    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        tap: Tap | None = None,
        last: LastLayer | None = None,
    ) -> torch.Tensor:
        """Hidden states after the last norm.

        Args:
            token_ids: int64 [T].
            positions: int64 [T].
            attend: this step's attention.
            tap: shown the hidden states on their way; only with the feature ``hidden_states``, and
                with ``last`` not those behind the last layer.
            last: the last layer attends so, and only its tokens go on; only with the feature
                ``chosen_tokens``.

        Returns:
            [T, hidden size] in the model's dtype; [M, hidden size] with ``last``.
        """

    @abstractmethod
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[M, hidden size] -> [M, vocabulary], in the model's dtype or float32."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [T] -> [T, hidden size], what the first layer reads."""
        raise NotImplementedError(f"{type(self).__name__} has no feature hidden_states")
