"""Prompt lookup: what followed the last tokens when they stood in the sequence before.

Saxena, Prompt Lookup Decoding, 2023 (https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import torch

from ...backends.cpu.lookup import Lookup
from ...core.config import SpeculationConfig
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.speculator import Drafting, Speculator, SpeculatorContext
from ...core.errors import ConfigError

__all__ = ("PromptLookup",)

# Tokens of a row that are looked at as quickly as fewer.
_LEAST_WIDTH = 256


class PromptLookup(Speculator):
    """Finds the longest run of last tokens that stands earlier, at its latest place there.

    Runs have from prompt_lookup_min to prompt_lookup_max tokens. The search is a kernel on a CPU,
    and elsewhere a few passes over the slots' tokens on the device; nobody looks at a result.
    """

    capabilities = Capabilities(features=frozenset({"overlap", "graphs", "parallel"}))
    default_length = 8
    each: ClassVar[int] = 0
    """Drafts for each token of the run that was found; 0 for as many as there may be."""

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        if config.prompt_lookup_min > config.prompt_lookup_max:
            raise ConfigError(
                f"speculation.prompt_lookup_min is {config.prompt_lookup_min}, more than "
                f"prompt_lookup_max, which is {config.prompt_lookup_max}; lower it"
            )
        self.least, self.longest = self._runs(config)
        self._most_tokens = context.max_model_len
        self._on_host: Lookup | None = None
        if context.device.type == "cpu":
            self._on_host = Lookup(self.least, self.longest, self.each)

    def propose(self, drafting: Drafting) -> torch.Tensor:
        slots, most = drafting.slots, drafting.most
        if self._on_host is not None:
            return self._on_host(drafting.tokens, slots, drafting.lengths, most)
        lengths = drafting.lengths.unsqueeze(-1)
        width = self._width(int(drafting.host.longest.max()))
        tokens = drafting.tokens[slots, :width]
        at = torch.arange(width, dtype=torch.int32, device=slots.device)
        # run[i]: how many tokens that end before position i are also the last ones of the row.
        same = (at > 0) & (at < lengths)
        run = torch.zeros_like(tokens)
        for back in range(1, min(self.longest, width - 1) + 1):
            last = tokens.gather(1, (lengths - back).clamp(min=0))
            same[:, back:] &= tokens[:, : width - back] == last
            same[:, :back] = False
            run += same
        # The longest run wins, and of equally long ones the last.
        score = torch.where(run >= self.least, run * width + at, -1)
        best, place = score.max(-1, keepdim=True)
        ahead = torch.arange(most, device=slots.device)
        follow = place.long() + ahead
        drafts = drafting.tokens[slots.unsqueeze(-1), follow.clamp(max=width - 1)].long()
        found = (best >= 0) & (follow < lengths)
        if self.each:
            found &= ahead < self.each * (best // width)
        return torch.where(found, drafts, -1)

    def graph_key(self, num_rows: int, longest: int) -> Hashable:
        return self._width(longest)

    def _width(self, longest: int) -> int:
        """Tokens of a row that are looked at: few different numbers, for few captured calls."""
        doublings = (longest - 1).bit_length()
        return min(max(1 << (doublings + doublings % 2), _LEAST_WIDTH), self._most_tokens)

    def _runs(self, config: SpeculationConfig) -> tuple[int, int]:
        """Fewest and most tokens of a run."""
        return config.prompt_lookup_min, config.prompt_lookup_max
