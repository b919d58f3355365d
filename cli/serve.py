"""``quire serve``: the model over HTTP."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from ..core.config import Config
from ..core.registry import import_target
from .console import print_phase, status
from .options import with_config

if TYPE_CHECKING:
    from ..core.async_llm import AsyncLLM

__all__ = ("serve",)

SERVER = "quire.server.run:run"
QUESTION = "What is 17 + 25?"


@with_config()
def serve(config: Config) -> None:
    """Serve a model over HTTP, OpenAI-compatible."""
    started = time.perf_counter()
    console = status()
    console.print(f"quire serves [bold]{escape(config.model.name)}[/]", highlight=False)
    run = import_target(SERVER)

    def ready(address: str, engine: AsyncLLM) -> None:
        print_phase("ready, in all", time.perf_counter() - started)
        for plugin in engine.registry.plugins():
            if plugin.active and plugin.origin != "built-in":
                text = f"  plugin {plugin.name} {plugin.version}, of {plugin.origin}"
                console.print(text, markup=False, highlight=False)
        server = engine.config.server
        model = server.served_model_name or config.model.name
        console.print(f"\nlistening on [bold]{address}[/]\n", highlight=False)
        console.print(_curl(address, model, bool(server.api_keys)), markup=False, soft_wrap=True)

    raise typer.Exit(run(config, on_phase=print_phase, on_ready=ready))


def _curl(address: str, model: str, key: bool) -> str:
    """A request to copy, on one line."""
    header = " -H 'Authorization: Bearer YOUR-KEY'" if key else ""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]})
    return (
        f"curl {address}/v1/chat/completions{header} "
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
