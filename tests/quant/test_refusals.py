"""What is not supported is refused by name, with what is supported or what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.core.config import Config, ModelConfig
from quire.core.contracts.quant import LinearSpec
from quire.core.errors import CheckpointError, ConfigError, QuireError
from quire.core.registry import Registry
from quire.core.resolve import resolve
from quire.plugins.platforms.cpu import CPU
from tests.engine.driver import Driver, make_config
from tests.quant.layers import MAKERS, case

FIXTURES = Path(__file__).parent / "fixtures"
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


def compressed(name: str, **changes: Any) -> dict[str, Any]:
    """A fixture's description with dotted keys of its group changed."""
    config = json.loads((FIXTURES / name / "config.json").read_text())["quantization_config"]
    for key, value in changes.items():
        at = config["config_groups"]["group_0"]
        *path, last = key.split("__")
        if path[:1] == ["top"]:
            at, path = config, path[1:]
        for part in path:
            at = at[part]
        at[last] = value
    return config


def made(config: dict[str, Any] | None, name: str | None = None) -> Any:
    method = Registry().get("quant", name or (config or {})["quant_method"])
    return method.from_checkpoint(config, CPU())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AWQ | {"bits": 8}, "quantization_config.bits in config.json must be 4"),
        (AWQ | {"group_size": 48}, "group_size in config.json must be one of 32, 64, 128 or -1"),
        (AWQ | {"version": "gemv_fast"}, "'gemv_fast'.*gemm and gemv.*AutoAWQ"),
        (AWQ | {"version": "marlin"}, "'marlin'.*gemm and gemv"),
        (AWQ | {"modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
        (GPTQ | {"bits": 5}, "bits in config.json must be one of 2, 3, 4, 8"),
        (GPTQ | {"group_size": 0}, "group_size"),
        (GPTQ | {"is_marlin_format": True}, "is_marlin_format.*marlin.*GPTQModel"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format.*'marlin'.*gptq and gptq_v2"),
        (GPTQ | {"pack_dtype": "int16"}, "pack_dtype"),
        (GPTQ | {"dynamic": {"(": {}}}, "regular expression"),
        (GPTQ | {"dynamic": {"x" * 2000: {}}}, "2000 characters"),
        (GPTQ | {"dynamic": {".*k_proj": {"bits": 6}}}, r"dynamic.*k_proj.bits"),
        (FP8 | {"weight_block_size": [64, 64]}, "weight_block_size"),
        (FP8 | {"activation_scheme": "static"}, "activation_scheme.*dynamic with blocks"),
        (FP8 | {"fmt": "e5m2"}, "fmt"),
        (compressed("ct_w4a16_gptq", weights__num_bits=2), "weights.num_bits.*4 or 8"),
        (compressed("ct_w4a16_gptq", weights__group_size=16), "weights.group_size"),
        (compressed("ct_w4a16_gptq", format="marlin-24"), "marlin-24.*W4A16"),
        (compressed("ct_w4a16_gptq", format="nvfp4-pack-quantized"), "nvfp4.*FP8"),
        (compressed("ct_w4a16_gptq", input_activations={"num_bits": 8}), "input_activations"),
        (compressed("ct_fp8", input_activations=None), "input_activations"),
        (compressed("ct_fp8", weights__strategy="group"), "weights.strategy"),
        (compressed("ct_fp8", output_activations={"num_bits": 8}), "output_activations"),
        (compressed("ct_w8a8", input_activations__dynamic=False), "dynamic.*true"),
        (compressed("ct_w8a8", input_activations__symmetric=False), "symmetric"),
        (compressed("ct_fp8", top__sparsity_config={"format": "sparse-24"}), "sparsity_config"),
        (compressed("ct_fp8", top__transform_config={"config_groups": {"u": {}}}), "transform"),
        (compressed("ct_kv", top__kv_cache_scheme={"num_bits": 4}), "kv_cache_scheme.num_bits"),
        (compressed("ct_fp8", targets=["re:("]), "targets.*regular expression"),
    ],
)
def test_descriptions(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        made(config)


@pytest.mark.parametrize("name", ["awq", "gptq", "compressed-tensors"])
def test_plain_checkpoints_are_not_read_as_quantized_ones(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"quire quantize --method {name}"):
        made(None, name)
    config = Config(model=ModelConfig(name="demo", quantization=name))
    with pytest.raises(ConfigError, match="fp8 and int8 quantize while loading"):
        resolve(config, Registry())


@pytest.mark.parametrize(("flag", "stored"), [("gptq", "awq"), ("int8", "awq"), ("none", "awq")])
def test_a_flag_that_the_checkpoint_contradicts(flag: str, stored: str) -> None:
    model = ModelConfig(name=str(FIXTURES / "awq_gemm"), quantization=flag)
    with pytest.raises(ConfigError, match=f"{flag!r} and the checkpoint was quantized by 'awq'"):
        resolve(Config(model=model), Registry())
    assert stored == "awq"


def test_a_method_that_nobody_provides(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "awq_gemm", tmp_path / "model")
    rewrite(tmp_path / "model", quant_method="bitsandbytes")
    with pytest.raises(QuireError, match=r"bitsandbytes.*awq.*gptq"):
        resolve(Config(model=ModelConfig(name=str(tmp_path / "model"))), Registry())


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
def test_tensors_that_do_not_fit_are_named(maker: Any) -> None:
    built = case(maker, (maker.outputs * 8,), maker.inputs * 2)
    for name, tensor in built.stored.items():
        holder = built.method.linear(built.spec, torch.device("cpu"))
        for wrong, words in (
            (tensor[..., :-1], "shape"),
            (tensor[None, None], "shape"),
            (tensor.to(torch.int16), "stored as int16"),
        ):
            with pytest.raises(CheckpointError, match=f"{name} .*{words}"):
                holder.load(name, wrong)


@pytest.mark.parametrize(
    ("config", "widths", "columns", "words"),
    [
        (AWQ, 24, 96, "a_proj has 96 inputs, which groups of 64 do not divide"),
        (AWQ, 20, 128, "a_proj has 20 outputs"),
        (AWQ | {"version": "gemv", "group_size": -1}, 24, 100, "a_proj has 100 inputs"),
        (GPTQ, 20, 128, "a_proj has 20 outputs"),
        (GPTQ | {"bits": 3, "group_size": -1}, 32, 72, "a_proj has 72 inputs"),
        (compressed("ct_w4a16_gptq"), 24, 96, "a_proj has 96 inputs"),
    ],
)
def test_layers_that_a_format_cannot_hold(
    config: dict[str, Any], widths: int, columns: int, words: str
) -> None:
    spec = LinearSpec(shards=("a_proj",), out_features=(widths,), in_features=columns)
    with pytest.raises(CheckpointError, match=words):
        made(config).linear(spec, torch.device("cpu"))


def test_orders_that_are_none() -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == "gptq-4--1-asymmetric-ordered")
    (ordered,) = (maker for maker in MAKERS if maker.name == "gptq-4-64-ordered")
    for chosen, values, words in (
        (ordered, [0] * 63 + [1] * 65, "gives group 0 63 inputs"),
        (ordered, [0] * 64 + [2] * 64, "names a group outside of 0 to 1"),
        (maker, [0] * 7 + [-1], "names a group outside of 0 to 0"),
    ):
        built = case(chosen, (32,), len(values))
        holder = built.method.linear(built.spec, torch.device("cpu"))
        for name, tensor in built.stored.items():
            if name.endswith("g_idx"):
                tensor = torch.tensor(values, dtype=torch.int32)
            holder.load(name, tensor)
        with pytest.raises(CheckpointError, match=f"part0_proj.g_idx {words}"):
            holder.finish()


def test_one_scale_of_two_names() -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == "fp8-dynamic-weight_scale")
    built = case(maker, (8,), 16)
    name = built.spec.shards[0]
    for scales, words in (((), "not came"), (("weight_scale", "weight_scale_inv"), "both came")):
        holder = built.method.linear(built.spec, torch.device("cpu"))
        holder.load(f"{name}.weight", built.stored[f"{name}.weight"])
        for key in scales:
            holder.load(f"{name}.{key}", torch.ones(1))
        with pytest.raises(CheckpointError, match=f"{name}.weight_scale or .*{words}"):
            holder.finish()


