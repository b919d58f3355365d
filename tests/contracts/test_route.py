"""Routes: every registered group conforms, a stranger's does, and broken ones are caught."""

import pytest
from litestar import get, post
from litestar.params import FromPath, JSONBody

from quire.core.contracts.route import RouteGroup
from quire.core.registry import Registry
from quire.testing import ConformanceError, check_route


@pytest.mark.parametrize("name", Registry().names("route"))
def test_every_registered_group_conforms(name: str) -> None:
    check_route(Registry().get("route", name))


class Echo(RouteGroup):
    def handlers(self):
        @get("/echo/{word:str}", sync_to_thread=False)
        def echo(word: FromPath[str]) -> str:
            return word

        return [echo]


def test_a_stranger_conforms() -> None:
    check_route(Echo)


class Empty(Echo):
    def handlers(self):
        return []


class Misspelt(Echo):
    access = "opne"


class Fragile(Echo):
    def handlers(self):
        @post("/first", sync_to_thread=False)
        def first(data: JSONBody[dict[str, list[int]]]) -> int:
            return data["prompt"][0]

        return [first]


class Unprotected(Echo):
    """Opens one handler of a closed group."""

    def handlers(self):
        (handler,) = super().handlers()
        handler.opt["quire_access"] = "open"
        return [handler]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Empty, "no endpoint"),
        (Misspelt, "access is 'opne'"),
        (Fragile, "internal error"),
        (Unprotected, "without a key"),
    ],
)
def test_a_broken_group_is_caught(broken: type[RouteGroup], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_route(broken)
