"""Weights: streaming, binding, and everything that can be wrong with a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quire.core.errors import CheckpointError
from quire.core.layers.parameter import Parameter
from quire.core.source import open_folder
from quire.core.weights.bind import bind
from quire.core.weights.load import dummy_weights, load_weights
from quire.core.weights.stream import stream_tensors
from tests.models.harness import Harness, build

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
INDEX = "model.safetensors.index.json"
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


def tensors() -> dict[str, torch.Tensor]:
    """A checkpoint by the names of transformers, written out by hand."""
    generator = torch.Generator().manual_seed(7)
    hidden, wide, kv = 16, 24, 8
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (40, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (40, hidden),
    }
    for layer in range(2):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (hidden, hidden),
            f"{name}.self_attn.k_proj.weight": (kv, hidden),
            f"{name}.self_attn.v_proj.weight": (kv, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, hidden),
            f"{name}.mlp.gate_proj.weight": (wide, hidden),
            f"{name}.mlp.up_proj.weight": (wide, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, wide),
        }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path, held: dict[str, torch.Tensor], shards: int = 1, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    if shards == 1:
        save_file(held, folder / "model.safetensors")
        return folder
    weight_map = {}
    names = list(held)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: held[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def load(folder: Path) -> None:
    source = open_folder(folder)
    load_weights(source, build(source, 32))


def test_sharded_is_unsharded(tmp_path: Path) -> None:
    one = Harness.load(write(tmp_path / "one", tensors()), 32).logits(TOKENS, 8)
    three = Harness.load(write(tmp_path / "three", tensors(), shards=3), 32).logits(TOKENS, 8)
    assert torch.equal(one, three)
    assert one.std() > 0


@pytest.mark.parametrize("present", [True, False])
def test_tied_head_may_be_stored_or_not(present: bool, tmp_path: Path) -> None:
    held = tensors()
    if not present:
        del held["lm_head.weight"]
    harness = Harness.load(write(tmp_path, held, tie_word_embeddings=True), 32)
    held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
    untied = Harness.load(write(tmp_path / "untied", held), 32)
    torch.testing.assert_close(harness.logits(TOKENS, 8), untied.logits(TOKENS, 8))


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = write(tmp_path, tensors(), shards=2)
    source = open_folder(folder)
    load_weights(source, build(source, 32), lambda done, total: calls.append((done, total)))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert calls == sorted(calls)
    assert calls[-1] == (size, size)
    assert len(calls) > 20


def test_rotary_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    held = tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    load(write(tmp_path, held))


@pytest.mark.parametrize("name", sorted(tensors())[::3])
def test_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    held = tensors()
    del held[name]
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(write(tmp_path, held))


def test_extra_tensor_is_named(tmp_path: Path) -> None:
    held = tensors() | {"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}
    with pytest.raises(CheckpointError, match=r"q_proj\.bias"):
        load(write(tmp_path, held))


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_wrong_shape_and_dtype_are_named(name: str, tmp_path: Path) -> None:
    held = tensors()
    right = held[name]
    for wrong in (right[..., :-1].contiguous(), right[None], right.to(torch.int32)):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            load(write(tmp_path, held | {name: wrong}))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_file(keep: int, tmp_path: Path) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**40, 0, 65 * 2**20])
def test_header_of_absurd_length(length: int, tmp_path: Path) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    if length == 65 * 2**20:
        with path.open("r+b") as file:
            file.truncate(2**27)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)


def test_damaged_header(tmp_path: Path) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    whole = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(8, 400, (40,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        try:
            load(tmp_path)
        except CheckpointError:
            continue
        except Exception as error:
            pytest.fail(f"byte {position}: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "inner/model.safetensors",
        "..\\outside.safetensors",
        "model.bin",
        ".safetensors/../x.safetensors",
        "",
        "a\0.safetensors",
    ],
)
def test_index_that_leaves_the_folder(file: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "model", tensors())
    save_file(tensors(), tmp_path / "outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    with pytest.raises(CheckpointError, match="names the shard"):
        load(folder)


def test_index_against_its_shards(tmp_path: Path) -> None:
    folder = write(tmp_path, tensors(), shards=2)
    index = json.loads((folder / INDEX).read_text())
    shard = index["weight_map"]["lm_head.weight"]
    index["weight_map"]["phantom"] = shard
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="phantom"):
        list(stream_tensors(folder))
    (folder / shard).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load(folder)
    for text in ("", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": []}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(CheckpointError, match="index"):
            load(folder)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = write(tmp_path, tensors(), shards=2)
    held = tensors()
    first = "model-00001-of-00002.safetensors"
    save_file(held, folder / first)
    with pytest.raises(CheckpointError, match="another shard"):
        list(stream_tensors(folder))


def test_a_link_to_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path, tensors()) / "model.safetensors"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    load(tmp_path)
    (tmp_path / "blob").unlink()
    with pytest.raises(CheckpointError, match="blob, which is not there"):
        load(tmp_path)
    assert open_folder(tmp_path).weight_bytes() == 0
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        load(tmp_path)


def test_which_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CheckpointError, match="no safetensors"):
        load(tmp_path)
    save_file(tensors(), tmp_path / "gptq_model-4bit.safetensors")
    load(tmp_path)
    save_file(tensors(), tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="2 safetensors files"):
        load(tmp_path)


def test_bind_finishes_early_and_refuses_shared_names() -> None:
    cpu = torch.device("cpu")
    made = [Parameter(name, (2,), dtype=torch.float32, device=cpu) for name in "abb"]
    with pytest.raises(ValueError, match="two holders"):
        bind([], made, lambda _: False)
    order: list[str] = []
    for holder in made[:2]:
        holder.finish = lambda name=holder.name: order.append(f"finish {name}")  # type: ignore[method-assign]

    def stream():  # type: ignore[no-untyped-def]
        for name in "ba":
            order.append(name)
            yield name, torch.ones(2)

    bind(stream(), made[:2], lambda _: False)
    assert order == ["b", "finish b", "a", "finish a"]


def test_what_lacks_is_refused_before_anything_is_read() -> None:
    holder = Parameter("a", (2,), dtype=torch.float32, device=torch.device("cpu"))
    stream = iter([("b", torch.ones(2))])
    with pytest.raises(CheckpointError, match="lacks a;"):
        bind(stream, [holder], lambda _: False, {"b"})
    assert next(stream)[0] == "b"


def test_dummy_weights_are_small_and_seeded(tmp_path: Path) -> None:
    source = open_folder(write(tmp_path, {"unused": torch.zeros(1)}))
    logits = []
    for seed in (1, 1, 2):
        model = build(source, 32)
        dummy_weights(model, torch.device("cpu"), seed)
        logits.append(Harness(model, max_model_len=32).logits(TOKENS, 8))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert 0 < logits[0].std() < 1


PEAK = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from quire.core.source import open_folder
from quire.core.weights.load import load_weights
from tests.models.harness import build
source = open_folder(Path(sys.argv[1]))
load_weights(open_folder(Path(sys.argv[2])), build(open_folder(Path(sys.argv[2])), 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_weights(source, build(source, 8))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux")
def test_peak_host_memory(tmp_path: Path) -> None:
    """The process never holds more than the model and 1.2 times the largest shard."""
    hidden, wide, layers = 512, 4096, 6
    changes: dict[str, object] = {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    square, tall, norm = torch.rand(hidden, hidden), torch.rand(wide, hidden), torch.ones(hidden)
    weight_map, sizes = {}, []
    for layer in range(-1, layers):
        name = f"model.layers.{layer}."
        part = {
            f"{name}input_layernorm.weight": norm,
            f"{name}post_attention_layernorm.weight": norm.clone(),
            f"{name}mlp.gate_proj.weight": tall,
            f"{name}mlp.up_proj.weight": tall.clone(),
            f"{name}mlp.down_proj.weight": tall.T.contiguous(),
        } | {f"{name}self_attn.{kind}_proj.weight": square.clone() for kind in "qkvo"}
        if layer < 0:
            part = {
                "model.embed_tokens.weight": torch.rand(64, hidden),
                "lm_head.weight": torch.rand(64, hidden),
                "model.norm.weight": norm.clone(),
            }
        file = f"model-{layer + 1}.safetensors"
        save_file(part, folder / file)
        sizes.append((folder / file).stat().st_size)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    small = write(tmp_path / "small", tensors())
    command = [sys.executable, "-c", PEAK, str(folder), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    extra = int(done.stdout) - sum(sizes)
    assert extra < 1.2 * max(sizes), f"{extra / max(sizes):.2f} of the largest shard"
