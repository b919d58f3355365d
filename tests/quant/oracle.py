"""Stored layers decoded by their formats' definitions, slowly and in float64.

It shares no code with the readers under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

__all__ = ("Oracle", "bits_of", "block_scaled", "float8_rows", "int8_rows")

Rounding = Callable[[torch.Tensor], torch.Tensor]
_AWQ_SHIFTS = [0, 16, 4, 20, 8, 24, 12, 28]
"""Of columns 0 to 7 in a word of AutoAWQ's gemm packing."""


def bits_of(words: torch.Tensor, bits: int) -> np.ndarray:
    """int32 [rows, words] -> [rows, codes]: each row one stream of bits, lowest first."""
    rows = []
    for row in words.numpy().astype(np.uint32):
        stream = sum(int(word) << 32 * i for i, word in enumerate(row))
        count = 32 * len(row) // bits
        rows.append([stream >> bits * i & 2**bits - 1 for i in range(count)])
    return np.array(rows, dtype=np.int64)


def block_scaled(values: torch.Tensor, scales: torch.Tensor, side: int) -> torch.Tensor:
    """Values times the scale of the square that they are in."""
    wide = values.double()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            square = slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side)
            wide[square] *= scales[i, j].double()
    return wide


def float8_rows(width: int | None = None, scale: float | None = None) -> Rounding:
    """x [..., K] in float64, rounded to 8-bit floats by row, by parts of a row, or by one scale."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        parts = [x] if width is None else torch.split(x, width, -1)
        out = []
        for part in parts:
            by = part.abs().amax(-1, keepdim=True) / 448 if scale is None else torch.tensor(scale)
            by = by.clamp(min=1e-30)
            held = (part / by).clamp(-448, 448).float().to(torch.float8_e4m3fn)
            out.append(held.double() * by)
        return torch.cat(out, -1)

    return rounded


def int8_rows(x: torch.Tensor) -> torch.Tensor:
    """x [..., K] in float64, rounded to 255 steps by row."""
    by = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return (x / by).round() * by


@dataclass
class Oracle:
    """A checkpoint's plain tensors, and what its layers do to their inputs.

    Attributes:
        tensors: of a checkpoint that is not quantized, in float64.
        rounding: of the inputs of the layers of these names.
    """

    tensors: dict[str, torch.Tensor]
    rounding: dict[str, Rounding]

    @classmethod
    def read(cls, folder: Path) -> Oracle:
        """Decode the safetensors files of a folder."""
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(file)
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        return cls.decode(tensors, config)

    @classmethod
    def decode(cls, stored: dict[str, torch.Tensor], config: dict[str, Any]) -> Oracle:
        decode = {
            "awq": _awq,
            "gptq": _gptq,
            "fp8": _fp8,
            "compressed-tensors": _compressed,
        }[config["quant_method"]]
        layers: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in stored.items():
            module, _, key = name.rpartition(".")
            layers.setdefault(module, {})[key] = tensor
        tensors, rounding = {}, {}
        for module, parts in layers.items():
            quantized = len(parts.keys() - {"weight", "bias"}) > 0 and "k_scale" not in parts
            if not quantized:
                tensors |= {f"{module}.{key}": part.double() for key, part in parts.items()}
                continue
            tensors[f"{module}.weight"], by = decode(module, parts, config)
            if "bias" in parts:
                tensors[f"{module}.bias"] = parts["bias"].double()
            if by is not None:
                rounding[module] = by
        return cls(tensors, rounding)


Decoded = tuple[torch.Tensor, Rounding | None]


def _grouped(
    codes: np.ndarray, zeros: np.ndarray, scales: torch.Tensor, groups: np.ndarray
) -> torch.Tensor:
    """Codes [N, K], zeros and scales [N, groups], the group of each input [K]."""
    q, z = torch.from_numpy(codes).double(), torch.from_numpy(zeros).double()
    at = torch.from_numpy(groups)
    return (q - z[:, at]) * scales.double()[:, at]


def _awq(module: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Decoded:
    scales = parts["scales"]
    if config["version"] == "gemv":
        codes = bits_of(parts["qweight"], 4)
        size = config["group_size"]
        zeros = bits_of(parts["qzeros"], 4)
        return _grouped(codes, zeros, scales, np.arange(codes.shape[1]) // size), None

    def columns(words: torch.Tensor) -> np.ndarray:
        held = words.numpy().astype(np.uint32)
        parts = [held >> shift & 15 for shift in _AWQ_SHIFTS]
        return np.stack(parts, -1).reshape(len(held), -1).T.astype(np.int64)

    codes, zeros = columns(parts["qweight"]), columns(parts["qzeros"])
    size = codes.shape[1] // len(scales)
    return _grouped(codes, zeros, scales.T, np.arange(codes.shape[1]) // size), None


def _gptq(module: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Decoded:
    bits = config["bits"]
    for pattern, changes in config.get("dynamic", {}).items():
        if re.match(pattern.removeprefix("+:"), module):
            bits = changes.get("bits", bits)
            break
    codes = bits_of(parts["qweight"].T, bits)
    zeros = bits_of(parts["qzeros"], bits).T
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = (zeros + 1) % 2**bits
    return _grouped(codes, zeros, parts["scales"].T, parts["g_idx"].long().numpy()), None


def _fp8(module: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Decoded:
    return block_scaled(parts["weight"], parts["weight_scale_inv"], 128), float8_rows(128)


def _compressed(module: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Decoded:
    (group,) = config["config_groups"].values()
    weights = group["weights"]
    scales = parts["weight_scale"].double()
    if "weight_packed" in parts:
        bits = weights["num_bits"]
        codes = bits_of(parts["weight_packed"], bits)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
        if "weight_zero_point" in parts:
            zeros = bits_of(parts["weight_zero_point"].T, bits).T[: len(codes)]
        size = codes.shape[1] // scales.shape[1]
        return _grouped(codes, zeros, scales, np.arange(codes.shape[1]) // size), None
    if weights["type"] == "int":
        return parts["weight"].double() * scales, int8_rows
    if weights["strategy"] == "block":
        return block_scaled(parts["weight"], scales, 128), float8_rows(128)
    fixed = parts["input_scale"].item() if "input_scale" in parts else None
    return parts["weight"].double() * scales, float8_rows(scale=fixed)
