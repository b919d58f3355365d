"""Of a prompt's last layer only what somebody wants is computed."""

from typing import Any

import pytest

from quire.core.layers.mlp import GatedMLP
from quire.core.request import SamplingParams
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config

LAYERS = 2
PROMPT = [token % 90 for token in range(40)]
ONE = SamplingParams(temperature=0, max_tokens=1)


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Tokens that go through the first and the last layer, a pair for each step."""
    make("Llama", 0, tmp_path)

    def run(
        prompts: list[list[int]], params: SamplingParams, **sections: Any
    ) -> list[tuple[int, int]]:
        driver = Driver(make_config(tmp_path, **sections))
        rows: list[int] = []
        multiply = GatedMLP.__call__

        def counting(self, x, **more):
            rows.append(len(x))
            return multiply(self, x, **more)

        with monkeypatch.context() as patched:
            patched.setattr(GatedMLP, "__call__", counting)
            driver.generate(prompts, params)
        return list(zip(rows[::LAYERS], rows[LAYERS - 1 :: LAYERS], strict=True))

    return run


def test_a_prompt_goes_on_with_its_last_token_alone(count) -> None:
    assert count([PROMPT], ONE) == [(40, 1)]
    assert count([PROMPT, PROMPT[::-1]], ONE) == [(80, 2)]


def test_a_chunk_behind_which_nobody_draws_goes_on_with_one_token(count) -> None:
    schedule = {"max_num_batched_tokens": 16}
    assert count([PROMPT], ONE, schedule=schedule) == [(16, 1), (16, 1), (8, 1)]


def test_steps_in_which_most_tokens_draw_are_computed_whole(count) -> None:
    found = count([PROMPT[:1], PROMPT[:2]], SamplingParams(temperature=0, max_tokens=3))
    assert found == [(3, 3), (2, 2), (2, 2)]


def test_log_probabilities_of_a_prompt_need_all_of_it(count) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    assert count([PROMPT], params) == [(40, 40)]
