"""The bytes of tokens, for the two kinds of vocabulary whose text is their bytes joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ("Pieces", "pieces_of")


class Pieces:
    """Token id -> bytes, remembered once looked up.

    Attributes:
        strips_first_space: whether a text loses one space at its very beginning.
    """

    def __init__(
        self,
        id_to_token: Callable[[int], str | None],
        to_bytes: Callable[[str], bytes],
        *,
        strips_first_space: bool,
    ) -> None:
        self._id_to_token = id_to_token
        self._to_bytes = to_bytes
        self._known: dict[int, bytes] = {}
        self.strips_first_space = strips_first_space

    def __call__(self, token: int) -> bytes:
        """A token's bytes; none for an id that is no token."""
        found = self._known.get(token)
        if found is None:
            text = self._id_to_token(token) if 0 <= token < 2**32 else None
            if text is None:
                return b""
            found = self._known[token] = self._to_bytes(text)
        return found


def pieces_of(tokenizer: Any) -> Pieces | None:
    """The pieces of a ``tokenizers.Tokenizer``; None when its decoder does not join bytes."""
    decoder = tokenizer.decoder
    if decoder is None:
        return None
    described = msgspec.json.decode(decoder.__getstate__())
    steps = described["decoders"] if described["type"] == "Sequence" else [described]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces(tokenizer.id_to_token, _byte_level, strips_first_space=False)
    strips = kinds[3:] == ["Strip"]
    if kinds[:3] != ["Replace", "ByteFallback", "Fuse"] or (kinds[3:] and not strips):
        return None
    if steps[0]["pattern"] != {"String": "▁"} or steps[0]["content"] != " ":
        return None
    if strips and (steps[3]["content"], steps[3]["start"], steps[3]["stop"]) != (" ", 1, 0):
        return None
    return Pieces(tokenizer.id_to_token, _sentence_piece, strips_first_space=strips)


def _byte_alphabet() -> dict[str, int]:
    """The letters that stand for bytes in a byte-level vocabulary (GPT-2's bytes_to_unicode)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[letter] for letter in token])
    except KeyError:
        # An added token, which stands for itself.
        return token.encode()


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("▁", " ").encode()
