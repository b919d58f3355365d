"""Adapters of rank one: every changed weight is an outer product, kept in a safetensors file."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quire.core.contracts.adapter import AdapterMethod
from quire.core.errors import CheckpointError


def save_adapter(folder: Path, layers: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write the (column [out], row [in]) of each layer."""
    folder.mkdir()
    parts = {}
    for name, (column, row) in layers.items():
        parts |= {f"{name}.column": column, f"{name}.row": row}
    save_file(parts, folder / "adapter.safetensors")


class RankOneAdapters(AdapterMethod):
    def __init__(self) -> None:
        self._parts: dict[int, dict[str, torch.Tensor]] = {}
        self._slots = torch.zeros(0, dtype=torch.int32)

    def load(self, slot: int, path: str) -> None:
        file = Path(path) / "adapter.safetensors"
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        self._parts[slot] = load_file(file)

    def unload(self, slot: int) -> None:
        del self._parts[slot]

    def prepare(self, slots: torch.Tensor) -> None:
        self._slots = slots

    def add(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for slot, parts in self._parts.items():
            if f"{module}.row" in parts:
                mine = self._slots == slot
                scale = x[mine] @ parts[f"{module}.row"]
                y[mine] += scale.unsqueeze(-1) * parts[f"{module}.column"]
        return y
