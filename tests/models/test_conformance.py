"""The model contract, for every family."""

import pytest
import torch

from quire.core.contracts.model import Architecture, BuildContext
from quire.core.registry import Registry
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import Unquantized
from tests.contracts.model_suite import check_architecture

CONFIG = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
}
FAMILIES = Registry().names("model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_conformance(name: str, tied: bool, dtype: torch.dtype) -> None:
    platform = CPU()
    context = BuildContext(
        dtype=dtype,
        device=torch.device("cpu"),
        quant=Unquantized(platform),
        platform=platform,
        max_model_len=32,
    )
    architecture: type[Architecture] = Registry().get("model", name)
    check_architecture(architecture, CONFIG | {"tie_word_embeddings": tied}, context, 31)
