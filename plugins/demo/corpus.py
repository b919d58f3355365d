"""Collect the library source the demonstration models are trained on.

Everything comes from the running interpreter: its standard library and the permissively licensed
distributions installed beside it.  A fixed list of standard library modules is held out of the
corpus, together with their tests and any file that copies from them, so that bits per byte on
them measure generalisation.
"""

from __future__ import annotations

import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = (
    "DISTRIBUTIONS",
    "HELD_OUT_MODULES",
    "SourceFile",
    "collect",
    "corpus_hash",
    "held_out_hash",
    "held_out_sources",
    "licences",
    "stdlib_root",
)

# Whole modules, chosen because no installed package vendors a copy of them.
HELD_OUT_MODULES = (
    "bisect", "calendar", "cmd", "configparser", "csv", "fnmatch", "fractions", "heapq",
    "mailbox", "netrc", "optparse", "queue", "sched", "shlex", "statistics", "textwrap",
    "timeit", "wave", "zipfile",
)  # fmt: skip

# Distributions under MIT, BSD, Apache-2.0, PSF, HPND or ISC terms.  Copyleft packages that may be
# installed beside them (certifi, hypothesis, pathspec, tqdm) are left out on purpose, and so are
# generated data tables such as faker's.
DISTRIBUTIONS = (
    "anyio", "build", "click", "contourpy", "cycler", "execnet", "fonttools", "fsspec",
    "h11", "httpcore", "httpx", "huggingface_hub", "jinja2", "litestar", "markdown-it-py",
    "matplotlib", "mpmath", "msgspec", "multidict", "mypy", "networkx", "numpy", "openai",
    "packaging", "pillow", "pip", "pluggy", "polyfactory", "prometheus_client", "psutil",
    "pydantic", "pygments", "pyparsing", "pytest", "pytest-asyncio", "pytest-xdist", "pyyaml",
    "pyzmq", "python-dateutil", "regex", "rich", "rich-click", "safetensors", "scipy",
    "setuptools", "sortedcontainers", "sympy", "tokenizers", "torch", "transformers",
    "typer", "typing_extensions", "typing-inspection", "uvicorn", "wheel",
)  # fmt: skip

_SKIPPED_PARTS = {"_vendor", "vendored", "site-packages", "idlelib", "pydoc_data", "__pycache__"}
_STDLIB_SKIPPED = {"encodings", "lib2to3", "turtledemo"}
_MAX_BYTES = 400_000
_MAX_MEAN_LINE = 90
_MIN_NEW_LINES = 0.35
_MAX_HELD_OUT_LINES = 0.12


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        origin: Distribution name, or `python` for the standard library.
        path: Path relative to the site or library folder.
        text: Contents.
    """

    origin: str
    path: str
    text: str


def stdlib_root() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def held_out_sources() -> dict[str, str]:
    """Read the held-out standard library modules of the running interpreter.

    Returns:
        Source text by module name; a module that this Python lacks is left out.
    """
    found: dict[str, str] = {}
    for name in HELD_OUT_MODULES:
        for path in (stdlib_root() / f"{name}.py", stdlib_root() / name / "__init__.py"):
            if path.is_file():
                found[name] = path.read_text(encoding="utf-8")
                break
    return found


def held_out_hash() -> str:
    """Return a SHA-256 over the held-out modules' names and texts."""
    digest = hashlib.sha256()
    for name, text in sorted(held_out_sources().items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()


def _line_keys(text: str) -> list[int]:
    """Hash the lines long enough to tell copied text from common idiom."""
    keys = []
    for line in text.splitlines():
        stripped = line.strip()
        if len(stripped) >= 24:
            keys.append(int.from_bytes(hashlib.blake2b(stripped.encode(), digest_size=8).digest()))
    return keys


def _is_held_out_path(relative: Path) -> bool:
    """Say whether a standard library path belongs to a held-out module or to its tests."""
    stems = {part.removesuffix(".py") for part in relative.parts}
    names = set(HELD_OUT_MODULES)
    tests = {f"test_{name}" for name in names} | {f"_test_{name}" for name in names}
    return bool(stems & (names | tests))


def _readable(path: Path) -> str | None:
    """Return a file's text when it looks like hand-written source."""
    size = path.stat().st_size
    if not 200 <= size <= _MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.splitlines()
    mean = len(text) / max(1, len(lines))
    if mean > _MAX_MEAN_LINE or max(map(len, lines)) > 2000:
        return None
    digits = sum(map(str.isdigit, text))
    ascii_part = sum(map(str.isascii, text))
    if digits > 0.25 * len(text) or ascii_part < 0.97 * len(text):
        return None
    return text.expandtabs(8).replace("\r\n", "\n").replace("<|", "< |")


def _candidates() -> Iterator[tuple[str, Path, Path]]:
    """Yield (origin, relative path, path) in a fixed order."""
    root = stdlib_root()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_PARTS & set(relative.parts) or _STDLIB_SKIPPED & set(relative.parts):
            continue
        if not _is_held_out_path(relative):
            yield "python", relative, path
    for name in DISTRIBUTIONS:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            warnings.warn(f"{name} is not installed: its source is missing", stacklevel=2)
            continue
        for file in sorted(files, key=str):
            relative = Path(str(file))
            if relative.suffix == ".py" and not _SKIPPED_PARTS & set(relative.parts):
                yield name, relative, Path(str(file.locate()))


def collect() -> list[SourceFile]:
    """Collect the corpus: readable files, without near copies and held-out text.

    Returns:
        Files in a fixed order.
    """
    held = {key for text in held_out_sources().values() for key in _line_keys(text)}
    seen: set[int] = set()
    kept = []
    for origin, relative, path in _candidates():
        text = _readable(path) if path.is_file() else None
        if text is None:
            continue
        keys = _line_keys(text)
        if not keys:
            continue
        # Model zoos repeat whole classes from file to file: skip what is mostly seen already.
        new = sum(key not in seen for key in keys)
        copied = sum(key in held for key in keys)
        if new < _MIN_NEW_LINES * len(keys) or copied > _MAX_HELD_OUT_LINES * len(keys):
            continue
        seen.update(keys)
        kept.append(SourceFile(origin, str(relative), text))
    return kept


def corpus_hash(files: list[SourceFile]) -> str:
    """Return a SHA-256 over the corpus, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.origin}\0{file.path}\0{file.text}\0".encode())
    return digest.hexdigest()


def licences(origins: set[str]) -> dict[str, str]:
    """Read the licence texts of the corpus' origins.

    Args:
        origins: Distribution names, `python` among them.

    Returns:
        Licence text by origin with its version, for every origin.
    """
    texts: dict[str, str] = {}
    for origin in sorted(origins):
        if origin == "python":
            path = stdlib_root() / "LICENSE.txt"
            texts[f"python {sysconfig.get_python_version()}"] = path.read_text(encoding="utf-8")
            continue
        parts = []
        for file in metadata.files(origin) or []:
            words = Path(str(file)).name.upper()
            in_info = ".dist-info/" in str(file)
            if in_info and words.startswith(("LICEN", "COPYING", "NOTICE", "COPYRIGHT")):
                parts.append(Path(str(file.locate())).read_text(encoding="utf-8"))
        about = metadata.metadata(origin)
        classifiers = about.get_all("Classifier") or []
        stated = ", ".join(line for line in classifiers if line.startswith("License"))
        title = f"{origin} {metadata.version(origin)}"
        texts[title] = "\n\n".join(parts) or f"No licence file; its metadata says: {stated}"
    return texts
