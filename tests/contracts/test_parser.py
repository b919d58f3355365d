"""Parsers: one of reasoning shows that the contract can be kept; broken ones are caught."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.conformance.parser import joined
from quire.core.contracts.parser import OutputParser, ParsedPiece
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_parser

from ..fakes.parser import ThinkParser


@pytest.mark.parametrize("name", Registry().names("parser"))
def test_every_registered_parser_conforms(name: str) -> None:
    check_parser(Registry().get("parser", name))


def test_a_parser_of_reasoning_conforms_and_splits() -> None:
    check_parser(ThinkParser)
    parser = ThinkParser()
    pieces = parser.feed("a<think>b</thi") + parser.feed("nk>c<") + parser.finish()
    assert joined(pieces) == [
        ParsedPiece("content", "a"),
        ParsedPiece("reasoning", "b"),
        ParsedPiece("content", "c<"),
    ]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(["<", "<think>", "</think>", "thi", "nk>", "a", "</", "😀"])))
def test_any_chunking_gives_the_same_joined_events(chunks: list[str]) -> None:
    parser, whole = ThinkParser(), ThinkParser()
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)] + parser.finish()
    assert joined(pieces) == joined(whole.feed("".join(chunks)) + whole.finish())


class Hasty(ThinkParser):
    """Looks for marks within one chunk alone."""

    def feed(self, text):
        pieces = super().feed(text)
        return pieces + super().finish()


class Losing(ThinkParser):
    def finish(self):
        return []

    def feed(self, text):
        return super().feed(text.replace("😀", ""))


class Nameless(OutputParser):
    def feed(self, text):
        return [ParsedPiece("tool", text, call=0)]

    def finish(self):
        return []


class Miscounting(OutputParser):
    def __init__(self):
        self.text = ""

    def feed(self, text):
        self.text += text
        return []

    def finish(self):
        return [ParsedPiece("tool", self.text, call=1, name="f")]


class Naming(Miscounting):
    def finish(self):
        return [ParsedPiece("content", self.text, name="f")] if self.text else []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Hasty, "in chunks"),
        (Losing, "holds no marks|in chunks"),
        (Nameless, "without a name"),
        (Miscounting, "is due"),
        (Naming, "names a call"),
    ],
)
def test_a_broken_parser_is_caught(broken: type[OutputParser], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_parser(broken)
