"""python compressor.py MODEL OUT: compressed-tensors by llm-compressor, on a CPU."""

import sys
from pathlib import Path

from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

model, out = sys.argv[1], Path(sys.argv[2])
TEXTS = Dataset.from_dict({"text": ["The quick brown fox jumps over the lazy dog. " * 20] * 16})
LINEAR = {"targets": "Linear", "ignore": ["lm_head"]}
CASES = {
    "ct_fp8": QuantizationModifier(scheme="FP8", **LINEAR),
    "ct_fp8_dyn": QuantizationModifier(scheme="FP8_DYNAMIC", **LINEAR),
    "ct_fp8_block": QuantizationModifier(scheme="FP8_BLOCK", **LINEAR),
    "ct_w4a16_gptq": GPTQModifier(scheme="W4A16", **LINEAR),
    "ct_w8a8": QuantizationModifier(scheme="W8A8", **LINEAR),
}
for name, recipe in CASES.items():
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(model)
    oneshot(
        model=loaded, tokenizer=tokenizer, recipe=recipe, dataset=TEXTS, max_seq_length=128,
        num_calibration_samples=16,
    )  # fmt: skip
    loaded.save_pretrained(out / name, save_compressed=True)
