"""Policies: the built-in ones conform, and broken ones are caught."""

import itertools

import pytest

from quire.core.contracts.policy import Policy
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_policy


@pytest.mark.parametrize("name", Registry().names("policy"))
def test_every_registered_policy_conforms(name: str) -> None:
    check_policy(Registry().get("policy", name))


class Fair(Policy):
    def rank(self, candidate):
        return (candidate.num_tokens, candidate.arrival)


class Moody(Fair):
    counter = itertools.count()

    def rank(self, candidate):
        return (next(self.counter),)


class Wordy(Fair):
    def rank(self, candidate):
        return (candidate.cache_salt,)


class Uneven(Fair):
    def rank(self, candidate):
        return (0,) * (1 + candidate.priority % 2)


class Reckless(Fair):
    def victim(self, running):
        return len(running)


class Grabbing(Fair):
    def victim(self, running):
        running.pop()
        return 0


def test_a_stranger_conforms() -> None:
    check_policy(Fair)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Moody, "pure"),
        (Wordy, "no numbers"),
        (Uneven, "length"),
        (Reckless, "victim gave"),
        (Grabbing, "changed the list"),
    ],
)
def test_a_broken_policy_is_caught(broken: type[Policy], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_policy(broken)
