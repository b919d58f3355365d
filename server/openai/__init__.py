"""The OpenAI-compatible endpoints."""

from collections.abc import Sequence
from typing import Any

from ...core.contracts.route import RouteGroup
from .chat import chat_handler
from .completions import completion_handler
from .models import model_handlers

__all__ = ("OpenAIRoutes",)


class OpenAIRoutes(RouteGroup):
    """Chat, completions, models; for callers with a key, where there are keys."""

    def handlers(self) -> Sequence[Any]:
        """The endpoints."""
        return [
            chat_handler(self.config, self.engine),
            completion_handler(self.config, self.engine),
            *model_handlers(self.config),
        ]
