"""Recipe: how weights are to be quantized, checked against the model before any work is done."""

from __future__ import annotations

import msgspec

from ...core.contracts.quant import Rounding
from ...core.errors import ConfigError
from ...core.layers.decoder import DecoderSpec

__all__ = ("METHODS", "Options", "Recipe")

METHODS = ("awq", "gptq", "fp8", "int8")
"""Those that see a layer as a whole; others round matrix by matrix, see ``Rounding``."""

_GROUP_SIZES = (128, 64, 32)
_GPTQ_BITS = (2, 3, 4, 8)
_WORD = 32


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asked for; None where the method's usual choice is meant.

    Attributes:
        method: awq, gptq, fp8, int8, or one that has a ``Rounding``.
        bits: of a weight, with gptq.
        group_size: inputs that share a scale, with awq and gptq; -1 for all.
        symmetric: without zero points, with gptq.
        desc_act: inputs of like activity share a group, with gptq.
        damping: gptq's, in shares of the Hessian's mean diagonal.
        blocks: with fp8, a scale for each 128 x 128 weights.
        calibrated: whether text is used; without it every weight is rounded to nearest.
        samples: blocks of text to calibrate with.
        length: tokens of a block.
    """

    method: str
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    desc_act: bool | None = None
    damping: float | None = None
    blocks: bool | None = None
    calibrated: bool = True
    samples: int = 128
    length: int = 512


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Options with nothing left open; see ``Options``."""

    method: str
    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool
    damping: float
    blocks: bool
    calibrated: bool
    samples: int
    length: int
    block: int = 128

    @classmethod
    def choose(
        cls, options: Options, spec: DecoderSpec, rounding: Rounding | None = None
    ) -> Recipe:
        """Fill in what was left open, and refuse what the format or the model cannot have.

        Args:
            options: asked for.
            spec: of the model.
            rounding: the method's, where it is none of ``METHODS``.

        Raises:
            ConfigError: naming the option and what it may be.
        """
        if options.method not in METHODS and rounding is None:
            raise ConfigError(
                f"--method must be {', '.join(METHODS)}, or a plugin's that makes checkpoints, not "
                f"{options.method!r}"
            )
        for option, value, methods in (
            ("--bits", options.bits, ("gptq",)),
            ("--group-size", options.group_size, ("awq", "gptq")),
            ("--sym", options.symmetric, ("gptq",)),
            ("--desc-act", options.desc_act, ("gptq",)),
            ("--damp", options.damping, ("gptq",)),
            ("--blocks", options.blocks, ("fp8",)),
        ):
            if value is not None and options.method not in methods:
                raise ConfigError(
                    f"{option} belongs to --method {' or '.join(methods)}, not {options.method}"
                )
        grouped = options.method in ("awq", "gptq")
        recipe = cls(
            method=options.method,
            bits=(options.bits or 4) if grouped else 8 if rounding is None else rounding.bits,
            group_size=_group_size(options, spec) if grouped else -1,
            symmetric=options.method != "awq" and options.symmetric is not False,
            desc_act=bool(options.desc_act),
            damping=0.01 if options.damping is None else options.damping,
            blocks=bool(options.blocks),
            calibrated=options.calibrated,
            samples=options.samples,
            length=options.length,
        )
        recipe._check(spec)
        return recipe

    def groups(self, in_features: int) -> int:
        """Inputs that share a scale, in a layer of so many."""
        return in_features if self.group_size == -1 else self.group_size

    def _check(self, spec: DecoderSpec) -> None:
        if self.method == "gptq" and self.bits not in _GPTQ_BITS:
            raise ConfigError(f"--bits must be 2, 3, 4 or 8, not {self.bits}")
        if not 0 < self.damping < 1:
            raise ConfigError(f"--damp must lie between 0 and 1, not {self.damping}")
        if self.samples < 1 or not 32 <= self.length <= 32768:
            raise ConfigError("--samples must be 1 or more, and --length from 32 to 32768")
        if self.method not in ("awq", "gptq"):
            return
        for name, rows, columns in spec.products():
            for axis, size in (("outputs", rows), ("inputs", columns)):
                if size * self.bits % _WORD:
                    raise ConfigError(
                        f"{name} has {size} {axis}, which do not fill words of 32 bits with "
                        f"{self.bits} bits each; use --method fp8 or int8"
                    )


def _group_size(options: Options, spec: DecoderSpec) -> int:
    """The one asked for, or the largest usual one that divides every layer's inputs."""
    wanted = options.group_size
    if wanted is not None and wanted not in (*_GROUP_SIZES, -1):
        raise ConfigError(f"--group-size must be 32, 64, 128 or -1 (one group), not {wanted}")
    if wanted == -1:
        return -1
    for size in (wanted,) if wanted else _GROUP_SIZES:
        unfit = [(name, columns) for name, _, columns in spec.products() if columns % size]
        if not unfit:
            return size
    name, columns = unfit[0]
    raise ConfigError(
        f"{name} has {columns} inputs, which groups of {size} do not divide; use --group-size -1"
        + ("" if size == _GROUP_SIZES[-1] else ", or a smaller one")
    )
