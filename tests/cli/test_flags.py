"""The table of flags: every row reaches its key, and every name of vLLM's is there."""

import re

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from quire.cli.flags import FLAGS, Flag, parse_size
from quire.cli.options import with_config
from quire.core.config import Config, SpeculationConfig
from quire.core.config_file import keys
from quire.core.errors import ConfigError

# What to type for a row, and what its key must then be, where the kind alone does not say it.
TYPED = {
    "model.dtype": ("float32", "float32"),
    "model.load_format": ("dummy", "dummy"),
    "cache.kv_dtype": ("fp8", "fp8"),
    "cache.gpu_memory_utilization": ("0.5", 0.5),
    "model.max_model_len": ("32k", 32000),
    "schedule.max_num_batched_tokens": ("1M", 2**20),
}
BY_KIND = {"text": ("word", "word"), "integer": ("7", 7), "list": ("one", ("one",))}

FROM_VLLM = """
--gpu-memory-utilization --max-model-len --max-num-seqs --max-num-batched-tokens
--tensor-parallel-size -tp --quantization -q --dtype --enable-prefix-caching
--no-enable-prefix-caching --enable-chunked-prefill --no-enable-chunked-prefill
--trust-remote-code --host --port --served-model-name --api-key --chat-template --seed
--enable-metrics --metrics-port --speculative-model --speculative-config
--attention-backend --kv-cache-dtype --enforce-eager
--load-format --block-size --revision --tokenizer --scheduling-policy
""".split()


def resolved(*arguments: str) -> Config:
    """The configuration that a command receives for these arguments."""
    seen: list[Config] = []
    app = typer.Typer()

    @app.command()
    @with_config()
    def command(config: Config) -> None:
        seen.append(config)

    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def value(config: Config, key: str):
    section, name = key.split(".")
    return msgspec.to_builtins(config)[section][name]


@pytest.mark.parametrize(
    "flag",
    [flag for flag in FLAGS if flag.kind != "section"],
    ids=lambda flag: flag.names[0],
)
def test_every_row_sets_its_key_and_nothing_else(flag: Flag):
    for index, name in enumerate(flag.names):
        if flag.kind == "switch":
            arguments, expected = [name], index == 0
        elif flag.kind == "off":
            arguments, expected = [name], False
        else:
            typed, expected = TYPED.get(flag.key) or BY_KIND[flag.kind]
            arguments = [name, typed]
        config = resolved(*arguments)
        assert value(config, flag.key) == expected
        others = [key for key, _ in keys() if key != flag.key]
        assert all(value(config, key) == value(Config(), key) for key in others)


def test_a_section_is_written_as_json():
    text = '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 5}'
    config = resolved("--speculative-config", text)
    assert config.speculation == SpeculationConfig(
        method="ngram", num_speculative_tokens=3, prompt_lookup_max=5
    )
    for wrong, words in (("[1]", "JSON object"), ('{"methods": "ngram"}', "speculation.method?")):
        with pytest.raises(ConfigError, match=re.escape(words)):
            resolved("--speculative-config", wrong)


def test_the_names_that_users_of_vllm_know_are_there():
    assert set(FROM_VLLM) <= {name for flag in FLAGS for name in flag.names}


def test_rows_are_unique_and_name_known_keys():
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    sections = {key.partition(".")[0] for key, _ in keys()}
    assert {flag.key for flag in FLAGS} <= dict(keys()).keys() | sections


def test_flags_win_over_the_file_and_overrides_over_flags(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: a, seed: 1}\ncache: {block_size: 8}\n")
    config = resolved("--config", str(path), "--seed", "2", "--set", "model.seed=3")
    assert (config.model.name, config.model.seed, config.cache.block_size) == ("a", 3, 8)
    assert resolved("b", "--config", str(path)).model.name == "b"
    assert resolved("--model", "c").model.name == "c"


def test_repeatable_flags_gather():
    config = resolved("--api-key", "a", "--api-key", "b", "--plugin", "p", "--plugin", "q")
    assert config.server.api_keys == ("a", "b")
    assert config.plugins.load == ("p", "q")


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("32k", 32000), ("32K", 32768), ("1m", 10**6), ("1M", 2**20), ("25.6k", 25600)],
)
def test_sizes(text, number):
    assert parse_size(text, "--x") == number


@pytest.mark.parametrize("text", ["", "k", "-3", "1.5", "32kb", "1e3", "ten", "0.0001k"])
def test_sizes_refused(text):
    with pytest.raises(ConfigError, match="--x"):
        parse_size(text, "--x")
