"""A job: from a model's files to a folder with the quantized ones, a layer at a time.

Each layer's file is written once, whole. Whoever starts the same job again goes on behind the last
one, and gets the same bytes: what later layers see of a layer is always what its file says.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from ... import __version__
from ...core.contracts.model import TensorHolder
from ...core.contracts.platform import Platform
from ...core.contracts.quant import QuantMethod, Rounding
from ...core.errors import CheckpointError, ConfigError
from ...core.layers.decoder import Decoder, DecoderSpec
from ...core.layers.fields import Fields
from ...core.layers.parameter import Parameter
from ...core.registry import Registry
from ...core.source import Source
from ...core.text.tokenizer import Tokenizer
from ...core.weights.bind import bind
from ...core.weights.parts import CheckpointParts
from . import formats
from .calibration import BUILTIN, Blocks, made_up_blocks, read_blocks
from .estimate import Estimate, estimate
from .folder import Folder
from .methods import Maker, make_maker
from .reading import read_weight
from .recipe import METHODS, Options, Recipe
from .report import Kept, Report, Row
from .site import Site
from .walk import Walk, WatchedLayer

__all__ = ("Job",)

_UNUSED = ("rotary_emb.inv_freq",)


class Job:
    """One model to be quantized.

    Args:
        source: of the model.
        options: what was asked for.
        out: folder to write to.
        registry: for the architecture and the reader of what is written.
        platform: of the device to compute on.
        dtype: of what stays unquantized; None for the model's own.
        calibration: a file, ``builtin`` or ``none``.
        dummy_seed: make weights and text up from this seed, for benchmarks.

    Raises:
        ConfigError: for options that do not fit, or a folder that holds something else.
        CheckpointError: for a model that cannot be read or quantized.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        out: Path,
        *,
        registry: Registry,
        platform: Platform,
        dtype: str | None = None,
        calibration: str = "builtin",
        dummy_seed: int | None = None,
    ) -> None:
        if source.quantization() is not None:
            raise CheckpointError(
                f"{source.folder} is quantized by {source.quantization()} already; quantize the "
                "model that it was made from"
            )
        self._source = source
        self._spec = _read_spec(source, registry)
        self._rounding = _rounding(options, registry)
        self.recipe = Recipe.choose(options, self._spec, self._rounding)
        self._dtype: torch.dtype = getattr(torch, dtype or source.dtype())
        self._device = platform.setup()
        self._platform = platform
        self._seed = dummy_seed
        self._parts = CheckpointParts(source.folder) if dummy_seed is None else None
        self._blocks = self._read_blocks(calibration)
        described = self._describe()
        reader = registry.get("quant", described["quant_method"])
        self._reader: QuantMethod = reader.from_checkpoint(described, platform)
        self._folder = Folder(out, self._spec.num_layers)
        self._folder.claim(self._identity())

    @property
    def layers(self) -> int:
        """To pass."""
        return self._spec.num_layers

    @property
    def finished(self) -> int:
        """Layers that an earlier run wrote."""
        return sum(self._folder.has(index) for index in range(self.layers))

    def estimate(self) -> Estimate:
        """What the run will take, before it starts."""
        return estimate(self.recipe, self._spec, self._blocks, self._dtype, self._device)

    @torch.inference_mode()
    def run(self, advance: Callable[[], object]) -> Report:
        """Quantize every layer that is not written yet, and finish the folder.

        Args:
            advance: called after each layer.

        Raises:
            CheckpointError: for files that changed meanwhile or do not fit the architecture.
            OSError: when the folder cannot be written.
        """
        begun = time.perf_counter()
        walk = Walk(
            self._spec, self._platform, self._device, length=self.recipe.length, fill=self._fill
        )
        text = _Text(walk, self._blocks) if self._blocks is not None else None
        rows: list[Row] = []
        for index in range(self.layers):
            layer = walk.layer(index)
            if text is not None:
                walk.advance(layer, text.reference)
            if not self._folder.has(index):
                self._quantize(walk, layer, index, text)
            rows += self._folder.rows(index)
            if text is not None:
                self._restore(layer, dict(self._folder.tensors(index)))
                walk.advance(layer, text.calibration)
                walk.advance(layer, text.held_out)
            advance()
        before, after = (None, None) if text is None else text.perplexities(walk, self._blocks)
        self._write_ends(walk)
        kept, total, quantized = self._sizes()
        report = Report(
            rows=rows,
            kept=kept,
            bytes_before=total - quantized + self._bytes_before(),
            bytes_after=total,
            perplexity_before=before,
            perplexity_after=after,
            seconds=time.perf_counter() - begun,
        )
        self._folder.finish(self._source, self._config(), report)
        return report

    def _describe(self) -> dict[str, Any]:
        """``quantization_config`` of what is written."""
        if self._rounding is not None:
            return self._rounding.describe()
        return formats.describe(self.recipe)

    def _maker(self) -> Maker:
        return make_maker(self.recipe, self._dtype, self._rounding, self._reader)

    def _quantize(self, walk: Walk, layer: WatchedLayer, index: int, text: _Text | None) -> None:
        maker = self._maker()
        if text is None:
            maker.quantize(layer, None)
        else:
            hidden = text.calibration
            maker.quantize(layer, lambda sites: walk.collect(layer, sites, hidden))
        tensors: dict[str, torch.Tensor] = {}
        for holder in layer.layer.holders():
            if isinstance(holder, Parameter):
                tensors[holder.name] = holder.data.to(self._dtype)
            elif isinstance(holder, Site):
                tensors |= self._site_tensors(holder, maker)
        self._folder.write(index, tensors, maker.rows)

    def _site_tensors(self, site: Site, maker: Maker) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for name, rows in site.shards().items():
            tensors |= maker.tensors(name)
            if site.bias is not None:
                tensors[f"{name}.bias"] = site.bias[rows].to(self._dtype)
        return tensors

    def _restore(self, layer: WatchedLayer, tensors: dict[str, torch.Tensor]) -> None:
        """Give a layer what its file says."""
        maker = self._maker()
        for holder in layer.layer.holders():
            if not isinstance(holder, Site):
                for name in holder.names():
                    holder.load(name, tensors[name])
                holder.finish()
                continue
            maker.prepare(holder)
            for name, rows in holder.shards().items():
                start = f"{name}."
                own = {
                    key.removeprefix(start): tensor.to(self._device)
                    for key, tensor in tensors.items()
                    if key.startswith(start)
                }
                if holder.bias is not None:
                    holder.bias[rows] = own.pop("bias").float()
                weight = holder.weight[rows]
                weight.copy_(read_weight(self._reader, name, own, weight))

    def _fill(self, holders: Sequence[TensorHolder], prefixes: tuple[str, ...]) -> None:
        if self._parts is not None:
            stream = self._parts.read(prefixes)
            bind(stream, holders, lambda name: name.endswith(_UNUSED))
            return
        generator = torch.Generator(device=self._device).manual_seed(self._seed or 0)
        for holder in holders:
            holder.make_up(generator)
            holder.finish()

    def _read_blocks(self, calibration: str) -> Blocks | None:
        recipe = self.recipe
        if not recipe.calibrated:
            return None
        wanted = {"samples": recipe.samples, "length": recipe.length}
        if self._seed is not None:
            return made_up_blocks(self._spec.vocab_size, seed=self._seed, **wanted)
        if recipe.length > self._source.context_length():
            raise ConfigError(
                f"--length {recipe.length} is more than the model's {self._source.context_length()}"
                " tokens"
            )
        path = BUILTIN if calibration == "builtin" else Path(calibration)
        return read_blocks(path, Tokenizer.load(self._source), **wanted)

    def _write_ends(self, walk: Walk) -> None:
        if self._folder.has(self.layers):
            return
        self._folder.write(self.layers, walk.ends().tensors(self._dtype), [])

    def _config(self) -> dict[str, Any]:
        name = str(self._dtype).removeprefix("torch.")
        config = {**self._source.config, "quantization_config": self._describe()}
        keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
        return config | dict.fromkeys(keys, name)

    def _sizes(self) -> tuple[list[Kept], int, int]:
        """What was kept, bytes of all tensors, and bytes of the quantized ones."""
        quantized = tuple(f".{name}." for name, _, _ in self._spec.products())
        ends, small, head, stored = 0, 0, 0, 0
        for index in range(self.layers + 1):
            for name, tensor in self._folder.tensors(index):
                size = tensor.numel() * tensor.element_size()
                if any(part in name for part in quantized) and not name.endswith(".bias"):
                    stored += size
                elif name.startswith("lm_head"):
                    head += size
                elif name.startswith("model.embed_tokens"):
                    ends += size
                else:
                    small += size
        kept = [Kept("embedding", ends, "rows of it are looked up, not multiplied")]
        if head:
            kept.append(Kept("head", head, "its errors reach every token's odds; tools leave it"))
        kept.append(Kept("norms and biases", small, "they are small"))
        return kept, ends + small + head + stored, stored

    def _bytes_before(self) -> int:
        """Of the matrices that are quantized."""
        size = sum(rows * columns for _, rows, columns in self._spec.products())
        return size * self.layers * self._dtype.itemsize

    def _identity(self) -> dict[str, Any]:
        """What must be the same for another run to go on with this one."""
        files = sorted(path for path in self._source.folder.glob("*.safetensors"))
        digest = hashlib.sha256(msgspec.json.encode(self._source.config, order="deterministic"))
        for path in files if self._seed is None else ():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for blocks in self._blocks or ():
            digest.update(blocks.numpy().tobytes())
        return {
            **msgspec.to_builtins(self.recipe),
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device.type,
            "quire": __version__,
            "model_and_text": digest.hexdigest(),
        }


