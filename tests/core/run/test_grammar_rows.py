"""Grammars beside drafts, with a grammar of choices: what plain decoding under masks draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.core.contracts.grammar import GrammarSpec
from quire.core.request import SamplingParams
from quire.core.run.grammar_rows import GrammarRow, forbid
from quire.core.run.sample import Sampler
from quire.core.run.slot_kernels import LAST, OFFSET
from quire.core.run.slots import SlotTable
from quire.core.run.verify import REJECTED, place_drafts, verify
from quire.core.step import Newcomer
from tests.fakes.grammar import ChoiceEngine

VOCABULARY = [bytes([97 + index]) for index in range(8)] + [b"ab", b"cd", b"abc", b"gh"] * 8 + [b""]
STOP, SIZE, MOST = len(VOCABULARY) - 1, len(VOCABULARY), 4
CHOICES = '["abcdefgh", "abab", "cdcdcdcd", "abcabcabcabc", "ghgh"]'
PROMPT = [3, 1, 2]


class Decoding:
    """One sequence, whose next logits are a function of its tokens, under the grammar."""

    def __init__(self, seed: int) -> None:
        device = torch.device("cpu")
        newcomer = Newcomer(
            0, PROMPT, len(PROMPT), seed, SamplingParams(temperature=1.2, seed=seed)
        )
        self.sampler = Sampler(max_slots=1, vocab_size=SIZE, device=device)
        self.sampler.enter(newcomer)
        self.table = SlotTable(
            max_slots=1, max_model_len=40, block_size=4, device=device, max_drafts=MOST
        )
        self.table.enter([newcomer])
        engine = ChoiceEngine(VOCABULARY, [STOP])
        self.matcher = engine.matcher(engine.compile(GrammarSpec("choice", CHOICES)))
        self.row = GrammarRow(self.matcher, [STOP])
        self.tokens = list(PROMPT)

    @torch.inference_mode()
    def step(self, drafts: list[int]) -> list[int]:
        """What one step emits that verifies these drafts."""
        count, known = len(drafts) + 1, len(self.tokens)
        slots = torch.zeros(count, dtype=torch.int64)
        lengths, offsets = known + torch.arange(count), torch.arange(count)
        if drafts:
            where = slots[:1], lengths[:1], self.table
            place_drafts(torch.tensor([drafts]), torch.tensor([len(drafts)]), *where, SIZE)
        logits = torch.stack([logits_of(self.tokens + drafts[:index]) for index in range(count)])
        masks = torch.zeros(count, -(-SIZE // 32), dtype=torch.int32)
        self.row.fill(drafts, masks)
        forbid(logits, offsets, masks)
        drawn = self.sampler.draw(logits, slots, [0] * count, lengths, self.table.tokens)
        codes = (offsets << OFFSET) + LAST * (offsets == len(drafts))
        verify(drawn, slots, lengths, codes, self.table)
        emitted = [token for token in drawn.tolist() if token != REJECTED]
        self.row.settle(emitted)
        self.tokens += emitted
        return emitted


def logits_of(tokens: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
    return torch.randn(SIZE, generator=generator) * 2


def plainly(seed: int) -> list[int]:
    decoding, found = Decoding(seed), []
    while not found or found[-1] != STOP:
        found += decoding.step([])
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_drafts_of_any_kind_change_nothing(seed: int, data: st.DataObject) -> None:
    wanted = plainly(seed)
    text = b"".join(VOCABULARY[token] for token in wanted)
    assert text.decode() in CHOICES
    decoding, found = Decoding(seed), []
    while STOP not in found:
        right = wanted[len(found) :][:MOST]
        wrong = data.draw(st.lists(st.integers(0, SIZE - 1), max_size=MOST))
        cut = data.draw(st.integers(0, len(right)))
        found += decoding.step((right[:cut] + wrong)[:MOST])
    assert found[: found.index(STOP) + 1] == wanted


def test_a_matcher_is_where_the_sequence_is() -> None:
    """Whatever was tried, its mask is that of one that has seen the tokens alone."""
    decoding = Decoding(4)
    wanted = plainly(4)
    for drafts in ([0, 1, 2, 3], wanted[:2], [STOP, 1], []):
        decoding.step(drafts)
        if STOP in decoding.tokens:
            break
        fresh = Decoding(4)
        for token in decoding.tokens[len(PROMPT) :]:
            assert fresh.matcher.accept(token)
        masks = torch.zeros(2, -(-SIZE // 32), dtype=torch.int32)
        decoding.matcher.fill(masks[0])
        fresh.matcher.fill(masks[1])
        assert masks[0].tolist() == masks[1].tolist()


def test_behind_a_forbidden_draft_no_draw_counts() -> None:
    decoding = Decoding(0)
    masks = torch.zeros(3, -(-SIZE // 32), dtype=torch.int32)
    decoding.row.fill([7, 0], masks)  # No choice begins with h.
    assert masks[0].tolist() != masks[1].tolist() == masks[2].tolist() == [-1, -1]
    with pytest.raises(ValueError, match="against the grammar"):
        decoding.row.settle([7])
