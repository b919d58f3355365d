"""``quire chat``: a conversation in the terminal, with a model here or on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ..core.config import Config
from ..core.errors import GenerationError, QuireError
from ..core.request import SamplingParams
from .console import output, print_error, print_phase
from .options import with_config
from .remote import Remote

if TYPE_CHECKING:
    from ..core.llm import LLM
    from ..core.output import StreamDelta

__all__ = ("LocalSpeaker", "RemoteSpeaker", "chat", "converse", "new_text")

Message = dict[str, Any]
HELP = "/reset forgets the conversation, /exit ends; Ctrl-C stops an answer."


class Speaker(Protocol):
    """Somebody who answers."""

    def answer(self, messages: list[Message]) -> Iterator[str]:
        """The answer, piece by piece; raises KeyboardInterrupt when it was stopped."""
        ...


class LocalSpeaker:
    """A model in this process."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self._llm = llm
        self._params = params

    def answer(self, messages: list[Message]) -> Iterator[str]:
        ids = self._llm.tokenizer.encode_chat(messages)
        stream = self._llm.stream(ids, self._params)
        try:
            for delta in stream:
                yield new_text(delta)
        finally:
            stream.close()  # type: ignore[attr-defined]


class RemoteSpeaker:
    """A model on a server."""

    def __init__(self, remote: Remote, model: str, params: SamplingParams) -> None:
        self._remote = remote
        self._body = {
            "model": model,
            "stream": True,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
        }

    def answer(self, messages: list[Message]) -> Iterator[str]:
        with asyncio.Runner() as runner:
            body = {**self._body, "messages": messages}
            events = self._remote.events("/v1/chat/completions", body)
            while True:
                try:
                    event = runner.run(_next(events))
                except StopAsyncIteration:
                    return
                for choice in event.get("choices", ()):
                    yield choice.get("delta", {}).get("content") or ""


def new_text(delta: StreamDelta) -> str:
    """What is new of an answer.

    Raises:
        GenerationError: when the request ended with an error.
    """
    for completion in delta.completions:
        if completion.error is not None:
            raise GenerationError(f"the answer broke off: {completion.error}")
    return "".join(completion.text for completion in delta.completions)


@with_config()
def chat(
    config: Config,
    url: Annotated[
        str | None, typer.Option("--url", help="Talk to this server; loads no model here.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
) -> None:
    """Talk to a model in the terminal."""
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    speaker: Speaker
    if url is not None:
        key = config.server.api_keys[0] if config.server.api_keys else None
        remote = Remote(url, key)
        model = config.server.served_model_name or asyncio.run(remote.model())
        speaker = RemoteSpeaker(remote, model, params)
    else:
        from ..core.llm import LLM

        speaker = LocalSpeaker(LLM.from_config(config, on_phase=print_phase), params)
    converse(speaker, system)


def converse(speaker: Speaker, system: str | None = None) -> None:
    """Ask, answer, remember, until /exit or the end of the input."""
    console = output()
    console.print(HELP, style="dim")
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while True:
        try:
            question = console.input("[bold cyan]you >[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if question == "/exit":
            return
        if question == "/reset":
            messages = list(start)
            console.print("forgotten", style="dim")
            continue
        if question.startswith("/"):
            console.print(HELP, style="dim")
            continue
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        answer = _speak(speaker, messages)
        if answer:
            messages.append({"role": "assistant", "content": answer})
        else:
            messages.pop()


def _speak(speaker: Speaker, messages: list[Message]) -> str:
    """Print an answer as it comes; what came before an interruption counts."""
    console = output()
    pieces: list[str] = []
    try:
        for piece in speaker.answer(messages):
            pieces.append(piece)
            console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/]", end="")
    except QuireError as error:
        print_error(str(error))
    console.print()
    return "".join(pieces)


async def _next(events: Any) -> Any:
    return await anext(events)
