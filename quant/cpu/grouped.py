"""See ``products.grouped_product``."""

from __future__ import annotations

from ..dense import dense_grouped as grouped_on_cpu

__all__ = ("grouped_on_cpu",)
