"""Log-probabilities under the model's own distribution: no temperature, filter or penalty."""

from __future__ import annotations

import torch

from ..step import TokenLogprobs

__all__ = ("prompt_logprobs", "token_logprobs")


def prompt_logprobs(logits: torch.Tensor, targets: torch.Tensor, most: int) -> list[TokenLogprobs]:
    """How likely the model found the tokens that did follow.

    Args:
        logits: float [K, V].
        targets: int64 [K], the tokens that stand at the next position of each row.
        most: alternatives to report, 0 or more.
    """
    return token_logprobs(logits, targets, [most] * len(logits))


def token_logprobs(
    logits: torch.Tensor, targets: torch.Tensor, most: list[int]
) -> list[TokenLogprobs]:
    """One entry a row; waits for the device.

    Args:
        logits: float [K, V].
        targets: int64 [K].
        most: alternatives to report for each row.
    """
    if not most:
        return []
    logits = logits.float()
    normaliser = logits.logsumexp(dim=-1, keepdim=True)
    chosen = logits.gather(-1, targets.unsqueeze(-1))
    ranks = (logits > chosen).sum(dim=-1) + 1
    top = logits.topk(min(max(most), logits.shape[-1]), dim=-1)
    columns = zip(
        targets.tolist(),
        (chosen - normaliser).squeeze(-1).tolist(),
        ranks.tolist(),
        top.indices.tolist(),
        (top.values - normaliser).tolist(),
        most,
        strict=True,
    )
    return [
        TokenLogprobs(token, logprob, rank, ids[:count], values[:count])
        for token, logprob, rank, ids, values, count in columns
    ]
