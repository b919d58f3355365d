"""What a CPU computes of a step, noted once and done again without the Python around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .compiled import Call, Noted, compiled, watching
from .shapes import COUNTERS

__all__ = ("Tape",)

_Step = Noted | Callable[[], object]
# Of operators whose results, or their shapes, depend on values.
_LOOKS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_ALLOCATES = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
)


class Tape:
    """A function of tensors that stay where they are, as the kernels and operators it ran.

    Kernels that follow one another run in one region of threads; operators are called again and
    write where they did before. The function's results are in the same memory each time.

    Args:
        function: without arguments. What it does may depend on shapes and not on any values.

    Raises:
        ValueError: where it looked at values.

    Attributes:
        result: what the function returned.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._steps: list[_Step] = []
        # Memory that the steps read and write: what the function let go must not become another's.
        self._kept: list[Any] = []
        with watching(self._steps.append), _Noting(self._steps, self._kept):
            self.result = function()
        self._parts = [*_parts(self._steps)]

    def __call__(self) -> None:
        """Do it again."""
        for part in self._parts:
            part()


class _Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operators while they run.

    Args:
        steps: to add to.
        kept: memory to keep.
    """

    def __init__(self, steps: list[_Step], kept: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps = steps
        self._kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _looks(func, args):
            raise ValueError(f"{func} depends on values")
        out = func(*args, **kwargs)
        self._kept.append((args, kwargs, out))
        if not (func.is_view or func in _ALLOCATES):
            self._steps.append(_again(func, args, kwargs, out))
        return out


def _looks(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator looks at values; one that indexes does so where it is given a mask."""
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype is torch.bool for index in args[1])
    return not _LOOKS.isdisjoint(func.tags)


def _again(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> _Step:
    """The operator, writing where it wrote."""
    if func._schema.is_mutable:
        return lambda: func(*args, **kwargs)
    if not isinstance(out, torch.Tensor):
        raise ValueError(f"{func} gives more than a tensor")
    return lambda: out.copy_(func(*args, **kwargs))


def _parts(steps: list[_Step]) -> Iterator[Callable[[], object]]:
    """The steps, kernels that follow one another as one."""
    for are_calls, group in groupby(steps, lambda step: isinstance(step, Noted)):
        if are_calls:
            yield _Sequence([step for step in group if isinstance(step, Noted)])
        else:
            yield from (step for step in group if not isinstance(step, Noted))


class _Sequence:
    """Kernels in one region of threads.

    Args:
        calls: with the arguments that they ran with.
    """

    def __init__(self, calls: list[Noted]) -> None:
        width = COUNTERS + max(len(call.arguments) for call in calls)
        self._blocks = np.zeros((len(calls), width), np.int64)
        table = np.zeros((len(calls), 2), np.int64)
        for block, row, call in zip(self._blocks, table, calls, strict=True):
            block[COUNTERS : COUNTERS + len(call.arguments)] = call.arguments
            row[:] = call.address, block.ctypes.data
        self._counters = self._blocks[:, :COUNTERS]
        self._table = table
        self._call = Call(compiled("sequence"), 0, (len(calls), table.ctypes.data))

    def __call__(self) -> None:
        self._counters[:] = 0
        self._call(torch.get_num_threads())
