"""A static batch through transformers, for scripts beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def generate(model: Any, prompts: list[list[int]], steps: int, *processors: Processor) -> None:
    """Greedy and padded on the left, so many tokens for each.

    Args:
        model: of transformers.
        prompts: token ids.
        steps: tokens for each.
        processors: given the tokens so far and the logits of the next; what they return counts.

    Raises:
        RuntimeError: when there are fewer.
    """
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        made = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=False,
            logits_processor=list(processors),
            max_new_tokens=steps,
            min_new_tokens=steps,
            pad_token_id=0,
        )
    if made.shape[1] != width + steps:
        raise RuntimeError("a batch is short of tokens")
