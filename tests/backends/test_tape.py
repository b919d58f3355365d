"""Steps that are noted once and done again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from quire.backends.cpu.product import FewRows
from quire.backends.cpu.rows import CPUGate, CPUNorm
from quire.backends.cpu.tape import Tape


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    before = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def layers(rows: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], object]:
    """Inputs, and a function of them with kernels, views, operators and writing in place."""
    torch.manual_seed(rows)
    table = torch.randn(60, 48).to(dtype)
    wide, narrow = torch.randn(192, 48).to(dtype) / 7, torch.randn(48, 96).to(dtype) / 10
    norm, gate = CPUNorm(torch.randn(48).to(dtype), 1e-5), CPUGate("silu")
    up, down = FewRows(wide, None), FewRows(narrow, torch.randn(48).to(dtype))
    cache = torch.zeros(200, 48, dtype=dtype)
    ids, places = torch.zeros(rows, dtype=torch.int64), torch.arange(rows)

    def function() -> tuple[torch.Tensor, torch.Tensor]:
        x = F.embedding(ids, table)
        for _ in range(3):
            x = down(up(x, norm=norm, gate=gate), add=x)
        cache.index_copy_(0, places, x)
        both = torch.cat((x, norm(x)), -1).view(rows, 2, 48)
        return both[:, 1] * 2 + both[:, 0], cache.sum(1)

    return [ids, places], function


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_tape_gives_what_the_function_gives(rows: int, dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    (ids, places), function = layers(rows, dtype)
    tape = Tape(function)
    for turn in range(20):
        ids.copy_(torch.randint(60, (rows,)))
        places.copy_(torch.randperm(200)[:rows])
        # What the function let go must not be handed to others.
        [torch.full((rows, 48), torch.nan, dtype=dtype) for _ in range(50)]
        tape()
        found = [x.clone() for x in tape.result]
        for x, y in zip(found, function(), strict=True):
            assert torch.equal(x, y), turn


def test_threads_that_were_not_there_have_no_room() -> None:
    """More of them than when it was noted."""
    torch.set_num_threads(1)
    (ids, _), function = layers(2, torch.float32)
    tape = Tape(function)
    torch.set_num_threads(8)
    ids.fill_(7)
    tape()
    found = [x.clone() for x in tape.result]
    assert all(map(torch.equal, found, function()))


def test_what_looks_at_values_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="depends on values"):
        Tape(lambda: x * x.sum().item())
    with pytest.raises(ValueError, match="depends on values"):
        Tape(lambda: x.nonzero())
    with pytest.raises(ValueError, match="depends on values"):
        Tape(lambda: x[x > 0])
    with pytest.raises(ValueError, match="more than a tensor"):
        Tape(lambda: x.max(0))
    # Nobody watches any more.
    assert CPUNorm(torch.ones(3), 0.0)(x[None]).sum() == 3
