"""Speculation on a CUDA device: plain decoding's tokens, in captured steps and overlapped ones."""

import pytest
import torch

from quire import LLM, SamplingParams
from quire.core.run.chunk_graphs import ChunkGraphs
from quire.plugins.demo.curriculum import held_out
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.heads import make_head
from tests.engine.test_parity import GREEDY, LENGTHS, greedy, prompts_of
from tests.engine.test_unseen_steps import alternate, arrive

pytestmark = pytest.mark.gpu

METHODS = ("ngram", "suffix", "draft_model", "eagle", "eagle3")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make("Llama", 2, folder)
    prompts = prompts_of(len(LENGTHS))
    sections = {
        "ngram": {"method": "ngram", "prompt_lookup_min": 1, "num_speculative_tokens": 5},
        "suffix": {"method": "suffix"},
        "draft_model": {"model": str(folder)},
    }
    for version, method in ((1, "eagle"), (3, "eagle3")):
        head = tmp_path_factory.mktemp("head")
        make_head(version, head, model, head_dim=16)
        sections[method] = {"model": str(head)}
    return folder, prompts, [greedy(model, prompt, 32) for prompt in prompts], sections


def driver_of(folder, *, backend="triton_paged", **sections):
    """A driver on the device; blocks are as small as the backend allows."""
    cache = {"num_blocks": 60, "block_size": 4 if backend == "reference" else 16}
    speculation = {"adaptive": False} | sections.pop("speculation", {})
    return Driver(
        make_config(
            folder,
            parallel={"platform": "cuda"},
            attention={"backend": backend},
            cache=cache | sections.pop("cache", {}),
            speculation=speculation,
            **sections,
        )
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("chunk", "num_blocks"), [(256, 60), (7, 60), (256, 36)])
def test_greedy_tokens(case, method, chunk: int, num_blocks: int, overlap: bool, graphs: bool):
    folder, prompts, wanted, sections = case
    driver = driver_of(
        folder,
        schedule={"overlap": overlap, "graphs": graphs, "max_num_batched_tokens": chunk},
        cache={"num_blocks": num_blocks},
        speculation=sections[method],
    )
    for _ in range(2):  # The second time from cached prefixes.
        assert driver.generate(prompts, GREEDY) == wanted
    stats = driver.engine.stats()
    if method == "draft_model":
        assert stats.accepted_tokens > 0.8 * stats.draft_tokens


@pytest.mark.parametrize("overlap", [False, True])
def test_a_backend_that_reads_lengths_on_the_host(case, overlap: bool) -> None:
    folder, prompts, wanted, sections = case
    for method in ("ngram", "eagle3"):
        driver = driver_of(
            folder,
            backend="reference",
            schedule={"overlap": overlap},
            speculation=sections[method],
        )
        assert driver.generate(prompts, GREEDY) == wanted


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_draws_at_random_are_those_of_plain_decoding(case, method, graphs: bool) -> None:
    folder, prompts, _, sections = case
    schedule = {"overlap": True, "graphs": graphs}
    for changes in (
        {"temperature": 0.8},
        {"temperature": 1.2, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.9, "presence_penalty": 0.5, "logprobs": 2},
    ):
        asked = SamplingParams(seed=5, max_tokens=24, **changes)
        plain = driver_of(folder, schedule=schedule).generate(prompts, asked)
        found = driver_of(folder, schedule=schedule, speculation=sections[method])
        assert found.generate(prompts, asked) == plain, changes


def accepted(graphs: bool, overlap: bool, platform: str = "cuda") -> float:
    """Share of the embedded head's drafts that are accepted."""
    config = make_config(
        "demo",
        model={"max_model_len": 256},
        cache={"block_size": 16},
        parallel={"platform": platform},
        schedule={"overlap": overlap, "graphs": graphs, "max_num_batched_tokens": 64},
        speculation={"model": "demo-eagle", "adaptive": False},
    )
    llm = LLM.from_config(config)
    messages = [example.messages for example in held_out(2, seed=3)]
    llm.chat(messages, SamplingParams(temperature=0, max_tokens=48), use_tqdm=False)
    stats = llm.engine.stats()
    llm.shutdown()
    return stats.accepted_tokens / stats.draft_tokens


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_head_is_shown_what_it_is_shown_on_a_cpu(graphs: bool, overlap: bool) -> None:
    """Else it would be right less often."""
    assert accepted(graphs, overlap) > accepted(False, False, "cpu") - 0.03


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_steps_that_a_head_does_not_see(case, method, graphs: bool, monkeypatch) -> None:
    """Captured while idle, while somebody waits, or not at all."""
    folder, prompts, wanted, sections = case
    plans = alternate(monkeypatch)
    driver = driver_of(
        folder,
        schedule={"overlap": True, "graphs": graphs},
        speculation=sections[method] | {"adaptive": True},
    )
    for ahead in (False, True):
        while ahead and driver.engine.idle():
            pass
        assert arrive(driver, prompts, GREEDY) == 2 * wanted
    shown = [plan.shown for plan in plans]
    assert 10 < sum(shown) < len(shown) - 10


@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_a_head_is_shown_nothing_that_no_step_has_left(case, method, monkeypatch) -> None:
    """Showing it a chunk is captured behind the chunk, and runs once before that."""
    folder, prompts, wanted, sections = case
    capture, nowhere = ChunkGraphs._capture, 1 << 40
    fillings, highest = [], []

    def captured(self, shape):
        # Memory that graphs share is full of what names no place in the cache.
        size = (1 << 22,)
        fill, _ = self._capturing(lambda: torch.full(size, nowhere, device="cuda").sum())
        fill()
        fillings.append(fill)
        observe = self._observe

        def watched(observed):
            if not torch.cuda.is_current_stream_capturing():
                highest.append(int(observed.batch.write_slots.max()))
                if highest[-1] >= nowhere:
                    return
            observe(observed)

        with monkeypatch.context() as patched:
            patched.setattr(self, "_observe", watched)
            return capture(self, shape)

    monkeypatch.setattr(ChunkGraphs, "_capture", captured)
    driver = driver_of(folder, schedule={"overlap": True}, speculation=sections[method])
    while driver.engine.idle():
        pass
    assert driver.generate(prompts, GREEDY) == wanted
    assert highest and max(highest) < nowhere
