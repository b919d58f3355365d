"""The programs that made the embedded checkpoints: data, training and its resumption."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from quire import LLM
from quire.plugins.demo import prepare
from quire.plugins.demo.curriculum import train_chats
from quire.plugins.demo.tokenizer import BOS, save_tokenizer
from quire.plugins.demo.train import Settings, Trainer, distil_loss
from quire.plugins.demo.train_eagle import HeadSettings, HeadTrainer

DEMO = Path(__file__).parents[2] / "plugins" / "demo"
PLAN = prepare.Plan(chats=60, snippets=40, seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "model" / "tokenizer.json"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A data folder without library files."""
    folder = tmp_path_factory.mktemp("data")
    save_tokenizer(tokenizer, folder / "tokenizer")
    code = prepare.encode(tokenizer, prepare.code_texts(PLAN, [])) | np.uint16(1 << 15)
    render = prepare.chat_renderer()
    chats = [
        render(messages=messages, tools=tools, bos_token=BOS)
        for messages, tools in itertools.islice(train_chats(PLAN.seed), PLAN.chats)
    ]
    chat = prepare.mark_answers(tokenizer, prepare.encode(tokenizer, chats))
    for name, words in (("code", code), ("chat", chat), ("valid_code", code[:500])):
        words.astype("<u2").tofile(folder / f"{name}.bin")
    chat[:500].astype("<u2").tofile(folder / "valid_chat.bin")
    (folder / "data.json").write_text(json.dumps({"held_out_bytes": 1500}))
    return folder


def settings() -> Settings:
    return Settings("tiny", steps=4, rows=2, length=64, warmup=2)


def test_only_answers_count_in_the_loss(tokenizer: Tokenizer) -> None:
    render = prepare.chat_renderer()
    chats = []
    answers = []
    for messages, tools in itertools.islice(train_chats(5), 20):
        chats.append(render(messages=messages, tools=tools, bos_token=BOS))
        answers += [m["content"] for m in messages if m["role"] == "assistant" and m["content"]]
    words = prepare.mark_answers(tokenizer, prepare.encode(tokenizer, chats))
    counted = words[(words >> 15) == 1] & np.uint16((1 << 15) - 1)
    said = tokenizer.decode(counted.tolist(), skip_special_tokens=False).split("<|end|>")
    assert [text for text in said if text and not text.startswith('{"name"')] == [
        text for text in answers if not text.startswith('{"name"')
    ]


def test_digits_and_line_ends_stand_alone(tokenizer: Tokenizer) -> None:
    for text, pieces in (
        ("12345", ["1", "2", "3", "4", "5"]),
        ("):\n    return", ["):", "Ċ", "ĠĠĠ", "Ġreturn"]),
    ):
        assert tokenizer.encode(text, add_special_tokens=False).tokens == pieces


def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(settings(), data, tmp_path / "whole", None)
    whole.run(check_every=2)

    class CutOffError(Exception):
        pass

    cut = Trainer(settings(), data, tmp_path / "cut", None)
    save = cut.save

    def save_once(step: int) -> None:
        if step > 2:
            raise CutOffError
        save(step)

    monkeypatch.setattr(cut, "save", save_once)
    with pytest.raises(CutOffError):
        cut.run(check_every=2)
    again = Trainer(settings(), data, tmp_path / "cut", None)
    again.resume()
    assert again.first_step == 2
    again.run(check_every=2)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / "export" / name).read_bytes() == (
            tmp_path / "cut" / "export" / name
        ).read_bytes()


def test_a_run_goes_on_with_its_own_settings_only(data: Path, tmp_path: Path) -> None:
    Trainer(settings(), data, tmp_path, None).save(2)
    other = Trainer(Settings("tiny", steps=5, rows=2, length=64), data, tmp_path, None)
    with pytest.raises(ValueError, match="other settings"):
        other.resume()


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(Settings("tiny", 16, rows=4, length=64, warmup=2), data, tmp_path, None)
    before = trainer.validate()
    trainer.run(check_every=16)
    after = trainer.validate()
    assert after["valid_chat"] < 0.9 * before["valid_chat"]
    assert after["bits_per_byte"] < 0.9 * before["bits_per_byte"]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"loss", "bits_per_byte"} <= set().union(*log)


def test_distillation_pulls_towards_the_teachers_first_choice() -> None:
    teacher = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
    counts = torch.tensor([[True, False]])
    right, wrong = 5 * torch.eye(3)[0], 5 * torch.eye(3)[2]
    near = distil_loss(torch.stack((right, wrong))[None], teacher, counts)
    far = distil_loss(torch.stack((wrong, wrong))[None], teacher, counts)
    assert near < 1 < far


def test_a_head_is_trained_and_goes_on_where_it_was_cut_off(data: Path, tmp_path: Path) -> None:
    few = HeadSettings(steps=6, rows=2, length=48, vocabulary=300, warmup=1)
    names = ("code", "chat", "valid_code", "valid_chat")
    words = {name: np.fromfile(data / f"{name}.bin", dtype="<u2") for name in names}
    texts = {name: torch.from_numpy(found.astype(np.int32)) for name, found in words.items()}
    for run in ("whole", "cut"):
        (tmp_path / run).mkdir()
        save_file(texts, tmp_path / run / "texts.safetensors")
    whole = HeadTrainer(few, tmp_path / "whole")
    before = whole.compute(whole.batch(0))[0].item()
    whole.run(seconds=600)
    assert whole.compute(whole.batch(0))[0].item() < before
    cut = HeadTrainer(few, tmp_path / "cut")
    cut.run(seconds=0)  # One step.
    again = HeadTrainer(few, tmp_path / "cut")
    again.resume()
    assert again.first_step == 1
    again.run(seconds=600)
    for name in ("model.safetensors", "config.json"):
        files = [tmp_path / run / "export" / name for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()
    llm = LLM("demo", speculative_config={"model": str(tmp_path / "whole" / "export")})
    assert llm.config.speculation.method == "eagle3"
