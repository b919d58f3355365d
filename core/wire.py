"""The two crossings between the API process and the engine process: msgpack, typed, closed.

Every message is one of the structs below; there is no field that holds arbitrary bytes or objects,
so a peer can send nothing but these.
"""

from typing import Literal

import msgspec

from .config import Config
from .metrics import EngineStats
from .request import Request
from .step import Delta

__all__ = (
    "Abort",
    "Call",
    "EngineInfo",
    "Fatal",
    "Phase",
    "Ready",
    "Refused",
    "Rejected",
    "Reply",
    "Start",
    "Step",
    "Submit",
    "decode_call",
    "decode_reply",
    "encode",
)


class Start(msgspec.Struct, tag="start"):
    """First message down.

    Attributes:
        config: as written, before resolution.
        spawned: when the process was started, on time.monotonic's clock.
    """

    config: Config
    spawned: float


class Submit(msgspec.Struct, tag="submit"):
    """Requests to take in, in order."""

    requests: list[Request]


class Abort(msgspec.Struct, tag="abort"):
    """Requests nobody waits for any more; unknown ids are ignored."""

    request_ids: list[str]


class Phase(msgspec.Struct, tag="phase"):
    """A phase of the start that has ended, and its seconds."""

    name: str
    seconds: float


class EngineInfo(msgspec.Struct, frozen=True):
    """What a client must know of a started engine.

    Attributes:
        config: resolved, every "auto" replaced.
        reasons: dotted key -> why it has the value it has.
        num_blocks: of the KV cache.
        vocab_size: rows of the model's head.
    """

    config: Config
    reasons: dict[str, str]
    num_blocks: int
    vocab_size: int


class Ready(msgspec.Struct, tag="ready"):
    """The engine takes requests."""

    info: EngineInfo


class Refused(msgspec.Struct, tag="refused"):
    """The start failed by the user's settings: the error's class name and its sentence."""

    kind: str
    message: str


class Rejected(msgspec.Struct, tag="rejected"):
    """A request that the engine did not take in.

    Attributes:
        request_id: whose.
        kind: the error's class name.
        message: what to change.
        param: the field at fault.
    """

    request_id: str
    kind: Literal["InvalidRequest", "Overloaded"]
    message: str
    param: str | None = None


class Step(msgspec.Struct, tag="step"):
    """Everything callers learn from one step, in one message."""

    deltas: list[Delta]
    stats: EngineStats


class Fatal(msgspec.Struct, tag="fatal"):
    """The engine cannot go on; the last message of its life."""

    message: str


Call = Start | Submit | Abort
Reply = Phase | Ready | Refused | Rejected | Step | Fatal

_encoder = msgspec.msgpack.Encoder()
_calls = msgspec.msgpack.Decoder(Call)
_replies = msgspec.msgpack.Decoder(Reply)


def encode(message: Call | Reply) -> bytes:
    """One message as msgpack."""
    return _encoder.encode(message)


def decode_call(data: bytes) -> Call:
    """A message for the engine; msgspec.ValidationError when it is none."""
    call: Call = _calls.decode(data)
    return call


def decode_reply(data: bytes) -> Reply:
    """A message from the engine; msgspec.ValidationError when it is none."""
    reply: Reply = _replies.decode(data)
    return reply
