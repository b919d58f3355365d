"""``quire config``: what a configuration file may say, and whether one says it well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..core import config_file

__all__ = ("app",)

app = typer.Typer(help="Configuration files.", no_args_is_help=True)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of a configuration file."""
    typer.echo(msgspec.json.format(msgspec.json.encode(config_file.schema())).decode())


@app.command("check")
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file.")]) -> None:
    """Name every mistake in a configuration file, with its line."""
    config_file.load(file)
    typer.echo(f"{file} is fine")
