"""Speculators: those that are registered keep the contract; broken ones are caught."""

import pytest
import torch

from quire.core.config import SpeculationConfig
from quire.core.contracts.speculator import Speculator
from quire.core.registry import Registry
from quire.testing import ConformanceError, Unchecked, check_speculator

from ..fakes.speculator import LookupSpeculator

WITH_A_CHECKPOINT = {"draft_model": "demo-draft", "eagle3": "demo-eagle"}
# Like eagle3, and checked against transformers in tests/engine/test_eagle.py.
OTHERS = {"eagle"}


@pytest.mark.parametrize(
    "name", sorted({*Registry().names("speculator")} - {*WITH_A_CHECKPOINT} - OTHERS)
)
def test_a_registered_speculator_conforms(name: str) -> None:
    check_speculator(Registry().get("speculator", name))


def test_a_lookup_conforms() -> None:
    check_speculator(LookupSpeculator)


class Eager(LookupSpeculator):
    def propose(self, drafting):
        drafts = super().propose(drafting)
        return torch.cat((drafts, drafts[:, :1]), 1)


class Short(LookupSpeculator):
    def propose(self, drafting):
        return super().propose(drafting)[:1]


class Foreign(LookupSpeculator):
    def chain(self, tokens, most):
        return [99][:most]


class Holey(LookupSpeculator):
    def chain(self, tokens, most):
        return [-1, 3][:most]


class Listing(LookupSpeculator):
    def propose(self, drafting):
        return super().propose(drafting).tolist()


class Mixed(LookupSpeculator):
    def propose(self, drafting):
        return super().propose(drafting)[:1].expand(len(drafting.slots), -1)


class Writing(LookupSpeculator):
    def propose(self, drafting):
        drafts = super().propose(drafting)
        drafting.tokens[drafting.slots, drafting.lengths] = 7
        return drafts


class Remembering(LookupSpeculator):
    def __init__(self, config, context):
        self._first = {}

    def propose(self, drafting):
        first = [
            self._first.setdefault(slot, int(drafting.tokens[slot, 0]))
            for slot in drafting.slots.tolist()
        ]
        return torch.tensor(first)[:, None].repeat(1, drafting.most)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Eager, "is due"),
        (Short, "is due"),
        (Foreign, "vocabulary"),
        (Holey, "after its end"),
        (Listing, "int64 tensor"),
        (Mixed, "beside others"),
        (Writing, "changes the slots' tokens"),
        (Remembering, "former sequence"),
    ],
)
def test_a_broken_speculator_is_caught(broken: type[Speculator], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_speculator(broken)


@pytest.mark.parametrize(("method", "model"), WITH_A_CHECKPOINT.items())
def test_what_opens_a_checkpoint_is_checked_with_one(method, model, embedded_context) -> None:
    speculator = Registry().get("speculator", method)
    config = SpeculationConfig(method=method, model=model)
    with pytest.raises(Unchecked):
        check_speculator(speculator, config=config)
    check_speculator(speculator, config=config, context=embedded_context)
