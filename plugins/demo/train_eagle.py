"""Train the demonstration model's EAGLE-3 head, on a CPU within minutes.

Run as `python -m quire.plugins.demo.train_eagle --out RUN`; the head is in RUN/export.  A run that
was cut off goes on with `--resume`.  The texts are of the kinds that the model was trained on: a
part of its conversations, of its classic functions, and of the library files that are installed
here.  What the head learns is the model's distribution, not the texts.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from . import corpus
from .eagle_head import EagleHead, export_head, features_of
from .model import SHAPES, Llama, load_weights
from .optimizer import MuonAdam
from .prepare import Plan, chat_texts, code_texts, encode, held_out_chat_texts, mark_answers
from .stream import LOSS_BIT, split_words
from .tokenizer import BOS, VOCAB_SIZE

__all__ = ("HeadSettings", "HeadTrainer", "chain_loss", "main")

_MODEL = Path(__file__).parent / "model"
_LOG_EVERY = 25


@dataclass(frozen=True)
class HeadSettings:
    """A run's settings.

    Attributes:
        steps: Steps in all.
        rows: Rows per batch.
        length: Tokens per row.
        drafts: Of each chain in training.
        vocabulary: Tokens that the head can draft.
        chats: Conversations.
        snippets: Source files of classic functions.
        files: Library files.
        chat_share: Share of the rows that hold conversations.
        seed: Of weights, texts and batches.
        matrix_rate: Peak learning rate of the matrices.
        other_rate: Peak learning rate of the norms.
        warmup: Steps of rising learning rate.
    """

    steps: int = 1200
    rows: int = 8
    length: int = 192
    drafts: int = 3
    vocabulary: int = 1024
    chats: int = 12_000
    snippets: int = 1_000
    files: int = 600
    chat_share: float = 0.4
    seed: int = 1
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    warmup: int = 50

    def scale(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        left = (self.steps - step) / (0.6 * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def chain_loss(logits: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """Return the loss of one draft of all chains: half the model's distribution, half its choice.

    Args:
        logits: (..., drafted vocabulary), the head's.
        teacher: The same of the model's logits.
        counts: (...), whether a token counts.
    """
    logs = logits.log_softmax(-1)
    soft = -(teacher.softmax(-1) * logs).sum(-1)
    hard = -logs.gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)
    weights = counts.float()
    return ((soft + hard) * weights).sum() / (2 * weights.sum().clamp(min=1))


class HeadTrainer:
    """One training run."""

    def __init__(self, settings: HeadSettings, out: Path) -> None:
        """Write and encode the texts, and load the model.

        Args:
            settings: The run's settings.
            out: Folder for log, checkpoint and export.
        """
        self.settings, self.out = settings, out
        out.mkdir(parents=True, exist_ok=True)
        self.model = Llama(SHAPES["demo"], 0)
        load_weights(self.model, _MODEL / "model.safetensors")
        self.model.requires_grad_(False)
        self._texts()
        counts = torch.bincount(
            torch.cat([words & (LOSS_BIT - 1) for words in self.words.values()]),
            minlength=VOCAB_SIZE,
        )
        chosen = counts.topk(settings.vocabulary).indices.sort().values
        self.head = EagleHead(self.model, chosen, settings.seed)
        self.optimizer = MuonAdam(self.head, settings.matrix_rate, settings.other_rate)
        self.angles = self.model.angles(settings.length, torch.device("cpu"))
        self.first_step = 0

    def _texts(self) -> None:
        """Encode the texts, once a run."""
        path = self.out / "texts.safetensors"
        if not path.is_file():
            settings = self.settings
            tokenizer = Tokenizer.from_file(str(_MODEL / "tokenizer.json"))
            plan = Plan(chats=settings.chats, snippets=settings.snippets, seed=settings.seed)
            files = corpus.collect() if settings.files else []
            order = torch.randperm(len(files), generator=_generator(settings.seed, 0))
            code = code_texts(plan, [files[int(index)] for index in order[: settings.files]])
            held = [BOS + text for text in corpus.held_out_sources().values()][:3]
            found = {
                "code": encode(tokenizer, code) | np.uint16(LOSS_BIT),
                "chat": mark_answers(tokenizer, encode(tokenizer, chat_texts(plan))),
                "valid_code": encode(tokenizer, held) | np.uint16(LOSS_BIT),
                "valid_chat": mark_answers(
                    tokenizer, encode(tokenizer, held_out_chat_texts(8, seed=1))
                ),
            }
            save_file(
                {name: torch.from_numpy(words.astype(np.int32)) for name, words in found.items()},
                path,
            )
        words = load_file(path)
        self.valid = {name: words.pop(f"valid_{name}") for name in ("code", "chat")}
        self.words = words

    def batch(self, step: int) -> Tensor:
        """Draw a step's batch, which depends on the seed and the step alone."""
        settings = self.settings
        generator = _generator(settings.seed, step + 1)
        chats = round(settings.rows * settings.chat_share)
        rows = []
        for name, count in (("code", settings.rows - chats), ("chat", chats)):
            words = self.words[name]
            limit = len(words) - settings.length - 1
            starts = torch.randint(limit, (count, 1), generator=generator)
            rows.append(words[starts + torch.arange(settings.length + 1)])
        return torch.cat(rows)

    def compute(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and by draft the share of first choices that agree."""
        inputs, _, counts = split_words(words)
        drafts, vocabulary = self.settings.drafts, self.head.vocabulary
        with torch.no_grad():
            features, teacher = features_of(self.model, inputs, *self.angles)
            # Whether the model's own choice at a token can be drafted, and counts.
            known = torch.isin(teacher.argmax(-1), vocabulary) & counts
            choice, teacher = teacher.argmax(-1), teacher[..., vocabulary]
            embedded = self.model.model.embed_tokens(inputs[:, 1:])
        loss, agreed = torch.zeros(()), []
        chain = self.head.chain(embedded, features[:, :-1], *self.angles, drafts)
        for index, logits in enumerate(chain):
            at = slice(index + 1, index + 1 + logits.shape[1])
            loss = loss + 0.8**index * chain_loss(logits, teacher[:, at], known[:, at])
            right = (vocabulary[logits.argmax(-1)] == choice[:, at]) & counts[:, at]
            agreed.append(right.sum() / counts[:, at].sum().clamp(min=1))
        return loss, torch.stack(agreed)

    @torch.no_grad()
    def validate(self) -> dict[str, list[float]]:
        """Return, by kind of text and by draft, how often the head's choice is the model's."""
        found = {}
        length = self.settings.length
        for name, words in self.valid.items():
            starts = torch.arange(0, min(len(words) - length - 1, 64 * length), length)
            rows = words[starts[:, None] + torch.arange(length + 1)]
            found[name] = [round(float(share), 4) for share in self.compute(rows)[1]]
        return found

    def save(self, step: int) -> None:
        """Write a checkpoint from which the run can go on."""
        tensors = {f"head.{name}": weight.detach() for name, weight in self.head.named_parameters()}
        tensors |= {f"optimizer.{name}": value for name, value in self.optimizer.state().items()}
        part = self.out / "checkpoint.part"
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)
        part.rename(self.out / "checkpoint.safetensors")
        (self.out / "step").write_text(str(step))

    def resume(self) -> None:
        """Go on from the run's checkpoint."""
        tensors = load_file(self.out / "checkpoint.safetensors")
        with torch.no_grad():
            for name, weight in self.head.named_parameters():
                weight.copy_(tensors[f"head.{name}"])
        state = {k: v for k, v in tensors.items() if k.startswith("optimizer.")}
        self.optimizer.load_state({k.removeprefix("optimizer."): v for k, v in state.items()})
        self.first_step = int((self.out / "step").read_text())

    def run(self, seconds: float) -> None:
        """Train to the end, or until the time is over, and export the head at the end."""
        begun, losses = time.monotonic(), []
        for step in range(self.first_step, self.settings.steps):
            loss, _ = self.compute(self.batch(step))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step(step, self.settings.scale(step))
            losses.append(float(loss.detach()))
            done = step + 1
            over = time.monotonic() - begun > seconds
            if done % _LOG_EVERY == 0 or over or done == self.settings.steps:
                entry = {"step": done, "loss": round(sum(losses) / len(losses), 4)}
                print(json.dumps(entry | self.validate()), flush=True)
                losses = []
            if over or done == self.settings.steps:
                self.save(done)
                break
        export_head(self.head, self.out / "export")


def _generator(seed: int, step: int) -> torch.Generator:
    """Return a generator of a step's own."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=HeadSettings.steps)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    trainer = HeadTrainer(HeadSettings(steps=args.steps), args.out)
    if args.resume:
        trainer.resume()
    trainer.run(args.seconds)


if __name__ == "__main__":
    main()
