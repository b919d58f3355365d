"""Time `quire quantize` on the shape of Llama 3.1 8B with made-up weights, a JSON line a method.

    python docs/benchmarks/quantize.py [--methods awq,gptq] [--layers 32] [--out DIR]

Weights and text are made up on the device, so that nothing need be downloaded; the files are
written as ever, to DIR or to a temporary folder, and removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from offline import LLAMA_8B

from quire.core.config import Config
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.core.source import open_folder
from quire.quant.create.job import Job
from quire.quant.create.recipe import Options


def main() -> None:
    """Run each method once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="awq,gptq,fp8,int8")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    registry = Registry()
    platform = resolve(Config(), registry).config.parallel.platform
    for method in args.methods.split(","):
        work = Path(tempfile.mkdtemp(dir=args.out))
        (work / "model").mkdir()
        shape = LLAMA_8B | {"num_hidden_layers": args.layers}
        (work / "model" / "config.json").write_text(json.dumps(shape))
        job = Job(
            open_folder(work / "model"),
            Options(method=method),
            work / "made",
            registry=registry,
            platform=registry.get("platform", platform)(),
            dummy_seed=0,
        )
        expected = job.estimate()
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        report = job.run(lambda: None)
        line = {
            "method": method,
            "device": torch.cuda.get_device_name() if on_gpu else platform,
            "layers": args.layers,
            "s": round(time.perf_counter() - begun, 1),
            "estimated_s": round(expected.seconds, 1),
            "gib_before": round(report.bytes_before / 2**30, 2),
            "gib_after": round(report.bytes_after / 2**30, 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
            "estimated_peak_gib": round(expected.memory / 2**30, 2),
        }
        print(json.dumps(line), flush=True)
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
