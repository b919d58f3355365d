"""The workloads of `offline.py` through vLLM, on the same made-up weights' shape.

    python docs/benchmarks/offline_vllm.py latency-1,decode-64 --repeat 3 [--weights awq]

Needs vLLM, and quire's sources for the workloads. Prints the JSON lines that `offline.py` prints.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from offline import LLAMA_8B, WEIGHTS, made_up, say

from quire.cli.bench.workloads import make


def main() -> None:
    """Start once, run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", help="names, separated by commas")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--weights", choices=tuple(WEIGHTS))
    parser.add_argument("--max-num-seqs", type=int, default=512)
    args = parser.parse_args()
    begun = time.perf_counter()
    from vllm import LLM, SamplingParams

    stored = args.weights and WEIGHTS[args.weights]
    if stored:
        _make_up_codes()
    llm = LLM(
        model=str(made_up("llama-8b", args.weights)),
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=20000,
        gpu_memory_utilization=0.9,
        max_num_seqs=args.max_num_seqs,
        # Its kernels for AWQ and GPTQ are of float16.
        dtype="float16" if stored else "bfloat16",
        quantization=args.weights if args.weights and not stored else None,
    )
    if stored and os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == "spawn":
        raise RuntimeError("vLLM spawned its engine, whose codes are zeros then")
    say(engine="vllm", weights=args.weights, start_s=time.perf_counter() - begun)

    def run(prompts: list[list[int]], outputs: list[int]) -> float:
        params = [
            SamplingParams(
                temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False
            )
            for n in outputs
        ]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        llm.reset_prefix_cache()
        begun = time.perf_counter()
        answers = llm.generate(asked, params, use_tqdm=False)
        seconds = time.perf_counter() - begun
        if [len(answer.outputs[0].token_ids) for answer in answers] != outputs:
            raise RuntimeError("a request is short of tokens")
        return seconds

    warm = make("smoke-4", vocab_size=LLAMA_8B["vocab_size"], max_model_len=20000)
    run(warm.prompts, warm.outputs)
    for name in args.workloads.split(","):
        first = name == "ttft-512"
        work = make(
            "batch-1024" if first else name,
            vocab_size=LLAMA_8B["vocab_size"],
            max_model_len=20000,
        )
        if first:
            seconds = [run([prompt], [1]) for prompt in work.prompts[:10]]
        else:
            seconds = [run(work.prompts, work.outputs) for _ in range(args.repeat)]
        middle = statistics.median(seconds)
        made = 1 if first else sum(work.outputs)
        say(
            workload=name,
            s=middle,
            least_s=min(seconds),
            most_s=max(seconds),
            out_tok_s=made / middle,
        )


def _make_up_codes() -> None:
    """Random codes of 4 bits and zero points of 7 and 8, as quire's made-up weights have.

    vLLM makes up floats alone and leaves these at 0, and a GPU multiplies zeros faster: they take
    less power. The process of vLLM's engine has this by being forked.
    """
    from vllm.model_executor.model_loader import dummy_loader

    make_up = dummy_loader.initialize_dummy_weights

    def with_codes(layer: torch.nn.Module, *args: object) -> None:
        make_up(layer, *args)
        for name, codes in layer.state_dict().items():
            if name.endswith("qweight"):
                codes.random_(-(2**31), 2**31 - 1)
            elif name.endswith("qzeros"):
                codes.random_(0, 2**31 - 1).bitwise_and_(0x11111111).add_(0x77777777)

    dummy_loader.initialize_dummy_weights = with_codes


if __name__ == "__main__":
    main()
