"""See ``products.int8_product``."""

from __future__ import annotations

from ..dense import dense_int8 as int8_on_cpu

__all__ = ("int8_on_cpu",)
