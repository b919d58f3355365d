"""Commands with a configuration: the flag table as options of typer, and back to a ``Config``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import typer

from ..core.config import Config
from ..core.config_file import load
from .flags import FLAGS, Flag, parse_section, parse_size

__all__ = ("with_config",)

_KINDS: dict[str, Any] = {
    "text": str | None,
    "size": str | None,
    "section": str | None,
    "integer": int | None,
    "number": float | None,
    "switch": bool | None,
    "off": bool | None,
    "list": list[str] | None,
}


def with_config(*, positional: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the model, ``--config``, ``--set`` and every flag of the table.

    The command's parameter ``config`` receives the ``Config`` that they make together.

    Args:
        positional: whether the model may be given without ``--model``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def wrapper(**values: Any) -> None:
            config = _config(values)
            command(config=config, **values)

        own = inspect.signature(command, eval_str=True).parameters
        hints = get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in own.items()
            if name != "config"
        ]
        parameters += _common(positional)
        wrapper.__name__ = command.__name__
        wrapper.__doc__ = command.__doc__
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _common(positional: bool) -> list[inspect.Parameter]:
    parameters = []
    if positional:
        model = typer.Argument(None, metavar="MODEL", help="Name, folder or repository.")
        parameters.append(_parameter("model", str | None, model))
    named = typer.Option(None, "--model", help="Name, folder or repository.")
    file = typer.Option(None, "--config", help="YAML file.", metavar="FILE")
    overrides = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Any key of the configuration; repeatable."
    )
    parameters.append(_parameter("model_option", str | None, named))
    parameters.append(_parameter("config_file", Path | None, file))
    parameters.append(_parameter("overrides", list[str] | None, overrides))
    parameters += [_parameter(flag.parameter, _KINDS[flag.kind], _option(flag)) for flag in FLAGS]
    return parameters


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _option(flag: Flag) -> Any:
    names = ("/".join(flag.names),) if flag.kind == "switch" else flag.names
    return typer.Option(None, *names, help=flag.help, show_default=False)


def _config(values: dict[str, Any]) -> Config:
    """Take the common parameters out of a command's values and load the configuration."""
    positional, named = values.pop("model", None), values.pop("model_option")
    if positional is not None and named is not None and positional != named:
        raise typer.BadParameter(f"the model is given as {positional!r} and as --model {named!r}")
    settings: dict[str, Any] = {}
    model = positional if positional is not None else named
    if model is not None:
        settings["model.name"] = model
    for flag in FLAGS:
        value = values.pop(flag.parameter)
        if value is None or value == []:
            continue
        if flag.kind == "size":
            value = parse_size(value, flag.names[0])
        elif flag.kind == "off":
            value = not value
        settings |= parse_section(value, flag) if flag.kind == "section" else {flag.key: value}
    return load(values.pop("config_file"), values.pop("overrides") or (), settings)
