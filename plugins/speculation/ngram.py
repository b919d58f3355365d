"""Prompt lookup: what followed the last tokens when they stood in the sequence before.

Saxena, Prompt Lookup Decoding, 2023 (https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from ...backends.cpu.lookup import Lookup
from ...core.config import SpeculationConfig
from ...core.contracts.capabilities import Capabilities
from ...core.contracts.speculator import Drafting, Speculator, SpeculatorContext
from ...core.errors import ConfigError

if TYPE_CHECKING:
    from ...backends.kernels.lookup import TritonLookup

__all__ = ("PromptLookup",)


class PromptLookup(Speculator):
    """Finds the longest run of last tokens that stands earlier, at its latest place there.

    Runs have from prompt_lookup_min to prompt_lookup_max tokens. The search is a kernel over the
    slots' tokens, and nobody looks at a result.
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
        self._lookup: Lookup | TritonLookup
        if context.device.type == "cpu":
            self._lookup = Lookup(self.least, self.longest, self.each)
        else:
            # Only where there is a GPU: machines without one need no Triton.
            from ...backends.kernels.lookup import TritonLookup

            self._lookup = TritonLookup(self.least, self.longest, self.each)

    def propose(self, drafting: Drafting) -> torch.Tensor:
        return self._lookup(drafting.tokens, drafting.slots, drafting.lengths, drafting.most)

    def _runs(self, config: SpeculationConfig) -> tuple[int, int]:
        """Fewest and most tokens of a run."""
        return config.prompt_lookup_min, config.prompt_lookup_max
