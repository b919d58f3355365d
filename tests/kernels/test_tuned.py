"""Tables of tuned products, and the defaults where there is none."""

from pathlib import Path

import pytest
import torch

from quire.backends.kernels.small_product import Config
from quire.backends.kernels.tuned import (
    BUCKETS,
    Entry,
    Table,
    bucket,
    choose,
    default,
    read,
    use,
    write,
)
from quire.backends.kernels.tuning import candidates
from quire.core.contracts.platform import ProductShape
from quire.core.errors import ConfigError
from tests.kernels.compiling import SHARED_LIMIT

X = torch.empty(1, dtype=torch.bfloat16)
TABLE = Table(
    device="A GPU",
    products=[
        Entry(n=64, k=32, m=1, config=Config("vector", 4, 512, 2), microseconds=1.5),
        Entry(n=64, k=32, m=16, config=Config("dot", 64, 128, 4, 3, 5), gated=True),
        Entry(n=64, k=32, m=32, config=Config("library")),
    ],
)


@pytest.fixture
def _used():
    use(TABLE)
    yield
    use(None)


def test_buckets() -> None:
    assert [bucket(m) for m in (1, 2, 16, 17, 64, 65)] == [1, 16, 16, 32, 64, None]


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    write(TABLE, tmp_path / "t.json")
    assert read(tmp_path / "t.json") == TABLE


@pytest.mark.parametrize("text", ["", "[]", '{"device": "x"}', '{"device": "x", "products": [1]}'])
def test_a_file_that_is_no_table(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no table of tuned products"):
        read(path)


@pytest.mark.usefixtures("_used")
def test_measured_choices_win() -> None:
    assert choose(1, 64, 32, gated=False, x=X) == TABLE.products[0].config
    assert choose(9, 64, 32, gated=True, x=X) == TABLE.products[1].config
    assert choose(32, 64, 32, gated=False, x=X).form == "library"
    assert choose(9, 64, 32, gated=False, x=X).form == "dot"


def test_where_small_products_do_not_go() -> None:
    assert choose(65, 4096, 4096, gated=False, x=X).form == "library"
    assert choose(1, 4096, 4100, gated=False, x=X).form == "library"
    assert choose(1, 4096, 4096, gated=False, x=X.float()).form == "library"


@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("m", BUCKETS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("n", "k"),
    [
        (4096, 4096),
        (28672, 8192),
        (128256, 4096),
        (896, 896),
        (512, 256),
        (64, 4864),
        (4096, 14336),
    ],
)
def test_defaults_fit(n: int, k: int, gated: bool, m: int, capability: int) -> None:
    shared = SHARED_LIMIT[capability]
    config = default(m, n, k, gated=gated, multiprocessors=132, shared=shared)
    assert config.form == ("vector" if m == 1 else "dot")
    assert 1 <= config.split <= -(-k // config.depth)
    assert config.form == "vector" or config.stages > 1 or config.split == -(-k // config.depth)
    bytes_ = 2 * config.depth * (config.rows * (2 if gated else 1) + m) * config.stages
    assert m == 1 or bytes_ <= shared


def test_there_is_something_to_try() -> None:
    for m in BUCKETS:
        for shape in (
            ProductShape(4096, 4096),
            ProductShape(14336, 4096, True),
            ProductShape(128256, 4096),
        ):
            tried = candidates(m, shape)
            assert len(set(tried)) == len(tried) > 4
