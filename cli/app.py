"""The commands put together, and errors turned into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..core.errors import EngineDeadError, GenerationError, Overloaded, QuireError
from . import chat, config, evaluate, generate, plan, plugins, quantize, serve, tune
from .bench import commands as bench
from .console import print_error

__all__ = ("build", "run")

USER_MISTAKE = 2
FAILURE = 1
INTERRUPTED = 130
_FAILURES = (EngineDeadError, GenerationError, Overloaded)


def build() -> typer.Typer:
    """The application with every command."""
    app = typer.Typer(
        name="quire",
        help="An engine and server for large language models.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    app.command("serve")(serve.serve)
    app.command("generate")(generate.generate)
    app.command("chat")(chat.chat)
    app.command("plan")(plan.plan)
    app.command("tune")(tune.tune)
    app.command("quantize")(quantize.quantize)
    app.command("eval")(evaluate.evaluate)
    app.add_typer(bench.app, name="bench")
    app.add_typer(plugins.app, name="plugins")
    app.add_typer(config.app, name="config")
    return app


def run() -> NoReturn:
    """Run the command in ``sys.argv``; exits 2 for mistakes of the user's, 1 for failures."""
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except QuireError as error:
        if _debug:
            raise
        print_error(str(error))
        sys.exit(FAILURE if isinstance(error, _FAILURES) else USER_MISTAKE)
    except Exception as error:
        if _debug:
            raise
        print_error(
            f"internal error, {type(error).__name__}: {error}; "
            "`quire --debug ...` shows where it came from"
        )
        sys.exit(FAILURE)
    sys.exit(0)


_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quire {__version__}")
        raise typer.Exit


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    global _debug
    _debug = debug
