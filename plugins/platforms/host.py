"""What the operating system says of the host: cores and memory that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ("cpu_flags", "memory_bytes", "physical_cores")

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once, bounded by a cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
    else:
        allowed = list(range(os.cpu_count() or 1))
    cores = {
        _text(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or f"cpu {cpu}" for cpu in allowed
    }
    return max(1, min([len(cores), *_quotas()]))


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions by their Linux names; empty where the system does not tell."""
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def memory_bytes() -> tuple[int, int]:
    """(total, free) that this process may use: the machine's, or less by a cgroup's limit."""
    total, free = _machine_memory()
    for limit, used in _memory_limits():
        total = min(total, limit)
        free = min(free, max(0, limit - used))
    return total, free


def _machine_memory() -> tuple[int, int]:
    sizes: dict[str, int] = {}
    for line in (_text(Path("/proc/meminfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            sizes[key] = int(value.split()[0]) * 1024
    if "MemTotal" in sizes:
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def _quotas() -> Iterator[int]:
    for folder in _cgroup_folders(""):
        quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield math.ceil(int(quota) / int(period))
    for folder in _cgroup_folders("cpu"):
        quota = _text(folder / "cpu.cfs_quota_us") or "-1"
        period = _text(folder / "cpu.cfs_period_us") or "100000"
        if quota.isdigit() and period.isdigit():
            yield math.ceil(int(quota) / int(period))


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, in use) of every cgroup above this process; pages the kernel can drop are free."""
    for controller, limit, used, droppable in (
        ("", "memory.max", "memory.current", "inactive_file "),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        for folder in _cgroup_folders(controller):
            bound, taken = _text(folder / limit) or "max", _text(folder / used) or ""
            if not bound.isdigit() or not taken.isdigit():
                continue
            cached = [
                int(line.removeprefix(droppable))
                for line in (_text(folder / "memory.stat") or "").splitlines()
                if line.startswith(droppable)
            ]
            yield int(bound), int(taken) - sum(cached)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Folders of this process's cgroup and those around it; controller "" is cgroup version 2."""
    for line in (_text(Path("/proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(","):
            continue
        root = _CGROUPS / names if names else _CGROUPS
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, which is not visible inside.
        folder = inner if inner.is_dir() else root
        while folder.is_relative_to(root):
            yield folder
            folder = folder.parent


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
