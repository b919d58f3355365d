"""Small functions of tensors, run without Python between their operators."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch

__all__ = ("Recorded", "recording", "scripted")

logger = logging.getLogger(__name__)

T = TypeVar("T")

# More tokens take longer to compute than operators to be called.
_MOST_TOKENS = 8
# Calls of a kind before it is recorded, and of a recording until TorchScript has compiled it.
_PATIENCE = 8
_COMPILING = 3
# Recordings of one function: who calls in more ways than this would wait for ever new ones.
_MOST_KINDS = 16
_TENSOR = "tensor"


def scripted(function: T) -> T:
    """The function or module, run by TorchScript, or as it is where that is not to be had.

    On a CPU an operator called from Python takes 3 to 6 us, in a script about one; compiling a
    short function takes 2 ms. TorchScript is deprecated and nothing in torch replaces it for this:
    ``torch.compile`` takes seconds.

    Args:
        function: of tensors and numbers, in the part of Python that TorchScript knows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            compiled: Any = torch.jit.script(function)
        except (RuntimeError, AttributeError, TypeError, NotImplementedError, OSError):
            return function
    script: T = compiled
    return script


class Recorded:
    """A function of tensors, recorded as one script where it is called alike again and again.

    Recording takes as long as a hundred calls, so that the first calls of a kind run as they are. A
    function that cannot be recorded, or whose recording gives something else, runs so for ever.

    Args:
        function: of tensors, constants and tuples of them, named ones too, to a tensor or a tuple
            of some. What it does may depend on constants, on how they are nested, and on
            ``num_tokens``, but on no tensor's values; weights are the only tensors that it may
            find elsewhere. It may write into tensors, and run again write the same.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._calls: Counter[Hashable] = Counter()
        self._scripts: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, num_tokens: int, *args: Any) -> Any:
        """The function's result.

        Args:
            num_tokens: leading size of the arguments that the function has for each token.
            args: of the function.
        """
        if num_tokens > _MOST_TOKENS:
            return self._function(*args)
        tensors: list[torch.Tensor] = []
        kind = (num_tokens, _apart(args, tensors))
        script = self._scripts.get(kind)
        if script is not None:
            return script(*tensors)
        result = self._function(*args)
        self._calls[kind] += 1
        if self._calls[kind] == _PATIENCE and len(self._scripts) < _MOST_KINDS:
            self._scripts[kind] = self._record(kind[1], tensors, result)
        return result

    def _record(self, kind: Any, tensors: list[torch.Tensor], expected: Any) -> Callable[..., Any]:
        def whole(*tensors: torch.Tensor) -> Any:
            return self._function(*_together(kind, iter(tensors)))

        with warnings.catch_warnings():
            # Of what depends on a constant, and of TorchScript's age.
            warnings.simplefilter("ignore")
            try:
                made: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                    whole, tuple(tensors), check_trace=False
                )
                # The first calls compile it.
                found = [made(*tensors) for _ in range(_COMPILING)][-1]
                torch.testing.assert_close(found, expected, equal_nan=True)
            except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
                logger.info("not recorded, and run as it is: %s", error)
                return whole
        script: Callable[..., Any] = made
        return script


def recording() -> bool:
    """Whether a ``Recorded`` function is being recorded; a script cannot be part of that."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing


def _apart(value: Any, tensors: list[torch.Tensor]) -> Hashable:
    """What a value is without its tensors, which are appended."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _TENSOR
    if isinstance(value, tuple):
        return type(value), tuple([_apart(part, tensors) for part in value])
    return (value,)


def _together(kind: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The value of a kind with these tensors."""
    if kind is _TENSOR:
        return next(tensors)
    if len(kind) == 1:
        return kind[0]
    made, parts = kind
    values = [_together(part, tensors) for part in parts]
    return tuple(values) if made is tuple else made(*values)
