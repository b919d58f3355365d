"""The engine on a CUDA device: the same tokens as transformers, launched ahead or not."""

import pytest
import torch

from quire import LLM, SamplingParams
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.test_parity import GREEDY, LENGTHS, greedy, prompts_of

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("chunk", [256, 7])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_greedy_tokens(tmp_path, family: str, chunk: int, overlap: bool) -> None:
    model = make(family, 1, tmp_path)
    prompts = prompts_of(len(LENGTHS))
    wanted = [greedy(model, prompt, 32) for prompt in prompts]
    driver = Driver(
        make_config(
            tmp_path,
            parallel={"platform": "cuda"},
            schedule={"overlap": overlap, "max_num_batched_tokens": chunk},
            cache={"num_blocks": 60},
        )
    )
    assert driver.generate(prompts, GREEDY) == wanted
    assert driver.generate(prompts, GREEDY) == wanted


def test_the_embedded_model_fills_what_is_left_of_the_device() -> None:
    llm = LLM("demo", gpu_memory_utilization=0.3)
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=40, top_p=0.9, logprobs=2)
    prompts = [[index + 5] * (1 + index % 60) for index in range(300)]
    first = llm.generate(prompts, params, use_tqdm=False)
    assert all(output.outputs[0].finish_reason in ("stop", "length") for output in first)
    used = torch.cuda.mem_get_info()
    assert (used[1] - used[0]) / used[1] < 0.32
    llm.engine.scheduler.check()
    assert llm.engine.stats().blocks_used == 0
