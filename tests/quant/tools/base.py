"""A random Llama to quantize: python base.py OUT (with the project's own environment)."""

import shutil
import sys
from pathlib import Path

import torch
import transformers

from quire.plugins.demo import DemoDraft

out = Path(sys.argv[1])
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=0,
    eos_token_id=5, pad_token_id=0,
)  # fmt: skip
transformers.LlamaForCausalLM(config).half().save_pretrained(out)
for path in DemoDraft().folder().glob("tokenizer*"):
    shutil.copy(path, out)
