"""Steps that a head does not see, in the middle of requests: the tokens are plain decoding's."""

import itertools
from typing import Any

import pytest

import quire.core.run.runner as runner_module
from quire import LLM, SamplingParams
from quire.core.contracts.speculator import Observed
from quire.core.run.runner import Runner
from quire.core.schedule import drafting, showing
from quire.core.schedule.drafting import Drafting
from quire.core.schedule.payoff import Payoff
from quire.core.schedule.timing import Timing
from quire.core.sequence import Sequence
from quire.core.step import Plan
from quire.plugins.demo.curriculum import held_out
from quire.plugins.speculation.eagle import Eagle
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.heads import Oracle, make_head, record_proposals
from tests.engine.test_parity import MODES, configure, greedy, prompts_of

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
HEAD = {"model": "demo-eagle", "num_speculative_tokens": 3}


def driver_of(mode: str, **sections: Any) -> Driver:
    model = {"dtype": "float32", "max_model_len": 112}
    modes = MODES[mode] | ({"cache": {"num_blocks": 30}} if "preemption" in mode else {})
    return Driver(make_config("demo", model=model, **modes, **sections))


def arrive(
    driver: Driver, prompts: list[list[int]], params: SamplingParams = GREEDY
) -> list[list[int]]:
    """One after the other, eight steps apart, and then all again, from cached prefixes."""
    for index, prompt in enumerate(2 * prompts):
        driver.add(str(index), prompt, params)
        for _ in range(8):
            for delta in driver.engine.step():
                driver.hear(delta)
    driver.drain()
    return [driver.tokens.pop(str(index)) for index in range(2 * len(prompts))]


@pytest.fixture(scope="module")
def case() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts, and what plainly follows each of them."""
    llm = LLM("demo")
    texts = [llm.tokenizer.render_chat(example.messages) for example in held_out(1, seed=4)]
    llm.shutdown()
    prompts = [llm.tokenizer.encode(text, add_special_tokens=False) for text in texts[:5]]
    return prompts, driver_of("whole").generate(prompts, GREEDY)


def alternate(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Showing rests and begins again within few steps, as drafts are wanted by turns; the plans of
    all steps from now on."""
    monkeypatch.setattr(showing, "_PATIENCE", 4)
    monkeypatch.setattr(showing, "_FIRST_REST", 3)
    monkeypatch.setattr(drafting, "_LONGEST_REST", 2)
    monkeypatch.setattr(Timing, "unmeasured", lambda *_: False)
    monkeypatch.setattr(Payoff, "loses", lambda *_, **__: False)
    seen: list[Plan] = []
    execute = Runner.execute

    def choose(self: Drafting, seq: Sequence) -> tuple[int, bool]:
        if len(seen) % 24 >= 14:
            return 0, False
        return 3, True

    def note(self: Runner, plan: Plan) -> Any:
        seen.append(plan)
        return execute(self, plan)

    monkeypatch.setattr(Drafting, "_choose", choose)
    monkeypatch.setattr(Runner, "execute", note)
    return seen


@pytest.fixture
def plans(monkeypatch) -> list[Plan]:
    return alternate(monkeypatch)


@pytest.fixture
def observed(monkeypatch) -> list[Observed]:
    """What a head is shown from now on."""
    seen: list[Observed] = []
    observe = Eagle.observe

    def note(self: Eagle, observed: Observed) -> None:
        seen.append(observed)
        observe(self, observed)

    monkeypatch.setattr(Eagle, "observe", note)
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_those_of_plain_decoding(case, plans, mode: str) -> None:
    prompts, wanted = case
    driver = driver_of(mode, speculation=HEAD)
    assert arrive(driver, prompts) == 2 * wanted
    stats = driver.engine.stats()
    assert (stats.preemptions > 0) == mode.startswith("preemption")
    assert stats.drafts > 10 and stats.accepted_tokens > 0
    shown = [plan.shown for plan in plans]
    assert 10 < sum(shown) < len(shown) - 10
    assert len(list(itertools.groupby(shown))) >= 4


@pytest.mark.parametrize("mode", ["whole", "chunks-overlap"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_head_sees_no_other_steps(
    case, plans, observed, mode: str, kept: bool, monkeypatch
) -> None:
    """One by one, as where nothing is kept to be shown together, or not."""
    if not kept:
        monkeypatch.setattr(runner_module, "Backlog", lambda *_: None)
    prompts, wanted = case
    driver = driver_of(mode, speculation=HEAD)
    assert arrive(driver, prompts) == 2 * wanted
    shown = [plan.num_tokens for plan in plans if plan.shown]
    tokens = [len(step.slots) for step in observed]
    assert len(shown) < len(plans)
    if kept:
        assert 0 < len(tokens) < len(shown) and 0 < sum(tokens) <= sum(shown)
    else:
        assert tokens == shown


@pytest.mark.parametrize("mode", ["whole", "overlap", "chunks-overlap"])
def test_drafts_are_those_of_a_head_that_saw_every_step(
    plans, mode: str, tmp_path, monkeypatch
) -> None:
    """Of those who are asked for any."""
    model = make("Llama", 0, tmp_path)
    prompts = prompts_of(4)
    wanted = [greedy(model, prompt, 40) for prompt in prompts]
    (tmp_path / "head").mkdir()
    tensors = make_head(3, tmp_path / "head", model, draft_vocab_size=40)
    proposals = record_proposals(monkeypatch)
    speculation = {"model": str(tmp_path / "head"), "num_speculative_tokens": 3}
    cache = {"prefix_caching": False}
    config = configure(tmp_path, speculation=speculation, cache=cache, **MODES[mode])
    assert arrive(Driver(config), prompts) == 2 * wanted
    assert not all(plan.shown for plan in plans)
    oracle = Oracle(3, tensors, model.double())
    assert len(proposals) > 10
    for tokens, drafts in proposals:
        if len(tokens) > 1:
            assert drafts == oracle.drafts(tokens, len(drafts))


def test_who_drafts_always_sees_all(case, plans, observed) -> None:
    prompts, wanted = case
    driver = driver_of("whole", speculation=HEAD | {"adaptive": False})
    assert arrive(driver, prompts) == 2 * wanted
    assert all(plan.shown for plan in plans)


def test_without_hidden_states_nothing_rests(case, plans) -> None:
    prompts, wanted = case
    driver = driver_of("whole", speculation={"model": "demo-draft"})
    assert arrive(driver, prompts) == 2 * wanted
    assert all(plan.shown for plan in plans)


def test_several_answers_drawn_at_random(plans) -> None:
    messages = [example.messages for example in held_out(1, seed=5)][:4]
    params = SamplingParams(n=3, temperature=0.9, seed=7, max_tokens=80, logprobs=1)
    found = []
    for speculation in ({}, HEAD):
        llm = LLM("demo", dtype="float32", speculative_config=speculation or None)
        plans.clear()
        answers = llm.chat(messages, params, use_tqdm=False)
        found.append([[answer.token_ids for answer in one.outputs] for one in answers])
        llm.shutdown()
    assert found[0] == found[1]
    assert any(plan.shown for plan in plans) and not all(plan.shown for plan in plans)
