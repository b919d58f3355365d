"""python autogptq.py MODEL OUT: GPTQ by AutoGPTQ, which asks for CUDA and then needs none."""

import sys
from pathlib import Path

import auto_gptq.modeling._base as base
import torch
from auto_gptq import BaseQuantizeConfig
from auto_gptq.modeling.llama import LlamaGPTQForCausalLM
from transformers import LlamaForCausalLM

model, out = sys.argv[1], Path(sys.argv[2])
base.CUDA_0 = torch.device("cpu")
torch.cuda.synchronize = torch.cuda.empty_cache = lambda *args: None
torch.manual_seed(0)
# Its tokenizer is written by a later transformers; any tokens do.
TOKENS = [torch.randint(4096, (1, 128)) for _ in range(16)]
TEXTS = [{"input_ids": tokens, "attention_mask": torch.ones_like(tokens)} for tokens in TOKENS]
CASES = {
    "agptq_sym": {"bits": 4, "group_size": 64, "desc_act": False},
    "agptq_desc": {"bits": 4, "group_size": 64, "desc_act": True},
    "agptq_asym": {"bits": 4, "group_size": 64, "desc_act": False, "sym": False},
}
for name, values in CASES.items():
    loaded = LlamaForCausalLM.from_pretrained(model, torch_dtype=torch.float16)
    quantizer = LlamaGPTQForCausalLM(loaded, False, BaseQuantizeConfig(**values))
    quantizer.quantize(TEXTS, batch_size=1, use_triton=False)
    quantizer.save_quantized(str(out / name), use_safetensors=True)
