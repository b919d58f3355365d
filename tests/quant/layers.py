"""Layers made up in every stored format, with the weights that they stand for.

Codes are drawn, and packed bit by bit, so that nothing of the readers is trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quire.core.contracts.quant import LinearSpec, QuantMethod
from quire.core.registry import Registry
from quire.plugins.platforms.cpu import CPU
from quire.testing import QuantCase
from tests.quant.oracle import block_scaled

__all__ = ("MAKERS", "Layer", "Maker", "case", "words_of")

AWQ_SHIFTS = [0, 16, 4, 20, 8, 24, 12, 28]


@dataclass
class Layer:
    """One of the checkpoint's layers.

    Attributes:
        tensors: by what follows the layer's name.
        weight: float64 [out, in].
    """

    tensors: dict[str, torch.Tensor]
    weight: torch.Tensor


@dataclass(frozen=True)
class Maker:
    """A format.

    Attributes:
        config: quantization_config; None for a method that quantizes while loading.
        make: (rng, out, in, order) -> a layer.
        tolerance: of the product in float32, by norm; rounded activations are not in the weight.
        outputs: their number is a multiple of it.
        inputs: likewise.
        method: name of the method.
        name: of the format.
    """

    config: dict[str, Any] | None
    make: Callable[[np.random.Generator, int, int, np.ndarray], Layer]
    tolerance: float = 1e-3
    outputs: int = 1
    inputs: int = 1
    method: str = ""
    name: str = ""


def words_of(codes: np.ndarray, bits: int) -> torch.Tensor:
    """[rows, codes] -> int32 [rows, words]: each row one stream of bits, lowest first."""
    rows = []
    for row in codes:
        stream = sum(int(code) << bits * i for i, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([stream >> 32 * i & 0xFFFFFFFF for i in range(count)])
    return torch.from_numpy(np.array(rows, dtype=np.uint32).view(np.int32))


def _scales(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(rng.uniform(0.002, 0.02, shape)).to(dtype)


def _weight(
    codes: np.ndarray, zeros: np.ndarray, scales: torch.Tensor, groups: np.ndarray
) -> torch.Tensor:
    at = torch.from_numpy(groups)
    return torch.from_numpy(codes - zeros[:, groups]).double() * scales.double()[:, at]


def awq(version: str, group_size: int, zero_point: bool) -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        size = columns if group_size == -1 else group_size
        groups = np.arange(columns) // size
        codes = rng.integers(0, 16, (rows, columns))
        zeros = rng.integers(0, 16, (rows, columns // size))
        if not zero_point:
            zeros[:] = 8
        scales = _scales(rng, zeros.shape, torch.float16)
        weight = _weight(codes, zeros, scales, groups)
        if version == "gemm":
            tensors = {
                "qweight": _interleaved(codes.T),
                "qzeros": _interleaved(zeros.T),
                "scales": scales.T.contiguous(),
            }
        else:
            multiple = {64: 2, 32: 4}.get(group_size, 1)
            held = -(-zeros.shape[1] // 8)
            held = -(-held // multiple) * multiple * 8 - zeros.shape[1]
            tensors = {
                "qweight": words_of(codes, 4),
                "qzeros": words_of(np.pad(zeros, ((0, 0), (0, held))), 4),
                "scales": torch.nn.functional.pad(scales, (0, held)),
            }
        if not zero_point:
            del tensors["qzeros"]
        return Layer(tensors, weight)

    config = {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": version}
    config |= {"zero_point": zero_point, "modules_to_not_convert": None}
    name = f"awq-{version}-{group_size}" + ("" if zero_point else "-symmetric")
    step = 8 if group_size == -1 else group_size
    return Maker(config, make, outputs=8, inputs=step, name=name, method="awq")


def _interleaved(codes: np.ndarray) -> torch.Tensor:
    """AutoAWQ's gemm packing of [rows, columns]."""
    eights = codes.reshape(len(codes), -1, 8).astype(np.uint32)
    words = np.zeros(eights.shape[:2], dtype=np.uint32)
    for column, shift in enumerate(AWQ_SHIFTS):
        words |= eights[..., column] << np.uint32(shift)
    return torch.from_numpy(words.view(np.int32))


