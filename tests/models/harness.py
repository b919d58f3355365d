"""A model run without an engine: architecture and attention backend, driven step by step."""

from __future__ import annotations

from pathlib import Path

import torch

from quire.backends.attention.cpu import CPUAttention
from quire.core.contracts.attention import AttentionBackend, AttentionBatch
from quire.core.contracts.model import Architecture, BuildContext
from quire.core.registry import Registry
from quire.core.source import Source, open_folder
from quire.core.weights.load import load_weights
from quire.plugins.platforms.cpu import CPU
from quire.quant.unquantized import Unquantized

__all__ = ("Harness", "build")


def build(source: Source, max_model_len: int, dtype: torch.dtype = torch.float32) -> Architecture:
    """The source's architecture on the CPU, without weights."""
    platform = CPU()
    context = BuildContext(
        dtype=dtype,
        device=torch.device("cpu"),
        quant=Unquantized(platform),
        platform=platform,
        max_model_len=max_model_len,
    )
    architecture: type[Architecture] = Registry().get("model", source.architecture())
    return architecture.build(source.config, context)


class Harness:
    """One sequence in a paged cache with scattered blocks."""

    def __init__(
        self,
        model: Architecture,
        *,
        max_model_len: int,
        backend: type[AttentionBackend] = CPUAttention,
        block_size: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.block_size = block_size
        self.attention = backend(
            model.attention_layers(),
            block_size=block_size,
            kv_dtype=dtype,
            device=torch.device("cpu"),
        )
        blocks = -(-max_model_len // block_size)
        self.attention.allocate(2 * blocks + 1)
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randperm(2 * blocks, generator=generator)[:blocks] + 1

    @classmethod
    def load(cls, folder: Path, max_model_len: int, **options: object) -> Harness:
        """From a checkpoint's folder."""
        source = open_folder(folder)
        model = build(source, max_model_len)
        load_weights(source, model)
        return cls(model, max_model_len=max_model_len, **options)  # type: ignore[arg-type]

    @torch.inference_mode()
    def logits(self, token_ids: list[int], chunk: int) -> torch.Tensor:
        """[tokens, vocabulary], computed in chunks of this many tokens."""
        parts = []
        for start in range(0, len(token_ids), chunk):
            tokens = torch.tensor(token_ids[start : start + chunk])
            positions = torch.arange(start, start + len(tokens))
            blocks = self.table[positions // self.block_size]
            length = start + len(tokens)
            batch = AttentionBatch(
                query_start=torch.tensor([0, len(tokens)], dtype=torch.int32),
                lengths=torch.tensor([length], dtype=torch.int32),
                block_tables=self.table[: -(-length // self.block_size)][None].to(torch.int32),
                write_slots=blocks * self.block_size + positions % self.block_size,
                num_decodes=int(len(tokens) == 1),
                query_lengths=[len(tokens)],
                host_lengths=[length],
            )
            prepared = self.attention.prepare(batch)
            hidden = self.model.forward(
                tokens,
                positions,
                lambda layer, q, k, v, rotation=None, step=prepared: self.attention.attend(
                    layer, q, k, v, step, rotation
                ),
            )
            parts.append(self.model.logits(hidden))
        return torch.cat(parts)
