"""AWQ (Lin et al., arXiv 2306.00978), as AutoAWQ stores it: 4 bits, packings gemm and gemv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch

from ..core.contracts.platform import Platform
from ..core.errors import CheckpointError
from ..core.layers.fields import Fields
from .packing import unpack
from .stored.format import FLOATS, Field, Format, Held
from .stored.grouped import group_of, made_up, read_group_size, unless_middle
from .stored.method import StoredMethod
from .stored.names import is_listed
from .weights import GroupedWeight

__all__ = ("AWQ", "GEMM_ORDER")

_BITS = 4
_PER_WORD = 8
GEMM_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""At which nibble of its word a gemm packing holds column 0, 1, ... of eight."""
_MIDDLE = 8
_CONVERT = {
    "gemv_fast": "load it with AutoAWQ and save it in the version gemm, or quantize it again",
    "marlin": "quantize the model again in the version gemm",
    "exllama": "set version to gemm: the packing is that of gemm",
    "ipex": "set version to gemm: the packing is that of gemm",
}


class _Packed(Format):
    """Both packings: integers in words of eight.

    Args:
        group_size: -1 for a row.
        zero_point: whether there are zero points.
    """

    version = ""

    def __init__(self, group_size: int, zero_point: bool) -> None:
        self._group_size = group_size
        self._zero_point = zero_point

    @property
    def words(self) -> str:
        return f"awq {self.version} with group_size {self._group_size}"

    def make_up(self, rows: int, columns: int, generator: torch.Generator) -> Held:
        return made_up(
            rows,
            columns,
            generator,
            bits=_BITS,
            group_size=self._group_size,
            zeros=self._zero_point,
        )

    def _divided(self, name: str, count: int, what: str) -> int:
        if count % _PER_WORD:
            raise CheckpointError(
                f"{name} has {count} {what}, and {self.words} holds {_PER_WORD} in a word; leave "
                "the layer out of quantization"
            )
        return count // _PER_WORD


class _Gemm(_Packed):
    """qweight int32 [in, out / 8], qzeros [in / group, out / 8], scales [in / group, out]."""

    version = "gemm"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        words = self._divided(name, rows, "outputs")
        groups = columns // group_of(name, columns, self._group_size)
        return {
            "qweight": Field((columns, words), (torch.int32,)),
            "qzeros": Field((groups, words), (torch.int32,), required=self._zero_point),
            "scales": Field((groups, rows), FLOATS),
        }

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        scales = tensors["scales"]
        zeros = None
        if "qzeros" in tensors:
            zeros = unless_middle(_columns(tensors["qzeros"]), _BITS)
        codes = _columns(tensors["qweight"])
        return GroupedWeight(
            codes=codes,
            scales=scales.T.contiguous(),
            zeros=zeros,
            bits=_BITS,
            group_size=codes.shape[1] // len(scales),
        )


class _Gemv(_Packed):
    """qweight int32 [out, in / 8] in order; qzeros [out, W] and scales [out, W * 8], padded."""

    version = "gemv"

    def fields(self, name: str, rows: int, columns: int) -> dict[str, Field]:
        words = self._divided(name, columns, "inputs")
        held = self._words(columns // group_of(name, columns, self._group_size))
        return {
            "qweight": Field((rows, words), (torch.int32,)),
            "qzeros": Field((rows, held), (torch.int32,), required=self._zero_point),
            "scales": Field((rows, held * _PER_WORD), FLOATS),
        }

    def _words(self, groups: int) -> int:
        """Words a row of zero points: AutoAWQ fills them up to a multiple of 1, 2 or 4."""
        least = -(-groups // _PER_WORD)
        multiple = {64: 2, 32: 4}.get(self._group_size, 1)
        return -(-least // multiple) * multiple

    def read(self, name: str, tensors: Mapping[str, torch.Tensor]) -> Held:
        codes = unpack(tensors["qweight"], _BITS)
        groups = codes.shape[1] // group_of(name, codes.shape[1], self._group_size)
        zeros = None
        if "qzeros" in tensors:
            zeros = unpack(tensors["qzeros"], _BITS)[:, :groups].contiguous()
            zeros = unless_middle(zeros, _BITS)
        return GroupedWeight(
            codes=codes,
            scales=tensors["scales"][:, :groups].contiguous(),
            zeros=zeros,
            bits=_BITS,
            group_size=codes.shape[1] // groups,
        )


class AWQ(StoredMethod):
    """Reads AWQ checkpoints.

    Args:
        platform: of the device.
        layer_format: of quantized layers.
        plain: names of modules that are not quantized.
    """

    def __init__(self, platform: Platform, layer_format: Format, plain: tuple[str, ...]) -> None:
        super().__init__(platform)
        self._format = layer_format
        self._plain = plain

    @classmethod
    def from_checkpoint(cls, config: dict[str, Any] | None, platform: Platform) -> Self:
        fields = Fields(cls.described("awq", config), "quantization_config.")
        bits = "bits" if fields.has("bits") else "w_bit"
        if fields.integer(bits) != _BITS:
            raise fields.misfit(bits, f"must be {_BITS}, the only width of awq")
        size = read_group_size(fields, "group_size" if fields.has("group_size") else "q_group_size")
        zero_point = fields.flag("zero_point", True)
        plain = fields.strings("modules_to_not_convert", [])
        return cls(platform, _packing(fields)(size, zero_point), tuple(plain))

    def format(self, name: str) -> Format | None:
        # No tool quantizes the head by AWQ.
        if name == "lm_head" or is_listed(name, self._plain):
            return None
        return self._format


def _packing(fields: Fields) -> type[_Packed]:
    key = next((key for key in ("version", "checkpoint_format", "format") if fields.has(key)), None)
    found = "gemm" if key is None else fields.string(key).lower()
    packings: dict[str, type[_Packed]] = {"gemm": _Gemm, "gemv": _Gemv}
    if found not in packings:
        advice = _CONVERT.get(found, "quantize the model again in the version gemm")
        raise CheckpointError(
            f"quantization_config.{key} in config.json is {found!r}, and awq is read in the "
            f"versions gemm and gemv; {advice}"
        )
    return packings[found]


def _columns(words: torch.Tensor) -> torch.Tensor:
    """int32 [rows, out / 8] -> uint8 [out, rows], the interleaving undone."""
    turned = words.T.contiguous()
    count, rows = turned.shape
    codes = torch.empty(count, _PER_WORD, rows, dtype=torch.uint8, device=words.device)
    for column, nibble in enumerate(GEMM_ORDER):
        codes[:, column] = turned >> 4 * nibble & 15
    return codes.view(-1, rows)
