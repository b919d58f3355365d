"""Kernels for a CPU: compiled by numba once on a machine, kept, and run by torch's threads.

Later processes need no numba: LLVM loads the object file, in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...core.errors import ConfigError
from .shapes import COUNTERS

__all__ = ("Call", "Noted", "compiled", "watching")

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_NO_COUNTS = (0,) * COUNTERS
# What numba's functions call when they fail, which no kernel does: it must only be found.
_WAYS_OUT = (
    "NRT_Free", "NRT_MemInfo_call_dtor", "numba_do_raise", "numba_gil_ensure", "numba_gil_release",
    "numba_runtime_build_excinfo_struct", "numba_unpickle",
)  # fmt: skip
_lock = threading.Lock()
_Function = Callable[[int], None]


class Kernel:
    """A compiled function of one address, at which its arguments lie as int64.

    Args:
        address: of its machine code.
        keeper: what must live as long as the code.
    """

    def __init__(self, address: int, keeper: object) -> None:
        self.address = address
        self.run: _Function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self._keeper = keeper


class Call:
    """A kernel with the last of its arguments, which stay the same from call to call.

    Args:
        kernel: of ``compiled``.
        varying: how many arguments stand before the fixed ones.
        fixed: integers and addresses.
    """

    def __init__(self, kernel: Kernel, varying: int, fixed: Sequence[int]) -> None:
        self._kernel = kernel
        self._begin = COUNTERS + varying
        self._values = (ctypes.c_int64 * (self._begin + len(fixed)))()
        self._values[self._begin :] = [*fixed]
        self._at = ctypes.addressof(self._values)

    def __call__(self, threads: int, *varying: int) -> None:
        """Run it.

        Args:
            threads: of torch's, at most so many.
            varying: the arguments before the fixed ones.
        """
        self._values[: self._begin] = [*_NO_COUNTS, *varying]
        if _watcher.note is not None:
            _watcher.note(Noted(self._kernel.address, self._values[COUNTERS:]))
        together = _together() if threads > 1 else None
        if together is None:
            self._kernel.run(self._at)
        else:
            together(self._kernel.address, self._at, threads, 0)


class Noted(NamedTuple):
    """A kernel that ran.

    Attributes:
        address: of the kernel.
        arguments: behind the counters.
    """

    address: int
    arguments: list[int]


class _Watcher(threading.local):
    """Who is told of the kernels that a thread of Python runs."""

    note: Callable[[Noted], None] | None = None


_watcher = _Watcher()


@contextmanager
def watching(note: Callable[[Noted], None]) -> Iterator[None]:
    """Tell of every kernel that this thread runs inside."""
    _watcher.note = note
    try:
        yield
    finally:
        _watcher.note = None


@cache
def compiled(name: str, *constants: int) -> Kernel:
    """The kernel that ``make`` in kernels/NAME.py gives for these constants.

    Args:
        name: of the module.
        constants: for ``make``.

    Raises:
        ConfigError: where numba is not installed.
    """
    with _lock:
        llvm = _llvm()
        path = _folder(llvm) / f"{name}-{'-'.join(map(str, constants))}.o"
        try:
            return _loaded(llvm, *_read(path))
        except (OSError, ValueError):
            symbol, code = _compile(name, constants)
        _write(path, symbol, code)
        return _loaded(llvm, symbol, code)


def _llvm() -> Any:
    """The LLVM that numba brings, which takes a tenth of the time to import."""
    try:
        return importlib.import_module("llvmlite.binding")
    except ImportError as error:
        raise ConfigError(
            "the platform cpu compiles its kernels with numba, which is not installed; "
            "run: pip install numba"
        ) from error


def _compile(name: str, constants: Sequence[int]) -> tuple[str, bytes]:
    """Name and machine code of a kernel."""
    from numba import cfunc

    logger.info("compiling the kernel %s for this CPU, once", name)
    module = importlib.import_module(f".kernels.{name}", __package__)
    # Errors as numpy has them: no kernel raises, and so none needs the interpreter.
    function: Any = cfunc("void(int64)", error_model="numpy")(module.make(*constants))
    _, _, (code, _) = function._library.serialize_using_object_code()
    return function._wrapper_name, code


def _loaded(llvm: Any, symbol: str, code: bytes) -> Kernel:
    """A kernel of machine code that is whole."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    nowhere = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in _WAYS_OUT:
        if llvm.address_of_symbol(name) is None:
            llvm.add_symbol(name, nowhere)
    machine = llvm.Target.from_default_triple().create_target_machine()
    # Kernels of one source have one name, and so each has an engine of its own.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address: int = engine.get_function_address(symbol)
    if not address:
        raise ValueError(f"no function {symbol} in a compiled kernel")
    return Kernel(address, engine)


def _folder(llvm: Any) -> Path:
    """Where object files for this CPU and these sources are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "quire" / "cpu-kernels" / _digest(llvm)


@cache
def _digest(llvm: Any) -> str:
    """Of all that machine code is made of."""
    digest = hashlib.sha256()
    for path in (_HERE / "shapes.py", *sorted((_HERE / "kernels").glob("*.py"))):
        digest.update(path.read_bytes())
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:
        # LLVM does not know this system; it compiles for the processor's name alone then.
        features = ""
    for part in (llvm.get_host_cpu_name(), features, version("numba"), version("llvmlite")):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[str, bytes]:
    content = path.read_bytes()
    digest, symbol, code = content.split(b"\n", 2)
    if hashlib.sha256(code).hexdigest().encode() != digest:
        raise ValueError(f"{path} is damaged")
    return symbol.decode(), code


def _write(path: Path, symbol: str, code: bytes) -> None:
    """Keep it, if that can be done; another process may be writing the same."""
    digest = hashlib.sha256(code).hexdigest()
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(f"{digest}\n{symbol}\n".encode() + code)
        os.replace(unfinished, path)
    except OSError as error:
        logger.warning("a compiled kernel was not kept, and is compiled at every start: %s", error)
        with suppress(OSError):
            unfinished.unlink()


@cache
def _together() -> Callable[[int, int, int, int], None] | None:
    """OpenMP's own entry to a parallel region; None where torch's threads are others.

    The threads are those of torch's operators: others would wait for a core that these hold while
    they look for more work.
    """
    for path in _libraries():
        try:
            function = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        parallel: Callable[[int, int, int, int], None] = function
        return parallel
    logger.warning("torch's OpenMP was not found: kernels run on one core")
    return None


def _libraries() -> Iterator[Path]:
    home = Path(torch.__file__).parent
    for folder in (home / "lib", home.parent / "torch.libs"):
        yield from (*folder.glob("libgomp*"), *folder.glob("libomp*"))
