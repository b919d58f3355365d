"""Platforms: the CPU here and everywhere, CUDA where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.plugins.platforms import cpu, host
from quire.plugins.platforms.cpu import CPU
from quire.plugins.platforms.cuda import CUDA
from quire.testing import check_platform


def test_cpu() -> None:
    check_platform(CPU)


def test_cpu_without_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_packing_works", lambda dtype: False)
    check_platform(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    check_platform(CUDA)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_packed(dtype: torch.dtype) -> None:
    """The slow way would be right as well, and nobody would notice."""
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no instructions for packed bfloat16")
    weight = torch.randn(64, 32).to(dtype)
    multiply = CPU().product(weight, None)
    with torch.profiler.profile() as profile:
        multiply(torch.randn(4, 32).to(dtype))
    assert "mkldnn::_linear_pointwise" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("broken", [RuntimeError("gone"), torch.zeros(5, 48)])
def test_packing_that_does_not_work_is_noticed(
    broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(weight: torch.Tensor, bias: torch.Tensor | None) -> object:
        if isinstance(broken, Exception):
            raise broken
        return lambda x: broken

    monkeypatch.setattr(cpu, "_packed_product", product)
    assert not cpu._packing_works.__wrapped__(torch.float32)


def _tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def fake_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system to describe hosts in."""
    real = host._text
    monkeypatch.setattr(host, "_CPUS", tmp_path / "sys/devices/system/cpu")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "sys/fs/cgroup")

    def text(path: Path) -> str | None:
        return real(path if path.is_relative_to(tmp_path) else tmp_path / path.relative_to("/"))

    monkeypatch.setattr(host, "_text", text)
    return tmp_path


def test_hyper_threads_count_once(fake_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5}, raising=False)
    siblings = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6"}
    for number, text in siblings.items():
        name = f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        _tree(fake_host, {name: text + "\n"})
    assert host.physical_cores() == 3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "250000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            1,
        ),
    ],
)
def test_quotas_bound_cores(
    files: dict[str, str], cores: int, fake_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (fake_host / "sys/fs/cgroup/a/b").mkdir(parents=True)
    _tree(fake_host, files)
    assert host.physical_cores() == cores


MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 600 kB\n"


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 1000, 600),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, 1000, 600),
        (
            {
                "sys/fs/cgroup/memory.max": str(400 * 1024),
                "sys/fs/cgroup/memory.current": str(300 * 1024),
                "sys/fs/cgroup/memory.stat": f"anon 7\ninactive_file {50 * 1024}\n",
            },
            400,
            150,
        ),
        (
            {
                "sys/fs/cgroup/memory.max": str(400 * 1024),
                "sys/fs/cgroup/memory.current": str(500 * 1024),
            },
            400,
            0,
        ),
    ],
)
def test_memory_of_containers(
    files: dict[str, str], total: int, free: int, fake_host: Path
) -> None:
    _tree(fake_host, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"} | files)
    assert host.memory_bytes() == (total * 1024, free * 1024)


def test_threads_of_the_environment_are_kept() -> None:
    code = (
        "from quire.plugins.platforms.cpu import CPU; import torch; CPU().setup(); "
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1"], done.stderr
