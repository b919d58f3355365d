"""``quire tune``: measure which kernels are fastest on this machine's GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.config import Config
from ..core.registry import Registry
from .options import with_config

__all__ = ("tune",)


@with_config()
def tune(
    config: Config,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the choices here instead.")
    ] = None,
) -> None:
    """Measure the model's products on this GPU; later starts use what was fastest.

    Loads no weights and takes minutes. The choices go to the user's cache folder, where
    every later start finds them, unless --out names another file.
    """
    from ..core.resolve import resolve
    from ..core.run.products import product_shapes

    registry = Registry(config.plugins.load)
    resolved = resolve(config, registry).config
    platform = registry.make("platform", resolved.parallel.platform)
    for line in platform.tune(product_shapes(resolved, registry), out):
        typer.echo(line)
