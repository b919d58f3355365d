"""Quantizing while loading, scales of keys and values, and what loading leaves in memory."""

from __future__ import annotations

import gc
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama import modeling_llama

from quire.core.config import Config
from quire.core.contracts.platform import ProductShape
from quire.core.contracts.quant import LinearSpec, LinearWeights
from quire.core.layers.kv_scales import KVScales
from quire.core.registry import Registry
from quire.core.request import SamplingParams
from quire.core.resolve import resolve
from quire.core.run.products import product_shapes
from quire.core.weights.bind import bind
from quire.plugins.platforms.cpu import CPU
from quire.quant.gptq import GPTQ
from quire.quant.reference import dequantize
from quire.quant.stored.float8 import to_float8
from quire.quant.stored.grouped import made_up
from quire.quant.stored.int8 import to_int8
from tests.engine.driver import Driver, make_config
from tests.quant.layers import MAKERS, case
from tests.quant.oracle import Oracle, float8_rows, int8_rows
from tests.quant.test_fixtures import FIXTURES, prompts, reference, shortfall

GREEDY = SamplingParams(temperature=0, max_tokens=16)


def rounded_rows(weight: torch.Tensor, method: str) -> torch.Tensor:
    """Each output's weights rounded with a scale of its own."""
    return int8_rows(weight) if method == "int8" else float8_rows()(weight)


@pytest.mark.parametrize("method", ["fp8", "int8"])
@torch.no_grad()
def test_the_embedded_model_quantized_while_loading(method: str) -> None:
    folder = Registry().get("checkpoint", "demo")().folder()
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    rounding = int8_rows if method == "int8" else float8_rows()
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.weight.data = rounded_rows(module.weight.data, method)
            module.register_forward_pre_hook(lambda module, args: (rounding(args[0]),))
    config = make_config("demo", model={"quantization": method, "max_model_len": 128})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("def add(a, b):\n    return", "What is 17 + 25?"):
        prompt = tokenizer(text)["input_ids"]
        driver = Driver(config)
        (tokens,) = driver.generate([prompt], msgspec.structs.replace(GREEDY, prompt_logprobs=0))
        exact = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        wanted = exact[:-1].gather(1, torch.tensor(prompt[1:])[:, None]).flatten()
        found = torch.tensor([e.logprob for e in driver.prompt_logprobs["0"]]).double()
        # Weights in the middle between two bytes fall to either side, as activations do.
        assert (found - wanted).norm() <= 0.06 * wanted.norm()
        assert shortfall(model, prompt, tokens) < 0.3


@pytest.mark.parametrize("method", ["fp8", "int8"])
def test_what_is_quantized_while_loading_is_the_nearest(method: str) -> None:
    weight = torch.randn(40, 64).bfloat16()
    weight[3] = 0
    found = {"fp8": to_float8, "int8": to_int8}[method](weight)
    wanted = rounded_rows(weight.double(), method)
    error, least = (dequantize(found) - weight).abs(), (wanted - weight).abs()
    assert bool((error <= least + 1e-6).all())


def scaled_attention(scales: tuple[float, float]) -> str:
    """transformers' attention with keys and values as a cache of 8-bit floats holds them."""

    def attend(module, query, key, value, *args, **kwargs):
        key, value = (
            float8_rows(scale=scale)(x) for x, scale in zip((key, value), scales, strict=True)
        )
        return modeling_llama.eager_attention_forward(module, query, key, value, *args, **kwargs)

    transformers.AttentionInterface.register("scaled", attend)
    AttentionMaskInterface.register("scaled", eager_mask)
    return "scaled"


