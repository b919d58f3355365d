"""Log-probabilities in the three shapes that clients read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.output import Logprob
from .responses import (
    ChatLogprob,
    ChatLogprobs,
    ChatTopLogprob,
    CompletionLogprobs,
    PromptLogprobs,
)

if TYPE_CHECKING:
    from ...core.text.tokenizer import Tokenizer

__all__ = ("chat_logprobs", "completion_logprobs", "prompt_logprobs")

# JSON has no infinity; the least that clients expect.
_LEAST = -9999.0

Position = dict[int, Logprob]


def chat_logprobs(tokenizer: "Tokenizer", positions: Sequence[Position], top: int) -> ChatLogprobs:
    """Of generated tokens in a chat.

    Args:
        tokenizer: for the bytes of tokens.
        positions: one a token, the drawn one first.
        top: likeliest candidates to list.
    """
    content = []
    for position in positions:
        drawn, candidate = next(iter(position.items()))
        content.append(
            ChatLogprob(
                _text(tokenizer, drawn, candidate),
                _finite(candidate),
                list(tokenizer.token_bytes(drawn)),
                [
                    ChatTopLogprob(
                        _text(tokenizer, token, other),
                        _finite(other),
                        list(tokenizer.token_bytes(token)),
                    )
                    for token, other in _likeliest(position)[:top]
                ],
            )
        )
    return ChatLogprobs(content)


def completion_logprobs(
    tokenizer: "Tokenizer",
    tokens: Sequence[int],
    positions: Sequence[Position | None],
    *,
    top: int,
    offset: int,
) -> tuple[CompletionLogprobs, int]:
    """Of a completion's tokens, or of an echoed prompt's.

    Args:
        tokenizer: for texts of tokens.
        tokens: as many as positions.
        positions: None where there is none (the first token of a prompt).
        top: likeliest candidates to list; the drawn token is always among them.
        offset: characters of token texts before the first.

    Returns:
        The lists, and the characters up to the end of the last token.
    """
    found = CompletionLogprobs([], [], [], [])
    for token, position in zip(tokens, positions, strict=True):
        candidate = position[token] if position else None
        text = _text(tokenizer, token, candidate)
        found.text_offset.append(offset)
        found.tokens.append(text)
        offset += len(text)
        if position is None or candidate is None:
            found.token_logprobs.append(None)
            found.top_logprobs.append(None)
            continue
        found.token_logprobs.append(_finite(candidate))
        # Backwards, so that of two tokens with one text the likelier stays.
        listed = [(token, candidate), *reversed(_likeliest(position)[:top])]
        found.top_logprobs.append({_text(tokenizer, t, c): _finite(c) for t, c in listed})
    return found, offset


def prompt_logprobs(positions: Sequence[Position | None]) -> PromptLogprobs:
    """vLLM's extra: per prompt token, token id to its log-probability, rank and text."""
    return [
        None
        if position is None
        else {
            token: {
                "logprob": _finite(candidate),
                "rank": candidate.rank,
                "decoded_token": candidate.decoded_token,
            }
            for token, candidate in position.items()
        }
        for position in positions
    ]


def _likeliest(position: Position) -> list[tuple[int, Logprob]]:
    return sorted(position.items(), key=lambda item: -item[1].logprob)


def _text(tokenizer: "Tokenizer", token: int, candidate: Logprob | None) -> str:
    known = candidate.decoded_token if candidate else None
    return tokenizer.token_text(token) if known is None else known


def _finite(candidate: Logprob) -> float:
    return max(candidate.logprob, _LEAST)
