"""The machine and the versions a figure was measured with."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from ... import __version__

__all__ = ("describe",)


def describe() -> dict[str, str]:
    """Processor, cores, devices and versions, as far as they can be told."""
    found = {
        "quire": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
    }
    for name in ("torch", "triton", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = str(torch.get_num_threads())
        if torch.cuda.is_available():
            found["device"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
