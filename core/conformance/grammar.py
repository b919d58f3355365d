"""Grammars: masks that agree with what is accepted, on forms whose members are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from ..contracts.grammar import GrammarEngine, GrammarSpec, Matcher
from ..errors import InvalidRequest
from .report import ConformanceError, require

if TYPE_CHECKING:
    import torch

__all__ = ("FORMS", "Form", "check_grammar")


class Form(msgspec.Struct, frozen=True):
    """A specification with texts that are of its form, and texts that are not."""

    spec: GrammarSpec
    members: tuple[str, ...]
    others: tuple[str, ...]


_SCHEMA = (
    '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], '
    '"additionalProperties": false}'
)
# A choice's text is a JSON array of strings.
FORMS = (
    Form(
        GrammarSpec("choice", '["yes", "no", "yesterday", "né"]'),
        ("yes", "no", "yesterday", "né"),
        ("", "y", "yest", "noo", "maybe", "n\u00e8"),
    ),
    Form(GrammarSpec("regex", "[0-9]{2,3}(px)?"), ("12", "123", "12px"), ("1", "1234", "12p", "a")),
    Form(GrammarSpec("json_object", ""), ("{}", '{"a": 1}', '{"b":[1,"x"]}'), ("[1]", "{", "x")),
    Form(GrammarSpec("json_schema", _SCHEMA), ('{"n": 1}', '{"n": -12}'), ("{}", '{"n": "x"}')),
    Form(GrammarSpec("ebnf", 'root ::= "a" "b"*'), ("a", "abb"), ("", "b", "ac")),
)
_MALFORMED = (
    GrammarSpec("choice", "[]"),
    GrammarSpec("choice", "yes"),
    GrammarSpec("regex", "(["),
    GrammarSpec("json_schema", "{"),
    GrammarSpec("ebnf", "root ::="),
)
# Every byte, words of several bytes, two tokens that stand for nothing, and the stop token.
_WORDS = ("yes", "ye", "no", "12", "px", '{"', '": ', "terday", "ab")
_VOCABULARY = [bytes([b]) for b in range(256)] + [w.encode() for w in _WORDS] + [b"", b"", b""]
_STOP = len(_VOCABULARY) - 1


def check_grammar(
    factory: Callable[[list[bytes], list[int]], GrammarEngine], forms: Sequence[Form] = FORMS
) -> None:
    """Check a grammar engine on the kinds of specification that it takes.

    Args:
        factory: makes one from a vocabulary and stop ids.
        forms: to check it on; a kind may be refused with InvalidRequest.

    Raises:
        ConformanceError: naming the first broken promise.
    """
    engine = factory(list(_VOCABULARY), [_STOP])
    taken = [form for form in forms if _takes(engine, form.spec)]
    require(bool(taken), "the engine takes no specification of any kind")
    for form in taken:
        compiled = engine.compile(form.spec)
        for text in form.members:
            for tokens in (list(text.encode()), _in_words(text.encode())):
                _walk(engine.matcher(compiled), tokens, form.spec)
        for text in form.others:
            require(
                not _is_member(engine.matcher(compiled), list(text.encode())),
                f"{form.spec} lets {text!r} pass",
            )
        _check_apart(engine, compiled, form)
    kinds = {form.spec.kind for form in taken}
    for spec in _MALFORMED:
        if spec.kind in kinds:
            require(not _takes(engine, spec), f"the malformed {spec} is not refused")


def _takes(engine: GrammarEngine, spec: GrammarSpec) -> bool:
    try:
        engine.compile(spec)
    except InvalidRequest:
        return False
    except Exception as error:
        raise ConformanceError(
            f"{spec} is refused with {type(error).__name__}; only InvalidRequest may be raised"
        ) from error
    return True


def _walk(matcher: Matcher, tokens: list[int], spec: GrammarSpec) -> None:
    """Accept a member token by token; every mask on the way must be right."""
    masks: list[set[int]] = []
    for token in tokens:
        allowed = _allowed(matcher)
        masks.append(allowed)
        _check_agreement(matcher, allowed, spec)
        require(not matcher.finished(), f"{spec} is finished before a member's end")
        require(token in allowed, f"{spec} masks {_VOCABULARY[token]!r}, which a member needs")
        require(matcher.accept(token), f"{spec} does not accept a token that its mask allows")
    end = _allowed(matcher)
    require(_STOP in end, f"{spec} does not let a complete text end")
    require(matcher.finished() == (end == {_STOP}), f"{spec} is wrong about being finished")
    for count in range(len(tokens) + 1):
        matcher.rewind(count)
        expected = masks[len(tokens) - count] if count else end
        require(_allowed(matcher) == expected, f"{spec} is not itself after rewind({count})")
        for token in tokens[len(tokens) - count :]:
            require(matcher.accept(token), f"{spec} refuses after rewind what it took before")
    require(matcher.accept(_STOP), f"{spec} does not accept the stop token at the end")


def _check_agreement(matcher: Matcher, allowed: set[int], spec: GrammarSpec) -> None:
    """What the mask says, accept does; a refusal changes nothing."""
    for token, piece in enumerate(_VOCABULARY):
        accepted = matcher.accept(token)
        require(
            accepted == (token in allowed),
            f"{spec}: mask and accept disagree about token {token} ({piece!r})",
        )
        if accepted:
            matcher.rewind(1)
    require(_allowed(matcher) == allowed, f"{spec}: tokens tried and taken back leave marks")
    require(_STOP - 1 not in allowed, f"{spec} allows a token that stands for no bytes")


def _check_apart(engine: GrammarEngine, compiled: object, form: Form) -> None:
    one, two = engine.matcher(compiled), engine.matcher(compiled)
    before = _allowed(two)
    one.accept(form.members[0].encode()[0])
    require(_allowed(two) == before, f"two matchers of {form.spec} share their state")


def _is_member(matcher: Matcher, tokens: list[int]) -> bool:
    return all(matcher.accept(token) for token in tokens) and matcher.accept(_STOP)


def _allowed(matcher: Matcher) -> set[int]:
    """Tokens of the mask, which is filled over bits that were all set and all clear."""
    found = []
    for start in (0, -1):
        mask = _mask(start)
        matcher.fill(mask)
        words = [word & 0xFFFFFFFF for word in mask.tolist()]
        found.append({32 * i + b for i, w in enumerate(words) for b in range(32) if w >> b & 1})
    require(found[0] == found[1], "fill leaves bits as they were where it must set or clear them")
    require(max(found[0], default=0) <= _STOP, "fill sets bits beyond the vocabulary")
    return found[0]


def _mask(value: int) -> torch.Tensor:
    import torch

    return torch.full((-(-len(_VOCABULARY) // 32),), value, dtype=torch.int32)


def _in_words(text: bytes) -> list[int]:
    """The text in the longest tokens there are."""
    tokens = []
    while text:
        best = max((t for t, p in enumerate(_VOCABULARY) if p and text.startswith(p)), key=_length)
        tokens.append(best)
        text = text[_length(best) :]
    return tokens


def _length(token: int) -> int:
    return len(_VOCABULARY[token])
