"""``quire quantize``: a smaller checkpoint of a model, and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ..core.config import Config
from ..core.registry import Registry, import_target
from .console import columns, output, progress, status
from .options import with_config

__all__ = ("quantize",)

_JOB = "quire.quant.create.job:Job"
_OPTIONS = "quire.quant.create.recipe:Options"
_MIB = 2**20


@with_config()
def quantize(
    config: Config,
    method: Annotated[str, typer.Option("--method", help="awq, gptq, fp8, int8, or a plugin's.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder to write to.")],
    calibration: Annotated[
        str,
        typer.Option(metavar="FILE", help="Text or .jsonl; builtin; none rounds to nearest."),
    ] = "builtin",
    samples: Annotated[int, typer.Option(help="Blocks of text to calibrate with.")] = 128,
    length: Annotated[int, typer.Option(help="Tokens of a block.")] = 512,
    bits: Annotated[int | None, typer.Option(help="gptq: 2, 3, 4 or 8; 4 if not given.")] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="awq, gptq: inputs that share a scale: 32, 64, 128 or -1 for all."),
    ] = None,
    sym: Annotated[
        bool | None, typer.Option("--sym/--asym", help="gptq: without zero points.")
    ] = None,
    desc_act: Annotated[
        bool | None, typer.Option("--desc-act/--no-desc-act", help="gptq: groups by activity.")
    ] = None,
    damp: Annotated[
        float | None, typer.Option(help="gptq: added to the Hessian, in shares of its mean.")
    ] = None,
    blocks: Annotated[
        bool | None, typer.Option("--blocks/--rows", help="fp8: scales of 128 x 128 weights.")
    ] = None,
) -> None:
    """Quantize a model's weights and write the checkpoint to a new folder.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from ..core.resolve import resolve

    registry = Registry(config.plugins.load)
    dtype = None if config.model.dtype == "auto" else config.model.dtype
    plain = msgspec.structs.replace(config.model, dtype="auto")
    resolved = resolve(msgspec.structs.replace(config, model=plain), registry)
    options = import_target(_OPTIONS)(
        method=method,
        bits=bits,
        group_size=group_size,
        symmetric=sym,
        desc_act=desc_act,
        damping=damp,
        blocks=blocks,
        calibrated=calibration != "none",
        samples=samples,
        length=length,
    )
    job = import_target(_JOB)(
        resolved.source,
        options,
        out,
        registry=registry,
        platform=registry.make("platform", resolved.config.parallel.platform),
        dtype=dtype,
        calibration=calibration,
        dummy_seed=config.model.seed if config.model.load_format == "dummy" else None,
    )
    _announce(job, resolved.config.parallel.platform)
    with progress("layers", job.layers) as advance:
        report = job.run(advance)
    _show(report, out)


def _announce(job: Any, platform: str) -> None:
    """The estimate, before the first layer."""
    recipe, expected = job.recipe, job.estimate()
    parts = [recipe.method, f"{recipe.bits} bits"]
    if recipe.method in ("awq", "gptq"):
        size = recipe.group_size
        parts.append("one group a row" if size == -1 else f"groups of {size}")
        parts.append("symmetric" if recipe.symmetric else "with zero points")
    if recipe.desc_act:
        parts.append("groups by activity")
    if recipe.blocks:
        parts.append("scales of blocks")
    say = status().print
    say(", ".join(parts), highlight=False)
    minutes = expected.seconds / 60
    took = f"{minutes:.0f} min" if minutes >= 2 else f"{expected.seconds:.0f} s"
    say(
        f"about {took} on {platform}, {_size(expected.memory)} of its memory, weights from "
        f"{_size(expected.bytes_before)} to {_size(expected.bytes_after)}",
        highlight=False,
    )
    if job.finished:
        say(f"{job.finished} of {job.layers} layers are there already", highlight=False)


def _show(report: Any, out: Path) -> None:
    table = columns("layer", "error of weights", "error of outputs")
    for row in report.rows:
        shown = "" if row.output_error is None else f"{row.output_error:.2%}"
        table.add_row(row.name, f"{row.weight_error:.2%}", shown)
    say = output().print
    say(table)
    for kept in report.kept:
        say(f"kept: {kept.what}, {_size(kept.bytes)}: {kept.why}", highlight=False)
    say(
        f"weights: {_size(report.bytes_before)} before, {_size(report.bytes_after)} after",
        highlight=False,
    )
    if report.perplexity_before is not None and report.perplexity_after is not None:
        say(
            f"perplexity on held-out text: {report.perplexity_before:.3f} before, "
            f"{report.perplexity_after:.3f} after",
            highlight=False,
        )
    say(f"{report.seconds:.1f} s; wrote {out}", highlight=False)


def _size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB" if count < 1024 * _MIB else f"{count / 1024 / _MIB:.2f} GiB"
