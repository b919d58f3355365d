"""Methods: what each does to the matrices of a decoder layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from ...core.contracts.quant import QuantMethod, Rounding
from ...core.layers.norm import RMSNorm
from ..reference import dequantize
from ..weights import GroupedWeight, Weight
from . import formats
from .awq import find_scales
from .eight_bit import float8_blocks, float8_input, float8_rows, int8_input, int8_rows
from .gptq import round_by_hessian
from .grid import grouped
from .reading import read_weight
from .recipe import Recipe
from .report import Row, row
from .site import Gram, Site
from .walk import WatchedLayer

__all__ = ("Collect", "Maker", "make_maker")

Collect = Callable[[Sequence[Site]], list[Gram]]
"""Sums over the inputs of sites of the layer, in the order in which inputs reach them."""


class Maker(ABC):
    """Quantizes layers in place: sites then hold the weights that the stored values stand for.

    Args:
        recipe: how.
        dtype: of what the checkpoint stores unquantized.

    Attributes:
        rows: what happened to each of the layer's matrices.
    """

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        self.recipe = recipe
        self.dtype = dtype
        self.rows: list[Row] = []

    @abstractmethod
    def quantize(self, layer: WatchedLayer, collect: Collect | None) -> None:
        """Quantize a layer.

        Args:
            layer: with its own weights.
            collect: gives inputs; None where there is no calibration text.
        """

    @abstractmethod
    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """What to store of a module of that layer, by full names, its bias not among it."""

    def prepare(self, site: Site) -> None:  # noqa: B027
        """Let the site do to its inputs what the stored layer will: most do nothing."""


class WeightMaker(Maker):
    """Makes the values that ``formats`` writes.

    Attributes:
        values: what to store, by module.
    """

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        super().__init__(recipe, dtype)
        self.values: dict[str, Weight] = {}

    def quantize(self, layer: WatchedLayer, collect: Collect | None) -> None:
        self.rows, self.values = [], {}
        for site in layer.sites:
            self.prepare(site)
        if collect is None:
            for site in layer.sites:
                self.store(site, None, self._nearest_of(site))
        else:
            self.calibrated(layer, collect)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return formats.tensors(name, self.values[name], self.recipe, self.dtype)

    @abstractmethod
    def nearest(self, weight: torch.Tensor) -> Weight:
        """Round to nearest, float32 [N, K]."""

    def calibrated(self, layer: WatchedLayer, collect: Collect) -> None:
        """Quantize with the text in view."""
        for site, gram in zip(layer.sites, collect(layer.sites), strict=True):
            self.store(site, gram.matrix, self._nearest_of(site))

    def store(self, site: Site, gram: torch.Tensor | None, values: dict[str, Weight]) -> None:
        """Keep the values of a site's layers, and put what they stand for into the site."""
        for name, rows in site.shards().items():
            rounded = dequantize(values[name], torch.float32)
            self.rows.append(row(name, site.weight[rows], rounded, gram))
            site.weight[rows] = rounded
        self.values |= values

    def _nearest_of(self, site: Site) -> dict[str, Weight]:
        return {name: self.nearest(site.weight[rows]) for name, rows in site.shards().items()}


