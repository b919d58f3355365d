"""A seeded request gives the same tokens, and the same numbers, alone and in any batch."""

import random
from collections.abc import Iterator

import pytest

from quire import LLM, SamplingParams
from tests.engine.driver import make_config

WORDS = "def class return import for in range print self value list of the number 12 + 7 = ( ) :"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["in turn", "overlapped"])
def llm(dtype: str, request: pytest.FixtureRequest) -> Iterator[LLM]:
    """Few tokens a step, so that prompts are cut, and few blocks, so that rows are preempted."""
    config = make_config(
        "demo",
        model={"dtype": dtype, "max_model_len": 512},
        cache={"block_size": 16, "num_blocks": 80},
        schedule={"overlap": request.param, "max_num_seqs": 12, "max_num_batched_tokens": 96},
    )
    llm = LLM.from_config(config)
    yield llm
    llm.engine.scheduler.check()
    llm.shutdown()


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS.split()) for _ in range(words))


def _found(llm: LLM, prompts: list[str], params: list[SamplingParams]) -> list[list[object]]:
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [
        [
            (token, entry[token].logprob)
            for token, entry in zip(c.token_ids, c.logprobs or [], strict=True)
        ]
        for c in (output.outputs[0] for output in outputs)
    ]


def test_alone_and_in_any_batch(llm: LLM) -> None:
    rng = random.Random(5)
    shared = _text(rng, 60)
    for trial in range(2):
        prompts = [shared + _text(rng, 3), _text(rng, rng.randint(1, 120))]
        params = [
            SamplingParams(
                seed=trial, temperature=1.0, top_p=0.9, max_tokens=40, ignore_eos=True, logprobs=0
            ),
            SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=0),
        ]
        alone = [_found(llm, [p], [s])[0] for p, s in zip(prompts, params, strict=True)]
        assert [_found(llm, [p], [s])[0] for p, s in zip(prompts, params, strict=True)] == alone
        for size in (2, 13):
            noise = [shared + _text(rng, rng.randint(0, 40)) for _ in range(size)]
            other = SamplingParams(max_tokens=30, ignore_eos=True, logprobs=0)
            at = rng.randint(0, size)
            mixed = [*noise[:at], *prompts, *noise[at:]]
            wishes = [*[other] * at, *params, *[other] * (size - at)]
            assert _found(llm, mixed, wishes)[at : at + 2] == alone


def test_with_and_without_a_cached_prefix(dtype: str) -> None:
    rng = random.Random(6)
    prompt = _text(rng, 90)
    params = SamplingParams(seed=1, temperature=1.0, max_tokens=60, ignore_eos=True, logprobs=0)
    found = []
    for caching in (False, True):
        llm = LLM("demo", dtype=dtype, enable_prefix_caching=caching, max_model_len=512)
        if caching:
            # Blocks that a longer neighbour's decode steps wrote are hit as well.
            first = llm.generate([prompt], params, use_tqdm=False)[0]
            follow = prompt + first.outputs[0].text
            found += [_found(llm, [prompt, follow], [params] * 2) for _ in range(2)]
        else:
            first = llm.generate([prompt], params, use_tqdm=False)[0]
            follow = prompt + first.outputs[0].text
            found.append([_found(llm, [text], [params])[0] for text in (prompt, follow)])
        llm.shutdown()
    assert found[0] == found[1] == found[2]
