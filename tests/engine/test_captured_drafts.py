"""What captured steps do with drafts, run on the host, where copies play CUDA's part.

Steps that verify, and proposals, are made of tensors alone so that a graph can hold them. Here
their work is run again at every launch, over a backend that reads lengths where a graph would.
"""

import dataclasses
import random

import numpy as np
import pytest
import torch

from quire.backends.attention.reference import Reference
from quire.core import resolve
from quire.core.contracts.capabilities import Capabilities
from quire.core.contracts.platform import Platform
from quire.core.request import SamplingParams
from quire.core.run import capture, chunk_graphs, draft_graphs, graphs
from quire.core.run.decode_inputs import DecodeInputs
from quire.core.run.mailbox import Posted
from quire.core.run.runner import PendingStep, Runner
from quire.core.run.slots import SlotTable
from quire.core.run.staging import Staging
from quire.plugins.platforms.cpu import CPU
from quire.plugins.speculation import eagle
from tests.engine.checkpoints import make
from tests.engine.driver import Driver
from tests.engine.heads import Oracle, make_head, record_proposals
from tests.engine.host_slots import HostSlots
from tests.engine.test_parity import GREEDY, LENGTHS, MODES, configure, greedy, prompts_of
from tests.engine.test_unseen_steps import alternate, arrive


def put(result, found) -> None:
    """Copy what tensors hold into those of the first run."""
    if isinstance(result, torch.Tensor):
        result.copy_(found)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            put(getattr(result, field.name), getattr(found, field.name))
    elif isinstance(result, tuple):
        for part, other in zip(result, found, strict=True):
            put(part, other)


class Again:
    """Runs work once in advance, as before a capture, and again at every launch."""

    def __init__(self, device) -> None:
        self.launches = 0

    def __call__(self, work):
        result = work()

        def replay() -> None:
            self.launches += 1
            put(result, work())

        return replay, result

    def forget(self) -> None:
        pass


class Lengths(Reference):
    """Looks at no bound of the host's, as a backend with graphs would not."""

    capabilities = Capabilities(
        features=Reference.capabilities.features | {"graphs", "chunk_graphs"}
    )

    def chunk_plan(self, query_lengths, host_lengths, num_decodes, num_tokens):
        return np.array([len(query_lengths)])

    def prepare(self, batch):
        batch.host_lengths = batch.lengths.tolist()
        if batch.chunk_plan is not None:
            rows = int(batch.chunk_plan)
            batch.query_lengths = batch.query_start.diff().tolist()[:rows]
            batch.host_lengths = batch.host_lengths[:rows]
        return super().prepare(batch)


def by_length(self, num_rows, longest, *, shares_prefixes=False):
    return longest.bit_length()


class Greedy:
    def __call__(self, logits, slots, lengths, table, out, *, tokens=None, filters=True):
        out.copy_(logits.argmax(-1))
        if tokens is not None:
            tokens[slots, lengths] = out.to(tokens.dtype)


@pytest.fixture
def captured(monkeypatch) -> list[Again]:
    made: list[Again] = []

    def capturing(device):
        made.append(Again(device))
        return made[-1]

    def refill(self, target, values: np.ndarray) -> None:
        target[: len(values)] = torch.from_numpy(values)

    def choose(config, registry, source, platform: Platform, draft) -> None:
        draft.set("schedule.graphs", True, "in this test")

    run = graphs.DecodeGraphs.run

    def run_and_copy(self, plan):
        """The next launch overwrites what this one drew; a GPU's draws are on their way by then."""
        decoded = run(self, plan)
        if isinstance(decoded.drawn, Posted):
            return decoded
        return decoded._replace(drawn=decoded.drawn.clone())

    monkeypatch.setattr(graphs.DecodeGraphs, "run", run_and_copy)
    monkeypatch.setattr(graphs, "PATIENCE", 0)
    monkeypatch.setattr(chunk_graphs, "PATIENCE", 0)
    monkeypatch.setattr(capture, "Capturing", capturing)
    monkeypatch.setattr(Staging, "refill", refill)
    monkeypatch.setattr(resolve, "_choose_graphs", choose)
    monkeypatch.setattr(CPU, "draw", lambda *_: Greedy())
    monkeypatch.setattr("quire.backends.attention.cpu.CPUAttention", Lengths)
    return made


