"""Small tokenizers of every kind that models come with, made here and saved as models save them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Native

from quire.core.config import ModelConfig
from quire.core.source import Source
from quire.core.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog; the dog sleeps, the fox does not.",
    "def main():\n    for index in range(10):\n        print(index, 'quick')\n",
    "Größe, naïve façade, señor, 東京, 😀 and 你好 in one line.",
] * 20
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Native:
    """As in Llama 3, Qwen and GPT-2."""
    native = Native(models.BPE())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    native.train_from_iterator(CORPUS, trainer)
    native.add_tokens([AddedToken("<tool>", special=False), AddedToken("two words", special=False)])
    native.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="$A $B", special_tokens=[("<|begin|>", 0)]
    )
    return native


def sentence_piece() -> Native:
    """As in Llama 2 and Mistral: spaces as U+2581, other characters as bytes."""
    native = Native(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    native.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", *BYTES],
        limit_alphabet=40,
        show_progress=False,
    )
    native.train_from_iterator(CORPUS, trainer)
    raw = json.loads(native.to_str())
    raw["added_tokens"] = raw["added_tokens"][:3]
    raw["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    native = Native.from_str(json.dumps(raw))
    native.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="$A $B", special_tokens=[("<s>", 1)]
    )
    return native


def word_piece() -> Native:
    """A kind whose text is not its tokens' bytes joined."""
    native = Native(models.WordPiece(unk_token="[UNK]"))
    native.pre_tokenizer = pre_tokenizers.Whitespace()
    native.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]"], show_progress=False
    )
    native.train_from_iterator(CORPUS, trainer)
    return native


KINDS: dict[str, tuple[Callable[[], Native], dict[str, Any]]] = {
    "byte_level": (byte_level, {"bos_token": "<|begin|>", "eos_token": "<|end|>"}),
    "sentence_piece": (
        sentence_piece,
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "word_piece": (word_piece, {"unk_token": "[UNK]"}),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a folder with tokenizer.json and tokenizer_config.json."""
    made = {}
    for kind, (make, settings) in KINDS.items():
        made[kind] = folder = tmp_path_factory.mktemp(kind)
        make().save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return made


def load(folder: Path, **model: Any) -> Tokenizer:
    """The tokenizer of a folder."""
    source = Source(folder=folder, config={}, generation_config={})
    return Tokenizer.load(source, ModelConfig(name=str(folder), **model))


@pytest.fixture(scope="session")
def tokenizers(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    """Kind -> the tokenizer under test."""
    return {kind: load(folder) for kind, folder in folders.items()}