@torch.no_grad()
def test_a_cache_of_8_bit_floats_is_scaled_as_the_checkpoint_says() -> None:
    folder = FIXTURES / "ct_kv"
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn"
    scales = tuple(stored[f"{name}.{key}_scale"].item() for key in "kv")
    assert scales[0] != 1.0 != scales[1]
    model = reference(folder)
    model.config._attn_implementation = scaled_attention(scales)
    driver = Driver(
        make_config(
            folder,
            model={"name": str(folder), "dtype": "float32", "max_model_len": 128},
            cache={"kv_dtype": "fp8"},
            attention={"backend": "reference"},
        )
    )
    asked = [prompt for prompt in prompts() if len(prompt) > 1]
    driver.generate(asked, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    for index, prompt in enumerate(asked):
        exact = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        wanted = exact[:-1].gather(1, torch.tensor(prompt[1:])[:, None]).flatten()
        found = torch.tensor([e.logprob for e in driver.prompt_logprobs[str(index)]]).double()
        assert (found - wanted).norm() <= 2e-3 * wanted.norm()


def test_auto_follows_the_checkpoint_where_the_backend_can() -> None:
    def chosen(backend: str) -> tuple[str, str]:
        values = {
            "model": {"name": str(FIXTURES / "ct_kv"), "dtype": "float32"},
            "parallel": {"platform": "cpu"},
            "attention": {"backend": backend},
        }
        found = resolve(msgspec.convert(values, Config), Registry())
        assert found.config.model.quantization == "compressed-tensors"
        return found.config.cache.kv_dtype, found.reasons["cache.kv_dtype"]

    assert chosen("reference") == ("fp8", "what the checkpoint was made for")
    kv_dtype, reason = chosen("auto")
    assert kv_dtype == "float32"
    assert "fp8" in reason


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan"), -1.0])
def test_scales_that_are_none(value: float) -> None:
    scales = KVScales("a")
    for wrong in (torch.tensor([value]), torch.ones(2), torch.ones(1, dtype=torch.int32)):
        with pytest.raises(Exception, match=r"a.k_scale must be one positive number"):
            scales.load("a.k_scale", wrong)
    scales.load("a.v_proj.v_scale", torch.tensor(0.5))
    assert (scales.k_scale, scales.v_scale) == (1.0, 0.5)


def held_bytes() -> int:
    """Of all tensors there are, each storage once."""
    gc.collect()
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if type(tensor) is torch.Tensor
    }
    return sum(found.values())


@pytest.mark.parametrize("name", ["awq-gemm-128", "gptq-4-64-asymmetric-v2", "packed-4-128"])
def test_what_was_read_is_freed(name: str) -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == name)
    built = case(maker, (512,), 1024, dtype="bfloat16")
    before = held_bytes()
    holder = built.method.linear(built.spec, torch.device("cpu"))
    assert held_bytes() == before
    for key, tensor in built.stored.items():
        holder.load(key, tensor)
    stored = held_bytes() - before
    holder.finish()
    assert stored >= 512 * 1024 / 2
    # Scales and zero points are bfloat16 pairs in the kernel.
    assert held_bytes() - before <= 1.2 * stored


def test_a_holder_finishes_with_its_last_tensor_whatever_comes_last() -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == "gptq-4-128")
    built = case(maker, (32, 32), 128)
    biases = {f"{name}.bias": torch.zeros(32) for name in built.spec.shards}
    stored = list((built.stored | biases).items())
    for seed in range(5):
        random.Random(seed).shuffle(stored)
        holder = built.method.linear(built.spec, torch.device("cpu"))
        bind(iter(stored), [holder], lambda name: False, dict(stored).keys())
        x = torch.randn(3, 128)
        expected = x.double() @ built.weight.T
        assert (holder.apply(x).double() - expected).norm() <= 1e-3 * expected.norm()


def finished(method: GPTQ, names: tuple[str, ...], columns: int, seed: int) -> Iterator[object]:
    """A holder of layers stored by rules, with the product that is expected of them."""
    rng = np.random.default_rng(seed)
    rules = {4: "gptq-4-32-asymmetric", 8: "gptq-8-32-asymmetric", 0: ""}
    bits = (4, 8, 0, 4)
    stored: dict[str, torch.Tensor] = {}
    weights = []
    for name, width in zip(names, bits, strict=True):
        if not width:
            weight = torch.from_numpy(rng.normal(0, 0.02, (32, columns))).float()
            stored[f"{name}.weight"] = weight
            weights.append(weight.double())
            continue
        (maker,) = (maker for maker in MAKERS if maker.name == rules[width])
        layer = maker.make(rng, 32, columns, np.arange(columns))
        stored |= {f"{name}.{key}": tensor for key, tensor in layer.tensors.items()}
        weights.append(layer.weight)
    spec = LinearSpec(shards=names, out_features=(32,) * 4, in_features=columns)
    holder: LinearWeights = method.linear(spec, torch.device("cpu"))
    for key, tensor in stored.items():
        holder.load(key, tensor)
    holder.finish()
    yield holder
    yield torch.cat(weights)


