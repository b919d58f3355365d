"""SamplingParams refuses what cannot be, with the field's name, wherever it comes from."""

import math

import msgspec
import pytest

from quire import SamplingParams
from quire.core.errors import InvalidRequest
from quire.core.request import Request

BAD = [
    ("n", 0),
    ("n", 129),
    ("n", True),
    ("n", 1.5),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", "hot"),
    ("temperature", None),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 1.0),
    ("min_p", 2),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("seed", 2**63),
    ("seed", "x"),
    ("stop", 3),
    ("stop", [""]),
    ("stop", ["a"] * 65),
    ("stop", ["a" * 1025]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", "12"),
    ("include_stop_str_in_output", 1),
    ("ignore_eos", None),
    ("max_tokens", 0),
    ("min_tokens", -1),
    ("min_tokens", 17),
    ("logprobs", 21),
    ("prompt_logprobs", -1),
    ("logit_bias", {1: 101}),
    ("logit_bias", {-1: 0}),
    ("logit_bias", [1]),
    ("logit_bias", dict.fromkeys(range(1025), 0.0)),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [1.5]),
    ("bad_words", "word"),
    ("bad_words", [1]),
    ("skip_special_tokens", "yes"),
    ("detokenize", 0),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: str(value)[:20])
def test_refusals_name_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(**{field: value})
    assert refused.value.param == field
    assert field in str(refused.value)


def test_a_number_that_is_not_finite_is_named() -> None:
    for value, word in ((math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(InvalidRequest, match=f"finite number, not {word}"):
            SamplingParams(temperature=value)


def test_every_field_has_a_rule_that_takes_its_default() -> None:
    from quire.core.request import _RULES

    assert set(_RULES) == set(SamplingParams.__struct_fields__)
    assert SamplingParams().max_tokens == 16


def test_the_same_rules_hold_for_json() -> None:
    decoded = msgspec.json.decode(b'{"logit_bias": {"5": -100}, "stop": "x"}', type=SamplingParams)
    assert decoded.logit_bias == {5: -100}
    assert decoded.stop_strings == ("x",)
    with pytest.raises(InvalidRequest):
        msgspec.json.decode(b'{"temperature": -1}', type=SamplingParams)


def test_stop_strings_need_text() -> None:
    with pytest.raises(InvalidRequest, match="stop_token_ids"):
        SamplingParams(stop=["a"], detokenize=False)


def test_a_request_survives_the_wire() -> None:
    params = SamplingParams(stop=["a", "b"], bad_words=["c"], stop_token_ids=[4], seed=3)
    request = Request(
        request_id="a",
        prompt_token_ids=[1, 2],
        params=params,
        seed=3,
        max_tokens=9,
        bad_word_ids=[[5], [6, 7]],
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request) == request
