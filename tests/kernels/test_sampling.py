"""The sampling kernels compile for GPUs that are not here, and spill next to nothing."""

import pytest
import torch

from quire.backends.kernels.sampling import TritonDraw
from tests.kernels.compiling import SHARED_LIMIT, compiling

META = torch.device("meta")
# Bytes a thread: of settle, whose 16 warps may have 128 registers each, by compiler and variant.
SPILLED = 16


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocab", "launches"), [(128256, 7), (151936, 7), (4096, 2)])
def test_registers_suffice(capability: int, dtype: torch.dtype, vocab: int, launches: int) -> None:
    draw = TritonDraw(max_rows=8, vocab_size=vocab, device=META)
    logits = torch.empty(8, vocab, dtype=dtype, device=META)
    slots = torch.empty(8, dtype=torch.int64, device=META)
    table = torch.empty(9, 4, dtype=torch.int64, device=META)
    tokens = torch.empty(9, 64, dtype=torch.int32, device=META)
    with compiling(capability) as kernels:
        draw(logits, slots, slots, table, slots, tokens=tokens)
    with compiling(capability) as lean:
        draw(logits, slots, slots, table, slots, tokens=tokens, filters=False)
    assert [len(kernels), len(lean)] == [launches, 2]
    for kernel in (*kernels, *lean):
        assert kernel.stack <= SPILLED, kernel.name
        assert kernel.shared <= SHARED_LIMIT[capability]
    # Registers bound how many programs share a processor: up to 104, two or more of narrow.
    assert kernels[0].registers <= 64
    assert all(kernel.registers <= 104 for kernel in kernels if kernel.name == "narrow")
