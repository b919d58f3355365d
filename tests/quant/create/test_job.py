"""Whole jobs: what comes out is a checkpoint that the engine runs, however often it was cut off."""

import json
import math
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
import torch.nn.functional as F
import transformers

from quire.core.errors import CheckpointError, ConfigError
from quire.core.registry import Registry
from quire.core.request import SamplingParams
from quire.core.source import open_folder
from quire.core.text.tokenizer import Tokenizer
from quire.core.weights.parts import CheckpointParts
from quire.plugins.demo import DemoDraft
from quire.plugins.platforms.cpu import CPU
from quire.quant.create.calibration import BUILTIN, read_blocks
from quire.quant.create.job import Job
from quire.quant.create.recipe import Options
from tests.engine.driver import Driver, make_config
from tests.quant.create.tiny import make
from tests.quant.oracle import Oracle
from tests.quant.test_fixtures import TOLERANCE, reference

TEXT = {"samples": 6, "length": 64}
WAYS = {
    "awq": {"method": "awq"},
    "awq, groups of 32": {"method": "awq", "group_size": 32},
    "gptq": {"method": "gptq"},
    "gptq, desc_act": {"method": "gptq", "group_size": 32, "desc_act": True},
    "gptq, zero points, 8 bits": {"method": "gptq", "symmetric": False, "bits": 8},
    "gptq, rows, 3 bits": {"method": "gptq", "bits": 3, "group_size": -1},
    "fp8": {"method": "fp8"},
    "fp8, blocks": {"method": "fp8", "blocks": True},
    "int8": {"method": "int8"},
    "nearest": {"method": "awq", "calibrated": False},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Llama with biases and a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make("Llama with biases", folder, vocab_size=4096, dtype=torch.bfloat16)
    for path in DemoDraft().folder().glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def job(model: Path, out: Path, calibration: str = "builtin", **options: object) -> Job:
    return Job(
        open_folder(model),
        Options(**(TEXT | options)),
        out,
        registry=Registry(),
        platform=CPU(),
        calibration=calibration,
    )


def held_out(model: Path) -> torch.Tensor:
    return read_blocks(BUILTIN, Tokenizer.load(open_folder(model)), **TEXT).held_out


def perplexity(network, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        logits = network(tokens).logits[:, :-1].double()
    return math.exp(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


@pytest.mark.parametrize("way", WAYS)
def test_the_checkpoint_is_what_the_report_says_and_the_engine_runs(way, model, tmp_path):
    out = tmp_path / "out"
    begun = job(model, out, **WAYS[way])
    expected = begun.estimate()
    report = begun.run(lambda: None)
    network, tokens = reference(out), held_out(model)
    if report.perplexity_after is not None:
        close = 2e-3 if Oracle.read(out).rounding else 1e-4
        assert report.perplexity_after == pytest.approx(perplexity(network, tokens), rel=close)
    size = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert report.bytes_after == pytest.approx(size, rel=0.06)
    assert report.bytes_before == pytest.approx(open_folder(model).weight_bytes(), rel=0.03)
    assert report.bytes_before == pytest.approx(expected.bytes_before, rel=0.03)
    assert report.bytes_after == pytest.approx(expected.bytes_after, rel=0.03)
    assert len(report.rows) == 14
    assert {kept.what for kept in report.kept} == {"embedding", "head", "norms and biases"}
    driver = Driver(make_config(out, model={"max_model_len": 128, "dtype": "float32"}))
    driver.generate([tokens[0].tolist()], SamplingParams(max_tokens=1, prompt_logprobs=0))
    found = torch.tensor([entry.logprob for entry in driver.prompt_logprobs["0"]])
    with torch.no_grad():
        exact = network(tokens[:1]).logits[0].log_softmax(-1)
    wanted = exact[:-1].gather(1, tokens[0, 1:, None]).flatten()
    assert (found - wanted).norm() <= TOLERANCE["float32"] * wanted.norm()


def test_calibration_beats_rounding_to_nearest(tmp_path):
    """By what happens to a trained model's logits, on text that no method saw."""
    model = DemoDraft().folder()
    tokens = held_out(model)
    plain = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    with torch.no_grad():
        exact = plain(tokens).logits
    for index, options in enumerate((WAYS["awq"], WAYS["gptq"], WAYS["gptq, desc_act"])):
        errors = []
        for calibrated in (True, False):
            out = tmp_path / f"{index} {calibrated}"
            job(model, out, **options, calibrated=calibrated, samples=24).run(lambda: None)
            with torch.no_grad():
                errors.append(float((reference(out)(tokens).logits - exact).norm()))
        assert errors[0] < 0.9 * errors[1], options


class Killed(BaseException):
    """As a signal would."""


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = json.loads(found.pop("quantization_report.json"))
    del report["seconds"]
    return found | {"report": json.dumps(report).encode()}


@pytest.mark.parametrize("way", ["awq", "gptq, desc_act", "fp8", "nearest"])
def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(way, model, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    job(model, whole, **WAYS[way]).run(lambda: None)

    def kill() -> None:
        raise Killed

    begun = job(model, parts, **WAYS[way])
    assert begun.finished == 0
    with pytest.raises(Killed):
        begun.run(kill)
    assert not (parts / "config.json").exists()
    # A file that was being written does not count.
    (parts / "model-00002-of-00003.safetensors.part").write_bytes(b"half")
    again = job(model, parts, **WAYS[way])
    assert again.finished == 1
    stamp = (parts / "model-00001-of-00003.safetensors").stat().st_mtime_ns
    again.run(lambda: None)
    assert (parts / "model-00001-of-00003.safetensors").stat().st_mtime_ns == stamp
    assert contents(whole) == contents(parts)


def test_other_settings_do_not_go_on_with_a_run(model, tmp_path):
    job(model, tmp_path / "out", method="gptq")
    with pytest.raises(ConfigError, match="bits was 4 and is now 3"):
        job(model, tmp_path / "out", method="gptq", bits=3)
    text = tmp_path / "text.txt"
    text.write_text("Some other words.\n\n" * 2000)
    with pytest.raises(ConfigError, match="model_and_text was"):
        job(model, tmp_path / "out", method="gptq", calibration=str(text))


def test_a_folder_with_something_in_it_is_left_alone(model, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        job(model, tmp_path, method="fp8")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gguf"}, "--method must be awq, gptq, fp8, int8"),
        ({"method": "awq", "bits": 8}, "--bits belongs to --method gptq"),
        ({"method": "awq", "symmetric": True}, "--sym belongs to"),
        ({"method": "fp8", "group_size": 64}, "--group-size belongs to --method awq or gptq"),
        ({"method": "int8", "blocks": True}, "--blocks belongs to --method fp8"),
        ({"method": "gptq", "bits": 5}, "--bits must be 2, 3, 4 or 8, not 5"),
        ({"method": "gptq", "group_size": 48}, "--group-size must be 32, 64, 128 or -1"),
        ({"method": "gptq", "group_size": 128}, "q_proj has 64 inputs, which groups of 128"),
        ({"method": "gptq", "damping": 0.0}, "--damp must lie between 0 and 1"),
        ({"method": "gptq", "samples": 0}, "--samples must be 1 or more"),
        ({"method": "gptq", "length": 4096}, "--length 4096 is more than the model's 128"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(options, words, model, tmp_path):
    with pytest.raises(ConfigError, match=words):
        job(model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_refused(tmp_path):
    fixture = Path(__file__).parents[1] / "fixtures" / "awq_gemm"
    with pytest.raises(CheckpointError, match="quantized by awq already"):
        job(fixture, tmp_path / "out", method="gptq")


def test_made_up_weights_need_neither_files_nor_text(model, tmp_path):
    shutil.copy(model / "config.json", tmp_path)
    made = Job(
        open_folder(tmp_path),
        Options(**TEXT, method="gptq"),
        tmp_path / "out",
        registry=Registry(),
        platform=CPU(),
        dummy_seed=0,
    )
    made.run(lambda: None)
    assert "model.layers.1.mlp.down_proj.qweight" in CheckpointParts(tmp_path / "out").names()


def test_what_is_left_can_be_stored_in_another_dtype(model, tmp_path):
    Job(
        open_folder(model),
        Options(**TEXT, method="awq"),
        tmp_path / "out",
        registry=Registry(),
        platform=CPU(),
        dtype="float16",
    ).run(lambda: None)
    config = msgspec.json.decode((tmp_path / "out" / "config.json").read_bytes())
    assert config.get("dtype", config.get("torch_dtype")) == "float16"
    kinds = {t.dtype for _, t in CheckpointParts(tmp_path / "out").read(("model.", "lm_head."))}
    assert kinds == {torch.float16, torch.int32}
