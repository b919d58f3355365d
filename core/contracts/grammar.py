"""Grammars: which tokens may come next, for output of a given form.

Life cycle: ``compile`` once a specification (bounded in time by the engine); one ``matcher`` a
sequence; then ``fill`` before and ``accept`` after each token, ``rewind`` when drafts are rejected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import torch

__all__ = ("CONTRACT_VERSION", "GrammarEngine", "GrammarSpec", "Matcher")

CONTRACT_VERSION = 1


class GrammarSpec(msgspec.Struct, frozen=True):
    """A form: its kind, and its text in that kind's language."""

    kind: Literal["json_schema", "json_object", "regex", "choice", "ebnf"]
    text: str


class Matcher(ABC):
    """The state of one sequence in its grammar."""

    @abstractmethod
    def fill(self, mask: torch.Tensor) -> None:
        """Set bit t of int32 [ceil(vocab / 32)] where token t is allowed, clear it elsewhere."""

    @abstractmethod
    def accept(self, token_id: int) -> bool:
        """Advance by a token; False, with the state unchanged, when it is not allowed."""

    @abstractmethod
    def rewind(self, count: int) -> None:
        """Take back the last ``count`` accepted tokens."""

    @abstractmethod
    def finished(self) -> bool:
        """Whether the text so far is complete and only end-of-sequence may follow."""


class GrammarEngine(ABC):
    """Compiles specifications for one vocabulary.

    Args:
        vocabulary: token id -> the bytes it stands for.
        stop_ids: tokens that end a sequence.
    """

    @abstractmethod
    def __init__(self, vocabulary: list[bytes], stop_ids: list[int]) -> None: ...

    @abstractmethod
    def compile(self, spec: GrammarSpec) -> object:
        """A reusable compiled form.

        Raises:
            InvalidRequest: when the specification is malformed or too large.
        """

    @abstractmethod
    def matcher(self, compiled: object) -> Matcher:
        """A fresh state at the start of the form."""
