"""Train the demonstration model, or its draft by distillation.

Run as `python -m quire.plugins.demo.train --model demo --data DATA --out RUN --steps 5500`, then
`... --model draft --teacher RUN/export --out RUN-draft --steps 2500`; DATA comes from `prepare`.
A run that was cut off goes on with `--resume`.  Batches and schedule depend on the seed and the
step alone, so that a resumed run sees the batches an uninterrupted one would have seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from .model import SHAPES, Llama, export, load_weights
from .optimizer import MuonAdam
from .stream import Stream, split_words
from .tokenizer import CONTEXT

__all__ = ("Settings", "Trainer", "distil_loss", "main", "plain_loss")

_LOG_EVERY = 50


@dataclass(frozen=True)
class Settings:
    """A run's settings.

    Attributes:
        model: Name of the shape.
        steps: Steps in all.
        rows: Rows per batch.
        length: Tokens per row.
        chat_share: Share of the rows that hold conversations.
        seed: Seed of weights and batches.
        matrix_rate: Peak learning rate of the layers' matrices.
        other_rate: Peak learning rate of embeddings and norms.
        warmup: Steps of rising learning rate.
        decay: Share of the steps, at the end, in which the rate falls to zero.
    """

    model: str
    steps: int
    rows: int = 64
    length: int = CONTEXT
    chat_share: float = 0.4
    seed: int = 1
    matrix_rate: float = 0.03
    other_rate: float = 0.005
    warmup: int = 150
    decay: float = 0.6

    def scale(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def plain_loss(logits: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Return the mean cross-entropy over the targets that count."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    weights = counts.flatten().float()
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def distil_loss(logits: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """Return the loss against a teacher: half its distribution, half its first choice.

    Greedy acceptance asks for the teacher's first choice; the distribution says how near the
    others are and steadies the gradient.
    """
    logs = F.log_softmax(logits.float(), -1)
    soft = -(F.softmax(teacher.float(), -1) * logs).sum(-1)
    hard = -logs.gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)
    weights = counts.float()
    return ((0.5 * soft + 0.5 * hard) * weights).sum() / weights.sum().clamp(min=1)


class Trainer:
    """One training run."""

    def __init__(self, settings: Settings, data: Path, out: Path, teacher: Path | None) -> None:
        """Load data and create model, optimizer and, for distillation, the teacher.

        Args:
            settings: The run's settings.
            data: Data folder.
            out: Folder for log, checkpoint and export.
            teacher: Exported checkpoint of the teacher.
        """
        self.settings, self.data, self.out = settings, data, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_float32_matmul_precision("high")
        out.mkdir(parents=True, exist_ok=True)
        self.code = Stream(data, "code", self.device)
        self.chat = Stream(data, "chat", self.device)
        self.model = Llama(SHAPES[settings.model], settings.seed).to(self.device)
        self.optimizer = MuonAdam(self.model, settings.matrix_rate, settings.other_rate)
        self.angles = self.model.angles(settings.length, self.device)
        self.teacher: Llama | None = None
        if teacher:
            self.teacher = Llama(SHAPES["demo"], 0).to(self.device)
            load_weights(self.teacher, teacher / "model.safetensors")
            self.teacher_angles = self.teacher.angles(settings.length, self.device)
        self.loss: Any = distil_loss if teacher else plain_loss
        if self.device.type == "cuda":
            # Layers share one compiled graph: compiling all of them as one takes far longer.
            for module in (self.model, self.teacher):
                for layer in module.model.layers if module else ():
                    layer.compile()
            self.loss = torch.compile(self.loss)
        self.first_step = 0

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the mixed precision context."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def _compute(self, words: Tensor) -> Tensor:
        """Return the loss of a batch."""
        inputs, targets, counts = split_words(words)
        with self._cast():
            wanted = targets
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = self.teacher(inputs, *self.teacher_angles)
            loss: Tensor = self.loss(self.model(inputs, *self.angles), wanted, counts)
        return loss

    def batch(self, step: int) -> Tensor:
        """Draw a step's batch, the same whether or not the run was resumed before it."""
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        chats = round(settings.rows * settings.chat_share)
        length = settings.length
        code = self.code.sample(settings.rows - chats, length, 0.25, generator)
        return torch.cat((code, self.chat.sample(chats, length, 1.0, generator)))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the held-out losses in nats per token, and bits per byte of the code."""
        found = {}
        record = json.loads((self.data / "data.json").read_text(encoding="utf-8"))
        for name in ("valid_code", "valid_chat"):
            stream = Stream(self.data, name, self.device)
            total, agreed, seen = 0.0, 0.0, 0
            length = self.settings.length
            for at in range(0, len(stream.words) - 1, length * 16):
                starts = torch.arange(at, min(at + length * 16, len(stream.words) - 1), length)
                rows = stream.rows(starts, length)
                inside = starts[:, None] + 1 + torch.arange(length) < len(stream.words)
                inputs, targets, counts = split_words(rows)
                counts &= inside.to(self.device)
                with self._cast():
                    logits = self.model(inputs, *self.angles)
                    if self.teacher is not None:
                        first = self.teacher(inputs, *self.teacher_angles).argmax(-1)
                        agreed += float(((logits.argmax(-1) == first) & counts).sum())
                total += float(plain_loss(logits, targets, counts)) * int(counts.sum())
                seen += int(counts.sum())
            found[name] = total / seen
            if self.teacher is not None:
                found[f"{name}_agreement"] = agreed / seen
            if name == "valid_code":
                found["bits_per_byte"] = total / math.log(2) / record["held_out_bytes"]
        return found

    def save(self, step: int) -> None:
        """Write a checkpoint from which the run can go on."""
        tensors = {f"model.{k}": v.detach() for k, v in self.model.named_parameters()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizer.state().items()}
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        half = self.out / "checkpoint.part"
        save_file(tensors, half, metadata={"step": str(step)})
        half.rename(self.out / "checkpoint.safetensors")
        state = {"step": step, "settings": asdict(self.settings)}
        (self.out / "checkpoint.json").write_text(json.dumps(state) + "\n", encoding="utf-8")

    def resume(self) -> None:
        """Go on from the run's checkpoint.

        Raises:
            ValueError: If the checkpoint was written with other settings.
        """
        state = json.loads((self.out / "checkpoint.json").read_text(encoding="utf-8"))
        if state["settings"] != asdict(self.settings):
            raise ValueError("the checkpoint was written with other settings")
        tensors = load_file(self.out / "checkpoint.safetensors", device=str(self.device))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.copy_(tensors[f"model.{name}"])
        prefix = "optimizer."
        self.optimizer.load_state(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        self.first_step = state["step"]

    def _note(self, entry: dict[str, Any]) -> None:
        """Append an entry to the log and show it."""
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()}
        print(json.dumps(rounded), flush=True)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def run(self, check_every: int) -> None:
        """Train to the end and export the model with its tokenizer.

        Args:
            check_every: Steps between validations and checkpoints.
        """
        settings = self.settings
        per_step = settings.rows * settings.length
        losses: list[Tensor] = []
        since = time.perf_counter()
        for step in range(self.first_step, settings.steps):
            loss = self._compute(self.batch(step))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step(step, settings.scale(step))
            losses.append(loss.detach())
            done = step + 1
            if done % _LOG_EVERY == 0 or done == settings.steps:
                mean = float(torch.stack(losses).mean())
                rate = len(losses) * per_step / (time.perf_counter() - since)
                entry = {"step": done, "tokens": done * per_step, "loss": mean,
                         "tokens_per_second": round(rate)}  # fmt: skip
                self._note(entry)
                losses, since = [], time.perf_counter()
            if done % check_every == 0 or done == settings.steps:
                self._note({"step": done, "tokens": done * per_step, **self.validate()})
                self.save(done)
                since = time.perf_counter()
        export(self.model, self.out / "export")
        shutil.copytree(self.data / "tokenizer", self.out / "export", dirs_exist_ok=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="demo")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rows", type=int, default=Settings.rows)
    parser.add_argument("--length", type=int, default=Settings.length)
    parser.add_argument("--chat-share", type=float, default=Settings.chat_share)
    parser.add_argument("--matrix-rate", type=float, default=Settings.matrix_rate)
    parser.add_argument("--other-rate", type=float, default=Settings.other_rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--check-every", type=int, default=1000)
    parser.add_argument("--resume", action="store_true")
    args = vars(parser.parse_args())
    data, out, teacher = args.pop("data"), args.pop("out"), args.pop("teacher")
    check_every, resume = args.pop("check_every"), args.pop("resume")
    trainer = Trainer(Settings(**args), data, out, teacher)
    if resume:
        trainer.resume()
    trainer.run(check_every)


if __name__ == "__main__":
    main()
