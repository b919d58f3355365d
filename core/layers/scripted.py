"""Small functions of tensors, run without Python between their operators."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch

__all__ = ("scripted",)

T = TypeVar("T")


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
