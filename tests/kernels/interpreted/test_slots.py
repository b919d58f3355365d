"""What stands around the model in a step: kernels beside torch's operators."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.backends.kernels.slots import TritonSlots
from quire.core.conformance.slot_kernels import check_slot_kernels
from quire.core.run.inbox import Inbox
from quire.core.run.mailbox import Mailbox, Posted
from quire.core.run.slot_kernels import FLOATING, LAST, OFFSET
from quire.core.run.slots import SlotTable
from quire.core.run.verify import place_drafts, verify
from quire.testing import ConformanceError
from tests.kernels import slot_tables
from tests.kernels.slot_tables import same

SLOTS, LENGTH, MOST, BLOCK, VOCABULARY = 6, 24, 4, 4, 5


def tables(seed: int) -> list[SlotTable]:
    return slot_tables.tables(
        seed,
        vocabulary=VOCABULARY,
        num_blocks=99,
        max_slots=SLOTS,
        max_model_len=LENGTH,
        block_size=BLOCK,
        device=torch.device("cpu"),
        max_drafts=MOST,
    )


rows_of_a_step = st.lists(
    st.tuples(st.integers(1, LENGTH - MOST), st.integers(0, MOST), st.booleans()),
    min_size=1,
    max_size=SLOTS,
)


def inputs(rows: list[tuple[int, int, bool]], padding: int) -> tuple[torch.Tensor, ...]:
    """Slots, positions and codes of a step: sequences one behind the other, then padding."""
    slots, starts, codes = [], [], []
    for slot, (start, drafts, floating) in enumerate(reversed(rows)):
        for before in range(drafts + 1):
            slots.append(slot)
            starts.append(start + before - 1)
            code = (before << OFFSET) + LAST * (before == drafts) + FLOATING * floating
            codes.append(code)
    slots += [SLOTS] * padding
    starts += [0] * padding
    codes += [LAST] * padding
    return torch.tensor(slots), torch.tensor(starts), torch.tensor(codes)


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 5)), min_size=1, unique=True))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_append(places: list[tuple[int, int]]) -> None:
    ours, plain = tables(1)
    slots, columns = torch.tensor(places).T
    blocks = torch.arange(len(places)) + 100
    TritonSlots().append(torch.cat((slots, columns, blocks)), ours.blocks)
    plain.blocks[slots, columns] = blocks.int()
    same(ours, plain)


def located(table: SlotTable, slots, starts, codes, *, advances: bool) -> list[torch.Tensor]:
    """What a table makes of a step, and what it leaves for the next one."""
    at, moved = table.places(len(slots) + 1), starts.clone()
    table.locate(slots, moved, codes, at.first(len(slots)), advances=advances)
    return [*at, moved]


@given(rows_of_a_step, st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_locate_among_drafts(rows, padding: int, seed: int) -> None:
    ours, plain = tables(seed)
    found = [located(table, *inputs(rows, padding), advances=False) for table in (ours, plain)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    same(ours, plain)


@given(
    st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=SLOTS),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_locate(rows: list[int], padding: int, advances: bool) -> None:
    ours, plain = tables(len(rows))
    slots = torch.tensor([*range(len(rows) - 1, -1, -1), *[SLOTS] * padding])
    starts = torch.tensor(rows + [0] * padding)
    found = [located(table, slots, starts, None, advances=advances) for table in (ours, plain)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    same(ours, plain)
    *at, moved = found[0]
    blocks = plain.blocks[slots]
    assert torch.equal(at[-1][: len(slots)], blocks)
    held = blocks[torch.arange(len(slots)), starts // BLOCK]
    assert torch.equal(at[-2][: len(slots)], held * BLOCK + starts % BLOCK)
    assert torch.equal(moved, starts + (slots < SLOTS) * advances)


class Letter(NamedTuple):
    """To an inbox, and whether it is thrown away before it was received, or behind that."""

    places: list[tuple[int, int]]
    numbers: list[int]
    thrown: bool
    received: bool


@given(
    st.lists(
        st.builds(
            Letter,
            st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(0, 5)), unique=True),
            st.lists(st.integers(-3, 2**40), max_size=700),
            st.booleans(),
            st.booleans(),
        ),
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_receive(letters: list[Letter]) -> None:
    """Numbers and blocks arrive once; what was thrown away brings nothing, unless something has
    received it without being a launch."""
    ours, plain = tables(1)
    numbers, expected = torch.zeros(700, dtype=torch.int64), torch.zeros(700, dtype=torch.int64)
    inbox = Inbox(TritonSlots(), numbers, ours.blocks, 6 * SLOTS)
    for turn, letter in enumerate(letters):
        inbox.begin()
        if letter.places:
            columns = np.array(letter.places).T
            inbox.append(np.append(columns, np.arange(columns.shape[1]) + 100 * turn))
        if letter.numbers:
            inbox.write(np.array(letter.numbers))
        if letter.thrown and letter.received:
            inbox.receive()
            inbox.recount()
        if letter.thrown:
            inbox.begin()
        inbox.receive()
        inbox.launched()
        if letter.received or not letter.thrown:
            for index, (slot, column) in enumerate(letter.places):
                plain.blocks[slot, column] = 100 * turn + index
            expected[: len(letter.numbers)] = torch.tensor(letter.numbers)
        assert torch.equal(numbers, expected)
        same(ours, plain)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(0, 3))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_letters(sizes: list[int], unread: int) -> None:
    """Each is read behind up to three others, whatever else has posted meanwhile."""
    mailbox = Mailbox(TritonSlots(), 300, torch.device("cpu"))
    sent: list[tuple[Posted, list[int]]] = []
    for size in sizes:
        mailbox.post(torch.arange(3))
        mailbox.recount()
        numbers = torch.randint(-3, 2**40, (size,))
        mailbox.post(numbers)
        sent.append((mailbox.posted(size // 2), numbers.tolist()[: size // 2]))
        if len(sent) > unread:
            posted, expected = sent.pop(0)
            assert posted.read() == expected
    assert all(posted.read() == expected for posted, expected in sent)


def test_a_letter_that_is_not_there_is_an_error() -> None:
    mailbox = Mailbox(TritonSlots(), 2, torch.device("cpu"))
    for number in range(5):
        mailbox.post(torch.tensor([number]))
    first, *_, last = [mailbox.posted(1) for _ in range(5)]
    assert last.read() == [4]
    with pytest.raises(RuntimeError, match="letter 4 lies where 0 was expected"):
        first.read()
    with pytest.raises(RuntimeError, match="letter 1 lies where 5 was expected"):
        mailbox.posted(1).read()
    # From there on both count alike.
    mailbox.post(torch.tensor([7]))
    assert mailbox.posted(1).read() == [7]


@given(rows_of_a_step, st.integers(0, 3), st.integers(0, 99), st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_verify(rows, padding: int, seed: int, data: st.DataObject) -> None:
    ours, plain = tables(seed)
    slots, starts, codes = inputs(rows, padding)
    lengths = starts + 1
    tokens = plain.tokens[slots, lengths]
    # Right drafts, wrong ones, and draws that failed.
    draws = st.sampled_from([None, 0, 1, VOCABULARY, -1, -2])
    chosen = data.draw(st.lists(draws, min_size=len(slots), max_size=len(slots)))
    pairs = zip(chosen, tokens.tolist(), strict=True)
    drawn = torch.tensor([token if draw is None else draw for draw, token in pairs])
    # Of rows of padding, whichever is last is kept.
    drawn[len(slots) - padding :] = 0
    kept = drawn.clone()
    verify(kept, slots, lengths, codes, ours)
    verify(drawn, slots, lengths, codes, plain)
    assert torch.equal(kept, drawn)
    same(ours, plain)


@given(st.integers(1, MOST), st.integers(0, 99), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_place_drafts(most: int, seed: int, data: st.DataObject) -> None:
    ours, plain = tables(seed)
    slots = torch.tensor(data.draw(st.permutations(range(SLOTS)))[:3])
    chain = st.lists(st.integers(-1, VOCABULARY + 1), min_size=3, max_size=3)
    # Handed over column by column, as a speculator may have made them.
    drafts = torch.tensor(data.draw(st.lists(chain, min_size=most, max_size=most))).T
    wanted = torch.tensor(data.draw(st.lists(st.integers(1, MOST), min_size=3, max_size=3)))
    lengths = plain.lengths[slots]
    counts = [
        place_drafts(drafts, wanted, slots, lengths, table, VOCABULARY) for table in (ours, plain)
    ]
    assert torch.equal(*counts)
    same(ours, plain)


class Forgetful(TritonSlots):
    def append(self, new, blocks):
        pass


class Standing(TritonSlots):
    def locate(self, *args, advances, **options):
        super().locate(*args, advances=False, **options)


class Credulous(TritonSlots):
    def verify(self, drawn, *args, **options):
        pass


class Generous(TritonSlots):
    def place(self, drafts, wanted, *args, **options):
        super().place(drafts, wanted, *args, **options)
        return wanted


class Silent(TritonSlots):
    def post(self, numbers, turn, letters):
        turn += 1
        letters[int(turn) % len(letters), 0] = turn


class Deaf(TritonSlots):
    def receive(self, turn, letters, numbers, blocks, *, begin):
        turn += 1


class Losing(TritonSlots):
    def receive(self, turn, letters, numbers, blocks, *, begin):
        super().receive(turn, letters, numbers, blocks.clone(), begin=begin)


def test_what_a_platform_is_checked_for() -> None:
    check_slot_kernels(TritonSlots(), torch.device("cpu"), lambda: None)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Forgetful, "append: the table's blocks"),
        (Standing, "locate: starts"),
        (Credulous, "verify: draws"),
        (Generous, "place: drafts that stand ready"),
        (Silent, "post: letter"),
        (Deaf, "receive: numbers"),
        (Losing, "receive: the table's blocks"),
    ],
)
def test_broken_kernels_are_caught(broken: type[TritonSlots], words: str) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_slot_kernels(broken(), torch.device("cpu"), lambda: None)
