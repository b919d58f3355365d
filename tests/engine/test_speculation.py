"""Speculative decoding gives plain decoding's tokens, whatever is drafted and however steps run."""

from typing import Any

import pytest
from scipy import stats

import quire.core.run.runner as runner_module
from quire import LLM, SamplingParams
from quire.backends.cpu.compiled import compiled
from quire.core.config import Config, SpeculationConfig
from quire.core.errors import CheckpointError, ConfigError
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.run.slot_kernels import LAST
from quire.core.run.verify import verify
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.test_combinations import PAIRS, essence, params
from tests.engine.test_parity import GREEDY, LENGTHS, MODES, configure, greedy, prompts_of
from tests.fakes.speculator import FaultySpeculator, GuidedSpeculator, registry_with_fakes

NGRAM = {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 5}
FAMILIES = [("Llama", 0), ("Mistral", 1)]
WAYS = [("guided", "cpu"), ("guided", "reference"), ("ngram", "cpu"), ("draft_model", "cpu")]
# Each mode with each way, and each of both with either family, one with a sliding window.
RUNS = [
    (FAMILIES[(number + turn) % 2], mode, *way)
    for number, mode in enumerate(MODES)
    for turn, way in enumerate(WAYS)
]
CODE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul("


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Of each family the checkpoint, prompts, and what transformers makes of them."""
    found = {}
    prompts = prompts_of(len(LENGTHS))
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("checkpoint")
        model = make(*family, folder)
        found[family] = folder, prompts, [greedy(model, prompt, 32) for prompt in prompts]
    return found


@pytest.mark.parametrize(("family", "mode", "method", "backend"), RUNS)
def test_greedy_tokens(cases, family, mode: str, method: str, backend: str, monkeypatch) -> None:
    folder, prompts, wanted = cases[family]
    texts = [prompt + answer for prompt, answer in zip(prompts, wanted, strict=True)]
    monkeypatch.setattr(GuidedSpeculator, "texts", texts)
    speculation = {
        "guided": {"method": "guided", "num_speculative_tokens": 5},
        "ngram": NGRAM,
        # A model that drafts for itself has its drafts accepted.
        "draft_model": {"model": str(folder)},
    }[method]
    config = configure(
        folder,
        attention={"backend": backend},
        speculation=speculation | {"adaptive": False},
        **MODES[mode],
    )
    driver = Driver(config, registry_with_fakes())
    assert driver.generate(prompts, GREEDY) == wanted
    stats = driver.engine.stats()
    assert sum(stats.accepted_at) == stats.accepted_tokens <= stats.draft_tokens
    if method == "guided":
        # Chunks of few tokens leave each sequence one draft, or two.
        deepest = 1 if "chunks" in mode else -1
        assert stats.accepted_at[deepest] > 0
        assert 0.4 < stats.accepted_tokens / stats.draft_tokens < 0.95
    elif method == "draft_model":
        assert stats.accepted_tokens > 0.9 * stats.draft_tokens
    if mode in ("overlap", "chunks"):
        assert driver.generate(prompts, GREEDY) == wanted  # From cached prefixes.


@pytest.fixture(scope="module")
def plain() -> list[list[Any]]:
    """Of each pair what it gives plainly; the same as alone, as ``test_combinations`` shows."""
    llm = LLM("demo", dtype="float32", max_model_len=128, enable_prefix_caching=False)
    asked = [params(pair) for pair in PAIRS]
    return [essence(output) for output in llm.generate([CODE] * len(PAIRS), asked, use_tqdm=False)]


@pytest.mark.parametrize(
    ("speculation", "adaptive", "overlap"),
    [
        (NGRAM, False, True),
        ({"model": "demo-draft"}, True, False),
        ({"model": "demo-eagle"}, False, True),
    ],
)
def test_every_pair_of_what_requests_ask_for(plain, speculation, adaptive, overlap) -> None:
    """All together, in a cache that is too small for them: what each gives plainly."""
    config = make_config(
        "demo",
        model={"max_model_len": 128},
        cache={"num_blocks": 44},
        schedule={"max_num_seqs": 12, "max_num_batched_tokens": 48, "overlap": overlap},
        speculation=speculation | {"adaptive": adaptive},
    )
    llm = LLM.from_config(config)
    outputs = llm.generate([CODE] * len(PAIRS), [params(pair) for pair in PAIRS], use_tqdm=False)
    for pair, output, want in zip(PAIRS, outputs, plain, strict=True):
        assert essence(output) == want, pair
    llm.engine.scheduler.check()
    stats = llm.engine.stats()
    assert stats.preemptions > 0 and stats.accepted_tokens > 0 and stats.blocks_used == 0
    assert sum(output.num_accepted_tokens for output in outputs) <= stats.accepted_tokens


def test_a_stop_string_inside_accepted_drafts_cuts_there() -> None:
    config = Config(speculation=SpeculationConfig(method="ngram", adaptive=False))
    llm, wanted = LLM("demo", dtype="float32", config=config), LLM("demo", dtype="float32")
    asked = [
        SamplingParams(temperature=temperature, seed=1, max_tokens=32, stop=stop)
        for stop, temperature in ((["return"], 0), (["b)"], 0.8), (["add", "mul"], 0))
    ]
    prompts = [CODE] * len(asked)
    found = [essence(output) for output in llm.generate(prompts, asked, use_tqdm=False)]
    assert found == [essence(output) for output in wanted.generate(prompts, asked, use_tqdm=False)]
    assert llm.engine.stats().accepted_tokens > 0


# Distribution


PROMPT = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]]
ALLOWED = [1, 4, 5, 9]
SEEDS = 400


def draw_three(folder, **speculation: Any) -> list[tuple[int, ...]]:
    """Three tokens for each of many seeds."""
    sections = {"speculation": speculation} if speculation else {}
    driver = Driver(
        configure(folder, schedule={"max_num_seqs": 64}, cache={"num_blocks": 600}, **sections)
    )
    for seed in range(SEEDS):
        # Plain decoding and speculation get seeds of their own: equal draws would prove nothing.
        asked = SamplingParams(
            temperature=1.5, max_tokens=3, seed=seed + 10**6 * bool(speculation),
            allowed_token_ids=ALLOWED, presence_penalty=0.4,
        )  # fmt: skip
        driver.add(str(seed), PROMPT[0], asked)
    driver.drain()
    if speculation:
        assert driver.engine.stats().accepted_tokens > SEEDS / 10
    return [tuple(driver.tokens[str(seed)]) for seed in range(SEEDS)]


def p_values(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> list[float]:
    """Of the hypothesis that both are drawn alike, one a position."""
    values = []
    for position in range(3):
        counts = [
            [sum(tokens[position] == token for tokens in drawn) + 1 for token in ALLOWED]
            for drawn in (found, wanted)
        ]
        values.append(float(stats.chi2_contingency(counts).pvalue))
    return values


@pytest.fixture(scope="module")
def drawn_plainly(cases) -> list[tuple[int, ...]]:
    return draw_three(cases[FAMILIES[0]][0])


def test_every_position_is_distributed_as_without_drafts(cases, drawn_plainly) -> None:
    found = draw_three(cases[FAMILIES[0]][0], **NGRAM, adaptive=False)
    assert min(p_values(found, drawn_plainly)) > 0.001


def test_a_wrong_rule_of_acceptance_is_caught(cases, drawn_plainly, monkeypatch) -> None:
    """Accepting every draft that is not unlikely is what several engines once did."""

    def lenient(drawn, slots, lengths, codes, table):
        drafts = table.tokens[slots, lengths].long()
        keep = (lengths + drawn) % 2 == 0
        drawn.copy_(drawn.where((codes & LAST).bool() | ~keep, drafts))
        verify(drawn, slots, lengths, codes, table)

    monkeypatch.setattr(runner_module, "verify", lenient)
    found = draw_three(cases[FAMILIES[0]][0], **NGRAM, adaptive=False)
    assert min(p_values(found, drawn_plainly)) < 0.001


# Faults


def test_a_speculator_on_the_host_and_the_overlapped_loop_do_not_go_together(cases) -> None:
    folder = cases[FAMILIES[0]][0]
    config = configure(folder, speculation={"method": "lookup"}, schedule={"overlap": True})
    with pytest.raises(ConfigError, match="needs each step's tokens"):
        Driver(config, registry_with_fakes())


@pytest.mark.parametrize("fault", ["raises", "shape", "dtype", "vocabulary", "negative", "sees"])
def test_a_broken_speculator_costs_drafts_and_no_token(fault, cases, monkeypatch) -> None:
    monkeypatch.setattr(FaultySpeculator, "fault", fault)
    folder, prompts, wanted = cases[FAMILIES[0]]
    config = configure(folder, speculation={"method": "faulty", "adaptive": False})
    driver = Driver(config, registry_with_fakes())
    assert driver.generate(prompts, GREEDY) == wanted
    assert set(driver.reasons.values()) == {"length"}


def test_a_request_that_breaks_the_step_dies_alone(monkeypatch) -> None:
    config = Config(speculation=SpeculationConfig(model="demo-draft", adaptive=False))
    llm = LLM("demo", dtype="float32", config=config)
    forward = llm.engine.executor._runner.model.forward

    def faulty(token_ids, positions, attend, **more):
        if bool((token_ids == 4000).any()):
            raise RuntimeError("planted")
        return forward(token_ids, positions, attend, **more)

    good = SamplingParams(temperature=0, max_tokens=12)
    wanted = llm.generate([CODE] * 3, good, use_tqdm=False)
    monkeypatch.setattr(llm.engine.executor._runner.model, "forward", faulty)
    bad = {"prompt_token_ids": [10, 11, 4000, 12]}
    outputs = llm.generate([CODE, bad, CODE, CODE], good, use_tqdm=False)
    assert outputs[1].outputs[0].finish_reason == "error"
    kept = [output.outputs[0].token_ids for output in (outputs[0], *outputs[2:])]
    assert kept == [output.outputs[0].token_ids for output in wanted]


@pytest.mark.parametrize(
    ("speculation", "error", "words"),
    [
        ({"method": "telepathy"}, ConfigError, "speculator 'telepathy'"),
        ({"method": "draft_model"}, ConfigError, "needs speculation.model"),
        ({"method": "ngram", "model": "demo-draft"}, ConfigError, "has no model"),
        ({"method": "eagle"}, ConfigError, "needs speculation.model"),
        ({"method": "eagle3", "model": "demo-draft"}, ConfigError, "is no EAGLE head"),
        (
            {"method": "draft_model", "model": "demo-eagle"},
            ConfigError,
            "is made for the method 'eagle3'",
        ),
        ({"method": "eagle", "model": "demo-eagle"}, ConfigError, "a head of EAGLE-3"),
        ({"model": "no-such/model/at-all"}, CheckpointError, "no-such"),
        ({"method": "ngram", "prompt_lookup_min": 5}, ConfigError, "prompt_lookup_min is 5"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(speculation, error, words) -> None:
    with pytest.raises(error, match=words):
        LLM.from_config(make_config("demo", speculation=speculation))


def test_a_draft_with_another_vocabulary_is_refused(cases) -> None:
    folder = cases[FAMILIES[0]][0]
    with pytest.raises(ConfigError, match="a vocabulary of 96 and the model one of 4096"):
        LLM.from_config(make_config("demo", speculation={"model": str(folder)}))


def test_names_of_vllm_choose_the_method() -> None:
    for section, method, model, tokens in (
        ({"model": "[ngram]"}, "ngram", None, 8),
        ({"model": "demo-draft", "num_speculative_tokens": 3}, "draft_model", "demo-draft", 3),
        ({"model": "demo-eagle"}, "eagle3", "demo-eagle", 4),
    ):
        found = resolve(make_config("demo", speculation=section), Registry()).config.speculation
        assert (found.method, found.model, found.num_speculative_tokens) == (method, model, tokens)


@pytest.mark.parametrize("model", ["none", "demo-draft", "demo-eagle"])
def test_what_a_step_needs_is_compiled_before_the_engine_is_ready(model: str) -> None:
    compiled.cache_clear()
    speculation = SpeculationConfig(model=None if model == "none" else model)
    llm = LLM("demo", dtype="float32", config=Config(speculation=speculation))
    before = compiled.cache_info()
    assert before.misses
    llm.generate("def add(a, b):", SamplingParams(max_tokens=16), use_tqdm=False)
    assert compiled.cache_info().misses == before.misses
    llm.shutdown()


@pytest.mark.parametrize("model", ["demo-draft", "demo-eagle"])
def test_what_drafting_computes_is_recorded_before_the_engine_is_ready(model: str) -> None:
    """Drafts that are computed as they are would be as good, and take twice as long."""
    llm = LLM("demo", config=Config(speculation=SpeculationConfig(model=model)))
    speculator = llm.engine.executor._runner.drafter.speculator
    assert [kind is not None for kind in speculator._next._recorded.values()] == [True]
    params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    llm.generate("def add(a, b):", params, use_tqdm=False)
    for made in (speculator._next, getattr(speculator, "_first", speculator._next)):
        assert all(kind is not None for kind in made._recorded.values())
    llm.shutdown()


def test_speculators_that_do_not_ask_for_it_are_not_called_early(cases, monkeypatch) -> None:
    """Nothing but sequences' rows is what the contract promises them."""
    asked: list[list[int]] = []
    propose = FaultySpeculator.propose

    def seen(self, drafting):
        asked.append(drafting.slots.tolist())
        return propose(self, drafting)

    monkeypatch.setattr(FaultySpeculator, "propose", seen)
    folder, prompts, wanted = cases[FAMILIES[0]]
    config = configure(folder, speculation={"method": "faulty", "adaptive": False})
    driver = Driver(config, registry_with_fakes())
    assert asked == []
    assert driver.generate(prompts, GREEDY) == wanted
    assert asked
