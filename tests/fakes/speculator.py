"""A speculator on the host that looks its last tokens up in what the sequence said before."""

import random

import torch

from quire.core.contracts import VERSIONS
from quire.core.contracts.capabilities import Capabilities
from quire.core.contracts.speculator import Drafting, Speculator
from quire.core.hooks import Manifest, Provision, hookimpl
from quire.core.registry import Registry


class LookupSpeculator(Speculator):
    size = 2

    def __init__(self, config, context) -> None:
        pass

    def propose(self, drafting: Drafting) -> torch.Tensor:
        chains = []
        for slot, length in zip(drafting.slots.tolist(), drafting.lengths.tolist(), strict=True):
            chain = self.chain(drafting.tokens[slot, :length].tolist(), drafting.most)
            chains.append(chain + [-1] * (drafting.most - len(chain)))
        return torch.tensor(chains)

    def chain(self, tokens: list[int], most: int) -> list[int]:
        key = tokens[-self.size :]
        for start in range(len(tokens) - self.size - 1, -1, -1):
            if tokens[start : start + self.size] == key:
                return tokens[start + self.size :][:most]
        return []


class FaultySpeculator(LookupSpeculator):
    """Right for a while, then wrong in the way that ``fault`` says."""

    capabilities = Capabilities(features=frozenset({"hidden_states"}))
    fault = "raises"
    calls = 0

    def observe(self, observed) -> None:
        if self.calls >= 4 and self.fault == "sees":
            raise RuntimeError("planted")

    def propose(self, drafting: Drafting) -> torch.Tensor:
        self.calls += 1
        drafts = super().propose(drafting)
        if self.calls < 4 or self.fault == "sees":
            return drafts
        match self.fault:
            case "raises":
                raise RuntimeError("planted")
            case "shape":
                return drafts[:, :1].repeat(1, drafting.most + 2)
            case "dtype":
                return drafts.float()
            case "vocabulary":
                return torch.full_like(drafts, 10**6)
            case _:
                return torch.full_like(drafts, -7)


class GuidedSpeculator(LookupSpeculator):
    """Knows what comes, and says so; a token here and there is wrong, some chains are short."""

    capabilities = Capabilities(features=frozenset({"overlap"}))
    texts: list[list[int]] = []

    def chain(self, tokens: list[int], most: int) -> list[int]:
        for text in self.texts:
            if text[: len(tokens)] == tokens:
                break
        else:
            return []
        rng = random.Random(len(tokens))
        chain = text[len(tokens) :][: rng.randint(most - 2, most)]
        return [token + (rng.random() < 0.2) for token in chain]


class FakeSpeculators:
    """A plugin with all of them."""

    @hookimpl
    def quire_manifest(self) -> Manifest:
        return Manifest(
            name="fake speculators",
            version="0",
            contracts={"speculator": VERSIONS["speculator"]},
            provides=(
                Provision("speculator", "lookup", "tests.fakes.speculator:LookupSpeculator"),
                Provision("speculator", "guided", "tests.fakes.speculator:GuidedSpeculator"),
                Provision("speculator", "faulty", "tests.fakes.speculator:FaultySpeculator"),
            ),
        )


def registry_with_fakes() -> Registry:
    registry = Registry()
    registry._register("fake speculators", FakeSpeculators(), "tests")
    return registry
