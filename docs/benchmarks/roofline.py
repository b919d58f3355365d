"""Draw measured decode steps against what the device's memory and arithmetic allow.

    python docs/benchmarks/roofline.py OUT.png quire.jsonl vllm.jsonl

Reads what `offline.py` and `offline_vllm.py` print for `llama-8b`. A step of M sequences multiplies
every weight by M tokens and reads every weight once and its sequences' keys and values.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Bytes and operations of the shape of Llama 3.1 8B in bfloat16: layers and head, without the
# embedding, of which a step reads a row a token.
_WEIGHTS = 15.0e9
_KV_BYTES = 2 * 32 * 8 * 128 * 2
_OPERATIONS = 2 * _WEIGHTS / 2
# Measured on one NVIDIA H200: reads alone, and a large product.
_BANDWIDTH = 4.5e12
_ARITHMETIC = 790e12
# Workload -> sequences in a step, mean tokens of each while it decodes, tokens of its prompt.
_STEPS = {
    "latency-1": (1, 256, 128, 256),
    "decode-64": (64, 384, 128, 512),
}


def main() -> None:
    """One panel: operations a second over operations a byte."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4.5))
    intensity = [2**power for power in range(-1, 11)]
    roof = [min(_ARITHMETIC, _BANDWIDTH * x) / 1e12 for x in intensity]
    axes.loglog(intensity, roof, color="black", label="4.5 TB/s, 790 TFLOP/s")
    for path, mark in zip(args.results, "os^v", strict=False):
        points = dict(filter(None, map(_point, path.read_text().splitlines())))
        axes.loglog(*zip(*points.values(), strict=True), mark, label=path.stem, alpha=0.8)
        for name, (x, y) in points.items():
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set_xlabel("operations a byte read")
    axes.set_ylabel("TFLOP/s")
    axes.legend()
    axes.grid(True, which="both", alpha=0.2)
    figure.tight_layout()
    figure.savefig(args.out, dpi=120)


def _point(line: str) -> tuple[str, tuple[float, float]] | None:
    entry = json.loads(line)
    if entry.get("workload") not in _STEPS:
        return None
    rows, tokens, prompt, output = _STEPS[entry["workload"]]
    prefill = rows * prompt * _OPERATIONS / _ARITHMETIC
    seconds = (entry["s"] - prefill) / output
    moved = _WEIGHTS + rows * tokens * _KV_BYTES
    done = rows * _OPERATIONS
    return entry["workload"], (done / moved, done / seconds / 1e12)


if __name__ == "__main__":
    main()
