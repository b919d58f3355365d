"""The embedded checkpoints and the curriculum that judges them."""

import itertools
from pathlib import Path

import pytest
import torch
import transformers

from quire import LLM, SamplingParams
from quire.plugins.demo.curriculum import held_out, score, train_chats, valid_json

DEMO = Path(__file__).parents[2] / "plugins" / "demo"


def test_both_fit_in_the_wheel() -> None:
    files = [path for name in ("model", "draft") for path in (DEMO / name).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20


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


def test_the_model_answers_what_the_curriculum_asks() -> None:
    """Far below the scores of the model card, and far above chance."""
    llm = LLM("demo", dtype="float32")
    examples = held_out(6, seed=5)
    chats = [example.messages for example in examples]
    params = SamplingParams(temperature=0, max_tokens=120)
    tools = [example.tools or None for example in examples]
    outputs = [
        llm.chat(chat, params, tools=declared, use_tqdm=False)[0]
        for chat, declared in zip(chats, tools, strict=True)
    ]
    texts = [output.outputs[0].text for output in outputs]
    right = [score(example, text) for example, text in zip(examples, texts, strict=True)]
    assert sum(right) / len(right) > 0.85
    for example, text in zip(examples, texts, strict=True):
        if example.wants_json:
            assert valid_json(text)
