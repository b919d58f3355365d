"""Draw what `speculation.py` writes.

    python docs/benchmarks/speculation_plot.py OUT.png RESULT.json

Of `simulated` and `useless`: tokens a second beside plain decoding over the number of users, a
line for each rate of acceptance or method. Of `embedded`: the same for one user as bars, from the
slowest turn to the fastest, and the share of drafts that were accepted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """One figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    lines = json.loads(args.result.read_text())["lines"]
    figure = by_work(lines) if "work" in lines[0] else by_users(lines)
    figure.tight_layout()
    figure.savefig(args.out, dpi=120)


def by_users(lines: list[dict[str, Any]]) -> Any:
    """Times plain decoding over users."""
    key = "rate" if "rate" in lines[0] else "method"
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name in dict.fromkeys(line[key] for line in lines):
        if name in (None, "plain"):
            continue
        points = [(line["users"], line["times"]) for line in lines if line[key] == name]
        label = f"acceptance {name:g}" if key == "rate" else name
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.axhline(1, color="black", linewidth=1)
    axes.axhline(0.97, color="black", linewidth=1, linestyle=":", label="3 % slower")
    users = sorted({line["users"] for line in lines})
    axes.set_xscale("log", base=2)
    axes.set_xticks(users, [str(count) for count in users], rotation=45)
    axes.set_xlabel("users")
    axes.set_ylabel("tokens a second, times plain decoding")
    axes.legend()
    axes.grid(True, alpha=0.2)
    return figure


def by_work(lines: list[dict[str, Any]]) -> Any:
    """Times plain decoding, and acceptance, by workload and method."""
    methods = [m for m in dict.fromkeys(line["method"] for line in lines) if m != "plain"]
    works = list(dict.fromkeys(line["work"] for line in lines))
    found = {(line["work"], line["method"]): line for line in lines}
    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    width = 0.8 / len(methods)
    names = (("times", "tokens a second, times plain"), ("accepted", "drafts accepted"))
    for panel, (value, label) in zip(panels, names, strict=True):
        for index, method in enumerate(methods):
            heights = [found[work, method][value] or 0 for work in works]
            places = [at + index * width for at in range(len(works))]
            panel.bar(places, heights, width, label=method)
            if value == "times":
                panel.errorbar(
                    places, heights, _spread(found, works, method), fmt="none", ecolor="black"
                )
        panel.set_xticks([at + 0.4 - width / 2 for at in range(len(works))], works)
        panel.set_ylabel(label)
        panel.grid(True, axis="y", alpha=0.2)
    panels[0].axhline(1, color="black", linewidth=1)
    panels[0].legend()
    return figure


def _spread(
    found: dict[tuple[str, str], dict[str, Any]], works: list[str], method: str
) -> list[list[float]]:
    """How far the slowest and the fastest turn are from the median, in times plain decoding."""
    lines = [(found[work, method], found[work, "plain"]["tok_s"]) for work in works]
    below = [(line["tok_s"] - line["least"]) / plain for line, plain in lines]
    above = [(line["most"] - line["tok_s"]) / plain for line, plain in lines]
    return [below, above]


if __name__ == "__main__":
    main()