@pytest.fixture
def letters(monkeypatch) -> HostSlots:
    """Captured launches get their inputs, and leave their draws, in letters, as with kernels."""
    kernels = HostSlots()
    monkeypatch.setattr(CPU, "slot_kernels", lambda _: kernels)
    return kernels


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make("Llama", 0, folder)
    prompts = prompts_of(len(LENGTHS))
    return folder, prompts, [greedy(model, prompt, 32) for prompt in prompts]


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("none", "overlap"),
        ("ngram", "chunks"),
        ("ngram", "preemption-overlap"),
        *(("draft_model", mode) for mode in ("chunks", "chunks-overlap", "preemption-overlap")),
    ],
)
def test_greedy_tokens(case, captured, mode: str, method: str) -> None:
    folder, prompts, wanted = case
    speculation = {
        "none": {},
        "ngram": {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 5},
        "draft_model": {"model": str(folder)},
    }[method]
    config = configure(
        folder,
        attention={"backend": "cpu"},
        speculation=speculation | {"adaptive": False},
        **MODES[mode],
    )
    driver = Driver(config)
    assert driver.generate(prompts, GREEDY) == wanted
    assert driver.generate(prompts, GREEDY) == wanted  # From cached prefixes.
    *drafting, decodes, chunks = captured
    assert decodes.launches > 10 and chunks.launches > (method == "none")
    # Of a draft model, its proposals and what it reads before.
    assert len(drafting) == {"none": 0, "ngram": 1, "draft_model": 2}[method]
    assert all(capturing.launches > 3 for capturing in drafting)
    stats = driver.engine.stats()
    if method == "draft_model":
        assert stats.accepted_tokens > 0.85 * stats.draft_tokens


@pytest.mark.parametrize("mode", ["chunks", "preemption-overlap"])
@pytest.mark.parametrize("method", ["ngram", "draft_model"])
def test_greedy_tokens_by_letters(case, captured, letters, mode: str, method: str) -> None:
    test_greedy_tokens(case, captured, mode, method)


def test_a_step_whose_graph_is_missing(case, captured, monkeypatch) -> None:
    """It runs in a larger graph or without one, and is captured if it comes again and again."""
    folder, prompts, wanted = case
    monkeypatch.setattr(graphs, "PATIENCE", 16)
    steps: list[int] = []
    step = graphs.DecodeGraphs._step

    def count(self, shape):
        steps.append(shape.rows)
        return step(self, shape)

    monkeypatch.setattr(graphs.DecodeGraphs, "_step", count)
    driver = Driver(configure(folder, attention={"backend": "cpu"}))
    capturing, _ = captured
    assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    # 16 without a graph, then one captured in two runs, then launches of it.
    assert capturing.launches == 32 - 16
    driver.engine.executor._runner.graphs.forget()
    driver.engine.executor._runner.graphs._graph(graphs._Shape(4))
    capturing.launches = 0
    steps.clear()
    assert driver.generate(prompts[1:2], GREEDY) == wanted[1:2]
    assert capturing.launches == 31 and steps[:16] == [4] * 16


def test_while_somebody_waits_few_shapes_of_drafts_are_captured(
    case, captured, monkeypatch
) -> None:
    """One that holds all up to 16 rows; one that has long been held gets its own."""
    folder, prompts, wanted = case
    speculation = {"model": str(folder), "num_speculative_tokens": 3, "adaptive": False}
    schedule = {"max_num_seqs": 16}
    config = configure(
        folder, attention={"backend": "cpu"}, speculation=speculation, schedule=schedule
    )
    driver = Driver(config)
    runner = driver.engine.executor._runner
    decoding, drafting = runner.graphs, runner.drafter.graphs

    def made() -> tuple[set[int], set[int]]:
        verifying = {key[0] for key in decoding._graphs if key[2]}
        return verifying, {key[0] for key in drafting._graphs}

    assert driver.generate(prompts, GREEDY) == wanted
    assert made() == ({16}, {16})
    monkeypatch.setattr(graphs, "LONG_PATIENCE", 8)
    monkeypatch.setattr(draft_graphs, "LONG_PATIENCE", 8)
    for _ in range(8):
        assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    assert made() == ({4, 16}, {1, 16})


