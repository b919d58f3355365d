"""A grammar engine for choices: the matcher keeps the strings that can still come."""

import msgspec
import torch

from quire.core.contracts.grammar import GrammarEngine, GrammarSpec, Matcher
from quire.core.errors import InvalidRequest


class ChoiceMatcher(Matcher):
    def __init__(self, vocabulary: list[bytes], stop_ids: list[int], choices: list[bytes]) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids
        self._choices = choices
        self._texts = [b""]

    def fill(self, mask: torch.Tensor) -> None:
        words = [0] * len(mask)
        for token in range(len(self._vocabulary)):
            if self._fits(token):
                words[token // 32] |= 1 << token % 32
        mask.copy_(torch.tensor([w - 2**32 if w >= 2**31 else w for w in words]))

    def accept(self, token_id: int) -> bool:
        if not self._fits(token_id):
            return False
        self._texts.append(self._texts[-1] + self._vocabulary[token_id])
        return True

    def rewind(self, count: int) -> None:
        if count:
            del self._texts[-count:]

    def finished(self) -> bool:
        text = self._texts[-1]
        return [choice for choice in self._choices if choice.startswith(text)] == [text]

    def _fits(self, token: int) -> bool:
        text = self._texts[-1]
        if token in self._stop_ids:
            return text in self._choices
        piece = self._vocabulary[token]
        return bool(piece) and any(choice.startswith(text + piece) for choice in self._choices)


class ChoiceEngine(GrammarEngine):
    def __init__(self, vocabulary: list[bytes], stop_ids: list[int]) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids

    def compile(self, spec: GrammarSpec) -> object:
        if spec.kind != "choice":
            raise InvalidRequest(f"this engine knows choices, not {spec.kind}", "grammar")
        try:
            choices = msgspec.json.decode(spec.text, type=list[str])
        except msgspec.DecodeError as error:
            raise InvalidRequest("a choice must be a JSON array of strings", "choice") from error
        if not choices:
            raise InvalidRequest("a choice needs at least one string", "choice")
        return [choice.encode() for choice in choices]

    def matcher(self, compiled: object) -> Matcher:
        return ChoiceMatcher(self._vocabulary, self._stop_ids, compiled)
