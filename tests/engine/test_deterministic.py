"""`model.deterministic`: a request's numbers do not depend on what happens around it."""

import random

import msgspec
import pytest
import torch

from quire import LLM, SamplingParams
from quire.core.config import Config
from quire.core.config_file import load

CPU = "cpu"
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def configure(platform: str, **changes: object) -> Config:
    ours = ["model.deterministic=true", f"parallel.platform={platform}", "model.dtype=bfloat16"]
    if platform == "cuda":
        ours.append("cache.gpu_memory_utilization=0.2")
    return load(overrides=[*ours, *(f"{key}={value}" for key, value in changes.items())])


def scored(llm: LLM, prompts: list[list[int]], which: list[int]) -> list[object]:
    """Tokens and log-probabilities of some of the prompts, all run at once.

    Tokens are drawn elsewhere where nobody asks for log-probabilities, and are the same.
    """
    params = SamplingParams(
        max_tokens=24, temperature=0.8, top_p=0.95, seed=5, logprobs=2, ignore_eos=True
    )
    outputs = llm.generate(prompts, params, use_tqdm=False)
    drawn = llm.generate(prompts, msgspec.structs.replace(params, logprobs=None), use_tqdm=False)
    for one, other in zip(outputs, drawn, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids
    return [(outputs[i].outputs[0].token_ids, outputs[i].outputs[0].logprobs) for i in which]


@pytest.mark.parametrize("platform", [CPU, CUDA])
def test_alone_in_a_batch_in_chunks_and_from_the_cache(platform: str) -> None:
    if platform == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = random.Random(1)
    lengths = [1, 3, 40, 200, 333] + [rng.randint(1, 150) for _ in range(12)]
    prompts = [[rng.randrange(8, 4096) for _ in range(length)] for length in lengths]
    chosen = [0, 2, 4]
    llm = LLM.from_config(configure(platform))
    alone = [scored(llm, [prompts[index]], [0])[0] for index in chosen]
    warm = [scored(llm, [prompts[index]], [0])[0] for index in chosen]
    assert llm.engine.stats().prefix_hits > 0
    llm.reset_prefix_cache()
    together = scored(llm, prompts, chosen)
    llm.shutdown()
    small = LLM.from_config(configure(platform, **{"schedule.max_num_batched_tokens": 37}))
    chunked = scored(small, prompts, chosen)
    small.shutdown()
    if platform == "cuda":
        eager = LLM.from_config(configure(platform, **{"schedule.graphs": "false"}))
        assert scored(eager, prompts, chosen) == alone
        eager.shutdown()
    assert warm == alone
    assert together == alone
    assert chunked == alone
