"""Making: a method of one's own is made matrix by matrix, and broken roundings are caught."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from quire.core.contracts.quant import Rounding
from quire.core.errors import CheckpointError, ConfigError
from quire.core.registry import Registry
from quire.core.source import open_folder
from quire.plugins.demo import DemoDraft
from quire.plugins.platforms.cpu import CPU
from quire.quant.create.job import Job
from quire.quant.create.recipe import Options
from quire.quant.unquantized import DenseLinear, Unquantized
from quire.testing import ConformanceError, check_rounding
from tests.quant.create.tiny import make


class Tenths(Rounding):
    """Weights as multiples of a tenth, stored as floats."""

    bits = 32

    def describe(self):
        return {"quant_method": "tenths"}

    def round(self, weight, gram):
        return {"weight": (weight * 10).round() / 10}


class Method(Unquantized):
    """Reads them."""

    made = Tenths

    @classmethod
    def from_checkpoint(cls, config, platform):
        return cls(platform)

    def covers(self, name):
        return name != "lm_head"

    @classmethod
    def rounding(cls):
        return cls.made()


class WithTenths(Registry):
    """As if a plugin had been loaded."""

    def names(self, kind):
        return [*super().names(kind), *(["tenths"] if kind == "quant" else [])]

    def get(self, kind, name):
        return Method if (kind, name) == ("quant", "tenths") else super().get(kind, name)


def broken(**changes: object) -> type[Method]:
    return type("Broken", (Method,), {"made": type("BrokenTenths", (Tenths,), changes)})


def writes(self, weight, gram):
    return {"weight": weight.mul_(10).round_().div_(10)}


def test_a_rounding_that_keeps_its_promises() -> None:
    check_rounding(Method, CPU(), error=0.05)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Unquantized, "rounding gives NoneType"),
        (broken(describe=lambda self: {}), "no quant_method"),
        (broken(bits=0), "bits is 0"),
        (broken(round=writes), "writes to the weights"),
        (broken(round=lambda self, w, g: {"weight": w + torch.randn(())}), "another weight"),
        (broken(round=lambda self, w, g: {}), "does not make .*q_proj.weight"),
        (broken(round=lambda self, w, g: {"weight": w, "x": w}), "makes .*q_proj.x.*not take"),
        (broken(round=lambda self, w, g: {"weight": w * 0}), "off by 1.000"),
    ],
)
def test_broken_roundings(method, words) -> None:
    with pytest.raises(ConformanceError, match=words):
        check_rounding(method, CPU(), error=0.05)


def job(model: Path, out: Path, **options: object) -> Job:
    wanted = {"method": "tenths", "samples": 4, "length": 32} | options
    return Job(open_folder(model), Options(**wanted), out, registry=WithTenths(), platform=CPU())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make("Llama with biases", folder, vocab_size=4096)
    for path in DemoDraft().folder().glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_checkpoint_of_it(calibrated, model, tmp_path) -> None:
    out = tmp_path / "out"
    begun = job(model, out, calibrated=calibrated)
    assert begun.recipe.bits == 32
    report = begun.run(lambda: None)
    assert json.loads((out / "config.json").read_text())["quantization_config"] == {
        "quant_method": "tenths"
    }
    before = load_file(model / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    after = load_file(out / "model-00001-of-00003.safetensors")
    assert torch.equal(after[f"{name}.weight"], (before[f"{name}.weight"] * 10).round() / 10)
    assert torch.equal(after[f"{name}.bias"], before[f"{name}.bias"])
    assert len(report.rows) == 14
    assert all((row.output_error is not None) == calibrated for row in report.rows)


def test_a_run_that_was_cut_off_goes_on(model, tmp_path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(model, tmp_path / "parts").run(stop)
    again = job(model, tmp_path / "parts")
    assert again.finished == 1
    again.run(lambda: None)
    job(model, tmp_path / "whole").run(lambda: None)
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_what_is_made_and_not_read_is_refused(model, tmp_path, monkeypatch) -> None:
    made = type("Other", (Tenths,), {"round": lambda self, w, g: {"codes": w}})
    monkeypatch.setattr(Method, "made", made)
    with pytest.raises(CheckpointError, match=r"makes .*q_proj.codes.*reads .*q_proj.weight"):
        job(model, tmp_path / "out").run(lambda: None)


def test_layers_that_the_method_has_not_are_refused_before_any_is_made(
    model, tmp_path, monkeypatch
) -> None:
    class Unbiased(DenseLinear):
        def __init__(self, spec, device, platform):
            if spec.bias:
                raise CheckpointError(f"{spec.shards[0]} has a bias")
            super().__init__(spec, device, platform)

    monkeypatch.setattr(
        Method, "linear", lambda self, spec, device: Unbiased(spec, device, self.platform)
    )
    with pytest.raises(CheckpointError, match="q_proj has a bias"):
        job(model, tmp_path / "out").run(lambda: None)


@pytest.mark.parametrize("method", ["compressed-tensors", "none", "gguf"])
def test_methods_that_make_nothing(method, model, tmp_path) -> None:
    with pytest.raises(ConfigError, match="or a plugin's that makes checkpoints, not"):
        job(model, tmp_path / "out", method=method)


def test_options_of_the_others_are_not_its(model, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--bits belongs to --method gptq, not tenths"):
        job(model, tmp_path / "out", bits=4)
