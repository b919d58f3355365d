"""Suffix lookup: the longest run of last tokens that was there before, however long.

After SuffixDecoding (Oliaro et al., arXiv 2411.04975), over the request's own tokens: the longer
the run, the more of what followed it is proposed.
"""

from __future__ import annotations

from ...core.config import SpeculationConfig
from .ngram import PromptLookup

__all__ = ("SuffixLookup",)

# Tokens of a run that are told apart; a longer one counts as this long.
_LONGEST = 32


class SuffixLookup(PromptLookup):
    """Proposes little where a token or two stood before, and much where a passage did."""

    default_length = 16
    each = 2

    def _runs(self, config: SpeculationConfig) -> tuple[int, int]:
        return 1, _LONGEST
