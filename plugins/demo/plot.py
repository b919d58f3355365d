"""Draw the training logs' loss curves.

Run as `python -m quire.plugins.demo.plot --out loss.png LOG...`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

__all__ = ("curve", "draw", "main")

matplotlib.use("Agg")

from matplotlib import pyplot as plt


def curve(log: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return a logged value over millions of tokens.

    Args:
        log: Entries of one log.
        name: The value's name.
    """
    entries = [entry for entry in log if name in entry]
    return [entry["tokens"] / 1e6 for entry in entries], [entry[name] for entry in entries]


def draw(logs: list[Path], out: Path) -> None:
    """Draw one panel per log.

    Args:
        logs: Training logs.
        out: Image to write.
    """
    figure, panels = plt.subplots(1, len(logs), figsize=(5 * len(logs), 4), squeeze=False)
    for panel, path in zip(panels[0], logs, strict=True):
        log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, label in (
            ("loss", "training loss (nats per token)"),
            ("bits_per_byte", "held-out library code (bits per byte)"),
            ("valid_chat", "held-out answers (nats per token)"),
        ):
            panel.plot(*curve(log, name), label=label, marker="" if name == "loss" else ".")
        panel.set_ylim(0, 4)
        panel.set_xlabel("million tokens")
        panel.set_title(path.stem)
        panel.legend()
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=100)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("logs", type=Path, nargs="+")
    args = parser.parse_args()
    draw(args.logs, args.out)


if __name__ == "__main__":
    main()
