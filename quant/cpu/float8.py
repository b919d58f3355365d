"""See ``products.float8_product``."""

from __future__ import annotations

from ..dense import dense_float8 as float8_on_cpu

__all__ = ("float8_on_cpu",)
