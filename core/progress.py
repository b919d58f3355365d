"""Progress bars on standard error; they show on a terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ("bytes_bar", "count_bar")


@contextmanager
def count_bar(total: int, label: str, *, show: bool) -> Iterator[Callable[[], object]]:
    """A bar of things to finish; call what it gives once a thing.

    Args:
        total: of things.
        label: before the bar.
        show: draw it, on a terminal or not, when there is something to finish.
    """
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=label, disable=not (show and total), dynamic_ncols=True) as bar:
        yield bar.update


@contextmanager
def bytes_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes; call what it gives with (done, total)."""
    from tqdm.auto import tqdm

    # None shows the bar on a terminal only.
    with tqdm(desc=label, disable=None, unit="B", unit_scale=True, dynamic_ncols=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance
