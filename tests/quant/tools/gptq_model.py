"""python gptq_model.py MODEL OUT: GPTQ by GPTQModel, on a CPU."""

import sys
from pathlib import Path

from gptqmodel import GPTQModel, QuantizeConfig

model, out = sys.argv[1], Path(sys.argv[2])
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 40 for _ in range(16)]
CASES = {
    "gm_sym": {"bits": 4, "group_size": 64, "desc_act": False},
    "gm_desc": {"bits": 4, "group_size": 64, "desc_act": True},
    "gm_asym_v1": {"bits": 4, "group_size": 64, "desc_act": False, "sym": False},
    "gm_asym_v2": {"bits": 4, "group_size": 64, "sym": False, "format": "gptq_v2"},
    "gm_8b": {"bits": 8, "group_size": 128, "desc_act": True, "format": "gptq_v2"},
    "gm_3b": {"bits": 3, "group_size": 32, "desc_act": True, "sym": False},
}
for name, values in CASES.items():
    loaded = GPTQModel.load(model, QuantizeConfig(**values), device="cpu")
    loaded.quantize(TEXTS, batch_size=1)
    loaded.save(str(out / name))
