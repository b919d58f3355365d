"""The named workloads: token ids and output lengths from a fixed seed; no tokenizer, no data set.

On a vocabulary of 120,000 tokens or more and a context that holds them, the large ones are exactly
those that other engines' published figures in docs/benchmarking.md were measured on.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from ...core.errors import ConfigError

__all__ = ("NAMES", "Workload", "check_name", "make")

_LOW, _HIGH = 1000, 120_000


class Workload(msgspec.Struct, frozen=True):
    """What is asked of an engine.

    Attributes:
        name: of the recipe.
        prompts: token ids.
        outputs: tokens to generate for each prompt, end-of-sequence ignored.
        note: how it differs from the recipe, empty when it does not.
    """

    name: str
    prompts: list[list[int]]
    outputs: list[int]
    note: str = ""


class _Ids:
    """Draws token ids below a vocabulary's size, away from its first and special ones."""

    def __init__(self, seed: int, vocab_size: int) -> None:
        self.rng = random.Random(seed)
        self._low = min(_LOW, vocab_size // 8)
        self._high = min(_HIGH, vocab_size)

    def __call__(self, count: int) -> list[int]:
        return [self.rng.randrange(self._low, self._high) for _ in range(count)]


_Parts = tuple[list[list[int]], list[int]]


def _fixed(count: int, prompt: int, output: int) -> Callable[[_Ids], _Parts]:
    return lambda ids: ([ids(prompt) for _ in range(count)], [output] * count)


def _chat(count: int) -> Callable[[_Ids], _Parts]:
    """Log-normal lengths with about ShareGPT's means (220 in, 200 out), cut at 2048 and 1024."""

    def draw(ids: _Ids) -> _Parts:
        prompts, outputs = [], []
        for _ in range(count):
            prompts.append(ids(min(2048, max(4, int(ids.rng.lognormvariate(4.6, 1.2))))))
            outputs.append(min(1024, max(4, int(ids.rng.lognormvariate(4.8, 1.0)))))
        return prompts, outputs

    return draw


def _prefix(count: int, shared: int, unique: int, output: int) -> Callable[[_Ids], _Parts]:
    def draw(ids: _Ids) -> _Parts:
        head = ids(shared)
        return [head + ids(unique) for _ in range(count)], [output] * count

    return draw


def _mixed(count: int, longest: int) -> Callable[[_Ids], _Parts]:
    """Prompts and outputs of any length from 8 to longest alike."""

    def draw(ids: _Ids) -> _Parts:
        prompts, outputs = [], []
        for _ in range(count):
            prompts.append(ids(ids.rng.randint(8, longest)))
            outputs.append(ids.rng.randint(8, longest))
        return prompts, outputs

    return draw


_RECIPES: dict[str, Callable[[_Ids], _Parts]] = {
    "latency-1": _fixed(1, 128, 256),
    "decode-64": _fixed(64, 128, 512),
    "batch-1024": _fixed(1024, 512, 256),
    "chat-1024": _chat(1024),
    "long-16x16k": _fixed(16, 16384, 64),
    "prefix-256": _prefix(256, 2048, 64, 64),
    "smoke-4": _mixed(4, 16),
    "mixed-64": _mixed(64, 128),
    "latency-small": _fixed(1, 32, 128),
    "decode-16": _fixed(16, 32, 128),
    "prefix-32": _prefix(32, 256, 16, 16),
}
NAMES = tuple(_RECIPES)


def check_name(name: str) -> None:
    """Refuse, before any work, a workload that does not exist.

    Raises:
        ConfigError: naming those that do.
    """
    if name not in _RECIPES:
        raise ConfigError(f"no workload is called {name!r}; there is {', '.join(NAMES)}")


def make(name: str, *, vocab_size: int, max_model_len: int, seed: int = 0) -> Workload:
    """Draw a workload.

    Args:
        name: one of ``NAMES``.
        vocab_size: ids stay below it.
        max_model_len: a prompt and its output that exceed it are both shortened by one factor.
        seed: the recipe's own is 0.

    Raises:
        ConfigError: when there is no such workload.
    """
    check_name(name)
    prompts, outputs = _RECIPES[name](_Ids(seed, vocab_size))
    cut = 0
    for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        total = len(prompt) + output
        if total > max_model_len:
            cut += 1
            outputs[index] = max(1, output * max_model_len // total)
            prompts[index] = prompt[: max(1, len(prompt) * max_model_len // total)]
    note = f"{cut} of {len(prompts)} requests shortened to {max_model_len} tokens" if cut else ""
    return Workload(name, prompts, outputs, note)
