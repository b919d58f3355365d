"""python autoawq.py MODEL OUT: both packings by AutoAWQ, on a CPU."""

import sys
from pathlib import Path

from awq import AutoAWQForCausalLM
from transformers import AutoTokenizer

model, out = sys.argv[1], Path(sys.argv[2])
# Longer ones than a block would be left out.
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 4 for _ in range(64)]
for version in ("gemm", "gemv"):
    loaded = AutoAWQForCausalLM.from_pretrained(model, device_map="cpu", safetensors=True)
    loaded.quantize(
        AutoTokenizer.from_pretrained(model),
        quant_config={"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": version},
        calib_data=TEXTS,
        max_calib_samples=64,
        max_calib_seq_len=128,
    )
    loaded.save_quantized(str(out / f"awq_{version}"))
