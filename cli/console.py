"""What the terminal sees beside a command's output: phases, errors, progress; all on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ("columns", "output", "print_error", "print_phase", "progress", "status")


def print_phase(name: str, seconds: float) -> None:
    """One phase of the start, as it ends."""
    sys.stderr.write(f"  {name:<28} {seconds:7.2f} s\n")
    sys.stderr.flush()


def print_error(message: str) -> None:
    """Each line of an error with the program's name before it."""
    for line in message.splitlines() or [""]:
        sys.stderr.write(f"quire: {line}\n")
    sys.stderr.flush()


def output() -> Console:
    """Where tables go: stdout."""
    from rich.console import Console

    return Console()


def columns(*names: str) -> Table:
    """An empty table that breaks long cells over lines, those of the first column excepted."""
    from rich.table import Table

    view = Table()
    for index, name in enumerate(names):
        view.add_column(name, overflow="fold", no_wrap=index == 0)
    return view


def status() -> Console:
    """Where remarks go: stderr."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; the value advances it by one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=status(), transient=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)
