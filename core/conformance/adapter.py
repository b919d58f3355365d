"""Adapters: each token gets its own adapter's part, exactly as a dense change would give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts.adapter import AdapterMethod
from ..errors import CheckpointError
from .report import ConformanceError, require

if TYPE_CHECKING:
    import torch

__all__ = ("AdapterCase", "check_adapter")


@dataclass(frozen=True)
class AdapterCase:
    """What an adapter method is judged with.

    Attributes:
        method: with at least two free slots, 0 and 1.
        deltas: adapter folder -> linear layer's name -> the dense change of its weight, float32
            [out, in]; two adapters, and a layer that only one of them changes.
        tolerance: largest absolute error.
    """

    method: AdapterMethod
    deltas: Mapping[Path, Mapping[str, torch.Tensor]]
    tolerance: float = 1e-4


def check_adapter(factory: Callable[[], AdapterCase]) -> None:
    """Check an adapter method.

    Args:
        factory: makes a case with a fresh method.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    case = factory()
    first, second = list(case.deltas)[:2]
    method = case.method
    _compare(case, [None, None], "nothing is loaded")
    method.load(0, str(first))
    method.load(1, str(second))
    _compare(case, [first, second], "two adapters are loaded")
    _refuse_missing(method, second)
    _compare(case, [first, second], "another load failed")
    method.unload(0)
    _compare(case, [None, second], "the first was unloaded")
    method.load(0, str(second))
    _compare(case, [second, second], "a slot was used again")
    other = factory().method
    other.load(1, str(first))
    _compare(case, [second, second], "another method loaded an adapter")


def _compare(case: AdapterCase, loaded: list[Path | None], when: str) -> None:
    """Batches of every mix of slots, against dense multiplication."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = {n: d.shape for deltas in case.deltas.values() for n, d in deltas.items()}
    usable = [-1, *(slot for slot, path in enumerate(loaded) if path is not None)]
    for slots in ([-1], usable, [usable[-1]] * 3, [*usable[::-1], -1, *usable]):
        case.method.prepare(torch.tensor(slots, dtype=torch.int32))
        for name, (width_out, width_in) in shapes.items():
            x = torch.randn(len(slots), width_in, generator=generator)
            y = torch.randn(len(slots), width_out, generator=generator)
            want = y.clone()
            for row, slot in enumerate(slots):
                path = loaded[slot] if slot >= 0 else None
                delta = case.deltas[path].get(name) if path is not None else None
                if delta is not None:
                    want[row] += delta @ x[row]
            got = case.method.add(name, x.clone(), y.clone())
            require(got.shape == want.shape, f"add gives {tuple(got.shape)} for {name}")
            error = float((got - want).abs().max())
            require(
                error <= case.tolerance,
                f"when {when}, layer {name} with slots {slots} is off by {error:.2g}",
            )


def _refuse_missing(method: AdapterMethod, near: Path) -> None:
    try:
        method.load(0, str(near / "missing"))
    except CheckpointError:
        return
    except Exception as error:
        raise ConformanceError(
            f"a missing adapter raises {type(error).__name__}, not CheckpointError"
        ) from error
    raise ConformanceError("a missing adapter is loaded without an error")
