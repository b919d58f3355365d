"""Drives an engine with token ids, no tokenizer in between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from quire.core.config import Config
from quire.core.engine import Engine
from quire.core.registry import Registry
from quire.core.request import Request, SamplingParams
from quire.core.step import Delta, TokenLogprobs


def make_config(folder: Path | str, **sections: dict[str, Any]) -> Config:
    values: dict[str, Any] = {
        "model": {"name": str(folder), "dtype": "float32"},
        "cache": {"block_size": 4, "num_blocks": 200},
        "parallel": {"platform": "cpu"},
        "schedule": {"max_num_seqs": 8, "max_num_batched_tokens": 256},
    }
    for section, changes in sections.items():
        values[section] = values.get(section, {}) | changes
    return msgspec.convert(values, Config)


class Driver:
    """One engine and what it said."""

    def __init__(self, config: Config, registry: Registry | None = None) -> None:
        self.engine = Engine.start(config, registry or Registry(), lambda name, seconds: None)
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.errors: dict[str, str | None] = {}
        self.prompt_logprobs: dict[str, list[TokenLogprobs]] = {}
        self.logprobs: dict[str, list[TokenLogprobs]] = {}
        self.cached: dict[str, int] = {}

    def add(self, name: str, prompt: list[int], params: SamplingParams, **more: Any) -> None:
        assert params.max_tokens is not None
        values = {"seed": params.seed or 0, "max_tokens": params.max_tokens} | more
        request = Request(request_id=name, prompt_token_ids=prompt, params=params, **values)
        self.engine.add(request)

    def hear(self, delta: Delta) -> None:
        name = delta.request_id
        self.tokens.setdefault(name, []).extend(delta.token_ids)
        self.prompt_logprobs.setdefault(name, []).extend(delta.prompt_logprobs or [])
        self.logprobs.setdefault(name, []).extend(delta.logprobs or [])
        self.cached[name] = max(self.cached.get(name, 0), delta.num_cached)
        if delta.finish_reason:
            self.reasons[name] = delta.finish_reason
            self.errors[name] = delta.error

    def drain(self, after_step: Callable[[], None] | None = None) -> None:
        while self.engine.has_work():
            for delta in self.engine.step():
                self.hear(delta)
            self.engine.scheduler.check()
            if after_step is not None:
                after_step()
        assert self.engine.stats().blocks_used == 0

    def generate(self, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
        for index, prompt in enumerate(prompts):
            self.add(str(index), prompt, params)
        self.drain()
        return [self.tokens.pop(str(index)) for index in range(len(prompts))]
