"""Static batches of `transformers.generate` on a workload of `offline.py`, a JSON line a batch.

    python docs/benchmarks/offline_transformers.py llama-8b chat-1024 --sizes 64,128,256

Batches are of requests in the workload's order, as whoever serves them must take them: nobody knows
how long answers will be. A batch runs until its longest answer ends, and what others compute
meanwhile is not counted. Of each size the first batches alone are run (`--batches`), as all of them
take many minutes. `--by-length` sorts by the lengths of answers first, for comparison.

`--steps 32` takes as long as that many of a batch's first steps and as many of its last, whose
prompts are longer by the answer so far, and estimates the batch: its time grows evenly between, as
every step reads one token more of each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from offline import SHAPES, made_up, say
from static_batch import generate
from transformers import AutoConfig, AutoModelForCausalLM

from quire.cli.bench.workloads import make


def main() -> None:
    """Start once, run every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a shape of offline.py, or a folder with a config.json")
    parser.add_argument("workload")
    parser.add_argument("--sizes", default="64,128,256")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--by-length", action="store_true")
    parser.add_argument("--steps", type=int, help="of a batch's beginning and end; all if left out")
    args = parser.parse_args()
    folder = made_up(args.model, None) if args.model in SHAPES else Path(args.model)
    config = AutoConfig.from_pretrained(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    longest = min(20000, config.max_position_embeddings)
    work = make(args.workload, vocab_size=config.vocab_size, max_model_len=longest)
    order = list(range(len(work.prompts)))
    if args.by_length:
        order.sort(key=lambda index: work.outputs[index])
    generate(model, [[1] * 16], 4)
    for size in map(int, args.sizes.split(",")):
        starts = range(0, len(order), size)
        # Sorted, the first are the shortest: spread over all of them.
        stride = max(len(starts) // args.batches, 1) if args.by_length else 1
        for start in starts[::stride][: args.batches]:
            taken = order[start : start + size]
            outputs = [work.outputs[index] for index in taken]
            prompts = [work.prompts[index] for index in taken]
            try:
                seconds = _seconds(model, prompts, max(outputs), args.steps)
            except torch.OutOfMemoryError:
                say(engine="transformers", workload=args.workload, size=size, out_of_memory=True)
                break
            say(
                engine="transformers",
                workload=args.workload,
                size=size,
                first=start,
                by_length=args.by_length,
                s=seconds,
                estimated=args.steps is not None,
                steps=max(outputs),
                out_tok_s=sum(outputs) / seconds,
            )


def _seconds(model: Any, prompts: list[list[int]], steps: int, some: int | None) -> float:
    """What a batch takes, or would take by some of its steps at either end."""
    if some is None:
        return sum(_times(model, prompts, steps))
    longer = [prompt + [1] * (steps - some) for prompt in prompts]
    (first, *early), (_, *late) = (_times(model, each, some) for each in (prompts, longer))
    return first + (steps - 1) * statistics.mean(map(statistics.median, (early, late)))


def _times(model: Any, prompts: list[list[int]], steps: int) -> list[float]:
    """Seconds until the first token, and from each to the next."""
    seen = [time.perf_counter()]

    def look(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seen.append(time.perf_counter())
        return logits

    generate(model, prompts, steps, look)
    return [later - sooner for sooner, later in pairwise(seen)]


if __name__ == "__main__":
    main()
