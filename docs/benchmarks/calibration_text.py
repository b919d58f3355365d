"""Write the text that `quire quantize --calibration builtin` reads.

    python docs/benchmarks/calibration_text.py quant/create/calibration.jsonl

A part is English prose and a part Python, both from this repository; the rest is conversations of
the embedded model's training curriculum, none of whose held-out questions is among them.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from quire.plugins.demo.curriculum import train_chats
from quire.plugins.demo.snippets import source_file

_ROOT = Path(__file__).resolve().parents[2]
_PROSE = ("README.md", "docs/*.md", "docs/decisions/*.md", "plugins/demo/MODEL_CARD.md")
_CODE = ("core/*.py", "core/schedule/*.py", "server/*.py")
_CODE_BYTES = 60_000
_SNIPPETS = 40
_CHATS = 900
# Of a piece, so that a few blocks hold many kinds of text.
_PIECE = 3_000
_SEED = 1


def main() -> None:
    """Draw, shuffle, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rng = Random(_SEED)
    code = list(_pieces(_CODE))
    rng.shuffle(code)
    documents: list[dict[str, Any]] = [{"text": text} for text in _pieces(_PROSE)]
    documents += [{"text": text} for text in code[: _CODE_BYTES // _PIECE]]
    documents += [{"text": source_file(rng)} for _ in range(_SNIPPETS)]
    for messages, tools in itertools.islice(train_chats(_SEED), _CHATS):
        documents.append({"messages": messages} | ({"tools": tools} if tools else {}))
    rng.shuffle(documents)
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pieces(patterns: tuple[str, ...]) -> Iterator[str]:
    """Whole lines of files, about a piece at a time."""
    for pattern in patterns:
        for path in sorted(_ROOT.glob(pattern)):
            piece = ""
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                piece += line
                if len(piece) >= _PIECE:
                    yield piece
                    piece = ""
            if piece:
                yield piece


if __name__ == "__main__":
    main()
