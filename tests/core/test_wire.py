"""What crosses between the processes is closed: no field holds an object, rubbish is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from quire.core.wire import Abort, Call, Reply, decode_call, decode_reply, encode

OPEN = (
    inspect.AnyType,
    inspect.BytesType,
    inspect.ByteArrayType,
    inspect.MemoryViewType,
    inspect.ExtType,
    inspect.RawType,
    inspect.CustomType,
)


def open_types(node: Any, path: str, seen: set[int]) -> list[str]:
    """Where, in a type, something could hide that is not spelled out."""
    if isinstance(node, OPEN):
        return [f"{path}: {type(node).__name__}"]
    if not isinstance(node, inspect.Type | inspect.Field) or id(node) in seen:
        return []
    seen.add(id(node))
    found = []
    for name in node.__struct_fields__:
        value = getattr(node, name)
        for part in value if isinstance(value, tuple) else (value,):
            label = getattr(part, "name", name)
            found += open_types(part, f"{path}.{label}", seen)
    return found


@pytest.mark.parametrize("message", [*Call.__args__, *Reply.__args__], ids=lambda m: m.__name__)
def test_no_field_holds_anything_at_all(message: type) -> None:
    assert open_types(inspect.type_info(message), message.__name__, set()) == []


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers(-5, 5) | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["type", "request_ids", "requests"]), inner)
        ),
    ).map(msgspec.msgpack.encode)
)
def test_rubbish_is_refused_and_never_more(data: bytes) -> None:
    for decode in (decode_call, decode_reply):
        try:
            decode(data)
        except msgspec.MsgspecError:
            continue
        # The few bytes that are a message after all say the same when they are sent again.
        assert decode(encode(decode(data))) == decode(data)


def test_a_message_survives() -> None:
    assert decode_call(encode(Abort(["a", "b"]))) == Abort(["a", "b"])
