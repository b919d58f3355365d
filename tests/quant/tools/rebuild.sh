#!/usr/bin/env bash
# rebuild.sh PYTHON OUT: the checkpoints of tests/quant/fixtures by the tools themselves, each in an
# environment of its own with the versions that are known to work on a CPU. Those environments and
# the checkpoints stay under OUT. PYTHON is the project's own.
set -euo pipefail
python=$1 out=$(realpath -m "$2") here=$(cd "$(dirname "$0")" && pwd)
export HF_HUB_OFFLINE=1 GPTQMODEL_CPU_WORKERS=2
mkdir -p "$out"
echo torch==2.13.0 > "$out/torch.txt"

environment() {  # NAME: made once, with torch
  test -x "$out/$1/bin/python" || {
    "$python" -m venv "$out/$1"
    "$out/$1/bin/pip" install -q -U pip wheel setuptools
    "$out/$1/bin/pip" install -q torch==2.13.0
  }
}

test -d "$out/model" || "$python" "$here/base.py" "$out/model"

environment autoawq
"$out/autoawq/bin/pip" install -q -c "$out/torch.txt" triton==3.7.1 transformers==5.23.0 accelerate datasets zstandard
"$out/autoawq/bin/pip" install -q --no-deps autoawq==0.2.9
"$out/autoawq/bin/python" "$here/autoawq.py" "$out/model" "$out/made"

environment autogptq
"$out/autogptq/bin/pip" install -q -c "$out/torch.txt" "numpy<2.4" transformers==4.51.3 accelerate datasets sentencepiece
"$out/autogptq/bin/pip" install -q --no-deps auto-gptq==0.7.1 peft==0.12.0 gekko rouge six
"$out/autogptq/bin/python" "$here/autogptq.py" "$out/model" "$out/made"

environment gptqmodel
"$out/gptqmodel/bin/pip" install -q -c "$out/torch.txt" triton==3.7.1 transformers accelerate datasets
"$out/gptqmodel/bin/pip" install -q -c "$out/torch.txt" --no-build-isolation gptqmodel==7.6.0
"$out/gptqmodel/bin/python" "$here/gptq_model.py" "$out/model" "$out/made"

environment llmcompressor
"$out/llmcompressor/bin/pip" install -q -c "$out/torch.txt" llmcompressor==0.14.0.1
"$out/llmcompressor/bin/python" "$here/compressor.py" "$out/model" "$out/made"

ls "$out/made"
