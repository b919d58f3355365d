"""Drafts from pairs of tokens: after each one, what followed it when it was last there."""

from itertools import pairwise

import torch

from quire.core.config import SpeculationConfig
from quire.core.contracts.speculator import Drafting, Speculator, SpeculatorContext

__all__ = ("Bigrams",)


class Bigrams(Speculator):
    """Looks at tokens on the host, the simple way.

    It does not declare the feature ``overlap``, so quire runs each step before it plans the next.
    """

    default_length = 3

    def __init__(self, config: SpeculationConfig, context: SpeculatorContext) -> None:
        pass

    def propose(self, drafting: Drafting) -> torch.Tensor:
        """Walk from pair to pair."""
        chains = []
        for slot, length in zip(drafting.slots.tolist(), drafting.lengths.tolist(), strict=True):
            tokens = drafting.tokens[slot, :length].tolist()
            follows = dict(pairwise(tokens))
            chain, last = [], tokens[-1]
            while len(chain) < drafting.most and last in follows:
                last = follows[last]
                chain.append(last)
            chains.append(chain + [-1] * (drafting.most - len(chain)))
        return torch.tensor(chains)
