"""Speculators: guess the next tokens of sequences, to be verified by the model in one step.

A speculator only proposes. Verification is the engine's, happens once, and is exact, so a wrong
guess costs time and never changes a result. It reads tokens where the engine keeps them, in the
slot table on the device, and so needs no state of its own but what it computes itself; the block
tables are there for one with a cache of keys and values, which then has the geometry of the
model's. Proposals are chains, one token for each position: docs/decisions/0018 counts what trees
would give.

Life cycle: built once, with the model in place; ``caches`` are allocated together with the
model's; then ``propose`` after every step whose rows ask for drafts, and ``enter`` before the first
one of a sequence new to its slot. One with a model of its own has the engine compute what that
``lacks`` of a sequence before. One that drafts from the model's hidden states is shown those of a
sequence's steps by ``observe``, several steps at once or not, before it may be asked for drafts of
it. Steps may be left out where nobody drafts; who was in one is not drafted for again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from ..errors import ConfigError
from .capabilities import Capabilities
from .model import CheckpointModule

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..config import ModelConfig, SpeculationConfig
    from ..registry import Registry
    from ..source import Source
    from .attention import AttentionBackend, AttentionBatch
    from .model import Architecture, BuildContext

__all__ = (
    "CONTRACT_VERSION",
    "Drafting",
    "Draw",
    "HostRows",
    "Observed",
    "OpenModule",
    "Reader",
    "Speculator",
    "SpeculatorContext",
    "made_for",
)

CONTRACT_VERSION = 1

Module = TypeVar("Module", bound=CheckpointModule)


class OpenModule(Protocol):
    """Loads a checkpoint that is no model of its own; see ``SpeculatorContext``."""

    def __call__(
        self, config: ModelConfig, build: Callable[[Source, BuildContext], Module]
    ) -> tuple[Module, AttentionBackend]:
        """Build a module for a checkpoint's files, fill it, and give it an attention backend.

        Raises:
            CheckpointError: as loading a model does.
        """
        ...


@dataclass(frozen=True, slots=True)
class SpeculatorContext:
    """What a speculator is built with.

    Attributes:
        device: torch device of the slot table and of the drafts.
        max_slots: sequences that may run at once.
        max_model_len: tokens of one sequence.
        max_tokens: of a step; no more should go through a model at once.
        vocab_size: drafts are below it.
        block_size: tokens a block.
        model: the one that verifies.
        open_model: loads a checkpoint on the device, with an attention backend of its own whose
            cache is not allocated; raises as loading the model itself does.
        open_module: the same for another kind of checkpoint, which the caller knows how to build.
    """

    device: torch.device
    max_slots: int
    max_model_len: int
    max_tokens: int
    vocab_size: int
    block_size: int
    model: Architecture
    open_model: Callable[[ModelConfig], tuple[Architecture, AttentionBackend]]
    open_module: OpenModule


@dataclass(frozen=True, slots=True)
class HostRows:
    """What the host knows of the N rows, without waiting for the device.

    Attributes:
        slots: int64 [N].
        longest: int64 [N], bounds of ``lengths`` from above.
        slack: int64 [N], by how much they may be too large.
        wanted: int64 [N], drafts that each row can use, from 1 on.
        verified: int64 [N], drafts that the row has just verified, all of them proposed by the
            call before; 0 for a slot that was not asked for then.
    """

    slots: np.ndarray
    longest: np.ndarray
    slack: np.ndarray
    wanted: np.ndarray
    verified: np.ndarray


class Draw(Protocol):
    """Draws from a speculator's own logits as the requests' parameters say.

    The random numbers are those that will draw the tokens themselves, so that good logits give
    drafts that are accepted; a request without temperature gets the likeliest token.
    """

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor | None, index: int) -> torch.Tensor:
        """Draw one draft a row.

        Args:
            logits: [A, V].
            rows: int64 [A], which of the N rows; None for all of them.
            index: of the draft in its chain.

        Returns:
            int64 [A]; -1 where nothing can be drawn.
        """
        ...


@dataclass(frozen=True, slots=True)
class Drafting:
    """N sequences that want drafts.

    Attributes:
        slots: int64 [N].
        lengths: int64 [N], tokens each of them has; the first draft would stand at this position.
        wanted: int64 [N], drafts that each of them can use, from 1 on.
        most: drafts that a row can use at most, and columns of the answer. There are blocks for a
            row's tokens and for all but the last of the drafts that it can use.
        tokens: int32 [max_slots + 1, max_model_len + slack], a row a slot; not to be changed.
        blocks: int32 [max_slots + 1, blocks], tables of blocks, a row a slot.
        draw: what the requests of some rows would draw from logits.
        host: the same rows, as far as the host knows.
    """

    slots: torch.Tensor
    lengths: torch.Tensor
    wanted: torch.Tensor
    most: int
    tokens: torch.Tensor
    blocks: torch.Tensor
    draw: Draw
    host: HostRows


@dataclass(frozen=True, slots=True)
class Reader:
    """A speculator's own model, which reads what sequences know.

    Attributes:
        model: with its weights.
        attention: of the model; one of the speculator's ``caches``.
        leaves: last tokens of a sequence that ``propose`` computes itself.
    """

    model: Architecture
    attention: AttentionBackend
    leaves: int


@dataclass(frozen=True, slots=True)
class Observed:
    """T tokens that a step, or several, have computed, once what was drawn stands in the table.

    Among them may be drafts that were rejected, and padding, which writes to the null block.

    Attributes:
        slots: int64 [T].
        positions: int64 [T].
        hidden: [T, width], the model's hidden states that were asked for.
        tokens: as in ``Drafting``; not to be changed.
        lengths: int64 [max_slots + 1], tokens that each slot has now; of a prompt, all.
        batch: the step's geometry, which holds for every cache that shares the model's blocks.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    hidden: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    batch: AttentionBatch


