"""What AWQ, GPTQ and packed compressed-tensors share: codes in groups with scales and zeros."""

from __future__ import annotations

import torch

from ...core.errors import CheckpointError
from ...core.layers.fields import Fields
from ...core.layers.parameter import DUMMY_SCALE
from ..weights import GroupedWeight

__all__ = (
    "GROUP_SIZES",
    "group_of",
    "made_up",
    "order_of_groups",
    "read_group_size",
    "unless_middle",
)

GROUP_SIZES = (32, 64, 128)
"""Inputs that may share a scale, beside all of a row."""


def read_group_size(config: Fields, key: str = "group_size") -> int:
    """The group size that a description gives; -1 for a whole row.

    Raises:
        CheckpointError: for one that is not supported.
    """
    size = config.integer(key, -1, least=-1)
    if size != -1 and size not in GROUP_SIZES:
        raise config.misfit(key, f"must be one of {', '.join(map(str, GROUP_SIZES))} or -1")
    return size


def group_of(name: str, columns: int, group_size: int) -> int:
    """Inputs of a group in a layer of so many.

    Raises:
        CheckpointError: where groups do not fill a row, naming the layer.
    """
    if group_size == -1:
        return columns
    if columns % group_size:
        raise CheckpointError(
            f"{name} has {columns} inputs, which groups of {group_size} do not divide; quantize it "
            "with another group size, or leave it out"
        )
    return group_size


def order_of_groups(name: str, groups: torch.Tensor, group_size: int) -> torch.Tensor | None:
    """Activation order: the inputs sorted by their group, or None where they stand sorted.

    Args:
        name: of the tensor, for messages.
        groups: integers [K], the group of each input.
        group_size: inputs of each.

    Raises:
        CheckpointError: where a group has not as many inputs.
    """
    count = len(groups) // group_size
    found = groups.long()
    if int(found.min()) < 0 or int(found.max()) >= count:
        raise CheckpointError(f"{name} names a group outside of 0 to {count - 1}")
    sizes = torch.bincount(found, minlength=count)
    if bool((sizes != group_size).any()):
        odd = int((sizes != group_size).nonzero()[0])
        raise CheckpointError(
            f"{name} gives group {odd} {int(sizes[odd])} inputs, and each must have {group_size}"
        )
    if bool((found.diff() >= 0).all()):
        return None
    return torch.argsort(found, stable=True)


def unless_middle(zeros: torch.Tensor, bits: int) -> torch.Tensor | None:
    """The zero points; None where all are in the middle, which products need not subtract."""
    return None if bool((zeros == 2 ** (bits - 1)).all()) else zeros


def made_up(
    rows: int,
    columns: int,
    generator: torch.Generator,
    *,
    bits: int,
    group_size: int,
    zeros: bool,
    ordered: bool = False,
) -> GroupedWeight:
    """Random codes with the deviation of made-up dense weights."""
    device = generator.device
    groups = columns if group_size == -1 else group_size
    shape = (rows, columns // groups)
    top = 2**bits

    def draw(low: int, high: int, size: tuple[int, ...]) -> torch.Tensor:
        found = torch.empty(size, dtype=torch.uint8, device=device)
        return found.random_(low, high, generator=generator)

    order = None
    if ordered and groups != columns:
        # The same for every layer of as many inputs, as those that see one input have it.
        fixed = torch.Generator().manual_seed(0)
        order = torch.randperm(columns, generator=fixed).to(device)
    return GroupedWeight(
        # About the zero point: a mean of the weights would make activations alike, which a GPU
        # multiplies faster. Uniform codes deviate by 2^bits / sqrt(12) from their middle.
        codes=draw(0 if zeros else 1, top, (rows, columns)),
        scales=torch.full(shape, DUMMY_SCALE * 12**0.5 / top, dtype=torch.float16, device=device),
        zeros=draw(top // 2 - 1, top // 2 + 1, shape) if zeros else None,
        bits=bits,
        group_size=groups,
        order=order,
    )
