"""Text of a growing list of tokens, piece by piece, cut at stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .pieces import Pieces
from .tokenizer import Tokenizer

__all__ = ("IncrementalDetokenizer", "Piece")

# A character has at most 4 bytes; this many tokens before a text settle how its bytes group.
_CONTEXT = 8
# Tokens a window may hold back before it takes its U+FFFD for real.
_MAX_WINDOW = 64


class Piece(NamedTuple):
    """What is new.

    Attributes:
        text: safe to show: no part of a character, no beginning of a stop string.
        stop: the stop string that ended the text, None while it goes on.
        num_tokens: how many of the tokens fed belong to the output.
    """

    text: str
    stop: str | None
    num_tokens: int


class IncrementalDetokenizer:
    """Follows one completion.

    The pieces joined are the text of the whole; the cost of a token does not depend on how many
    came before. Only in a byte-fallback vocabulary, and only for bytes that are no UTF-8, the
    library's decode differs: it turns characters beside such bytes into U+FFFD as well.

    Args:
        tokenizer: of the model.
        prompt_token_ids: what the completion continues.
        skip_special_tokens: leave special tokens out.
        stop: strings that end the text where the first of them is complete.
        include_stop: keep the stop string itself.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
        stop: tuple[str, ...],
        include_stop: bool,
    ) -> None:
        skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._stream: _Stream = (
            _Window(tokenizer, prompt_token_ids, skip_special_tokens)
            if tokenizer.pieces is None
            else _Bytes(tokenizer.pieces, prompt_token_ids, skipped)
        )
        self._stops = _Stops(stop, include_stop) if stop else None

    def feed(self, token_ids: Sequence[int]) -> Piece:
        """Take in the next tokens. After a stop string, nothing belongs to the output."""
        push = self._stream.push
        if self._stops is None:
            if len(token_ids) == 1:
                return Piece(push(token_ids[0]), None, 1)
            return Piece(self._stream.extend(token_ids), None, len(token_ids))
        if self._stops.found is not None:
            return Piece("", self._stops.found, 0)
        text = ""
        for count, token in enumerate(token_ids, 1):
            text += self._stops.push(push(token))
            if self._stops.found is not None:
                return Piece(text, self._stops.found, count)
        return Piece(text, None, len(token_ids))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        text = self._stream.finish()
        if self._stops is None:
            return text
        return self._stops.push(text) + self._stops.finish()


class _Stream(Protocol):
    """Tokens to whole characters."""

    def push(self, token: int) -> str: ...

    def extend(self, tokens: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class _Bytes:
    """Joins the tokens' bytes and gives out complete characters."""

    def __init__(
        self, pieces: Pieces, prompt_token_ids: Sequence[int], skipped: frozenset[int]
    ) -> None:
        self._pieces = pieces
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = pieces.strips_first_space and all(
            token in skipped or not pieces(token) for token in prompt_token_ids
        )
        for token in prompt_token_ids[-_CONTEXT:]:
            self.push(token)

    def push(self, token: int) -> str:
        if token in self._skipped:
            return ""
        data = self._pieces(token)
        if self._at_start and data:
            self._at_start = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def extend(self, tokens: Sequence[int]) -> str:
        if self._at_start:
            return "".join(map(self.push, tokens))
        skipped = self._skipped
        shown = (token for token in tokens if token not in skipped)
        return self._decoder.decode(b"".join(map(self._pieces, shown)))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Window:
    """Decodes the last few tokens with and without the new one, for any other vocabulary."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids = list(prompt_token_ids[-_CONTEXT:])
        self._read = len(self._ids)

    def push(self, token: int) -> str:
        self._ids.append(token)
        return self._news(force=len(self._ids) > _MAX_WINDOW)

    def extend(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.push, tokens))

    def finish(self) -> str:
        return self._news(force=True)

    def _news(self, *, force: bool) -> str:
        known = self._decode(self._ids[: self._read])
        text = self._decode(self._ids)
        if text.endswith("\ufffd") and not force:
            return ""
        del self._ids[: max(0, self._read - _CONTEXT)]
        self._read = len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)


class _Stops:
    """Finds the stop string that is complete first, and holds back what may become one.

    For every stop string it keeps where in the text held back it may begin. That place only ever
    moves forward, which makes the work linear in the text.
    """

    def __init__(self, stops: tuple[str, ...], include: bool) -> None:
        self.found: str | None = None
        self._stops = stops
        self._include = include
        self._held = ""
        self._starts = [0] * len(stops)

    def push(self, text: str) -> str:
        held = self._held + text
        first: tuple[int, int, str] | None = None
        for index, stop in enumerate(self._stops):
            start = self._next_start(held, stop, self._starts[index])
            self._starts[index] = start
            end = start + len(stop)
            if end <= len(held) and (first is None or (end, start) < first[:2]):
                first = (end, start, stop)
        if first is not None:
            end, start, self.found = first
            self._held = ""
            return held[: end if self._include else start]
        safe = min(self._starts)
        self._held = held[safe:]
        self._starts = [start - safe for start in self._starts]
        return held[:safe]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _next_start(held: str, stop: str, start: int) -> int:
        """First place from ``start`` where the stop string stands, or may come to stand."""
        while (start := held.find(stop[0], start)) >= 0:
            if stop.startswith(held[start : start + len(stop)]):
                return start
            start += 1
        return len(held)