def gptq(bits: int, group_size: int, *, sym: bool, ordered: bool, second: bool = False) -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        size = columns if group_size == -1 else group_size
        groups = np.arange(columns) // size
        if ordered:
            groups = groups[order]
        codes = rng.integers(0, 2**bits, (rows, columns))
        zeros = rng.integers(0, 2**bits, (rows, columns // size))
        if sym:
            zeros[:] = 2 ** (bits - 1)
        scales = _scales(rng, zeros.shape, torch.float16)
        stored = zeros if second else (zeros - 1) % 2**bits
        tensors = {
            "qweight": words_of(codes, bits).T.contiguous(),
            "qzeros": words_of(stored.T, bits),
            "scales": scales.T.contiguous(),
            "g_idx": torch.from_numpy(groups).int(),
        }
        return Layer(tensors, _weight(codes, zeros, scales, groups))

    config = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym}
    config |= {"desc_act": ordered, "checkpoint_format": "gptq_v2" if second else "gptq"}
    name = f"gptq-{bits}-{group_size}" + ("" if sym else "-asymmetric")
    name += ("-ordered" if ordered else "") + ("-v2" if second else "")
    step = 32 if bits == 3 else 32 // bits
    wide = step if group_size == -1 else max(group_size, step)
    return Maker(config, make, outputs=step, inputs=wide, name=name, method="gptq")


def fp8_block() -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        values = _float8(rng, rows, columns)
        scales = _scales(rng, (-(-rows // 128), -(-columns // 128)), torch.float32)
        tensors = {"weight": values, "weight_scale_inv": scales}
        return Layer(tensors, block_scaled(values, scales, 128))

    config = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    config |= {"weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    return Maker(config, make, 4e-2, name="fp8-block", method="fp8")


def fp8_tensor(scale: str, static: str | None) -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        values = _float8(rng, rows, columns)
        scales = _scales(rng, (1,), torch.float32)
        tensors = {"weight": values, scale: scales}
        if static:
            tensors[static] = torch.tensor([0.01])
        return Layer(tensors, values.double() * scales.double())

    scheme = "static" if static else "dynamic"
    config = {"quant_method": "fp8", "activation_scheme": scheme}
    return Maker(config, make, 4e-2, name=f"fp8-{scheme}-{scale}", method="fp8")


def _float8(rng: np.random.Generator, rows: int, columns: int) -> torch.Tensor:
    drawn = torch.from_numpy(rng.normal(0, 100, (rows, columns))).clamp(-448, 448)
    return drawn.float().to(torch.float8_e4m3fn)


def compressed(
    form: str, weights: dict[str, Any], activations: dict[str, Any] | None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def packed(bits: int, group_size: int, *, symmetric: bool, ordered: bool = False) -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        size = columns if group_size == -1 else group_size
        groups = np.arange(columns) // size
        if ordered:
            groups = groups[order]
        codes = rng.integers(0, 2**bits, (rows, columns))
        zeros = rng.integers(0, 2**bits, (rows, columns // size))
        if symmetric:
            zeros[:] = 2 ** (bits - 1)
        scales = _scales(rng, zeros.shape, torch.bfloat16)
        tensors = {
            "weight_packed": words_of(codes, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor([rows, columns]),
        }
        if not symmetric:
            tensors["weight_zero_point"] = words_of(zeros.T, bits).T.contiguous()
        if ordered:
            tensors["weight_g_idx"] = torch.from_numpy(groups).int()
        return Layer(tensors, _weight(codes, zeros, scales, groups))

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False}
    weights |= {"strategy": "channel" if group_size == -1 else "group"}
    weights |= {"group_size": None if group_size == -1 else group_size}
    weights |= {"actorder": "group" if ordered else None}
    name = f"packed-{bits}-{group_size}" + ("" if symmetric else "-asymmetric")
    name += "-ordered" if ordered else ""
    step = 32 // bits if group_size == -1 else group_size
    return Maker(
        compressed("pack-quantized", weights, None),
        make,
        inputs=step,
        name=name,
        method="compressed-tensors",
    )


def scaled(kind: str, strategy: str, static: bool = False) -> Maker:
    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        if kind == "float":
            values = _float8(rng, rows, columns)
        else:
            values = torch.from_numpy(rng.integers(-127, 128, (rows, columns))).to(torch.int8)
        blocks = (-(-rows // 128), -(-columns // 128))
        shape = {"tensor": (1,), "channel": (rows, 1), "block": blocks}[strategy]
        scales = _scales(rng, shape, torch.bfloat16)
        tensors = {"weight": values, "weight_scale": scales}
        if static:
            tensors["input_scale"] = torch.tensor([0.01], dtype=torch.bfloat16)
        if strategy == "block":
            return Layer(tensors, block_scaled(values, scales, 128))
        return Layer(tensors, values.double() * scales.double())

    weights = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": False}
    weights |= {"strategy": strategy}
    weights |= {"block_structure": [128, 128] if strategy == "block" else None}
    activations = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": not static}
    activations |= {"strategy": "tensor" if static else "token"}
    if strategy == "block":
        activations |= {"strategy": "group", "group_size": 128}
    name = f"{kind}-{strategy}" + ("-static" if static else "")
    return Maker(
        compressed(f"{kind}-quantized", weights, activations),
        make,
        4e-2 if kind == "float" else 1.5e-2,
        name=name,
        method="compressed-tensors",
    )


def on_load(method: str) -> Maker:
    """The weight is the plain one: rounding it counts as an error."""

    def make(rng: np.random.Generator, rows: int, columns: int, order: np.ndarray) -> Layer:
        weight = torch.from_numpy(rng.normal(0, 0.02, (rows, columns))).to(torch.bfloat16)
        return Layer({"weight": weight}, weight.double())

    tolerance = 6e-2 if method == "fp8" else 2e-2
    return Maker(None, make, tolerance, name=f"{method}-on-load", method=method)


MAKERS = [
    *(awq(v, g, z) for v in ("gemm", "gemv") for g in (-1, 32, 64, 128) for z in (True, False)),
    *(
        gptq(bits, group, sym=(bits + index) % 2 == 0, ordered=index > 1, second=index == 3)
        for bits in (2, 3, 4, 8)
        for index, group in enumerate((-1, 32, 64, 128))
    ),
    gptq(4, 128, sym=True, ordered=False),
    gptq(4, 64, sym=False, ordered=False, second=True),
    gptq(4, -1, sym=False, ordered=True),
    fp8_block(),
    *(fp8_tensor("weight_scale", static) for static in (None, "input_scale")),
    *(fp8_tensor("weight_scale_inv", static) for static in (None, "activation_scale")),
    *(packed(4, group, symmetric=s) for group in (-1, 32, 64, 128) for s in (True, False)),
    packed(8, -1, symmetric=True),
    packed(8, 128, symmetric=False),
    packed(4, 32, symmetric=True, ordered=True),
    *(scaled("float", strategy) for strategy in ("tensor", "channel", "block")),
    scaled("float", "tensor", static=True),
    scaled("float", "channel", static=True),
    scaled("int", "channel"),
    scaled("int", "tensor"),
    on_load("fp8"),
    on_load("int8"),
]


def case(
    maker: Maker,
    widths: tuple[int, ...],
    columns: int,
    *,
    seed: int = 0,
    bias: bool = False,
    dtype: str = "float32",
    shared: bool = True,
) -> QuantCase:
    """A layer of one or several shards in the maker's format.

    Args:
        maker: of the format.
        widths: outputs of each shard.
        columns: inputs.
        seed: of everything drawn.
        bias: whether the shards have one.
        dtype: of activations.
        shared: whether the shards' inputs have one order.
    """
    rng = np.random.default_rng(seed)
    method: QuantMethod = Registry().get("quant", maker.method)
    names = tuple(f"model.layers.0.part{index}_proj" for index in range(len(widths)))
    spec = LinearSpec(
        shards=names, out_features=widths, in_features=columns, bias=bias, dtype=dtype
    )
    order = rng.permutation(columns)
    stored: dict[str, torch.Tensor] = {}
    weights, biases = [], []
    for name, width in zip(names, widths, strict=True):
        layer = maker.make(rng, width, columns, order if shared else rng.permutation(columns))
        weights.append(layer.weight)
        stored |= {f"{name}.{key}": tensor for key, tensor in layer.tensors.items()}
        if bias:
            biases.append(torch.from_numpy(rng.normal(0, 1, width)).to(torch.bfloat16))
            stored[f"{name}.bias"] = biases[-1]
    return QuantCase(
        method=method.from_checkpoint(maker.config, CPU()),
        spec=spec,
        stored=stored,
        weight=torch.cat(weights),
        bias=torch.cat(biases).double() if bias else None,
        tolerance=maker.tolerance + (1.5e-2 if dtype == "bfloat16" else 0),
    )
