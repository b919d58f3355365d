"""Pieces of text against decoding the whole at once, and stop strings against a plain search."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.text.detokenizer import IncrementalDetokenizer
from quire.core.text.tokenizer import Tokenizer

from .conftest import KINDS

QUICK = settings(deadline=None, max_examples=80)
EMOJI = "😀👩‍👩‍👧‍👦é東 ok"


def detokenizer(
    tokenizer: Tokenizer,
    prompt: list[int],
    *,
    skip: bool = True,
    stop: tuple[str, ...] = (),
    include: bool = False,
) -> IncrementalDetokenizer:
    return IncrementalDetokenizer(
        tokenizer, prompt, skip_special_tokens=skip, stop=stop, include_stop=include
    )


def chunks(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    out, at = [], 0
    while at < len(ids):
        size = data.draw(st.integers(1, 4))
        out.append(ids[at : at + size])
        at += size
    return out


def some_ids(data: st.DataObject, tokenizer: Tokenizer) -> list[int]:
    text = st.sampled_from(["<|end|>", " fox", "</s>", EMOJI, "quick", "\n"]).map(
        lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
    anything = st.integers(0, tokenizer.vocab_size + 3).map(lambda token: [token])
    parts = data.draw(st.lists(st.one_of(text, anything), max_size=25))
    return [token for part in parts for token in part]


@QUICK
@given(st.data())
def test_pieces_of_any_byte_level_tokens_join_to_the_whole(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers["byte_level"]
    skip = data.draw(st.booleans())
    ids = some_ids(data, tokenizer)
    running = detokenizer(tokenizer, [0], skip=skip)
    pieces = [running.feed(chunk) for chunk in chunks(data, ids)]
    text = "".join(piece.text for piece in pieces) + running.finish()
    assert text == tokenizer.decode(ids, skip_special_tokens=skip)
    assert sum(piece.num_tokens for piece in pieces) == len(ids)


@QUICK
@given(st.lists(st.sampled_from([*EMOJI, " the", "fox ", "\n", "▁", "<0x41>"]), max_size=12))
def test_pieces_of_byte_fallback_text_join_to_the_whole(
    tokenizers: dict[str, Tokenizer], words: list[str]
) -> None:
    tokenizer = tokenizers["sentence_piece"]
    text = "".join(words)
    ids = tokenizer.encode(text, add_special_tokens=False)
    for prompt in ([1], []):
        running = detokenizer(tokenizer, prompt)
        got = "".join(running.feed([token]).text for token in ids) + running.finish()
        assert got == tokenizer.decode(ids)
    prompt = tokenizer.encode("the dog")
    running = detokenizer(tokenizer, prompt)
    got = "".join(running.feed([token]).text for token in ids) + running.finish()
    assert tokenizer.decode(prompt) + got == tokenizer.decode(prompt + ids)


def test_bytes_that_are_no_character_show_as_such_and_nothing_is_lost(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["sentence_piece"]
    ids = [3 + byte for byte in "東".encode()]
    assert tokenizer.decode(ids) == "東"
    broken = ids[:2]
    running = detokenizer(tokenizer, [1])
    text = "".join(running.feed([token]).text for token in [*ids, *broken, *ids])
    assert text == "東\ufffd東"


@QUICK
@given(st.data())
def test_pieces_of_other_vocabularies_join_to_the_whole(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers["word_piece"]
    assert tokenizer.pieces is None
    ids = data.draw(st.lists(st.integers(2, tokenizer.vocab_size - 1), max_size=40))
    running = detokenizer(tokenizer, [])
    text = "".join(running.feed([token]).text for token in ids) + running.finish()
    assert text == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
def test_no_piece_holds_part_of_a_character(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    running = detokenizer(tokenizer, [])
    seen = ""
    for token in tokenizer.encode(EMOJI, add_special_tokens=False):
        seen += running.feed([token]).text
        assert EMOJI.startswith(seen)
    assert seen == EMOJI and running.finish() == ""


def test_a_character_begun_in_the_prompt_is_completed(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("a🤖", add_special_tokens=False)
    for split in range(1, len(ids)):
        running = detokenizer(tokenizer, ids[:split])
        assert running.feed(ids[split:]).text == ("🤖" if split > 0 else "")


@QUICK
@given(st.data())
def test_stop_strings_cut_where_a_search_of_the_whole_would(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers["byte_level"]
    text = data.draw(st.text(st.sampled_from("ab😀 "), max_size=30))
    stops = tuple(
        data.draw(st.lists(st.text(st.sampled_from("ab😀"), min_size=1, max_size=4), min_size=1))
    )
    include = data.draw(st.booleans())
    ids = tokenizer.encode(text, add_special_tokens=False)
    running = detokenizer(tokenizer, [0], stop=stops, include=include)
    pieces = []
    for chunk in chunks(data, ids):
        pieces.append(running.feed(chunk))
        if pieces[-1].stop is not None:
            break
    got = "".join(piece.text for piece in pieces)
    hits = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    if not hits:
        assert all(piece.stop is None for piece in pieces)
        assert got + running.finish() == text
        return
    end, start, stop = min(hits)
    assert pieces[-1].stop == stop
    assert got == text[: end if include else start]
    count = sum(piece.num_tokens for piece in pieces)
    assert stop in tokenizer.decode(ids[:count]) and stop not in tokenizer.decode(ids[: count - 1])
    assert running.finish() == "" and running.feed([5]).num_tokens == 0


def test_what_may_become_a_stop_string_is_held_back(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    running = detokenizer(tokenizer, [0], stop=("ab!", "b?"))
    shown = []
    for letter in "xabyab":
        shown.append(running.feed(tokenizer.encode(letter, add_special_tokens=False)).text)
    assert shown == ["x", "", "", "aby", "", ""]
    assert running.finish() == "ab"


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_costs_the_same_however_long_the_text(
    kind: str, tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("the lazy dog sleeps", add_special_tokens=False) * 50
    stops = ("a" * 500 + "!", "zzz")

    def best_of(running: IncrementalDetokenizer) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            for token in ids:
                running.feed([token])
            times.append(time.perf_counter() - begun)
        return min(times)

    running = detokenizer(tokenizer, [], stop=stops)
    first = best_of(running)
    for _ in range(20):
        running.feed(ids)
    assert best_of(running) < 5 * first