def test_a_shape_that_the_checkpoint_contradicts() -> None:
    (maker,) = (maker for maker in MAKERS if maker.name == "packed-4-64")
    built = case(maker, (8,), 64)
    holder = built.method.linear(built.spec, torch.device("cpu"))
    for name, tensor in built.stored.items():
        holder.load(name, tensor + 1 if name.endswith("shape") else tensor)
    with pytest.raises(CheckpointError, match=r"part0_proj.weight_shape"):
        holder.finish()


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fixture", "tensor", "words"),
    [
        ("awq_gemm", "mlp.up_proj.qzeros", "lacks model.layers.0.mlp.up_proj.qzeros"),
        ("agptq_desc", "mlp.up_proj.g_idx", "lacks model.layers.0.mlp.up_proj.g_idx"),
        ("ct_fp8", "self_attn.q_proj.input_scale", "lacks .*q_proj.input_scale"),
        ("hf_fp8", "self_attn.q_proj.weight_scale_inv", "lacks .*q_proj.weight_scale_inv"),
    ],
)
def test_a_checkpoint_without_one_of_its_tensors(
    fixture: str, tensor: str, words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, folder)
    (file,) = folder.glob("*.safetensors")
    held = load_file(file)
    del held[f"model.layers.0.{tensor}"]
    save_file(held, file)
    with pytest.raises(CheckpointError, match=words):
        Driver(make_config(folder))


def test_a_group_size_that_the_files_contradict(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "awq_gemm", folder)
    rewrite(folder, group_size=32)
    with pytest.raises(CheckpointError, match=r"qzeros has shape \[.*awq gemm with group_size 32"):
        Driver(make_config(folder))
