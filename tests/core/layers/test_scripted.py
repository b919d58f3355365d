"""Scripts, and the same functions where torch has none."""

from __future__ import annotations

import pytest
import torch

from quire.core.layers.scripted import scripted


def doubled(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = x + x
    return x


@pytest.mark.filterwarnings("error")
def test_a_script_does_what_the_function_does() -> None:
    script = scripted(doubled)
    assert isinstance(script, torch.jit.ScriptFunction)
    x = torch.randn(3)
    assert torch.equal(script(x, 3), doubled(x, 3))


def test_without_scripts_the_function_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(function: object) -> object:
        raise RuntimeError("torch.jit.script is gone")

    monkeypatch.setattr(torch.jit, "script", missing)
    assert scripted(doubled) is doubled
    monkeypatch.delattr(torch.jit, "script")
    assert scripted(doubled) is doubled
