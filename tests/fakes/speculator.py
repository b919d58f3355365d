"""A speculator that looks its last tokens up in what the sequence said before."""

from collections.abc import Sequence

from quire.core.contracts.speculator import Speculator


class LookupSpeculator(Speculator):
    def __init__(self, size: int = 2) -> None:
        self._size = size
        self._tokens: dict[int, list[int]] = {}

    def begin(self, slot: int, token_ids: Sequence[int]) -> None:
        self._tokens[slot] = list(token_ids)

    def propose(self, slots: Sequence[int], most: int) -> list[list[int]]:
        return [self._chain(self._tokens[slot], most) for slot in slots]

    def accepted(self, slot: int, token_ids: Sequence[int], drafts_kept: int) -> None:
        self._tokens[slot] += token_ids

    def end(self, slot: int) -> None:
        del self._tokens[slot]

    def _chain(self, tokens: list[int], most: int) -> list[int]:
        key = tokens[-self._size :]
        for start in range(len(tokens) - self._size - 1, -1, -1):
            if tokens[start : start + self._size] == key:
                return tokens[start + self._size :][:most]
        return []
