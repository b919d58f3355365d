"""What the weights will take, known before any is read."""

import gc
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from quire.core.errors import CapacityError
from quire.core.layers.linear import ComposedProduct
from quire.core.registry import Registry
from quire.core.source import open_folder
from quire.core.weights.sizes import held_bytes
from quire.plugins.platforms.cpu import CPU
from tests.engine.driver import Driver, make_config
from tests.quant.create.tiny import make
from tests.quant.layers import MAKERS, case

FIXTURES = Path(__file__).parent / "fixtures"
OTHERS = (type, types.ModuleType, types.BuiltinFunctionType, CPU)


class Halves(CPU):
    """One without bfloat16, which keeps a product's floats where a test can see them, in 16 bits as
    FBGEMM does."""

    def defaults(self):
        return msgspec.structs.replace(super().defaults(), dtypes=("float32",))

    def product(self, weight, bias):
        kept = weight.half()
        return ComposedProduct(lambda x: (x.float() @ kept.float().T).to(x.dtype))


def held(thing: Any) -> int:
    """Bytes of all tensors that can be reached."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    waiting = [thing]
    while waiting:
        at = waiting.pop()
        if id(at) in seen or isinstance(at, OTHERS):
            continue
        seen.add(id(at))
        if isinstance(at, torch.Tensor):
            strided = at.layout is torch.strided
            size = at.untyped_storage().nbytes() if strided else at.numel() * at.element_size()
            storages[at.untyped_storage().data_ptr() if strided else id(at)] = size
        elif isinstance(at, types.FunctionType):
            waiting += [cell.cell_contents for cell in at.__closure__ or ()]
        else:
            waiting += gc.get_referents(at)
    return sum(storages.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
def test_a_layer_takes_what_was_foretold(maker, dtype) -> None:
    built = case(maker, (512,), 512, dtype=dtype)
    device = torch.device("cpu")
    (name,) = built.spec.shards
    built.method.platform = Halves()
    holder = built.method.linear(built.spec, device)
    stored = sum(t.numel() * t.element_size() for t in built.stored.values())
    for key, tensor in built.stored.items():
        holder.load(key, tensor)
    holder.finish()
    foretold = stored * built.method.growth(name, getattr(torch, dtype), device)
    taken = held(holder._product)
    # Orders, and zero points that formats store otherwise, are a part of a layer so small.
    assert taken == pytest.approx(foretold, rel=0.2)


def bytes_of(folder: Path, quantization: str, dtype: torch.dtype) -> int:
    source = open_folder(folder)
    method = Registry().get("quant", quantization)
    made = method.from_checkpoint(source.config.get("quantization_config"), CPU())
    return held_bytes(folder, made, dtype, torch.device("cpu"))


def test_four_bits_become_sixteen_where_nothing_multiplies_them() -> None:
    folder = FIXTURES / "awq_gemm"
    packed, wide = (bytes_of(folder, "awq", d) for d in (torch.bfloat16, torch.float32))
    whole = open_folder(folder).weight_bytes()
    assert packed < 1.1 * whole
    assert wide > 1.2 * whole


def test_quantizing_while_loading_takes_less_than_the_files(tmp_path) -> None:
    make("Llama", tmp_path, vocab_size=16, dtype=torch.bfloat16)
    plain, bytes_ = (bytes_of(tmp_path, name, torch.bfloat16) for name in ("none", "int8"))
    assert bytes_ < 0.7 * plain
    halved = bytes_of(tmp_path, "none", torch.float32)
    assert halved == plain


def test_what_does_not_fit_is_refused_before_it_is_read(monkeypatch) -> None:
    """Though the files would fit."""
    folder = FIXTURES / "awq_gemm"
    size = open_folder(folder).weight_bytes()
    memory = CPU().memory()
    enough = type(memory)(total=10 * size, free=int(1.1 * size))
    monkeypatch.setattr(CPU, "memory", lambda self: enough)
    with pytest.raises(CapacityError, match="weights take"):
        Driver(make_config(folder, model={"name": str(folder), "dtype": "float32"}))
