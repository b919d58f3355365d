"""Routes: groups of HTTP endpoints, each with a declared owner and class of access.

Access is denied unless a route says otherwise: "open" needs no key, "key" one of the server's API
keys, so a forgotten declaration fails closed. Two groups that serve one path stop the start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from ..config import Config
    from ..registry import Registry

__all__ = ("CONTRACT_VERSION", "Access", "RouteGroup")

CONTRACT_VERSION = 1

Access = Literal["key", "open"]


class RouteGroup(ABC):
    """Makes the handlers of one group.

    Args:
        config: resolved.
        registry: for parts named in the configuration.
        engine: the running ``AsyncLLM``.
    """

    access: ClassVar[Access] = "key"

    def __init__(self, config: Config, registry: Registry, engine: Any) -> None:
        self.config = config
        self.registry = registry
        self.engine = engine

    @abstractmethod
    def handlers(self) -> Sequence[Any]:
        """Litestar route handlers of this group."""
