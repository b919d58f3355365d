"""Everything that users do, at once and for long; the engine then answers as before, and is empty.

Users come one after another in as many lanes as a machine can take. They share beginnings, want
few tokens or many, greedy or drawn, with penalties, stop strings, log-probabilities and several
completions; some leave in the middle, and some ask for what cannot be. The cache holds a part of
them, so that sequences are sent back to the queue and begin again.
"""

import asyncio
import contextlib
import random
from typing import Any

import pytest

from quire import AsyncLLM, SamplingParams
from quire.core.config import (
    CacheConfig,
    Config,
    ModelConfig,
    ParallelConfig,
    ScheduleConfig,
    SpeculationConfig,
)
from quire.core.errors import InvalidRequest

SPECULATION = {
    "plain": SpeculationConfig(),
    "lookup": SpeculationConfig(method="ngram"),
    "draft": SpeculationConfig(model="demo-draft"),
}
SEATS = {"cpu": (12, 5, 70), "cuda": (160, 40, 700)}
"""Users at once, how many there are one after another in each place, and blocks for all."""
FIXED = [
    ("def add(a, b):\n", SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)),
    ([9, 8, 7] * 30, SamplingParams(temperature=0.8, seed=5, max_tokens=24, ignore_eos=True)),
]
"""What is asked before, in between and after, where a sequence's bits do not depend on the others:
on a CPU, and on a GPU with ``deterministic``."""


def _params(rng: random.Random) -> SamplingParams:
    wanted: dict[str, Any] = {"max_tokens": rng.choice((1, 4, 30, 150)), "temperature": 0}
    wanted["ignore_eos"] = rng.random() < 0.5
    if rng.random() < 0.6:
        wanted |= {"temperature": rng.choice((0.7, 1.5)), "top_p": 0.9, "top_k": 40}
        wanted["seed"] = rng.choice((None, rng.randrange(1000)))
    if rng.random() < 0.3:
        wanted |= {"presence_penalty": 0.5, "repetition_penalty": 1.2}
    if rng.random() < 0.3:
        wanted["stop"] = rng.choice((["\n"], ["e ", "xyz"], ["."]))
    if rng.random() < 0.3:
        wanted["logprobs"] = rng.randrange(4)
    if rng.random() < 0.1:
        wanted["prompt_logprobs"] = 1
    if rng.random() < 0.2:
        wanted["n"] = rng.randrange(2, 4)
    if rng.random() < 0.2:
        wanted["min_tokens"] = 1
    return SamplingParams(**wanted)


def _prompt(rng: random.Random, beginnings: list[list[int]]) -> list[int]:
    """Short or long, most behind a beginning that others have."""
    rest = [rng.randrange(6, 4000) for _ in range(rng.choice((1, 5, 17, 40, 200)))]
    return (rng.choice(beginnings) if rng.random() < 0.7 else []) + rest


async def _answer(llm: AsyncLLM, prompt: Any, params: SamplingParams) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    ended: set[int] = set()
    async for delta in llm.stream(prompt, params):
        for completion in delta.completions:
            tokens.setdefault(completion.index, []).extend(completion.token_ids)
            if completion.finish_reason is not None:
                assert completion.finish_reason in ("stop", "length")
                ended.add(completion.index)
    assert ended == set(range(params.n))
    assert all(len(made) <= (params.max_tokens or 0) for made in tokens.values())
    return tokens


async def _leave(llm: AsyncLLM, prompt: list[int], after: int) -> None:
    """Read a little of much, and go."""
    params = SamplingParams(max_tokens=300, ignore_eos=True)
    async with contextlib.aclosing(llm.stream(prompt, params)) as stream:
        async for _ in stream:
            after -= 1
            if after < 0:
                return


async def _seat(llm: AsyncLLM, rng: random.Random, users: int, beginnings: Any, fixed: Any) -> None:
    for _ in range(users):
        kind = rng.random()
        if kind < 0.12:
            await _leave(llm, _prompt(rng, beginnings), rng.randrange(6))
        elif kind < 0.16:
            with pytest.raises(InvalidRequest):
                await _answer(llm, [5] * 3000, SamplingParams())
        elif kind < 0.26 and fixed:
            index = rng.randrange(len(FIXED))
            assert await _answer(llm, *FIXED[index]) == fixed[index]
        else:
            await _answer(llm, _prompt(rng, beginnings), _params(rng))


@pytest.mark.parametrize("speculation", SPECULATION)
async def test_an_engine_outlives_its_users(speculation: str) -> None:
    await _outlive("cpu", speculation, exact=True)


@pytest.mark.gpu
@pytest.mark.parametrize("speculation", SPECULATION)
async def test_an_engine_on_a_gpu_outlives_its_users(speculation: str) -> None:
    await _outlive("cuda", speculation, exact=False)


@pytest.mark.gpu
async def test_a_deterministic_engine_answers_as_before() -> None:
    await _outlive("cuda", "plain", exact=True)


async def _outlive(device: str, speculation: str, *, exact: bool) -> None:
    seats, users, blocks = SEATS[device]
    config = Config(
        model=ModelConfig(max_model_len=1024, deterministic=exact and device == "cuda"),
        cache=CacheConfig(num_blocks=blocks, block_size=16),
        schedule=ScheduleConfig(max_num_seqs=seats),
        parallel=ParallelConfig(platform=device),
        speculation=SPECULATION[speculation],
    )
    rng = random.Random(speculation)
    beginnings = [[rng.randrange(6, 4000) for _ in range(length)] for length in (16, 90, 333)]
    llm = await AsyncLLM.start(config)
    try:
        fixed = [await _answer(llm, *asked) for asked in FIXED] if exact else []
        everybody = (
            _seat(llm, random.Random(seat), users, beginnings, fixed) for seat in range(seats)
        )
        await asyncio.gather(*everybody)
        for asked, answer in zip(FIXED, fixed, strict=False):
            assert await _answer(llm, *asked) == answer
        for _ in range(200):
            if not (llm.stats.blocks_used or llm.stats.running or llm.stats.waiting):
                break
            # The engine tells how it is with each step.
            await _answer(llm, [7], SamplingParams(max_tokens=2, ignore_eos=True))
        assert (llm.stats.blocks_used, llm.stats.running, llm.stats.waiting) == (0, 0, 0)
        assert llm.stats.preemptions and llm.stats.prefix_hits and not llm.stats.corrupted
        assert (llm.stats.drafts > 0) == (speculation != "plain")
    finally:
        await llm.shutdown()