def test_shards_of_different_kinds_stand_side_by_side() -> None:
    config = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "dynamic": {"+:.*b$": {"bits": 8}, "-:.*c$": {}, ".*b": {"bits": 2}},
    }
    method = GPTQ.from_checkpoint(config, CPU())
    holder, weight = finished(method, ("x.a", "x.b", "x.c", "x.d"), 96, 3)
    assert [method.covers(f"x.{name}") for name in "abcd"] == [True, True, False, True]
    x, add = torch.randn(9, 96), torch.randn(9, 64)
    expected = x.double() @ weight.T
    gated = torch.nn.functional.silu(expected[:, :64]) * expected[:, 64:]
    norm, gate = CPU().norm(torch.ones(96), 1e-6), CPU().gate("silu")
    found = holder.fused(x, gate=gate, add=add.clone())
    assert (found.double() - gated - add).norm() <= 1e-3 * gated.norm()
    assert torch.equal(holder.fused(x, norm=norm), holder.apply(norm(x)))
    halves = torch.randn(9, 2 * 96)
    assert not holder.takes_gate(9)
    assert torch.equal(holder.behind_gate(halves, gate), holder.apply(gate(halves)))


def test_quantized_products_are_not_tuned_as_plain_ones(tmp_path: Path) -> None:
    values = {"model": {"name": str(FIXTURES / "awq_gemm"), "load_format": "dummy"}}
    registry = Registry()
    config = resolve(msgspec.convert(values, Config), registry).config
    assert product_shapes(config, registry) == [ProductShape(256, 256)]


@pytest.mark.parametrize(
    "name", ["awq_gemm", "agptq_desc", "gm_dynamic", "hf_fp8", "ct_fp8", "ct_w8a8", "ct_w4a16_gptq"]
)
def test_made_up_weights_in_the_checkpoint_s_format(name: str, tmp_path: Path) -> None:
    config = json.loads((FIXTURES / name / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = {"name": str(tmp_path), "load_format": "dummy", "max_model_len": 64}
    driver = Driver(make_config(tmp_path, model=model))
    (tokens,) = driver.generate([[1, 2, 3]], GREEDY)
    assert len(tokens) == 16
    assert driver.reasons["0"] == "length"


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_made_up_codes_lie_evenly_about_zero(bits: int, zeros: bool) -> None:
    """Else activations become alike, and a GPU multiplies such faster than any model's."""
    generator = torch.Generator().manual_seed(0)
    weight = made_up(256, 4096, generator, bits=bits, group_size=128, zeros=zeros)
    middle = weight.zeros.repeat_interleave(128, 1) if zeros else 2 ** (bits - 1)
    values = weight.codes.float() - middle
    assert values.mean().abs() < 0.01 * values.std()


def test_the_oracle_knows_every_quantized_layer() -> None:
    assert len(Oracle.read(FIXTURES / "ct_fp8").rounding) == 7


@pytest.mark.parametrize(
    ("fixture", "file"), [("agptq_sym", "quantize_config.json"), ("awq_gemm", "")]
)
def test_a_description_in_a_file_of_its_own(fixture: str, file: str, tmp_path: Path) -> None:
    """As AutoGPTQ and AutoAWQ wrote at first."""
    model = {"name": str(FIXTURES / fixture), "dtype": "float32", "max_model_len": 64}
    wanted = Driver(make_config(FIXTURES / fixture, model=model))
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    if not file:
        old = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
        (folder / "quant_config.json").write_text(json.dumps(old))
    found = Driver(make_config(folder, model=model | {"name": str(folder)}))
    assert found.generate([[1, 2, 3]], GREEDY) == wanted.generate([[1, 2, 3]], GREEDY)
