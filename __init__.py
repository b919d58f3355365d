"""quire: a plugin-based engine and server for large language models.

The public names load on first use, so that ``import quire`` stays instant (PEP 562).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.async_llm import AsyncLLM
    from .core.hooks import hookimpl
    from .core.llm import LLM
    from .core.request import SamplingParams

__version__ = "0.1.0"
__all__ = ("LLM", "AsyncLLM", "SamplingParams", "__version__", "hookimpl")

_HOMES = {
    "LLM": "quire.core.llm",
    "AsyncLLM": "quire.core.async_llm",
    "SamplingParams": "quire.core.request",
    "hookimpl": "quire.core.hooks",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time somebody asks for it."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