class AWQMaker(WeightMaker):
    """Scales folded into what comes before, then rounding; see ``awq`` and ``gptq``."""

    def nearest(self, weight: torch.Tensor) -> Weight:
        size = self.recipe.groups(weight.shape[1])
        return grouped(weight, self.recipe.bits, size, symmetric=False)

    def calibrated(self, layer: WatchedLayer, collect: Collect) -> None:
        grams = collect(layer.sites)
        spec = layer.spec
        heads = {"shared": spec.num_heads // spec.num_kv_heads, "head_dim": spec.head_dim}
        found = [
            self._find(site, gram, **(heads if site is layer.output else {}))
            for site, gram in zip(layer.sites, grams, strict=True)
        ]
        qkv, output, gate_up, down = found
        qkv = fold_into_norm(layer.layer.attention_norm, layer.qkv, qkv, self.dtype)
        fold_into_values(layer, output)
        gate_up = fold_into_norm(layer.layer.mlp_norm, layer.gate_up, gate_up, self.dtype)
        fold_into_up(layer, down)
        factors = (qkv, output, gate_up, down)
        for site, gram, scales in zip(layer.sites, grams, factors, strict=True):
            scaled = gram.matrix / scales / scales.unsqueeze(1)
            self.store(site, scaled, round_site(self.recipe, site, scaled))

    def _find(self, site: Site, gram: Gram, shared: int = 1, head_dim: int = 1) -> torch.Tensor:
        return find_scales(
            site.weight,
            gram.matrix,
            gram.activity,
            bits=self.recipe.bits,
            group_size=self.recipe.groups(site.spec.in_features),
            shared=shared,
            head_dim=head_dim,
        )


class GPTQMaker(WeightMaker):
    """Site by site, each with inputs that the ones before it, rounded, give; see ``gptq``."""

    def nearest(self, weight: torch.Tensor) -> Weight:
        recipe = self.recipe
        size = recipe.groups(weight.shape[1])
        return grouped(weight, recipe.bits, size, symmetric=recipe.symmetric)

    def calibrated(self, layer: WatchedLayer, collect: Collect) -> None:
        for site in layer.sites:
            (gram,) = collect([site])
            matrix = gram.matrix
            self.store(site, matrix, round_site(self.recipe, site, matrix))


class MatrixMaker(Maker):
    """By a method's own rounding, each site with inputs that the ones before it, rounded, give.

    Args:
        recipe: how.
        dtype: of what the checkpoint stores unquantized.
        rounding: the method's.
        reader: the method; what it reads of the rounded is what they stand for.
    """

    def __init__(
        self, recipe: Recipe, dtype: torch.dtype, rounding: Rounding, reader: QuantMethod
    ) -> None:
        super().__init__(recipe, dtype)
        self._rounding = rounding
        self._reader = reader
        self._tensors: dict[str, dict[str, torch.Tensor]] = {}

    def quantize(self, layer: WatchedLayer, collect: Collect | None) -> None:
        self.rows, self._tensors = [], {}
        for site in layer.sites:
            # Refused before any work, if the method has no such layers.
            self._reader.linear(site.spec, site.weight.device)
        for site in layer.sites:
            gram = None if collect is None else collect([site])[0].matrix
            for name, rows in site.shards().items():
                weight = site.weight[rows]
                made = self._rounding.round(weight, gram)
                rounded = read_weight(self._reader, name, made, weight)
                self.rows.append(row(name, weight, rounded, gram))
                self._tensors[name] = {f"{name}.{kind}": part for kind, part in made.items()}
                site.weight[rows] = rounded

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return self._tensors[name]


class Float8Maker(WeightMaker):
    """8-bit floats, activations too."""

    def nearest(self, weight: torch.Tensor) -> Weight:
        if self.recipe.blocks:
            return float8_blocks(weight, self.recipe.block)
        return float8_rows(weight, self.dtype)

    def prepare(self, site: Site) -> None:
        group = self.recipe.block if self.recipe.blocks else None
        site.activation = lambda x: float8_input(x, group)


class Int8Maker(WeightMaker):
    """Bytes, activations too."""

    def nearest(self, weight: torch.Tensor) -> Weight:
        return int8_rows(weight, self.dtype)

    def prepare(self, site: Site) -> None:
        site.activation = int8_input


def make_maker(
    recipe: Recipe, dtype: torch.dtype, rounding: Rounding | None, reader: QuantMethod
) -> Maker:
    """The recipe's method.

    Args:
        recipe: how.
        dtype: of what the checkpoint stores unquantized.
        rounding: where a plugin's method rounds matrix by matrix.
        reader: of what is written.
    """
    if rounding is not None:
        return MatrixMaker(recipe, dtype, rounding, reader)
    makers: dict[str, type[Maker]] = {
        "awq": AWQMaker,
        "gptq": GPTQMaker,
        "fp8": Float8Maker,
        "int8": Int8Maker,
    }
    return makers[recipe.method](recipe, dtype)


def round_site(recipe: Recipe, site: Site, gram: torch.Tensor) -> dict[str, Weight]:
    """The codes of a site's layers, by ``gptq``; all rows mend each other's inputs alike.

    Args:
        recipe: how.
        site: with the weights to round.
        gram: float32 [K, K], mean of x^T x over its inputs.
    """
    value = round_by_hessian(
        site.weight,
        gram,
        bits=recipe.bits,
        group_size=recipe.groups(site.spec.in_features),
        symmetric=recipe.symmetric,
        order_groups=recipe.desc_act,
        damping=recipe.damping,
    )
    return {name: _cut(value, rows) for name, rows in site.shards().items()}


def fold_into_norm(
    norm: RMSNorm, site: Site, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Divide a norm's weight, as stored, by scales, and multiply the site's columns by them.

    Args:
        norm: whose output the site multiplies.
        site: behind it.
        scales: float32 [K], positive.
        dtype: in which the norm's weight will be stored.

    Returns:
        The factors that were used: what rounding the norm's weight leaves of the scales, so that
        the layer computes what it did.
    """
    stored = (norm.weight / scales).to(dtype).float()
    exact = (stored != 0) & stored.isfinite()
    used = torch.where(exact, norm.weight / stored, torch.ones_like(scales))
    norm.weight.copy_(torch.where(exact, stored, norm.weight))
    norm.finish()
    site.weight.mul_(used)
    return used


def fold_into_values(layer: WatchedLayer, scales: torch.Tensor) -> None:
    """Divide the value projection's outputs by scales, and multiply what attention leads to.

    Args:
        layer: whose heads that share keys and values share scales as well.
        scales: float32 [heads * head_dim].
    """
    spec = layer.spec
    heads = scales.view(spec.num_kv_heads, -1, spec.head_dim)[:, 0].reshape(-1)
    _divide(layer.qkv, ".v_proj", heads)
    layer.output.weight.mul_(scales)


def fold_into_up(layer: WatchedLayer, scales: torch.Tensor) -> None:
    """Divide the up projection's outputs by scales, and multiply the down projection's columns."""
    _divide(layer.gate_up, ".up_proj", scales)
    layer.down.weight.mul_(scales)


def _divide(site: Site, suffix: str, scales: torch.Tensor) -> None:
    (rows,) = (rows for name, rows in site.shards().items() if name.endswith(suffix))
    site.weight[rows].div_(scales.unsqueeze(1))
    if site.bias is not None:
        site.bias[rows].div_(scales)


def _cut(value: GroupedWeight, rows: slice) -> Weight:
    """One of several layers that multiply one input."""
    return GroupedWeight(
        codes=value.codes[rows],
        scales=value.scales[rows],
        zeros=None if value.zeros is None else value.zeros[rows],
        bits=value.bits,
        group_size=value.group_size,
        order=value.order,
    )
