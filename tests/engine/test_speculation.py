"""Speculative decoding gives plain decoding's tokens, whatever is drafted and however steps run."""

import itertools
from typing import Any

import pytest
from scipy import stats

import quire.core.run.runner as runner_module
from quire import LLM, SamplingParams
from quire.core.config import Config, SpeculationConfig
from quire.core.errors import CheckpointError, ConfigError
from quire.core.run.verify import verify
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.test_combinations import PAIRS, essence, params
from tests.engine.test_parity import GREEDY, LENGTHS, MODES, configure, greedy, prompts_of
from tests.fakes.speculator import FaultySpeculator, GuidedSpeculator, registry_with_fakes

NGRAM = {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 5}
FAMILIES = [("Llama", 0), ("Mistral", 1)]
WAYS = [("guided", "cpu"), ("guided", "reference"), ("ngram", "cpu"), ("draft_model", "cpu")]
CODE = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef mul("


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make(*request.param, folder)
    prompts = prompts_of(len(LENGTHS))
    return folder, prompts, [greedy(model, prompt, 32) for prompt in prompts]


@pytest.mark.parametrize(("method", "backend"), WAYS, ids="-".join)
@pytest.mark.parametrize("mode", MODES)
def test_greedy_tokens(case, mode: str, method: str, backend: str, monkeypatch) -> None:
    folder, prompts, wanted = case
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
        assert stats.accepted_at[-1] > 0
        assert 0.4 < stats.accepted_tokens / stats.draft_tokens < 0.95
    elif method == "draft_model":
        assert stats.accepted_tokens > 0.9 * stats.draft_tokens
    assert driver.generate(prompts, GREEDY) == wanted  # From cached prefixes.


@pytest.fixture(scope="module")
def plain() -> list[list[Any]]:
    llm = LLM("demo", dtype="float32", max_model_len=128, enable_prefix_caching=False)
    return [essence(llm.generate(CODE, params(pair), use_tqdm=False)[0]) for pair in PAIRS]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("method", ["ngram", "draft_model"])
def test_every_pair_of_what_requests_ask_for(plain, method, adaptive, overlap) -> None:
    """All together, in a cache that is too small for them: what each gives alone and plainly."""
    speculation = NGRAM if method == "ngram" else {"model": "demo-draft"}
    config = make_config(
        "demo",
        model={"max_model_len": 128},
        cache={"num_blocks": 60},
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


def test_log_probabilities_are_those_of_plain_decoding() -> None:
    asked = SamplingParams(temperature=0.9, seed=4, max_tokens=40, logprobs=3)
    config = Config(speculation=SpeculationConfig(model="demo-draft", adaptive=False))
    found = LLM("demo", dtype="float32", config=config).generate(CODE, asked, use_tqdm=False)
    wanted = LLM("demo", dtype="float32").generate(CODE, asked, use_tqdm=False)
    assert found[0].outputs[0].logprobs == wanted[0].outputs[0].logprobs


def test_a_stop_string_inside_accepted_drafts_cuts_there() -> None:
    config = Config(speculation=SpeculationConfig(method="ngram", adaptive=False))
    llm, wanted = LLM("demo", config=config), LLM("demo")
    for stop, temperature in itertools.product(
        (["return"], ["b)"], ["\n\n"], ["add", "mul"]), (0, 0.8)
    ):
        asked = SamplingParams(temperature=temperature, seed=1, max_tokens=48, stop=stop)
        assert essence(llm.generate(CODE, asked, use_tqdm=False)[0]) == essence(
            wanted.generate(CODE, asked, use_tqdm=False)[0]
        )
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


def test_every_position_is_distributed_as_without_drafts(tmp_path) -> None:
    make("Llama", 0, tmp_path)
    wanted = draw_three(tmp_path)
    found = draw_three(tmp_path, **NGRAM, adaptive=False)
    assert min(p_values(found, wanted)) > 0.001


def test_a_wrong_rule_of_acceptance_is_caught(tmp_path, monkeypatch) -> None:
    """Accepting every draft that is not unlikely is what several engines once did."""

    def lenient(drawn, slots, lengths, offsets, last, table):
        drafts = table.tokens[slots, lengths].long()
        keep = (lengths + drawn) % 2 == 0
        return verify(drawn.where(last | ~keep, drafts), slots, lengths, offsets, last, table)

    make("Llama", 0, tmp_path)
    wanted = draw_three(tmp_path)
    monkeypatch.setattr(runner_module, "verify", lenient)
    found = draw_three(tmp_path, **NGRAM, adaptive=False)
    assert min(p_values(found, wanted)) < 0.001


# Faults


def test_a_speculator_on_the_host_and_the_overlapped_loop_do_not_go_together(tmp_path) -> None:
    make("Llama", 0, tmp_path)
    config = configure(tmp_path, speculation={"method": "lookup"}, schedule={"overlap": True})
    with pytest.raises(ConfigError, match="needs each step's tokens"):
        Driver(config, registry_with_fakes())


@pytest.mark.parametrize("fault", ["raises", "shape", "dtype", "vocabulary", "negative"])
def test_a_broken_speculator_costs_drafts_and_no_token(fault, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(FaultySpeculator, "fault", fault)
    model = make("Llama", 0, tmp_path)
    prompts = prompts_of(len(LENGTHS))
    config = configure(tmp_path, speculation={"method": "faulty", "adaptive": False})
    driver = Driver(config, registry_with_fakes())
    assert driver.generate(prompts, GREEDY) == [greedy(model, p, 32) for p in prompts]
    assert set(driver.reasons.values()) == {"length"}


def test_a_request_that_breaks_the_step_dies_alone(monkeypatch) -> None:
    config = Config(speculation=SpeculationConfig(model="demo-draft", adaptive=False))
    llm = LLM("demo", dtype="float32", config=config)
    forward = llm.engine.executor._runner.model.forward

    def faulty(token_ids, positions, attend):
        if bool((token_ids == 4000).any()):
            raise RuntimeError("planted")
        return forward(token_ids, positions, attend)

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
        ({"model": "no-such/model/at-all"}, CheckpointError, "no-such"),
        ({"method": "ngram", "prompt_lookup_min": 5}, ConfigError, "prompt_lookup_min is 5"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(speculation, error, words) -> None:
    with pytest.raises(error, match=words):
        LLM.from_config(make_config("demo", speculation=speculation))


def test_a_draft_with_another_vocabulary_is_refused(tmp_path) -> None:
    make("Llama", 0, tmp_path)
    with pytest.raises(ConfigError, match="a vocabulary of 96 and the model one of 4096"):
        LLM.from_config(make_config("demo", speculation={"model": str(tmp_path)}))


def test_names_of_vllm_choose_the_method() -> None:
    llm = LLM("demo", speculative_model="[ngram]")
    assert (llm.config.speculation.method, llm.config.speculation.model) == ("ngram", None)
    llm = LLM("demo", speculative_config={"model": "demo-draft", "num_speculative_tokens": 3})
    assert llm.config.speculation.method == "draft_model"
    assert llm.config.speculation.num_speculative_tokens == 3


@pytest.mark.parametrize(
    "draft", [{"method": "ngram"}, {"model": "demo-draft", "quantization": "int8"}]
)
def test_quantized_models_and_drafts(draft) -> None:
    prompts = ["def add(a, b):\n", "import os\nimport sys\n"]
    greedily = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    made = []
    for changes in ({}, {"speculative_config": draft}):
        llm = LLM("demo", quantization="fp8", **changes)
        outputs = llm.generate(prompts, greedily, use_tqdm=False)
        made.append([output.outputs[0].token_ids for output in outputs])
        accepted = llm.engine.stats().accepted_tokens
        llm.shutdown()
    assert made[0] == made[1] and accepted > 0
