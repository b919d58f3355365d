"""A parser of reasoning between <think> and </think>."""

from quire.core.contracts.parser import OutputParser, ParsedPiece


class ThinkParser(OutputParser):
    def __init__(self) -> None:
        self._held = ""
        self._thinking = False

    def feed(self, text: str) -> list[ParsedPiece]:
        self._held += text
        pieces: list[ParsedPiece] = []
        while True:
            mark = "</think>" if self._thinking else "<think>"
            before, found, after = self._held.partition(mark)
            if not found:
                break
            pieces += self._piece(before)
            self._thinking = not self._thinking
            self._held = after
        keep = next(n for n in range(len(mark) - 1, -1, -1) if self._held.endswith(mark[:n]))
        safe = len(self._held) - keep
        pieces += self._piece(self._held[:safe])
        self._held = self._held[safe:]
        return pieces

    def finish(self) -> list[ParsedPiece]:
        held, self._held = self._held, ""
        return self._piece(held)

    def _piece(self, text: str) -> list[ParsedPiece]:
        return [ParsedPiece("reasoning" if self._thinking else "content", text)] if text else []