@pytest.mark.parametrize("method", ["none", "ngram", "draft_model"])
def test_shapes_captured_ahead_serve_every_length(case, captured, method: str) -> None:
    folder, prompts, wanted = case
    speculation = {
        "none": {},
        "ngram": {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 5},
        "draft_model": {"model": str(folder), "num_speculative_tokens": 3},
    }[method]
    config = configure(
        folder, attention={"backend": "cpu"}, speculation=speculation | {"adaptive": False}
    )
    driver = Driver(config)
    while driver.engine.idle():
        pass
    runner = driver.engine.executor._runner
    held = [graphs._graphs.copy() for graphs in runner.captured()]
    assert [len(graphs) for graphs in held] == [graphs.num_shapes for graphs in runner.captured()]
    assert driver.generate(prompts, GREEDY) == wanted
    assert [graphs._graphs for graphs in runner.captured()] == held
    assert not any(graphs.cold for graphs in runner.captured())
    assert all(capturing.launches for capturing in captured)


@pytest.mark.parametrize("method", ["none", "draft_model"])
@pytest.mark.parametrize("mode", ["whole", "overlap"])
def test_what_is_captured_first_is_cold(
    case, captured, monkeypatch, method: str, mode: str
) -> None:
    """Until nothing is missing any more; whoever measures steps is told."""
    folder, prompts, wanted = case
    monkeypatch.setattr(graphs, "PATIENCE", 3)
    cold: list[bool] = []
    wait = PendingStep.wait

    def note(self):
        outcome = wait(self)
        cold.append(outcome.cold)
        return outcome

    monkeypatch.setattr(PendingStep, "wait", note)
    speculation = {"none": {}, "draft_model": {"model": str(folder), "adaptive": False}}[method]
    sections = {"attention": {"backend": "cpu"}, "speculation": speculation}
    driver = Driver(configure(folder, **sections, **MODES[mode]))
    assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    # The prompt's step; and three without a graph and one that is captured, or one at once, which
    # drafts have.
    assert cold[0] and sum(cold) >= (4 if method == "none" else 2)
    for _ in range(8):
        cold.clear()
        assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    assert len(cold) > 4 and not any(cold)


def test_a_chain_without_a_graph_runs_in_a_longer_one(case, captured) -> None:
    folder, prompts, wanted = case
    speculation = {"model": str(folder), "num_speculative_tokens": 4, "adaptive": False}
    driver = Driver(configure(folder, attention={"backend": "cpu"}, speculation=speculation))
    drafts = driver.engine.executor._runner.drafter.graphs
    drafts._graph(draft_graphs._Shape(1, 4, 64))
    held = set(drafts._graphs)
    # Behind the first of four tokens there is room for two drafts.
    asked = SamplingParams(temperature=0, max_tokens=4)
    assert driver.generate(prompts[:1], asked) == [wanted[0][:4]]
    assert set(drafts._graphs) == held


@pytest.mark.parametrize("method", ["ngram", "draft_model"])
def test_drafts_for_one_sequence_are_captured_at_the_start(
    case, captured, monkeypatch, method: str
) -> None:
    """Of every length, and however its tokens are drawn: no step of it waits for a capture."""
    folder, prompts, wanted = case
    # As a backend whose captured steps depend on how long rows are.
    monkeypatch.setattr(Lengths, "graph_key", by_length)
    speculation = {
        "ngram": {"method": "ngram", "prompt_lookup_min": 1},
        "draft_model": {"model": str(folder)},
    }[method]
    speculation |= {"num_speculative_tokens": 5, "adaptive": False}
    driver = Driver(configure(folder, attention={"backend": "cpu"}, speculation=speculation))
    runner = driver.engine.executor._runner

    def made() -> tuple[set, set]:
        verifying = {key for key in runner.graphs._graphs if key[2]}
        return verifying, set(runner.drafter.graphs._graphs)

    held = made()
    for prompt, tokens in zip(prompts, wanted, strict=True):
        assert driver.generate([prompt], GREEDY) == [tokens]
    drawn = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=8, seed=0)
    scored = SamplingParams(temperature=0, max_tokens=8, logprobs=2)
    driver.generate(prompts[-1:], drawn)
    assert driver.generate(prompts[-1:], scored) == [wanted[-1][:8]]
    assert made() == held
    assert driver.engine.stats().draft_tokens > 0


