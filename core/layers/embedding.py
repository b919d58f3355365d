"""Token embedding, and the head that may share its weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..contracts.model import BuildContext
from ..contracts.platform import Product
from .parameter import DUMMY_SCALE, Parameter

__all__ = ("Embedding",)


class Embedding(Parameter):
    """Rows of a table.

    Args:
        name: of the module in the checkpoint.
        vocab_size: rows.
        hidden_size: width of a row.
        context: dtype, device and platform.
        tied: whether the table is the head as well.
    """

    def __init__(
        self, name: str, vocab_size: int, hidden_size: int, context: BuildContext, *, tied: bool
    ) -> None:
        super().__init__(
            f"{name}.weight",
            (vocab_size, hidden_size),
            dtype=context.dtype,
            device=context.device,
            dummy=DUMMY_SCALE,
        )
        self._platform = context.platform
        self._tied = tied
        self.project: Product | None = None
        """x -> x @ table.T once the weights are in, when tied."""

    def finish(self) -> None:
        """Prepare the table for products, when the head needs them."""
        if self._tied:
            self.project = self._platform.product(self.data, None)

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [T] -> [T, hidden_size]."""
        return F.embedding(token_ids, self.data)
