"""Score the exported checkpoints on held-out data with transformers, greedily.

Run as `python -m quire.plugins.demo.evaluate --demo MODEL --draft DRAFT --out scores.json`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import corpus, curriculum
from .example import Example

__all__ = ("Checkpoint", "acceptance", "bits_per_byte", "code_prompts", "main", "task_scores")

_CHAIN = 4


class Checkpoint:
    """A model with its tokenizer."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        """Load a checkpoint folder.

        Args:
            folder: Checkpoint folder.
            dtype: Type to compute in.
        """
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model: Any = model.eval()

    def prompt(self, example: Example) -> list[int]:
        """Render a question as tokens."""
        text = self.tokenizer.apply_chat_template(
            example.messages, tools=example.tools, add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], most: int) -> list[list[int]]:
        """Continue prompts greedily, up to and without the end token."""
        batch = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        out = self.model.generate(**batch, max_new_tokens=most, do_sample=False)
        answers = []
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            ends = [row.index(end) for end in (0, 5) if end in row]
            answers.append(row[: min(ends)] if ends else row)
        return answers


def task_scores(checkpoint: Checkpoint, per_task: int, seed: int) -> dict[str, Any]:
    """Score every task of the curriculum.

    Args:
        checkpoint: The model.
        per_task: Questions per task.
        seed: Seed of the held-out draw.
    """
    examples = curriculum.held_out(per_task, seed)
    prompts = [checkpoint.prompt(example) for example in examples]
    # Prompts of like length share a batch: the padding stays short.
    order = sorted(range(len(examples)), key=lambda i: (examples[i].task, len(prompts[i])))
    texts: dict[int, str] = {}
    for at in range(0, len(order), 50):
        part = order[at : at + 50]
        answers = checkpoint.generate([prompts[i] for i in part], 200)
        for i, answer in zip(part, answers, strict=True):
            texts[i] = checkpoint.tokenizer.decode(answer)
    right = [curriculum.score(example, texts[i]) for i, example in enumerate(examples)]
    tasks: dict[str, dict[str, float]] = {}
    wrong = []
    for i, example in enumerate(examples):
        entry = tasks.setdefault(example.task, {"right": 0, "of": 0})
        entry["of"] += 1
        entry["right"] += right[i]
        if not right[i]:
            said = {"task": example.task, "wanted": example.answer, "got": texts[i]}
            wrong.append(said | {"asked": str(example.messages[-1]["content"])})
    wants = [i for i, example in enumerate(examples) if example.wants_json]
    shares = [entry["right"] / entry["of"] for entry in tasks.values()]
    return {
        "tasks": tasks,
        "exact": sum(right) / len(right),
        "exact_mean_over_tasks": sum(shares) / len(shares),
        "valid_json": sum(curriculum.valid_json(texts[i]) for i in wants) / len(wants),
        "wrong": wrong,
    }


@torch.no_grad()
def bits_per_byte(checkpoint: Checkpoint, window: int = 2048) -> dict[str, float]:
    """Measure the held-out standard library modules.

    Args:
        checkpoint: The model.
        window: Context; windows overlap by half, so that every token has context.
    """
    found: dict[str, float] = {}
    bits_all = size_all = 0.0
    for name, text in corpus.held_out_sources().items():
        ids = torch.tensor(checkpoint.tokenizer.encode(text))
        bits, scored = 0.0, 1
        for at in range(0, max(1, len(ids) - window // 2), window // 2):
            part = ids[at : at + window]
            logs = torch.log_softmax(checkpoint.model(part[None]).logits[0].float(), -1)
            gains = logs[:-1].gather(-1, part[1:, None]).squeeze(-1)
            fresh = gains[scored - at - 1 :]
            bits -= float(fresh.sum()) / math.log(2)
            scored = at + len(part)
        size = len(text.encode())
        found[name] = bits / size
        bits_all, size_all = bits_all + bits, size_all + size
    return {"all": bits_all / size_all} | found


@torch.no_grad()
def acceptance(
    demo: Checkpoint, draft: Checkpoint, prompts: Sequence[list[int]], most: int
) -> dict[str, float]:
    """Measure how many drafted tokens greedy verification accepts.

    The draft proposes chains of four tokens after each confirmed token of the demo model's own
    greedy continuation, exactly as speculative decoding would.

    Args:
        demo: The target.
        draft: The draft.
        prompts: Prompts as tokens.
        most: Length of the continuations.

    Returns:
        Accepted share of the drafted tokens, of each chain's first token, and tokens per step.
    """
    drafted = accepted = firsts = chains = 0
    for prompt in prompts:
        answer = demo.generate([prompt], most)[0]
        # The end token is drafted too where the answer stopped by itself.
        if len(answer) < most:
            answer = [*answer, 5]
        done = 1
        while done < len(answer):
            wanted = answer[done : done + _CHAIN]
            context = torch.tensor([[*prompt, *answer[:done]]])
            chain = _chain(draft, context, len(wanted))
            same = [a == b for a, b in zip(chain, wanted, strict=True)]
            hits = same.index(False) if False in same else len(same)
            drafted, accepted, chains = drafted + len(wanted), accepted + hits, chains + 1
            firsts += hits > 0
            done += hits + 1
    return {
        "per_drafted_token": accepted / drafted,
        "first_of_chain": firsts / chains,
        "tokens_per_step": (accepted + chains) / chains,
        "chains": chains,
    }


def _chain(draft: Checkpoint, context: Tensor, count: int) -> list[int]:
    """Draft a chain greedily."""
    chain: list[int] = []
    cache = None
    for _ in range(count):
        out = draft.model(context, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        context = out.logits[:, -1:].argmax(-1)
        chain.append(int(context))
    return chain


def code_prompts(checkpoint: Checkpoint, count: int, seed: int = 0) -> list[list[int]]:
    """Cut prompts of held-out standard library code.

    Args:
        checkpoint: Whose tokenizer to use.
        count: Number of prompts.
        seed: Seed of the cuts.
    """
    rng = Random(f"code prompts {seed}")
    texts = list(corpus.held_out_sources().values())
    prompts = []
    for _ in range(count):
        lines = rng.choice(texts).splitlines(keepends=True)
        start = rng.randrange(max(1, len(lines) - 40))
        text = "".join(lines[start : start + 20])
        prompts.append(checkpoint.tokenizer.encode(text))
    return prompts


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-task", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    demo = Checkpoint(args.demo, dtype)
    scores = task_scores(demo, args.per_task, args.seed)
    scores["bits_per_byte"] = bits_per_byte(demo)
    if args.draft:
        draft = Checkpoint(args.draft, dtype)
        chats = curriculum.held_out(max(1, args.prompts // len(curriculum.TASKS)), args.seed)
        scores["draft_bits_per_byte"] = bits_per_byte(draft)["all"]
        scores["acceptance"] = {
            "chat": acceptance(demo, draft, [demo.prompt(chat) for chat in chats], 128),
            "code": acceptance(demo, draft, code_prompts(demo, args.prompts), 96),
        }
    args.out.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in scores.items() if k != "wrong"}, indent=2))


if __name__ == "__main__":
    main()
