"""Suffix lookup: the longest run of last tokens that was there before, however long.

After SuffixDecoding (Oliaro et al., arXiv 2411.04975), over the request's own tokens: the longer
the run, the more of what followed it is proposed.
"""

from __future__ import annotations

import torch

from ...core.config import SpeculationConfig
from ...core.contracts.speculator import SpeculatorContext
from .ngram import PromptLookup

__all__ = ("SuffixLookup",)

# Tokens of a run that are told apart; a longer one counts as this long.
_LONGEST = 32
# Drafts for each token of the run.
_DRAFTS_PER_TOKEN = 2


class SuffixLookup(PromptLookup):
    """Proposes little where a token or two stood before, and much where a passage did."""

    default_length = 16

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        super().__init__(config, context)
        self.least, self.longest = 1, _LONGEST

    def trusted(self, run: torch.Tensor, most: int) -> torch.Tensor:
        return torch.arange(most, device=run.device) < _DRAFTS_PER_TOKEN * run
