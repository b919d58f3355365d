"""What a caller wishes: SamplingParams and Request.

The rules for every field live here and nowhere else, so that HTTP, the command line and Python
refuse the same values with the same words.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .errors import InvalidRequest

__all__ = ("MAX_LOGPROBS", "MAX_N", "Request", "SamplingParams")

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
MAX_BAD_WORDS = 256
MAX_LOGIT_BIAS = 1024
MAX_SEED = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are drawn and when generation ends. Field names are those of vLLM.

    Attributes:
        n: completions per prompt, each drawn on its own (completion i of a seeded request uses
            seed + i).
        temperature: 0 means greedy.
        top_p: keep the smallest set of tokens whose probability reaches this.
        top_k: keep the k most likely tokens; 0 or -1 keeps all.
        min_p: keep tokens at least this times as likely as the likeliest.
        presence_penalty: subtracted once from the logit of each token already generated.
        frequency_penalty: subtracted per occurrence among the generated tokens.
        repetition_penalty: divides positive and multiplies negative logits of tokens seen in the
            prompt or the output (CTRL, arXiv 1909.05858).
        seed: makes the request's tokens reproducible, alone and in any batch.
        stop: strings that end generation; not part of the text unless include_stop_str_in_output.
        stop_token_ids: tokens that end generation.
        include_stop_str_in_output: keep the stop string in the text.
        ignore_eos: go on after the model's end-of-sequence token.
        max_tokens: most tokens to generate; None for as many as the context holds.
        min_tokens: tokens before which neither eos nor stop_token_ids may appear.
        logprobs: report the drawn token's log-probability and those of this many likeliest.
        prompt_logprobs: the same for each prompt token but the first.
        logit_bias: token id -> value in [-100, 100] added to its logit.
        allowed_token_ids: draw from these alone.
        bad_words: strings whose tokens are never completed.
        skip_special_tokens: leave special tokens out of the text.
        detokenize: False returns token ids alone.

    Raises:
        InvalidRequest: naming the field, when a value is of the wrong kind or out of range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool = True
    detokenize: bool = True

    def __post_init__(self) -> None:
        for field, check in _RULES.items():
            check(field, getattr(self, field))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest("min_tokens must not exceed max_tokens", "min_tokens")
        if self.stop and not self.detokenize:
            raise InvalidRequest("stop strings need detokenize; use stop_token_ids", "stop")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple, however it was given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken; temperatures this low divide to overflow."""
        return self.temperature < 1e-5


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt on its way to the engine; n > 1 has become n requests by now.

    Attributes:
        request_id: made by the client object, unique for the life of the engine.
        prompt_token_ids: at least one token id, each below the vocabulary size.
        params: as given; strings in it (stop) concern the detokenizer, not the engine.
        seed: what params.seed and the completion's index resolved to.
        stop_ids: tokens that end generation (eos unless ignored, and stop_token_ids).
        bad_word_ids: params.bad_words as token ids.
        max_tokens: params.max_tokens cut to what the context holds.
        priority: smaller is sooner, for policies that look at it.
        arrival: seconds on the clock of time.monotonic.
        cache_salt: requests with different salts never share prefix blocks.
        streamed: somebody reads tokens as they come, so that gaps between them matter.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int
    stop_ids: list[int] = []
    bad_word_ids: list[list[int]] = []
    priority: int = 0
    arrival: float = 0.0
    cache_salt: str = ""
    streamed: bool = True


def _number(low: float, high: float, *, open_low: bool = False) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InvalidRequest(f"{field} must be a finite number, not {_kind(value)}", field)
        if value > high or value < low or (open_low and value == low):
            bracket = "(" if open_low else "["
            raise InvalidRequest(f"{field} must be in {bracket}{low:g}, {high:g}]", field)

    return check


def _integer(low: int, high: int, *, optional: bool = False) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"{field} must be an integer, not {_kind(value)}", field)
        if not low <= value <= high:
            raise InvalidRequest(f"{field} must be an integer from {low} to {high}", field)

    return check


def _strings(most: int, *, single: bool) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        items = [value] if single and isinstance(value, str) else value
        if items is None:
            return
        if isinstance(items, str) or not isinstance(items, Sequence):
            raise InvalidRequest(f"{field} must be a list of strings, not {_kind(value)}", field)
        if len(items) > most:
            raise InvalidRequest(f"{field} holds {len(items)} strings; at most {most}", field)
        for item in items:
            if not isinstance(item, str) or not 0 < len(item) <= MAX_STOP_LENGTH:
                raise InvalidRequest(
                    f"{field} must hold strings of 1 to {MAX_STOP_LENGTH} characters", field
                )

    return check


def _token_ids(*, non_empty: bool) -> Callable[[str, Any], None]:
    def check(field: str, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InvalidRequest(f"{field} must be a list of token ids, not {_kind(value)}", field)
        if non_empty and not value:
            raise InvalidRequest(f"{field} must not be empty; leave it out to allow all", field)
        if any(isinstance(t, bool) or not isinstance(t, int) or t < 0 for t in value):
            raise InvalidRequest(f"{field} must hold integers of 0 or more", field)

    return check


def _flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field} must be true or false, not {_kind(value)}", field)


def _bias(field: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} must map token ids to numbers, not {_kind(value)}", field)
    if len(value) > MAX_LOGIT_BIAS:
        raise InvalidRequest(f"{field} has {len(value)} entries; at most {MAX_LOGIT_BIAS}", field)
    in_range = _number(-100, 100)
    for token, bias in value.items():
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InvalidRequest(f"{field} keys must be token ids", field)
        in_range(field, bias)


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return "null" if value is None else type(value).__name__


_RULES: dict[str, Callable[[str, Any], None]] = {
    "n": _integer(1, MAX_N),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1, open_low=True),
    "top_k": _integer(-1, 2**31 - 1),
    "min_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0.01, 100),
    "seed": _integer(-MAX_SEED, MAX_SEED, optional=True),
    "stop": _strings(MAX_STOPS, single=True),
    "stop_token_ids": _token_ids(non_empty=False),
    "include_stop_str_in_output": _flag,
    "ignore_eos": _flag,
    "max_tokens": _integer(1, 2**31 - 1, optional=True),
    "min_tokens": _integer(0, 2**31 - 1),
    "logprobs": _integer(0, MAX_LOGPROBS, optional=True),
    "prompt_logprobs": _integer(0, MAX_LOGPROBS, optional=True),
    "logit_bias": _bias,
    "allowed_token_ids": _token_ids(non_empty=True),
    "bad_words": _strings(MAX_BAD_WORDS, single=False),
    "skip_special_tokens": _flag,
    "detokenize": _flag,
}
