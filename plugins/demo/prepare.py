"""Make the training data: tokenizer, token streams and their record.

Run as `python -m quire.plugins.demo.prepare --out DATA`.  A stream holds one 16-bit word per
token: the token's id, and in the top bit whether the token counts in the loss.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from . import corpus, curriculum, snippets
from .tokenizer import BOS, CHAT_TEMPLATE, SPECIAL, save_tokenizer, train_tokenizer

__all__ = (
    "Plan",
    "Words",
    "chat_renderer",
    "chat_texts",
    "code_texts",
    "encode",
    "held_out_chat_texts",
    "main",
    "mark_answers",
    "prepare",
)

# As in `stream`, which needs torch: this program does not.
_LOSS_BIT = 1 << 15
Words = NDArray[np.uint16]


@dataclass(frozen=True)
class Plan:
    """Sizes and seed of the data.

    Attributes:
        chats: Training conversations.
        snippets: Source files of classic functions mixed into the code.
        seed: Seed of everything drawn.
        files: Library files at most, for trials; 0 takes all.
    """

    chats: int = 550_000
    snippets: int = 12_000
    seed: int = 17
    files: int = 0


def _to_json(value: Any) -> str:
    """Dump JSON as chat templates do, without escaping for HTML."""
    return json.dumps(value, ensure_ascii=False)


def chat_renderer() -> Callable[..., str]:
    """Return the chat template's render function."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _to_json
    return environment.from_string(CHAT_TEMPLATE).render


def _held_out_prompts() -> set[str]:
    """Return the last user turns of a large held-out draw."""
    prompts = set()
    for seed in range(3):
        for example in curriculum.held_out(400, seed):
            turns = [m["content"] for m in example.messages if m["role"] == "user"]
            prompts.add(turns[-1])
    return prompts


def chat_texts(plan: Plan) -> Iterator[str]:
    """Yield rendered training conversations.

    Args:
        plan: Sizes and seed.

    Yields:
        Conversations in the chat template's form.

    Raises:
        RuntimeError: If a conversation holds a held-out prompt.
    """
    render, held = chat_renderer(), _held_out_prompts()
    for messages, tools in islice(curriculum.train_chats(plan.seed), plan.chats):
        if any(m["role"] == "user" and m["content"] in held for m in messages):
            raise RuntimeError(f"a held-out prompt is in the training data: {messages}")
        yield render(messages=messages, tools=tools, bos_token=BOS)


def code_texts(plan: Plan, files: list[corpus.SourceFile]) -> list[str]:
    """Mix library files and classic functions, in a seeded order.

    Args:
        plan: Sizes and seed.
        files: The library corpus.
    """
    rng = Random(f"code {plan.seed}")
    texts = [file.text for file in files]
    texts += [snippets.source_file(rng) for _ in range(plan.snippets)]
    rng.shuffle(texts)
    return [BOS + text for text in texts]


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Words:
    """Encode texts one after another.

    Args:
        tokenizer: The tokenizer.
        texts: Texts that already start with `BOS`.
    """
    parts, source = [], iter(texts)
    while batch := list(islice(source, 2000)):
        encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        parts.append(np.concatenate([np.array(item.ids, dtype=np.uint16) for item in encoded]))
    return np.concatenate(parts)


def mark_answers(tokenizer: Tokenizer, ids: Words) -> Words:
    """Set the loss bit on the assistant's turns, their end included.

    Args:
        tokenizer: The tokenizer.
        ids: Concatenated conversations.
    """
    special = np.array([tokenizer.token_to_id(token) for token in SPECIAL])
    assistant = tokenizer.token_to_id("<|assistant|>")
    turns = np.where(np.isin(ids, special), np.arange(len(ids)), 0)
    last = np.maximum.accumulate(turns)
    speaking = np.concatenate([[False], (ids[last] == assistant)[:-1]])
    return ids | np.where(speaking, np.uint16(_LOSS_BIT), np.uint16(0))


def held_out_chat_texts(per_task: int, seed: int) -> Iterator[str]:
    """Yield held-out conversations with their right answers.

    Args:
        per_task: Conversations per task.
        seed: Seed of the draw.
    """
    render = chat_renderer()
    for example in curriculum.held_out(per_task, seed):
        answer = {"role": "assistant", "content": example.answer}
        yield render(messages=[*example.messages, answer], tools=example.tools, bos_token=BOS)


def _tokenizer_sample(plan: Plan, code: list[str]) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on."""
    yield from (text.removeprefix(BOS) for text in code[::4])
    sample = Plan(chats=min(60_000, plan.chats), seed=plan.seed)
    for text in chat_texts(sample):
        for token in SPECIAL:
            text = text.replace(token, " ")
        yield text


def _write(folder: Path, name: str, words: Words) -> dict[str, Any]:
    """Write a stream and describe it."""
    raw = words.astype("<u2").tobytes()
    (folder / f"{name}.bin").write_bytes(raw)
    return {"tokens": len(words), "sha256": hashlib.sha256(raw).hexdigest()}


def prepare(out: Path, plan: Plan) -> dict[str, Any]:
    """Write tokenizer and streams into a folder.

    Args:
        out: Folder for the data.
        plan: Sizes and seed.

    Returns:
        The data's record, also written as `data.json`.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = corpus.collect()[: plan.files or None]
    code = code_texts(plan, files)
    tokenizer = train_tokenizer(_tokenizer_sample(plan, code))
    save_tokenizer(tokenizer, out / "tokenizer")
    ones = np.uint16(_LOSS_BIT)
    held = [BOS + text for text in corpus.held_out_sources().values()]
    record: dict[str, Any] = {
        "python": sys.version.split()[0],
        "seed": plan.seed,
        "files": len(files),
        "characters": sum(len(file.text) for file in files),
        "origins": sorted(corpus.licences({file.origin for file in files})),
        "corpus_sha256": corpus.corpus_hash(files),
        "held_out_sha256": corpus.held_out_hash(),
        "conversations": plan.chats,
        "snippet_files": plan.snippets,
        "streams": {
            "code": _write(out, "code", encode(tokenizer, code) | ones),
            "chat": _write(
                out, "chat", mark_answers(tokenizer, encode(tokenizer, chat_texts(plan)))
            ),
            "valid_code": _write(out, "valid_code", encode(tokenizer, held) | ones),
            "valid_chat": _write(
                out,
                "valid_chat",
                mark_answers(tokenizer, encode(tokenizer, held_out_chat_texts(60, seed=1))),
            ),
        },
        "held_out_bytes": sum(len(text.encode()) for text in corpus.held_out_sources().values()),
    }
    (out / "data.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    texts = corpus.licences({file.origin for file in files})
    joined = "\n\n".join(
        f"{'=' * 80}\n{title}\n{'=' * 80}\n\n{text}" for title, text in texts.items()
    )
    (out / "LICENSES.txt").write_text(joined, encoding="utf-8")
    return record


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chats", type=int, default=Plan.chats)
    parser.add_argument("--snippets", type=int, default=Plan.snippets)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    args = parser.parse_args()
    plan = Plan(args.chats, args.snippets, args.seed, args.files)
    print(json.dumps(prepare(args.out, plan), indent=2))


if __name__ == "__main__":
    main()
