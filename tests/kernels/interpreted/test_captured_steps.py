"""Captured steps over Triton's kernels: copies play graphs, kernels are interpreted."""

from pathlib import Path

import pytest

from quire.backends.attention import triton_paged
from quire.backends.attention.triton_alike import TritonAlike
from quire.backends.attention.triton_paged import TritonPaged
from quire.backends.kernels.slots import TritonSlots
from quire.core.contracts.capabilities import Capabilities
from quire.core.request import SamplingParams
from quire.plugins.platforms.cpu import CPU
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.test_captured_drafts import Again, captured
from tests.engine.test_parity import greedy, prompts_of

__all__ = ("captured",)

COUNT = 8


@pytest.mark.parametrize("backend", [TritonPaged, TritonAlike])
def test_greedy_tokens(
    backend: type[TritonPaged],
    captured: list[Again],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class OnHost(backend):  # type: ignore[misc, valid-type]
        capabilities = Capabilities(features=backend.capabilities.features)

    monkeypatch.setattr(triton_paged, "_processors", lambda device, kv_dtype: 2)
    monkeypatch.setattr("quire.backends.attention.cpu.CPUAttention", OnHost)
    model = make("Llama", 2, tmp_path)
    prompts = prompts_of(3)
    driver = Driver(
        make_config(
            tmp_path,
            attention={"backend": "cpu"},
            cache={"block_size": 16, "num_blocks": 60},
            schedule={"max_num_batched_tokens": 16},
        )
    )
    params = SamplingParams(temperature=0, max_tokens=COUNT)
    assert driver.generate(prompts, params) == [greedy(model, each, COUNT) for each in prompts]
    decodes, chunks = captured
    assert decodes.launches and chunks.launches


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("method", ["none", "ngram", "draft_model"])
def test_what_surrounds_the_model(
    captured: list[Again],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    method: str,
    overlap: bool,
) -> None:
    monkeypatch.setattr(CPU, "slot_kernels", lambda self: TritonSlots())
    model = make("Llama", 2, tmp_path)
    prompts = prompts_of(3)
    speculation = {
        "none": {},
        "ngram": {"method": "ngram", "prompt_lookup_min": 1, "adaptive": False},
        "draft_model": {"model": str(tmp_path), "adaptive": False},
    }[method]
    driver = Driver(
        make_config(
            tmp_path,
            attention={"backend": "cpu"},
            cache={"block_size": 16, "num_blocks": 60},
            schedule={"max_num_batched_tokens": 16, "overlap": overlap},
            speculation=speculation,
        )
    )
    params = SamplingParams(temperature=0, max_tokens=3 * COUNT)
    wanted = [greedy(model, each, 3 * COUNT) for each in prompts]
    assert driver.generate(prompts, params) == wanted
    assert all(capturing.launches for capturing in captured)
    stats = driver.engine.stats()
    if method == "draft_model":
        assert stats.accepted_tokens > 0.8 * stats.draft_tokens > 0
