"""Binding: a stream of tensors and a set of holders that must end empty together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

import torch

from ..contracts.model import TensorHolder
from ..errors import CheckpointError

__all__ = ("bind",)


def bind(
    stream: Iterable[tuple[str, torch.Tensor]],
    holders: Iterable[TensorHolder],
    ignores: Callable[[str], bool],
    present: Set[str] = frozenset(),
) -> None:
    """Hand every tensor to its holder, and finish each holder once it has all of its own.

    Finishing early frees what a holder repacks before the next one fills up.

    Args:
        stream: of names and tensors.
        holders: with pairwise different names.
        ignores: whether a tensor may go to nobody.
        present: names that will come, where they are known: what lacks is refused before anything
            is read, and holders wait for what they may take or do without.

    Raises:
        CheckpointError: for a tensor that nobody takes or takes twice, and for one that never
            comes, naming it.
        ValueError: when two holders ask for the same tensor.
    """
    waiting: dict[str, TensorHolder] = {}
    missing: dict[int, set[str]] = {}
    for holder in holders:
        missing[id(holder)] = names = holder.names() | (holder.optional() & present)
        for name in names:
            if name in waiting:
                raise ValueError(f"two holders ask for {name}")
            waiting[name] = holder
        if not names:
            holder.finish()
    if present:
        _refuse_absent(waiting.keys() - present)
    stray: list[str] = []
    for name, tensor in stream:
        taker = waiting.pop(name, None)
        if taker is None:
            if not ignores(name):
                stray.append(name)
            continue
        taker.load(name, tensor)
        left = missing[id(taker)]
        left.discard(name)
        if not left:
            taker.finish()
    _refuse_absent(waiting.keys())
    if stray:
        raise CheckpointError(
            f"the checkpoint holds {_listed(sorted(stray))}, which the architecture has no place "
            "for; config.json does not describe these weights"
        )


def _refuse_absent(names: Set[str]) -> None:
    if names:
        raise CheckpointError(
            f"the checkpoint lacks {_listed(sorted(names))}; config.json does not describe these "
            "weights"
        )


def _listed(names: list[str]) -> str:
    """At most four names."""
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
