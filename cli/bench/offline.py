"""A workload straight through the engine, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...core.memory import collecting_seldom
from ...core.request import Request, SamplingParams
from .report import Sample
from .workloads import Workload

if TYPE_CHECKING:
    from ...core.engine import Engine

__all__ = ("drive",)


def drive(
    engine: Engine,
    workload: Workload,
    concurrency: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Run a workload; no tokenizer takes part.

    Args:
        engine: started, and idle.
        workload: what to ask.
        concurrency: requests handed over at once; None for all.
        on_done: called after each request.

    Returns:
        A sample a request, in the workload's order; times of ``time.perf_counter``.
    """
    samples: dict[str, Sample] = {}
    left = list(enumerate(zip(workload.prompts, workload.outputs, strict=True)))[::-1]
    most = concurrency or len(left)
    running = 0
    with collecting_seldom():
        while left or running:
            while left and running < most:
                index, (prompt, output) = left.pop()
                request = _request(f"{workload.name}-{index}", prompt, output)
                samples[request.request_id] = Sample(time.perf_counter(), len(prompt), output)
                engine.add(request)
                running += 1
            for delta in engine.step():
                sample = samples[delta.request_id]
                if delta.token_ids:
                    sample.arrivals.append(time.perf_counter())
                    sample.counts.append(len(delta.token_ids))
                if delta.finish_reason is not None:
                    running -= 1
                    on_done()
                    sample.error = delta.error
    return list(samples.values())


def _request(request_id: str, prompt: Sequence[int], output: int) -> Request:
    params = SamplingParams(
        temperature=0, max_tokens=output, min_tokens=output, ignore_eos=True, detokenize=False
    )
    return Request(
        request_id=request_id,
        prompt_token_ids=list(prompt),
        params=params,
        seed=0,
        max_tokens=output,
        arrival=time.monotonic(),
        streamed=False,
    )
