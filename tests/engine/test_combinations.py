"""Every pair of what a request may ask for, together in one cache that is too small for them."""

import itertools
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.core.output import RequestOutput

FEATURES: dict[str, dict[str, Any]] = {
    "penalties": {"presence_penalty": 0.7, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    "logprobs": {"logprobs": 3},
    "prompt_logprobs": {"prompt_logprobs": 2},
    "n": {"n": 2},
    "sampled": {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "seed": 5},
    "min_p": {"temperature": 0.8, "min_p": 0.05, "seed": 9},
    "stop": {"stop": ["a", "\n\n"], "include_stop_str_in_output": True},
    "min_tokens": {"min_tokens": 6, "stop_token_ids": list(range(20, 200))},
    "bias": {"logit_bias": {30: 4.0, 31: -100.0}},
    "allowed": {"allowed_token_ids": list(range(40, 300))},
    "bad_words": {"bad_words": ["the", "return"]},
}
PAIRS = list(itertools.combinations(FEATURES, 2))
PROMPTS = ["def add(a, b):\n    return", "import os\nimport sys\n", "The sum of 2 and 3 is"]


def params(pair: tuple[str, str]) -> SamplingParams:
    values: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    for name in pair:
        values |= FEATURES[name]
    return SamplingParams(**values)


def essence(output: RequestOutput) -> list[Any]:
    """Tokens, texts and ends; and which tokens were scored."""
    scored = [None if p is None else sorted(p) for p in output.prompt_logprobs or ()]
    parts = [
        (part.token_ids, part.text, part.finish_reason, part.stop_reason) for part in output.outputs
    ]
    return [parts, scored]


@pytest.fixture(scope="module")
def alone() -> list[list[Any]]:
    """Each request by itself, in a large cache, without sharing."""
    llm = LLM("demo", dtype="float32", max_model_len=128, enable_prefix_caching=False)
    return [
        essence(llm.generate(PROMPTS[index % 3], params(pair), use_tqdm=False)[0])
        for index, pair in enumerate(PAIRS)
    ]


def test_every_pair_together_is_every_pair_alone(alone: list[list[Any]]) -> None:
    from quire.core.config import CacheConfig, Config

    llm = LLM(
        "demo",
        config=Config(cache=CacheConfig(num_blocks=34, block_size=4)),
        dtype="float32",
        max_model_len=128,
        max_num_seqs=12,
        max_num_batched_tokens=24,
    )
    prompts = [PROMPTS[index % 3] for index in range(len(PAIRS))]
    for turn in range(2):  # The second finds the first's prefixes in the cache.
        outputs = llm.generate(prompts, [params(pair) for pair in PAIRS], use_tqdm=False)
        for pair, output, want in zip(PAIRS, outputs, alone, strict=True):
            assert essence(output) == want, (turn, pair)
        llm.engine.scheduler.check()
    stats = llm.engine.stats()
    assert stats.preemptions > 0
    assert stats.prefix_hits > 0
    assert stats.blocks_used == 0