def test_what_holds_a_shape_is_sought_once(case, captured, monkeypatch) -> None:
    """Seeking takes as long as a small model's step."""
    folder, prompts, wanted = case
    sought: list[object] = []
    for kind in (graphs.DecodeGraphs, draft_graphs.DraftGraphs):

        def seek(self, shape, search=kind._shapes_that_hold):
            sought.append(shape)
            return search(self, shape)

        monkeypatch.setattr(kind, "_shapes_that_hold", seek)
    monkeypatch.setattr(Lengths, "graph_key", by_length)
    speculation = {"model": str(folder), "num_speculative_tokens": 5, "adaptive": False}
    driver = Driver(configure(folder, attention={"backend": "cpu"}, speculation=speculation))
    # The second time from cached prefixes.
    for _ in range(3):
        assert driver.generate(prompts[-1:], GREEDY) == wanted[-1:]
    assert sought
    sought.clear()
    before = [capturing.launches for capturing in captured]
    assert driver.generate(prompts[-1:], GREEDY) == wanted[-1:]
    drafts, _, decodes, _ = (now.launches - old for now, old in zip(captured, before, strict=True))
    assert drafts > 3 and decodes > 3 and not sought


def test_what_kernels_do_not_draw_ends_with_hidden_states(case, captured) -> None:
    folder, prompts, wanted = case
    asked = SamplingParams(temperature=0, max_tokens=32, logprobs=2)
    config = configure(
        folder,
        attention={"backend": "cpu"},
        schedule={"overlap": True},
        speculation={"model": str(folder), "adaptive": False},
    )
    driver = Driver(config)
    assert driver.generate(prompts, asked) == wanted
    assert [len(driver.logprobs[str(index)]) for index in range(len(prompts))] == [32] * 4


