"""``quire eval``: how well a model does the embedded model's held-out curriculum."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from ..core.config import Config
from ..core.registry import import_target
from ..core.request import SamplingParams
from .console import columns, output, print_phase, progress
from .options import with_config
from .remote import Remote

if TYPE_CHECKING:
    from ..core.llm import LLM

__all__ = ("bits_per_byte", "evaluate", "pieces", "tally")

CURRICULUM = "quire.plugins.demo.curriculum"
TEXTS = "quire.plugins.demo.corpus:held_out_sources"
MAX_TOKENS = 192
PIECE_BYTES = 1024
CONCURRENCY = 16


class Subject(Protocol):
    """A model under examination."""

    def answer(self, examples: Sequence[Any]) -> list[str]:
        """The answer to each example's messages."""
        ...

    def log_likelihood(self, texts: Sequence[str]) -> float:
        """Natural log-probability of all texts; the first token of each costs nothing."""
        ...


class LocalSubject:
    """A model in this process."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def answer(self, examples: Sequence[Any]) -> list[str]:
        params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0)
        encode = self._llm.tokenizer.encode_chat
        prompts = [encode(example.messages, tools=example.tools) for example in examples]
        return [output.outputs[0].text for output in self._llm.generate(prompts, params)]

    def log_likelihood(self, texts: Sequence[str]) -> float:
        total = 0.0
        for scored in self._llm.score(list(texts)):
            positions = (scored.prompt_logprobs or [])[1:]
            for token, position in zip(scored.prompt_token_ids[1:], positions, strict=True):
                if position is not None:
                    total += position[token].logprob
        return total


class RemoteSubject:
    """A model on a server."""

    def __init__(self, remote: Remote, model: str) -> None:
        self._remote = remote
        self._model = model

    def answer(self, examples: Sequence[Any]) -> list[str]:
        return asyncio.run(self._all("answers", [self._ask(example) for example in examples]))

    def log_likelihood(self, texts: Sequence[str]) -> float:
        return math.fsum(asyncio.run(self._all("texts", [self._score(text) for text in texts])))

    async def _all(self, label: str, calls: Sequence[Any]) -> list[Any]:
        gate = asyncio.Semaphore(CONCURRENCY)
        with progress(label, len(calls)) as advance:

            async def one(call: Any) -> Any:
                async with gate:
                    result = await call
                advance()
                return result

            return await asyncio.gather(*(one(call) for call in calls))

    async def _ask(self, example: Any) -> str:
        body = {"model": self._model, "messages": example.messages, "max_tokens": MAX_TOKENS}
        body["temperature"] = 0
        if example.tools:
            body["tools"] = example.tools
        answer = await self._remote.call("/v1/chat/completions", body)
        return _text(answer["choices"][0]["message"])

    async def _score(self, text: str) -> float:
        body = {"model": self._model, "prompt": text, "max_tokens": 1, "temperature": 0}
        answer = await self._remote.call("/v1/completions", body | {"echo": True, "logprobs": 0})
        found = answer["choices"][0]["logprobs"]["token_logprobs"]
        generated = answer["usage"]["completion_tokens"]
        echoed = found[: len(found) - generated]
        return math.fsum(value for value in echoed if value is not None)


def _text(message: dict[str, Any]) -> str:
    """What a model wrote: a server may have taken a call out of the text."""
    calls = message.get("tool_calls")
    if not calls:
        return str(message.get("content") or "")
    function = calls[0]["function"]
    return f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'


@with_config()
def evaluate(
    config: Config,
    url: Annotated[
        str | None, typer.Option("--url", help="Examine this server; loads no model here.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Questions a task.")] = 20,
    question_seed: Annotated[int, typer.Option(help="Which questions are drawn.")] = 0,
    kilobytes: Annotated[int, typer.Option(min=0, help="Held-out source text to score.")] = 64,
) -> None:
    """Score a model on the held-out curriculum of the embedded model."""
    examples = import_target(f"{CURRICULUM}:held_out")(n, question_seed)
    subject: Subject
    if url is not None:
        remote = Remote(url, config.server.api_keys[0] if config.server.api_keys else None)
        name = config.server.served_model_name or asyncio.run(remote.model())
        subject = RemoteSubject(remote, name)
    else:
        from ..core.llm import LLM

        subject = LocalSubject(LLM.from_config(config, on_phase=print_phase))
    rows = tally(examples, subject.answer(examples))
    table = columns("task", "questions", "right", "exact match", "valid JSON")
    for task, count, right, asked, valid in rows:
        json_share = f"{valid / asked:.0%}" if asked else ""
        table.add_row(task, str(count), str(right), f"{right / count:.0%}", json_share)
    count, right = sum(row[1] for row in rows), sum(row[2] for row in rows)
    table.add_section()
    table.add_row("all", str(count), str(right), f"{right / count:.1%}", "")
    output().print(table)
    texts = pieces(import_target(TEXTS)(), kilobytes * 1024)
    if texts:
        bits = bits_per_byte(subject.log_likelihood(texts), texts)
        output().print(f"held-out source text: {bits:.3f} bits per byte")


def tally(examples: Sequence[Any], answers: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """A row a task: name, questions, right answers, answers to be JSON, and of these valid."""
    score = import_target(f"{CURRICULUM}:score")
    valid_json = import_target(f"{CURRICULUM}:valid_json")
    rows: dict[str, list[int]] = {}
    for example, answer in zip(examples, answers, strict=True):
        row = rows.setdefault(example.task, [0, 0, 0, 0])
        row[0] += 1
        row[1] += score(example, answer)
        row[2] += example.wants_json
        row[3] += example.wants_json and valid_json(answer)
    return [(task, row[0], row[1], row[2], row[3]) for task, row in rows.items()]


def bits_per_byte(log_likelihood: float, texts: Sequence[str]) -> float:
    """Bits to encode the texts with the model as a compressor, over their bytes in UTF-8."""
    size = sum(len(text.encode()) for text in texts)
    return -log_likelihood / math.log(2) / size


def pieces(sources: dict[str, str], limit: int) -> list[str]:
    """Whole lines of the sources in pieces of about PIECE_BYTES, up to limit bytes in all."""
    pieces: list[str] = []
    size = 0
    for _, text in sorted(sources.items()):
        piece = ""
        for line in text.splitlines(keepends=True):
            if piece and len(piece) + len(line) > PIECE_BYTES:
                pieces.append(piece)
                size += len(piece)
                piece = ""
                if size >= limit:
                    return pieces
            piece += line
    return pieces
