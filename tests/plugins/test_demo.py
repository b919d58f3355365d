"""The embedded checkpoints and the curriculum that judges them."""

import ast
import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
import transformers

from quire import LLM, SamplingParams
from quire.plugins.demo.curriculum import held_out, score, train_chats, valid_json

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "plugins" / "demo"


@pytest.fixture(scope="module")
def demo() -> LLM:
    return LLM("demo", dtype="float32")


def test_they_fit_in_the_wheel() -> None:
    files = [path for name in ("model", "draft", "eagle") for path in (DEMO / name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20


def test_the_model_card_describes_these_files() -> None:
    card = (DEMO / "MODEL_CARD.md").read_text(encoding="utf-8")
    weights = [f"{name}/model.safetensors" for name in ("model", "draft", "eagle")]
    for path in (*weights, "model/tokenizer.json"):
        assert hashlib.sha256((DEMO / path).read_bytes()).hexdigest() in card
    assert (DEMO / "model/tokenizer.json").read_bytes() == (
        DEMO / "draft/tokenizer.json"
    ).read_bytes()
    data = json.loads((ROOT / "docs/demo/data.json").read_text(encoding="utf-8"))
    assert data["corpus_sha256"] in card
    for stream in data["streams"].values():
        assert stream["sha256"] in card
    licences = (DEMO / "licenses/LICENSES.txt").read_text(encoding="utf-8")
    for origin in data["origins"]:
        assert f"\n{origin}\n" in licences


@pytest.mark.parametrize("name", ["demo", "demo-draft"])
def test_they_are_named_and_transformers_agrees(name: str) -> None:
    folder = DEMO / ("model" if name == "demo" else "draft")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    llm = LLM(name, dtype="float32")
    scored = llm.score("import os\n\n\ndef main() -> None:\n", use_tqdm=False)[0]
    ids = scored.prompt_token_ids
    with torch.no_grad():
        exact = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert scored.prompt_logprobs is not None
    for position in range(1, len(ids)):
        found = scored.prompt_logprobs[position]
        assert found is not None
        assert found[ids[position]].logprob == pytest.approx(
            float(exact[position - 1, ids[position]]), abs=1e-4
        )


def test_no_held_out_prompt_is_trained_on() -> None:
    held = {
        message["content"]
        for example in held_out(20)
        for message in example.messages
        if message["role"] == "user"
    }
    trained = {
        message["content"]
        for messages, *_ in itertools.islice(train_chats(17), 3000)
        for message in messages
        if message["role"] == "user"
    }
    assert len(held) > 100
    assert not held & trained


def test_the_model_answers_what_the_curriculum_asks(demo: LLM) -> None:
    """Far below the scores of the model card, and far above chance."""
    examples = held_out(4, seed=5)
    encode = demo.tokenizer.encode_chat
    prompts = [encode(example.messages, tools=example.tools) for example in examples]
    params = SamplingParams(temperature=0, max_tokens=120)
    outputs = demo.generate(prompts, params, use_tqdm=False)
    texts = [output.outputs[0].text for output in outputs]
    right = [score(example, text) for example, text in zip(examples, texts, strict=True)]
    assert sum(right) / len(right) > 0.85
    for example, text in zip(examples, texts, strict=True):
        if example.wants_json:
            assert valid_json(text)


@pytest.mark.parametrize("end", ["", "\n"])
def test_it_completes_a_function_from_its_head(demo: LLM, end: str) -> None:
    """A prompt may end before or after the line end: both are places where tokens end."""
    prompt = "def binary_search(items, target):" + end
    params = SamplingParams(temperature=0, max_tokens=100)
    text = prompt + demo.generate(prompt, params, use_tqdm=False)[0].outputs[0].text
    function = ast.parse(text[: text.index("\n\n\n")]).body[0]
    assert isinstance(function, ast.FunctionDef)
    kinds = {type(node) for node in ast.walk(function)}
    assert {ast.While, ast.If, ast.Return} <= kinds


def test_it_adds(demo: LLM) -> None:
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    params = SamplingParams(temperature=0, max_tokens=20)
    answer = demo.chat(question, params, use_tqdm=False)[0].outputs[0].text
    assert answer == "17 + 25 = 42."
