"""Adapters: rank-one changes show that the contract can be kept; broken ones are caught."""

from pathlib import Path

import pytest
import torch

from quire.testing import AdapterCase, ConformanceError, check_adapter

from ..fakes.adapter import RankOneAdapters, save_adapter


@pytest.fixture
def deltas(tmp_path: Path) -> dict[Path, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made: dict[Path, dict[str, torch.Tensor]] = {}
    for name, layers in (("a", {"up": (6, 4), "down": (4, 6)}), ("b", {"up": (6, 4)})):
        parts = {
            layer: (
                torch.randn(shape[0], generator=generator),
                torch.randn(shape[1], generator=generator),
            )
            for layer, shape in layers.items()
        }
        save_adapter(tmp_path / name, parts)
        made[tmp_path / name] = {
            layer: torch.outer(column, row) for layer, (column, row) in parts.items()
        }
    return made


def test_rank_one_adapters_conform(deltas: dict[Path, dict[str, torch.Tensor]]) -> None:
    check_adapter(lambda: AdapterCase(RankOneAdapters(), deltas))


class EveryToken(RankOneAdapters):
    def prepare(self, slots):
        super().prepare(torch.full_like(slots, slots.max()))


class KeepsUnloaded(RankOneAdapters):
    def unload(self, slot):
        pass

    def load(self, slot, path):
        if slot not in self._parts or not Path(path).exists():
            super().load(slot, path)


class Lenient(RankOneAdapters):
    def load(self, slot, path):
        if Path(path).exists():
            super().load(slot, path)


class Crashing(RankOneAdapters):
    def load(self, slot, path):
        if not Path(path).exists():
            raise FileNotFoundError(path)
        super().load(slot, path)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (EveryToken, "off by"),
        (KeepsUnloaded, "used again"),
        (Lenient, "without an error"),
        (Crashing, "FileNotFoundError"),
    ],
)
def test_a_broken_method_is_caught(
    broken: type[RankOneAdapters], words: str, deltas: dict[Path, dict[str, torch.Tensor]]
) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_adapter(lambda: AdapterCase(broken(), deltas))
