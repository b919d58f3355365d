"""Speculators: a lookup shows that the contract can be kept; broken ones are caught."""

import pytest

from quire.core.contracts.speculator import Speculator
from quire.testing import ConformanceError, check_speculator

from ..fakes.speculator import LookupSpeculator


def test_a_lookup_conforms_and_finds_what_repeats() -> None:
    check_speculator(LookupSpeculator)
    speculator = LookupSpeculator()
    speculator.begin(4, [1, 2, 3, 4, 1, 2])
    assert speculator.propose([4], 3) == [[3, 4, 1]]
    speculator.accepted(4, [3, 9], 1)
    assert speculator.propose([4], 3) == [[]]


class Eager(LookupSpeculator):
    def propose(self, slots, most):
        return super().propose(slots, most + 1)


class Short(LookupSpeculator):
    def propose(self, slots, most):
        return super().propose(slots, most)[:1]


class Foreign(LookupSpeculator):
    def propose(self, slots, most):
        return [[99][:most] for _ in slots]


class Mixed(LookupSpeculator):
    def propose(self, slots, most):
        return [self._chain(self._tokens[slots[0]], most) for _ in slots]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Eager, "at most"),
        (Short, "for each"),
        (Foreign, "vocabulary"),
        (Mixed, "beside others"),
    ],
)
def test_a_broken_speculator_is_caught(broken: type[Speculator], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_speculator(broken)


def test_a_speculator_that_remembers_is_caught() -> None:
    class Remembering(LookupSpeculator):
        def begin(self, slot, token_ids):
            self._tokens[slot] = [*self._tokens.get(slot, ()), *token_ids]

        def end(self, slot):
            pass

        def _chain(self, tokens, most):
            return tokens[:1][:most]

    with pytest.raises(ConformanceError, match="former sequence"):
        check_speculator(Remembering)
