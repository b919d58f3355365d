"""``quire generate``: one prompt, its completion as it comes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..core.config import Config
from ..core.request import SamplingParams
from .chat import new_text
from .console import print_phase
from .options import with_config

__all__ = ("generate",)


@with_config(positional=False)
def generate(
    config: Config,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to continue, or to ask.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt as a question of a chat.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Share of probability to draw from.")] = 1.0,
) -> None:
    """Complete one prompt and print the text as it comes."""
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    from ..core.llm import LLM

    llm = LLM.from_config(config, on_phase=print_phase)
    question: str | list[int] = prompt
    if chat:
        question = llm.tokenizer.encode_chat([{"role": "user", "content": prompt}])
    for delta in llm.stream(question, params):
        sys.stdout.write(new_text(delta))
        sys.stdout.flush()
    sys.stdout.write("\n")
    llm.shutdown()
