"""Kernels run twice: in Triton's interpreter, and compiled.

Triton reads TRITON_INTERPRET when a kernel is decorated, so one process does either. With the
variable set, pytest collects ``interpreted/`` and nothing else here; without, everything else, of
which ``test_interpreted.py`` runs each file of ``interpreted/`` in a process of its own.
"""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

pytest.importorskip("triton", reason="Triton is not installed")
if INTERPRETED:
    from tests.kernels.interpreter import repair

    repair()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path.suffix != ".py" or not collection_path.is_relative_to(HERE):
        return None
    inside = collection_path.is_relative_to(HERE / "interpreted")
    return True if inside != INTERPRETED else None


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch.empty gives to a kernel is poison: what it forgets to write shows."""
    import torch

    from tests.kernels.oracles import poison

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **options: poison(empty(*a, **options)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Bounds are of many roundings' sums, which one draw in thousands would exceed."""
    import torch

    torch.manual_seed(7)
