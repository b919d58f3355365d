"""The engine on a CUDA device: the same tokens as transformers, however the steps are run."""

import json
import re

import pytest
import torch

from quire import LLM, SamplingParams
from quire.backends.kernels import launch
from quire.core.config import CacheConfig, Config, SpeculationConfig
from quire.core.errors import CapacityError
from tests.engine.checkpoints import make
from tests.engine.driver import Driver, make_config
from tests.engine.test_parity import GREEDY, LENGTHS, greedy, prompts_of

pytestmark = pytest.mark.gpu

# The head of 16 is the smallest that the Triton backend takes.
CASES = [
    ("reference", "Llama", 1),
    ("reference", "Qwen2", 1),
    ("triton_paged", "Llama", 2),
    ("triton_paged", "Mistral", 2),
    ("triton_paged", "Qwen3", 1),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request, tmp_path_factory):
    backend, family, index = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    model = make(family, index, folder)
    prompts = prompts_of(len(LENGTHS))
    return backend, folder, prompts, [greedy(model, prompt, 32) for prompt in prompts]


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("chunk", "num_blocks"), [(256, 60), (7, 60), (256, 36)])
def test_greedy_tokens(case, chunk: int, num_blocks: int, overlap: bool, graphs: bool) -> None:
    backend, folder, prompts, wanted = case
    if graphs and backend == "reference":
        pytest.skip("the reference looks at lengths on the host")
    driver = Driver(
        make_config(
            folder,
            parallel={"platform": "cuda"},
            attention={"backend": backend},
            schedule={"overlap": overlap, "graphs": graphs, "max_num_batched_tokens": chunk},
            cache={"num_blocks": num_blocks, "block_size": 4 if backend == "reference" else 16},
        )
    )
    assert driver.generate(prompts, GREEDY) == wanted
    # Again, from cached prefixes.
    assert driver.generate(prompts, GREEDY) == wanted


def test_graphs_captured_while_idle_serve_later_steps(tmp_path) -> None:
    model = make("Llama", 2, tmp_path)
    prompts = prompts_of(len(LENGTHS))
    driver = Driver(
        make_config(
            tmp_path,
            parallel={"platform": "cuda"},
            attention={"backend": "triton_paged"},
            cache={"block_size": 16},
        )
    )
    while driver.engine.idle():
        pass
    assert driver.generate(prompts, GREEDY) == [greedy(model, prompt, 32) for prompt in prompts]


@pytest.mark.parametrize(
    "speculation",
    [
        {},
        {"method": "ngram"},
        {"method": "suffix"},
        {"model": "demo-draft"},
        {"model": "demo-eagle"},
    ],
    ids=str,
)
def test_kernels_are_loaded_before_anybody_waits(speculation, monkeypatch) -> None:
    """Those of few rows and of many, with prefixes in common or none, short rows and long."""
    loaded: dict[object, object] = {}
    monkeypatch.setattr(launch, "_variants", loaded)
    llm = LLM(
        "demo",
        config=Config(
            cache=CacheConfig(memory_gib=1), speculation=SpeculationConfig(**speculation)
        ),
    )
    at_first = set(loaded)
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    texts = [" ".join(f"line {line} of text {text}" for line in range(60)) for text in range(64)]
    for users in (1, 3, 8, 64):
        for prompts in ([text[:90] for text in texts], texts, [f"{texts[0]} {t}" for t in texts]):
            # What they have in common is read by one, for the others to find.
            llm.generate(prompts[:1], params, use_tqdm=False)
            llm.generate(prompts[:users], params, use_tqdm=False)
    assert [str(key) for key in loaded if key not in at_first] == []


def test_the_embedded_model_fills_what_is_left_of_the_device() -> None:
    llm = LLM("demo", gpu_memory_utilization=0.3)
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=40, top_p=0.9, logprobs=2)
    prompts = [[index + 5] * (1 + index % 60) for index in range(300)]
    first = llm.generate(prompts, params, use_tqdm=False)
    assert all(output.outputs[0].finish_reason in ("stop", "length") for output in first)
    # This process's own: others may run on the device.
    assert torch.cuda.memory_reserved() / torch.cuda.mem_get_info()[1] < 0.32
    llm.engine.scheduler.check()
    assert llm.engine.stats().blocks_used == 0


def test_what_packing_needed_beside_the_weights_is_not_counted_as_weights(tmp_path) -> None:
    """Packing one product's words spreads them out, which takes more than the whole model here."""
    vocab, width, inner = 4096, 4096, 14336
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "quantization_config": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
            "version": "gemm",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CapacityError, match="of weights") as refused:
        Driver(
            make_config(
                tmp_path,
                model={"load_format": "dummy", "dtype": "bfloat16"},
                parallel={"platform": "cuda"},
                cache={"num_blocks": 2, "block_size": 16},
            )
        )
    said = re.search(r"([\d.]+) (M|G)iB of weights", str(refused.value))
    assert said is not None
    mib = float(said[1]) * (1024 if said[2] == "G" else 1)
    words = (width * (2 * width + 2 * 1024) + 3 * width * inner) / 2
    # A little is the device's own: kernels that were loaded.
    assert mib < 1.05 * (words + 2 * vocab * width * 2) / 2**20 + 250
