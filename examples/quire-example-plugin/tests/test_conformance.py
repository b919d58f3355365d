"""quire's own suites: each part keeps the promises of its contract."""

from quire_example_plugin.bigrams import Bigrams
from quire_example_plugin.model import Parallel
from quire_example_plugin.policy import ShortestPrompt
from quire_example_plugin.routes import ExampleRoutes

from quire.testing import check_model, check_policy, check_route, check_speculator


def test_the_policy() -> None:
    check_policy(ShortestPrompt)


def test_the_architecture() -> None:
    check_model(Parallel)


def test_the_routes() -> None:
    check_route(ExampleRoutes)


def test_the_speculator() -> None:
    check_speculator(Bigrams)
