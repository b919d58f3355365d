"""The sampler on a GPU draws what it draws on a CPU."""

import pytest
import torch

from quire.core.request import SamplingParams
from quire.core.run.sample import Sampler
from quire.core.step import Newcomer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.5, top_p=0.9),
    SamplingParams(top_k=40, min_p=0.02),
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(presence_penalty=0.5, frequency_penalty=0.2, logit_bias={5: 4.0}),
    SamplingParams(allowed_token_ids=[3, 999, 31_999], min_tokens=4),
)


def draw(device: torch.device, logits: torch.Tensor, tokens: torch.Tensor) -> list[int]:
    rows = len(logits)
    sampler = Sampler(max_slots=rows, vocab_size=logits.shape[1], device=device)
    for slot in range(rows):
        params = SETTINGS[slot % len(SETTINGS)]
        known = tokens[slot, :20].tolist()
        sampler.enter(Newcomer(slot, known, 12, slot, params, [3], [[known[-1], 31_999], [999]]))
    slots = torch.arange(rows, device=device)
    lengths = torch.full((rows,), 20, device=device)
    drawn = sampler.draw(logits.to(device), slots, list(range(rows)), lengths, tokens.to(device))
    return drawn.tolist()


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_tokens_are_those_of_a_cpu(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(96, 32_000, generator=generator) * scale
    logits[18, 5] = torch.nan
    tokens = torch.randint(0, 32_000, (96, 64), generator=generator, dtype=torch.int32)
    expected = draw(torch.device("cpu"), logits, tokens)
    assert draw(torch.device("cuda"), logits, tokens) == expected
    assert [row for row, token in enumerate(expected) if token < 0] == [18]
