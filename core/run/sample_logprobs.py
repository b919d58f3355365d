"""Log-probabilities under the model's own distribution: no temperature, filter or penalty."""

from __future__ import annotations

import torch

from ..step import TokenLogprobs

__all__ = ("PendingLogprobs", "prompt_logprobs")

_ALIGNED = 8
"""Elements; rows of a multiple of it begin at multiples of 32 bytes."""


def prompt_logprobs(logits: torch.Tensor, targets: torch.Tensor, most: int) -> PendingLogprobs:
    """How likely the model found the tokens that did follow.

    Args:
        logits: float [K, V].
        targets: int64 [K], the tokens that stand at the next position of each row.
        most: alternatives to report, 0 or more.
    """
    return PendingLogprobs(logits, targets, [most] * len(logits))


class PendingLogprobs:
    """Log-probabilities of K tokens, on their way to the host; nobody waits before ``read``.

    Args:
        logits: float [K, V].
        targets: int64 [K]; a negative one stands for no token.
        most: alternatives to report for each row.
    """

    def __init__(self, logits: torch.Tensor, targets: torch.Tensor, most: list[int]) -> None:
        self._most = most
        logits = logits.float()
        ids = targets.unsqueeze(-1)
        chosen = logits.gather(-1, ids.clamp(min=0))
        ranks = (logits > chosen).sum(dim=-1, keepdim=True) + 1
        top = logits.topk(min(max(most, default=0), logits.shape[-1]), dim=-1)
        self._ids = _to_host(torch.cat((ids, ranks, top.indices), dim=-1))
        scores = _log_softmax(logits)
        reported = torch.cat((ids.clamp(min=0), top.indices), dim=-1)
        self._values = _to_host(scores.gather(-1, reported))

    def read(self) -> list[TokenLogprobs | None]:
        """An entry a row, None where there was no token.

        On a GPU the caller has waited, after making this, for an event or for the stream.
        """
        rows = zip(self._ids.tolist(), self._values.tolist(), self._most, strict=True)
        return [
            TokenLogprobs(token, logprob, rank, top_ids[:count], top_logprobs[:count])
            if token >= 0
            else None
            for (token, rank, *top_ids), (logprob, *top_logprobs), count in rows
        ]


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """[K, V] -> [K, V or a little more], a row's bits the same in any batch.

    On a GPU a sum, as in ``logsumexp``, is cut by how many rows there are; a softmax takes one row
    at a time, in an order that depends on the row's alignment alone.
    """
    padding = -logits.shape[-1] % _ALIGNED
    if padding:
        logits = torch.nn.functional.pad(logits, (0, padding), value=float("-inf"))
    return logits.log_softmax(-1)


def _to_host(values: torch.Tensor) -> torch.Tensor:
    if not values.is_cuda:
        return values
    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return copied.copy_(values, non_blocking=True)
