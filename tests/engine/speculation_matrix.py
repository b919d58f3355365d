"""What speculation works with, method by method: the cells that tests fill, and the table of them.

``python -m tests.engine.speculation_matrix`` writes the table into docs/speculation.md.
"""

import sys
from pathlib import Path
from typing import Any

from quire.core.config import Config
from quire.core.errors import QuireError
from quire.core.registry import Registry
from quire.core.resolve import resolve
from tests.engine.driver import make_config

DOCS = Path(__file__).parents[2] / "docs" / "speculation.md"
BEGIN = "<!-- made by `python -m tests.engine.speculation_matrix` -->\n"
END = "<!-- end -->\n"

METHODS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram"},
    "suffix": {"method": "suffix"},
    "draft_model": {"model": "demo-draft"},
    "eagle": {"method": "eagle"},
    "eagle3": {"model": "demo-eagle"},
}
"""Sections, for the embedded model; an EAGLE-1 head for it is made up by the test."""
REQUESTS: dict[str, dict[str, Any]] = {
    "sampling": {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 5},
    "penalties": {"presence_penalty": 0.7, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    "seeds": {"temperature": 1.0, "seed": 11},
    "logprobs": {"temperature": 0.7, "seed": 2, "logprobs": 3, "prompt_logprobs": 1},
    "n > 1": {"temperature": 0.8, "seed": 3, "n": 2},
    "stop strings": {"stop": ["return", "\n\n"], "include_stop_str_in_output": True},
}
"""Parameters of requests."""
ENGINES: dict[str, dict[str, dict[str, Any]]] = {
    "prefix caching": {"cache": {"prefix_caching": True}},
    "chunked prefill": {"schedule": {"max_num_batched_tokens": 7}},
    "preemption": {"cache": {"num_blocks": 34}},
    "overlap": {"schedule": {"overlap": True}},
    "quantized target": {"model": {"quantization": "int8"}},
    "quantized draft": {"speculation": {"quantization": "int8"}},
}
"""Settings of engines."""
GRAPHS = "CUDA graphs"


def configure(
    model: Path | str, speculation: dict[str, Any], changes: dict[str, dict[str, Any]]
) -> Config:
    """A model with a speculator, or none, and some settings."""
    sections = {"model": {"max_model_len": 128}, "cache": {"num_blocks": 200}} | changes
    if speculation:
        asked = {"adaptive": False} | speculation | changes.get("speculation", {})
        sections = sections | {"speculation": asked}
    return make_config(model, **sections)


def refusal(method: str, feature: str) -> str | None:
    """Why ``resolve`` does not take the two together; None where it does."""
    if method == "eagle":
        # Its heads are files, as the others' are; what it works with is the same as for EAGLE-3.
        return refusal("eagle3", feature)
    try:
        resolve(configure("demo", METHODS[method], ENGINES.get(feature, {})), Registry())
    except QuireError as error:
        return str(error)
    return None


def table() -> str:
    """Markdown, with its marks."""
    features = [*REQUESTS, *ENGINES]
    lines = [f"| | {' | '.join(f'`{method}`' for method in METHODS)} |", "|---" * 6 + "|"]
    notes: dict[str, int] = {}
    for feature in features:
        cells = []
        for method in METHODS:
            reason = refusal(method, feature)
            if reason is None:
                cells.append("yes")
            else:
                reason = reason.replace(repr(method), "...")
                cells.append(f"no ({notes.setdefault(reason, len(notes) + 1)})")
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    lines.append(f"| {GRAPHS} |" + " on a GPU |" * len(METHODS))
    lines += ["", *(f"{number}. Refused: {reason}." for reason, number in notes.items())]
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END


def write() -> None:
    """Put the table into the page."""
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    DOCS.write_text(before + table() + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write())