class _Text:
    """Hidden states of the text, layer by layer: as the model gives them, and as it will."""

    def __init__(self, walk: Walk, blocks: Blocks) -> None:
        ends = walk.ends()
        self.calibration = ends.embed(blocks.calibration.to(walk.device))
        self.held_out = ends.embed(blocks.held_out.to(walk.device))
        self.reference = self.held_out.clone()

    def perplexities(self, walk: Walk, blocks: Blocks | None) -> tuple[float, float]:
        """On held-out blocks, before and after."""
        if blocks is None:
            raise RuntimeError("there is no text")
        ends = walk.ends()
        tokens = blocks.held_out.to(walk.device)
        return ends.perplexity(self.reference, tokens), ends.perplexity(self.held_out, tokens)


def _rounding(options: Options, registry: Registry) -> Rounding | None:
    """Of a method that rounds matrix by matrix; None for the others."""
    if options.method in METHODS or options.method not in registry.names("quant"):
        return None
    method: type[QuantMethod] = registry.get("quant", options.method)
    return method.rounding()


def _read_spec(source: Source, registry: Registry) -> DecoderSpec:
    name = source.architecture()
    architecture = registry.get("model", name)
    if not (isinstance(architecture, type) and issubclass(architecture, Decoder)):
        raise CheckpointError(
            f"{name} is not one of the decoders that can be quantized layer by layer; with "
            "`--quantization fp8` or int8 it is quantized while it is loaded"
        )
    return architecture.read(Fields(source.config))
