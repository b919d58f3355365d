"""From a caller's prompt to requests: what LLM and AsyncLLM do alike."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .collect import Collector
from .config import known
from .errors import InvalidRequest
from .request import Request, SamplingParams
from .source import Source
from .text.tokenizer import Tokenizer
from .wire import EngineInfo

__all__ = ("Frontend", "Prompt")

Prompt = str | Mapping[str, Any] | Sequence[int]
_SEEDS = 2**63


class Frontend:
    """Makes requests for one engine.

    Args:
        info: of the engine.
        source: of the model's files.
        tokenizer: of the model.
    """

    def __init__(self, info: EngineInfo, source: Source, tokenizer: Tokenizer) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._eos_ids = source.eos_token_ids()
        self._random = random.Random(info.config.model.seed)
        self._numbers = itertools.count()

    def encode(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """A prompt's text, where it has one, and its tokens.

        Args:
            prompt: text, token ids, ``{"prompt": text}`` or ``{"prompt_token_ids": [...]}``.

        Raises:
            InvalidRequest: for anything else.
        """
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                return prompt.get("prompt"), _token_ids(prompt["prompt_token_ids"])
            prompt = prompt.get("prompt", ())
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode(prompt)
        return None, _token_ids(prompt)

    def collect(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        streamed: bool = True,
    ) -> tuple[Collector, list[Request]]:
        """The n requests of a prompt, and the collector of their answers.

        Args:
            prompt_token_ids: at least one.
            params: checked by their own constructor.
            request_id: a label, made unique here; None for a number.
            priority: smaller is sooner, for policies that look at it.
            cache_salt: requests of different salts share no prefix.
            streamed: whether somebody reads tokens as they come.

        Raises:
            InvalidRequest: when the prompt leaves no room in the context.
        """
        room = known(self.info.config.model.max_model_len) - len(prompt_token_ids)
        if room < 1:
            raise InvalidRequest(
                f"the prompt has {len(prompt_token_ids)} tokens; the context of "
                f"{room + len(prompt_token_ids)} must hold it and one more",
                "prompt",
            )
        number = next(self._numbers)
        name = f"{number}" if request_id is None else f"{request_id}-{number}"
        seed = self._random.randrange(_SEEDS) if params.seed is None else params.seed
        stop_ids = list(params.stop_token_ids or ())
        if not params.ignore_eos:
            stop_ids += [token for token in self._eos_ids if token not in stop_ids]
        bad_words = self._bad_words(params)
        requests = [
            Request(
                request_id=name if params.n == 1 else f"{name}.{index}",
                prompt_token_ids=prompt_token_ids,
                params=params,
                seed=(seed + index) % _SEEDS,
                max_tokens=room if params.max_tokens is None else params.max_tokens,
                stop_ids=stop_ids,
                bad_word_ids=bad_words,
                priority=priority,
                arrival=time.monotonic(),
                cache_salt=cache_salt,
                streamed=streamed,
            )
            for index in range(params.n)
        ]
        label = request_id or name
        return Collector(label, requests, params, self.tokenizer, streamed=streamed), requests

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        """Each word as it is written at the start of a text, and after a space."""
        found: list[list[int]] = []
        for word in params.bad_words or ():
            for text in (word.lstrip(), " " + word.lstrip()):
                ids = self.tokenizer.encode(text, add_special_tokens=False)
                if ids and ids not in found:
                    found.append(ids)
        return found


def _token_ids(value: Any) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidRequest(
            f"a prompt must be text, token ids, or a dict with prompt or prompt_token_ids, not "
            f"{type(value).__name__}",
            "prompt",
        )
    if not value:
        raise InvalidRequest("the prompt has no tokens; give at least one", "prompt")
    if any(isinstance(token, bool) or not isinstance(token, int) for token in value):
        raise InvalidRequest("prompt_token_ids must be integers", "prompt")
    return list(value)
