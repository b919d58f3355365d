"""The products of a model, found without its weights."""

import json
from pathlib import Path

import msgspec
import pytest

from quire.core.config import Config
from quire.core.contracts.platform import ProductShape
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.run.products import product_shapes

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("tied", [False, True])
def test_every_product_is_found_once(tied: bool, tmp_path: Path) -> None:
    values = LLAMA | {"tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(values))
    wanted = {"model": {"name": str(tmp_path), "load_format": "dummy"}}
    registry = Registry(())
    config = resolve(msgspec.convert(wanted, Config), registry).config
    assert product_shapes(config, registry) == [
        ProductShape(64, 32),
        ProductShape(32, 32),
        ProductShape(48, 32, gated=True),
        ProductShape(32, 48),
        ProductShape(96, 32),
    ]