@pytest.mark.parametrize("version", [1, 3])
def test_a_head_sees_captured_steps(case, captured, monkeypatch, version: int, tmp_path) -> None:
    folder, prompts, wanted = case
    model = make("Llama", 0, tmp_path)
    tensors = make_head(version, tmp_path, model)
    # As where shapes may not depend on values.
    monkeypatch.setattr(eagle, "_FEW_TOKENS", 1 << 20)
    proposals = record_proposals(monkeypatch)
    config = configure(
        folder,
        attention={"backend": "cpu"},
        schedule={"overlap": True, "max_num_batched_tokens": 7},
        speculation={"model": str(tmp_path), "num_speculative_tokens": 3, "adaptive": False},
    )
    driver = Driver(config)
    # One by one, so that chunks of prompts stand beside no drafts.
    assert [driver.generate([prompt], GREEDY)[0] for prompt in prompts] == wanted
    # Draws that kernels do not make are shown behind the captured step.
    asked = SamplingParams(temperature=0, max_tokens=8, logprobs=1)
    assert driver.generate(prompts, asked) == [tokens[:8] for tokens in wanted]
    assert all(capturing.launches > 10 for capturing in captured)
    oracle = Oracle(version, tensors, model.double())
    for tokens, drafts in proposals[5 :: len(proposals) // 9]:
        assert drafts == oracle.drafts(tokens, len(drafts))


@pytest.mark.parametrize("ahead", [False, True])
def test_captured_steps_that_a_head_does_not_see(
    case, captured, monkeypatch, ahead: bool, tmp_path
) -> None:
    """They run in graphs that show nothing, or, until there are any, in others."""
    folder, prompts, wanted = case
    make_head(3, tmp_path, make("Llama", 0, tmp_path / "model"))
    monkeypatch.setattr(eagle, "_FEW_TOKENS", 1 << 20)
    plans, seen = alternate(monkeypatch), []
    observe, execute = eagle.Eagle.observe, Runner.execute

    def count(self, observed) -> None:
        seen[-1] += 1
        observe(self, observed)

    def note(self, plan):
        seen.append(0)
        return execute(self, plan)

    monkeypatch.setattr(eagle.Eagle, "observe", count)
    monkeypatch.setattr(Runner, "execute", note)
    config = configure(
        folder,
        attention={"backend": "cpu"},
        schedule={"overlap": True, "max_num_batched_tokens": 7},
        speculation={"model": str(tmp_path), "num_speculative_tokens": 3},
    )
    driver = Driver(config)
    runner = driver.engine.executor._runner
    if ahead:
        monkeypatch.setattr(graphs, "PATIENCE", 1 << 20)
        monkeypatch.setattr(chunk_graphs, "PATIENCE", 1 << 20)
        for shape in [shape for shape in runner.graphs._shapes_to_come() if shape.shown]:
            runner.graphs._graph(shape)
        for shape in [shape for shape in runner.chunk_graphs._shapes if shape.shown]:
            runner.chunk_graphs._graph(shape)
    plans.clear()
    seen.clear()
    assert arrive(driver, prompts, GREEDY) == 2 * wanted
    found = {
        shown: [count for plan, count in zip(plans, seen, strict=True) if plan.shown == shown]
        for shown in (False, True)
    }
    assert len(found[False]) > 10 and len(found[True]) > 10 and min(found[True]) > 0
    assert max(found[False]) == int(ahead)
    assert {shape.shown for shape in runner.chunk_graphs._graphs} == {True, ahead}


@pytest.mark.parametrize("overlap", [False, True])
def test_steady_decoding_sends_nothing(case, captured, monkeypatch, overlap: bool) -> None:
    """Until a sequence ends or begins, a step finds in place what the one before has left, but for
    new blocks."""
    folder, prompts, wanted = case
    sent: list[int] = []
    appended: list[int] = []
    fill, append = DecodeInputs._fill, SlotTable.append

    def count(self, tokens, size):
        sent.append(len(tokens.slots))
        fill(self, tokens, size)

    def count_blocks(self, new):
        appended.append(len(new) // 3)
        append(self, new)

    def check(rows: int) -> None:
        """All rows were sent once, and each block."""
        assert sent == [rows]
        first, *others = filter(None, appended)
        # Those of the prompts came with these.
        assert first == sum(-(-length // block) for length in LENGTHS[:rows])
        assert sum(others) == sum(
            (length + len(wanted[0]) - 2) // block - (length - 1) // block
            for length in LENGTHS[:rows]
        )
        sent.clear()
        appended.clear()

    driver = Driver(configure(folder, attention={"backend": "cpu"}, schedule={"overlap": overlap}))
    block = driver.engine.info.config.cache.block_size
    while driver.engine.idle():
        pass
    monkeypatch.setattr(DecodeInputs, "_fill", count)
    monkeypatch.setattr(SlotTable, "append", count_blocks)
    decodes, _ = captured
    decodes.launches = 0
    # Nobody shares a prefix, and all end in the same step.
    assert driver.generate(prompts, GREEDY) == wanted
    assert decodes.launches >= 31
    check(len(prompts))
    # Others take the slots over, at other positions.
    assert driver.generate(prompts[:2][::-1], GREEDY) == wanted[:2][::-1]
    check(2)


@pytest.mark.parametrize("overlap", [False, True])
def test_steady_drafting_sends_what_has_changed(case, captured, monkeypatch, overlap: bool) -> None:
    """Beside one step, the next draws as many drafts from where the device alone knows it is."""
    folder, prompts, wanted = case
    speculation = {"model": str(folder), "num_speculative_tokens": 3, "adaptive": False}
    config = configure(
        folder,
        attention={"backend": "cpu"},
        speculation=speculation,
        schedule={"overlap": overlap},
    )
    driver = Driver(config)
    while driver.engine.idle():
        pass
    sent: list[int] = []
    refill = Staging.refill

    def count(self, target, values):
        sent.append(len(values))
        refill(self, target, values)

    monkeypatch.setattr(Staging, "refill", count)
    drafts, _, decodes, _ = captured
    drafts.launches = decodes.launches = 0
    assert driver.generate(prompts[:1], GREEDY) == wanted[:1]
    assert decodes.launches >= 8 and drafts.launches >= 8
    # One prompt; the first rows that draft, and the last ones, which may draft less.
    assert len(sent) <= (8 if overlap else decodes.launches + 5)


@pytest.mark.parametrize("seed", range(8))
def test_requests_that_come_and_go(case, captured, seed: int) -> None:
    """Slots change hands at any time, some of them while a step is under way."""
    folder, prompts, wanted = case
    rng = random.Random(seed)
    schedule = {"overlap": bool(seed % 2), "max_num_seqs": rng.choice((2, 5))}
    driver = Driver(configure(folder, attention={"backend": "cpu"}, schedule=schedule))
    asked: dict[str, list[int]] = {}
    while len(asked) < 24 or driver.engine.has_work():
        if len(asked) < 24 and rng.random() < 0.2:
            which, count = rng.randrange(len(prompts)), rng.randint(1, 32)
            name = str(len(asked))
            asked[name] = wanted[which][:count]
            params = SamplingParams(temperature=0, max_tokens=count)
            driver.add(name, prompts[which], params)
        if asked and rng.random() < 0.03:
            driver.engine.abort(rng.choice(list(asked)))
        for delta in driver.engine.step() if driver.engine.has_work() else ():
            driver.hear(delta)
    ended = [name for name, reason in driver.reasons.items() if reason == "length"]
    assert len(ended) > 12
    assert all(driver.tokens[name] == asked[name] for name in ended)


@pytest.mark.parametrize("seed", range(4))
def test_requests_that_come_and_go_by_letters(case, captured, letters, seed: int) -> None:
    test_requests_that_come_and_go(case, captured, seed)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_a_launch_that_fails_leaves_no_letter(
    case, captured, letters, monkeypatch, overlap: bool, behind: bool
) -> None:
    """Before or behind what takes it in: everybody starts over, and gets their own tokens, but for
    whoever was alone in it."""
    folder, prompts, wanted = case
    speculation = {"method": "ngram", "prompt_lookup_min": 1, "adaptive": False}
    schedule = {"overlap": overlap}
    config = configure(
        folder, attention={"backend": "cpu"}, speculation=speculation, schedule=schedule
    )
    driver = Driver(config)
    step, steps = graphs.DecodeGraphs._step, []

    def fail(self, shape):
        steps.append(shape)
        fails = len(steps) in (3, 8, 9)
        if fails and not behind:
            raise RuntimeError("a fault that this test plants")
        found = step(self, shape)
        if fails:
            raise RuntimeError("a fault that this test plants")
        return found

    while driver.engine.idle():
        pass
    monkeypatch.setattr(graphs.DecodeGraphs, "_step", fail)
    found = driver.generate(prompts, GREEDY)
    for tokens, expected in zip(found, wanted, strict=True):
        assert tokens == expected[: len(tokens)]
    assert sum(map(len, found)) > 32 * (len(wanted) - 1)
    assert len(steps) > 20


def test_where_kernels_are_only_compiled_inputs_are_somebodys(
    case, captured, letters, monkeypatch
) -> None:
    """What torch's operators do then is done, with what stands in the inputs."""
    folder, prompts, wanted = case
    run_sizes, compiled = graphs.DecodeGraphs.run_sizes, []

    def compile_first(self):
        slots = self._inputs.part(0, self._max_rows)
        self._inputs.pad(self._max_rows, verifies=True)
        letters.compiles = True
        self._inputs.receive()
        self._table.note(slots, self._located.lengths)
        letters.compiles = False
        compiled.append(slots.unique().tolist())
        run_sizes(self)

    monkeypatch.setattr(graphs.DecodeGraphs, "run_sizes", compile_first)
    driver = Driver(
        configure(folder, attention={"backend": "cpu"}, speculation={"method": "ngram"})
    )
    assert driver.generate(prompts, GREEDY) == wanted
    assert compiled == [[0]]
