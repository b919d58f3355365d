"""An HTTP endpoint beside quire's own."""

from collections.abc import Sequence
from typing import Any, ClassVar

from litestar import get

from quire.core.contracts.route import Access, RouteGroup

__all__ = ("ExampleRoutes",)


class ExampleRoutes(RouteGroup):
    """``GET /example``: which policy orders requests; open to callers without a key."""

    access: ClassVar[Access] = "open"

    def handlers(self) -> Sequence[Any]:
        """The endpoint."""
        config = self.config

        @get("/example", sync_to_thread=False)
        def example() -> dict[str, str]:
            return {"model": config.model.name, "policy": config.schedule.policy}

        return [example]
