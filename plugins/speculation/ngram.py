"""Prompt lookup: what followed the last tokens when they stood in the sequence before.

Saxena, Prompt Lookup Decoding, 2023 (https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Hashable

import torch

from ...core.config import SpeculationConfig
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.speculator import Drafting, Speculator, SpeculatorContext
from ...core.errors import ConfigError

__all__ = ("PromptLookup",)

# Tokens of a row that are looked at as quickly as fewer.
_LEAST_WIDTH = 256


class PromptLookup(Speculator):
    """Finds the longest run of last tokens that stands earlier, at its latest place there.

    Runs have from prompt_lookup_min to prompt_lookup_max tokens. The search is a few passes over
    the slots' tokens on the device and nothing else; nobody looks at a result.
    """

    capabilities = Capabilities(features=frozenset({"overlap", "graphs", "parallel"}))
    default_length = 8

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        if config.prompt_lookup_min > config.prompt_lookup_max:
            raise ConfigError(
                f"speculation.prompt_lookup_min is {config.prompt_lookup_min}, more than "
                f"prompt_lookup_max, which is {config.prompt_lookup_max}; lower it"
            )
        self.least = config.prompt_lookup_min
        self.longest = config.prompt_lookup_max
        self._on_host = context.device.type == "cpu"
        self._most_tokens = context.max_model_len

    def propose(self, drafting: Drafting) -> torch.Tensor:
        slots, lengths = drafting.slots, drafting.lengths.unsqueeze(-1)
        # A CPU knows how long the rows are; elsewhere that would make the host wait.
        width = (
            int(lengths.max()) if self._on_host else self._width(int(drafting.host.longest.max()))
        )
        tokens = drafting.tokens[slots, :width]
        at = torch.arange(width, dtype=torch.int32, device=slots.device)
        # run[i]: how many tokens that end before position i are also the last ones of the row.
        same = (at > 0) & (at < lengths)
        run = torch.zeros_like(tokens)
        for back in range(1, min(self.longest, width - 1) + 1):
            last = tokens.gather(1, (lengths - back).clamp(min=0))
            same[:, back:] &= tokens[:, : width - back] == last
            same[:, :back] = False
            if self._on_host and not same.any():
                break
            run += same
        # The longest run wins, and of equally long ones the last.
        score = torch.where(run >= self.least, run * width + at, -1)
        best, place = score.max(-1, keepdim=True)
        follow = place.long() + torch.arange(drafting.most, device=slots.device)
        drafts = drafting.tokens[slots.unsqueeze(-1), follow.clamp(max=width - 1)].long()
        found = (best >= 0) & (follow < lengths) & self.trusted(best // width, drafting.most)
        return torch.where(found, drafts, -1)

    def graph_key(self, num_rows: int, longest: int) -> Hashable:
        return self._width(longest)

    def _width(self, longest: int) -> int:
        """Tokens of a row that are looked at: few different numbers, for few captured calls."""
        doublings = (longest - 1).bit_length()
        return min(max(1 << (doublings + doublings % 2), _LEAST_WIDTH), self._most_tokens)

    def trusted(self, run: torch.Tensor, most: int) -> torch.Tensor:
        """Which drafts to propose behind a run that was found again.

        Args:
            run: int64 [N, 1], its tokens.
            most: drafts of a row.

        Returns:
            bool [N, most], or what broadcasts to it.
        """
        return run > 0