class Speculator(ABC):
    """Proposes chains of draft tokens.

    Features that a class may declare: ``overlap``, if it never reads a tensor's values on the host
    and so does not make it wait for the device; ``graphs``, if moreover ``propose`` launches the
    same kernels for all calls with as many rows, the same ``most`` and the same ``graph_key``, so
    that it can be captured, and so does ``observe``. In a captured call ``host`` holds bounds
    only. ``parallel``, if a chain's drafts are made at once, so that more of them take no longer:
    captured calls then make as many as there may be. ``hidden_states``, if ``observe`` is to be
    called. ``rehearsed``, if its first call of ``propose`` is slow without a graph, and it may be
    called for one row of nobody's, as where it is captured, before there are sequences.

    Args:
        config: the section of the configuration.
        context: what it runs on.

    Raises:
        ConfigError: for settings that do not go together.
        CheckpointError: where it has a checkpoint, for one that does not fit the model.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    default_length: ClassVar[int] = 4
    """Drafts of a row, where the configuration names no number."""

    @classmethod
    def check(cls, config: SpeculationConfig, target: Source, registry: Registry) -> None:
        """Refuse what can be seen not to work before anything is loaded.

        Args:
            config: the section of the configuration.
            target: the files of the model that verifies.
            registry: for named checkpoints.

        Raises:
            ConfigError: naming the setting and what to do.
            CheckpointError: for a checkpoint that is not there.
        """
        for key in ("model", "quantization"):
            value = getattr(config, key)
            if value is not None:
                raise ConfigError(
                    f"speculation.{key} is {value!r}, and speculation.method {config.method!r} "
                    "has no model; leave one of them out"
                )

    @classmethod
    def recognises(cls, source: Source) -> bool:
        """Whether a checkpoint is for this method, where a configuration names only the model."""
        del source
        return False

    @abstractmethod
    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None: ...

    def caches(self) -> list[AttentionBackend]:
        """Backends whose caches share the model's blocks; allocated by the engine, as often."""
        return []

    def enter(self, slot: int, num_tokens: int) -> None:
        """A sequence with so many tokens will take the slot over; forget who was there."""
        del slot, num_tokens

    def hidden_layers(self) -> tuple[int, ...]:
        """Layers whose inputs ``observe`` is shown, side by side, the last norm being one more;
        none of them for what that norm gives."""
        return ()

    def observe(self, observed: Observed) -> None:
        """See what a step has computed, with the feature ``hidden_states``.

        Hidden states of tokens that were found in the prefix cache are never shown; what a cache of
        the speculator's own holds of them is as good as when another sequence wrote it, or, if that
        one's steps were not shown, anything.
        """
        del observed

    def reader(self) -> Reader | None:
        """The model, if it has one, that must have computed a sequence's tokens before it drafts
        from it; always the same."""
        return None

    def lacks(self, host: HostRows) -> np.ndarray:
        """How many tokens of each row the reader has yet to compute, which is done before
        ``propose`` is called for the same rows: int64 [N], those before the last ``leaves``.

        Called once for each call of ``propose``, where there is a reader.
        """
        return host.slots * 0

    def graph_key(self, num_rows: int, longest: int) -> Hashable:
        """What a captured ``propose`` depends on beside its number of rows and of drafts.

        One for longer rows serves shorter ones as well.

        Args:
            num_rows: of the call.
            longest: tokens of its longest row, at most.
        """
        del num_rows, longest
        return None

    @abstractmethod
    def propose(self, drafting: Drafting) -> torch.Tensor:
        """Draft.

        Returns:
            int64 [N, most], each row a chain; -1 from where on it has nothing to propose.
        """


def made_for(source: Source, registry: Registry) -> str | None:
    """The speculator that recognises a checkpoint, by its name; None where none does."""
    for name in registry.names("speculator"):
        speculator: type[Speculator] = registry.get("speculator", name)
        if speculator.recognises(source):
            return name
    return None
