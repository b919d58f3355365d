"""Grammars: an engine for choices shows that the contract can be kept; broken ones are caught."""

import pytest

from quire.core.contracts.grammar import GrammarEngine
from quire.core.errors import InvalidRequest
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_grammar

from ..fakes.grammar import ChoiceEngine, ChoiceMatcher


@pytest.mark.parametrize("name", Registry().names("grammar"))
def test_every_registered_grammar_conforms(name: str) -> None:
    check_grammar(Registry().get("grammar", name))


def test_a_grammar_of_choices_conforms() -> None:
    check_grammar(ChoiceEngine)


def with_matcher(changes: type) -> type[GrammarEngine]:
    matcher = type("Broken", (changes, ChoiceMatcher), {})

    class Engine(ChoiceEngine):
        def matcher(self, compiled):
            return matcher(self._vocabulary, self._stop_ids, compiled)

    return Engine


class KeepsBits:
    def fill(self, mask):
        old = mask.clone()
        super().fill(mask)
        mask |= old


class StopsEarly:
    def _fits(self, token):
        return token in self._stop_ids or super()._fits(token)


class NeverEnds:
    def _fits(self, token):
        return token not in self._stop_ids and super()._fits(token)


class TakesAnything:
    def accept(self, token_id):
        self._texts.append(self._texts[-1])
        return True


class MovesOnRefusal:
    def accept(self, token_id):
        taken = super().accept(token_id)
        if not taken:
            self._choices = self._choices[1:]
        return taken


class RewindsOne:
    def rewind(self, count):
        super().rewind(min(count, 1))


class NeverFinished:
    def finished(self):
        return False


class AllowsNothings:
    def _fits(self, token):
        return super()._fits(token) or (
            self._vocabulary[token] == b"" and token not in self._stop_ids
        )


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (KeepsBits, "leaves bits"),
        (StopsEarly, "lets|finished"),
        (NeverEnds, "complete text end"),
        (TakesAnything, "disagree"),
        (MovesOnRefusal, "disagree|leave marks"),
        (RewindsOne, "rewind"),
        (NeverFinished, "finished"),
        (AllowsNothings, "no bytes"),
    ],
)
def test_a_broken_matcher_is_caught(broken: type, words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_grammar(with_matcher(broken))


def test_broken_engines_are_caught() -> None:
    class Careless(ChoiceEngine):
        def compile(self, spec):
            return super().compile(spec) if "[]" not in spec.text else []

    class Crashing(ChoiceEngine):
        def compile(self, spec):
            raise KeyError(spec.kind)

    class Refusing(ChoiceEngine):
        def compile(self, spec):
            raise InvalidRequest("no")

    class Sharing(ChoiceEngine):
        def compile(self, spec):
            return super().matcher(super().compile(spec))

        def matcher(self, compiled):
            return compiled

    for broken, words in (
        (Careless, "malformed"),
        (Crashing, "KeyError"),
        (Refusing, "no specification"),
        (Sharing, r"."),
    ):
        with pytest.raises(ConformanceError, match=words):
            check_grammar(broken)
