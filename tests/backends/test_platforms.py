"""Platforms: the CPU here and everywhere, CUDA where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.plugins.platforms import cpu, cpu_product, host
from quire.plugins.platforms.cpu import CPU
from quire.plugins.platforms.cuda import CUDA
from quire.quant.cpu.rows import SIZES, alike_sizes, in_proven_pieces
from quire.testing import check_platform


def test_cpu() -> None:
    check_platform(CPU)


def test_cpu_for_drafts() -> None:
    check_platform(type(CPU().for_drafts()))


@pytest.mark.parametrize("missing", [{"_packing_works"}, {"_half_works"}, {"both"}])
@pytest.mark.parametrize("fast", [True, False])
def test_cpu_without_packing(
    missing: set[str], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing != {"_half_works"}:
        monkeypatch.setattr(cpu_product, "_packing_works", lambda dtype: False)
    if missing != {"_packing_works"}:
        monkeypatch.setattr(cpu_product, "_half_works", lambda: False)
    monkeypatch.setattr(cpu, "_fast_bfloat16", lambda: fast)
    check_platform(CPU)


def test_a_bias_that_leaves_little_of_a_product_is_no_fault(monkeypatch) -> None:
    """What is left has the error of what there was."""

    def close(*shape: int) -> torch.Tensor:
        return torch.full(shape, -0.77001 if len(shape) == 1 else 0.77**0.5)

    monkeypatch.setattr(torch, "randn", close)
    check_platform(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda() -> None:
    check_platform(CUDA)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_weights_are_packed() -> None:
    """The slow way would be right as well, and nobody would notice."""
    operator = "mkldnn::_linear_pointwise"
    assert operator in _operators(torch.randn(64, 32), fast_bfloat16=False)
    if cpu_product._packing_works(torch.bfloat16):
        assert operator in _operators(torch.randn(64, 32).bfloat16(), fast_bfloat16=True)


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_that_fit_are_held_as_float16(dtype: torch.dtype) -> None:
    weight = torch.randn(64, 32).bfloat16().to(dtype)
    operator = "quantized::linear_dynamic_fp16"
    assert operator in _operators(weight, fast_bfloat16=False)
    for value in (1e6, 1 + 2.0**-12):
        weight = torch.ones(64, 32) * value
        assert operator not in _operators(weight, fast_bfloat16=False)
        multiply = cpu_product.make_product(weight, None, fast_bfloat16=False)
        assert multiply(torch.ones(1, 32))[0, 0].item() == pytest.approx(32 * value, rel=2e-7)


def _operators(weight: torch.Tensor, *, fast_bfloat16: bool) -> set[str]:
    multiply = cpu_product.make_product(weight, None, fast_bfloat16=fast_bfloat16)
    with torch.profiler.profile() as profile:
        multiply(torch.randn(4, 32).to(weight.dtype))
    return {event.key for event in profile.key_averages()}


ROWS = [*range(1, 42), 61, 62, 119, 120, 121, 122, 150, 241, 257, 500]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(96, 64), (200, 700), (512, 512), (2816, 512)])
@torch.inference_mode()
def test_a_row_of_a_product_does_not_depend_on_the_others(
    dtype: torch.dtype, fast: bool, shape: tuple[int, int]
) -> None:
    bias = torch.randn(shape[0]).to(dtype)
    for weight in (torch.randn(shape).to(dtype), torch.randn(shape).bfloat16().to(dtype)):
        multiply = cpu_product.make_product(weight, bias, fast_bfloat16=fast)
        x = torch.randn(ROWS[-1], shape[1]).to(dtype)
        alone = torch.cat([multiply(row[None]) for row in x])
        for rows in ROWS:
            assert torch.equal(multiply(x[:rows]), alone[:rows])


@torch.inference_mode()
def test_a_kernel_that_varies_is_run_with_steady_numbers_of_rows() -> None:
    """A stand-in that adds otherwise for few rows and for odd numbers of them."""

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 2.0**-20 * (len(x) % 2 or len(x) < 6))

    multiply = in_proven_pieces(kernel, 8, torch.float32)
    x = torch.randn(700, 8)
    for rows in ROWS:
        assert torch.equal(multiply(x[:rows]), x[:rows])


@pytest.mark.parametrize(
    ("differs", "wanted"),
    [
        (set(), [*SIZES]),
        ({5, 7}, [size for size in SIZES if size not in (5, 7)]),
        ({1, 2}, [*SIZES][2:]),
        ({*SIZES} - {*range(1, 48)}, [size for size in SIZES if size < 48]),
    ],
)
def test_numbers_of_rows_that_agree(differs: set[int], wanted: list[int]) -> None:
    """A stand-in whose results are others for some numbers of rows, each its own."""

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 2.0**-20 * len(x) * (len(x) in differs))

    assert alike_sizes(kernel, torch.randn(8).abs() + 1) == wanted


@pytest.mark.parametrize("broken", [RuntimeError("gone"), torch.zeros(5, 48)])
def test_packing_that_does_not_work_is_noticed(
    broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(weight: torch.Tensor, bias: torch.Tensor | None) -> object:
        if isinstance(broken, Exception):
            raise broken
        return lambda x: broken

    monkeypatch.setattr(cpu_product, "_packed", product)
    assert not cpu_product._packing_works.__wrapped__(torch.float32)


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
