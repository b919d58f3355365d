"""Architectures: every registered one conforms, and broken ones are caught."""

from __future__ import annotations

import pytest
import torch

from quire.core.contracts.model import Architecture, BuildContext
from quire.core.errors import CheckpointError
from quire.core.registry import Registry
from quire.plugins.models.llama import Llama
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import Unquantized
from quire.testing import ConformanceError, Unchecked, check_architecture, check_model

FAMILIES = Registry().names("model")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_registered_architecture_conforms(name: str) -> None:
    try:
        check_model(Registry().get("model", name))
    except Unchecked as reason:
        pytest.skip(str(reason))


def test_bfloat16() -> None:
    from quire.core.conformance.model import SMALL

    platform = CPU()
    context = BuildContext(
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        quant=Unquantized(platform),
        platform=platform,
        max_model_len=32,
    )
    for name in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        check_architecture(Registry().get("model", name), SMALL, context, SMALL["vocab_size"])


class Twice(Llama):
    def holders(self):
        return super().holders() * 2


class Careless(Llama):
    def ignores(self, name):
        return True


class Backwards(Llama):
    def forward(self, token_ids, positions, attend):
        last = len(self.attention_layers()) - 1
        return super().forward(
            token_ids, positions, lambda layer, *rest: attend(last - layer, *rest)
        )


class Mixing(Llama):
    def forward(self, token_ids, positions, attend):
        hidden = super().forward(token_ids, positions, attend)
        return hidden + hidden[:1]


class Half(Llama):
    def logits(self, hidden):
        return super().logits(hidden).half()


class Unseen(Llama):
    def forward(self, token_ids, positions, attend, tap=None):
        return super().forward(token_ids, positions, attend)


class Elsewhere(Llama):
    def embed(self, token_ids):
        return super().embed(token_ids) + (token_ids[:, None] == 2)

    def forward(self, token_ids, positions, attend, tap=None):
        later = None if tap is None else lambda layer, x: tap(layer, x + (layer == 0))
        return super().forward(token_ids, positions, attend, later)


class Generous(Llama):
    def forward(self, token_ids, positions, attend, tap=None, last=None):
        return super().forward(token_ids, positions, attend, tap)


class Astray(Llama):
    def forward(self, token_ids, positions, attend, tap=None, last=None):
        found = super().forward(token_ids, positions, attend, tap, last)
        return found if last is None else found.flip(0)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Generous, "chosen tokens give"),
        (Astray, "chosen tokens differ"),
        (Unseen, "is shown the layers"),
        (Elsewhere, "not what the first layer reads"),
        (Twice, "several holders"),
        (Careless, "both taken and ignored"),
        (Backwards, "in the order"),
        (Mixing, "other rows"),
        (Half, "logits are torch.float16"),
    ],
)
def test_a_broken_architecture_is_caught(broken: type[Architecture], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_model(broken)


def test_one_that_needs_other_keys_is_not_judged() -> None:
    class Particular(Llama):
        @classmethod
        def build(cls, config, context):
            raise CheckpointError("num_experts is missing")

    with pytest.raises(Unchecked, match="num_experts"):
        check_model(Particular)
