"""Source: where a model's files are, and what its config.json says.

A Source is the one object that carries revision and trust to every loader: tokenizer, chat
template, weights and architecture take it rather than a name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import CheckpointError

if TYPE_CHECKING:
    from .config import ModelConfig
    from .registry import Registry

__all__ = ("Source", "locate", "open_folder")

MAX_JSON_BYTES = 8 * 2**20
# Descriptions of quantized weights beside a config.json without one, as AutoGPTQ and AutoAWQ wrote
# them at first, and whose they are.
_DESCRIPTIONS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
WEIGHT_PATTERNS = ("*.safetensors",)
SMALL_FILE_PATTERNS = (
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files.

    Attributes:
        folder: holds config.json, the tokenizer's files and the safetensors.
        config: config.json.
        generation_config: generation_config.json; empty when there is none.
        revision: of the repository the folder was taken from; None for a local folder.
        trust_remote_code: whether code among the files may run.
    """

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    revision: str | None = None
    trust_remote_code: bool = False

    def architecture(self) -> str:
        """The first of config.json's ``architectures``.

        Raises:
            CheckpointError: when there is none.
        """
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise CheckpointError(
                f"{self.folder}/config.json names no architecture; it needs an entry such as "
                '"architectures": ["LlamaForCausalLM"]'
            )
        return names[0]

    def eos_token_ids(self) -> list[int]:
        """Tokens that end a text: generation_config.json's, else config.json's; possibly none.

        Raises:
            CheckpointError: when eos_token_id is neither an integer nor a list of integers.
        """
        for file, values in (
            ("generation_config.json", self.generation_config),
            ("config.json", self.config),
        ):
            found = values.get("eos_token_id")
            if found is None:
                continue
            ids = found if isinstance(found, list) else [found]
            if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
                raise CheckpointError(
                    f"eos_token_id in {self.folder}/{file} must be a token id or a list of them"
                )
            return list(ids)
        return []

    def dtype(self) -> str:
        """Name of the dtype that the weights were stored in; float32 when the config is silent.

        Raises:
            CheckpointError: when the entry is no string.
        """
        name = self.config.get("dtype", self.config.get("torch_dtype")) or "float32"
        if not isinstance(name, str):
            raise CheckpointError(
                f"dtype in {self.folder}/config.json must be a name such as bfloat16"
            )
        return name.removeprefix("torch.")

    def quantization(self) -> str | None:
        """Name of the method that the weights were quantized by; None when they were not.

        Raises:
            CheckpointError: when quantization_config names no method.
        """
        described = self.config.get("quantization_config")
        if described is None:
            return None
        method = described.get("quant_method") if isinstance(described, dict) else None
        if not isinstance(method, str):
            raise CheckpointError(
                f"quantization_config in {self.folder}/config.json names no quant_method"
            )
        return method

    def quantizes_kv(self) -> bool:
        """Whether the weights were made for keys and values in 8-bit floats."""
        described = self.config.get("quantization_config")
        return isinstance(described, dict) and described.get("kv_cache_scheme") is not None

    def head_size(self) -> int:
        """Width of an attention head.

        Raises:
            CheckpointError: when the config does not tell.
        """
        values = [self.config.get(k) for k in ("head_dim", "hidden_size", "num_attention_heads")]
        width, hidden, heads = (v if isinstance(v, int) and v > 0 else 0 for v in values)
        if width:
            return width
        if not hidden or not heads or hidden % heads:
            raise CheckpointError(
                f"{self.folder}/config.json needs head_dim, or a hidden_size that is a multiple of "
                "num_attention_heads"
            )
        return hidden // heads

    def vocab_size(self) -> int:
        """Rows of the embedding.

        Raises:
            CheckpointError: when vocab_size is missing or not a positive integer.
        """
        size = self.config.get("vocab_size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CheckpointError(f"{self.folder}/config.json needs vocab_size, a positive integer")
        return size

    def weight_bytes(self) -> int:
        """Bytes of the safetensors files in the folder."""
        files = self.folder.glob("*.safetensors")
        return sum(path.stat().st_size for path in files if path.is_file())

    def context_length(self) -> int:
        """Positions the model was made for, rope scaling included.

        ``max_position_embeddings`` holds the scaled length for llama3 scaling and the length
        before scaling for linear and dynamic; yarn scales ``original_max_position_embeddings``.

        Raises:
            CheckpointError: when max_position_embeddings is missing or not a positive integer.
        """
        length = self.config.get("max_position_embeddings")
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise CheckpointError(
                f"{self.folder}/config.json needs max_position_embeddings, a positive integer"
            )
        rope = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise CheckpointError(f"rope scaling in {self.folder}/config.json must be an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        factor = rope.get("factor")
        if kind not in ("linear", "dynamic", "yarn") or not isinstance(factor, int | float):
            return length
        if kind == "yarn":
            original = rope.get("original_max_position_embeddings", length)
            return max(length, int(original * factor))
        return int(length * factor)


def locate(model: ModelConfig, registry: Registry, setting: str = "model.name") -> Source:
    """Find a model's files: a name that a plugin supplies, a folder, or a Hugging Face repository.

    Args:
        model: the configuration; name, revision, trust_remote_code and load_format are read.
        registry: for the named checkpoints.
        setting: where the name stands in the configuration, for messages.

    Raises:
        CheckpointError: when the files are nowhere, or config.json is missing or unreadable.
    """
    if model.name in registry.names("checkpoint"):
        folder = registry.make("checkpoint", model.name).folder()
        return open_folder(folder, trust_remote_code=model.trust_remote_code)
    where = f"{setting} {model.name!r}"
    if not model.name.strip():
        raise CheckpointError(f"{where} is empty; give a folder, a repository or a known name")
    path = Path(model.name).expanduser()
    if path.is_dir():
        return open_folder(path, trust_remote_code=model.trust_remote_code)
    if path.exists():
        raise CheckpointError(f"{where} is a file; give the folder that holds config.json")
    if path.is_absolute() or model.name.startswith((".", "~")) or model.name.count("/") > 1:
        raise CheckpointError(f"{where} looks like a folder, and there is none")
    folder = _download(model, where, registry.names("checkpoint"))
    return open_folder(folder, revision=model.revision, trust_remote_code=model.trust_remote_code)


def open_folder(
    folder: Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Source:
    """Read a folder's config.json and generation_config.json.

    Raises:
        CheckpointError: when config.json is missing, or either file is too large or no JSON object.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json; give the folder of a Hugging Face checkpoint"
        )
    generation = folder / "generation_config.json"
    config = _read_object(folder / "config.json")
    for name, method in _DESCRIPTIONS.items():
        if config.get("quantization_config") is None and (folder / name).is_file():
            described = _read_object(folder / name)
            config["quantization_config"] = {"quant_method": method} | described
    return Source(
        folder=folder,
        config=config,
        generation_config=_read_object(generation) if generation.is_file() else {},
        revision=revision,
        trust_remote_code=trust_remote_code,
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are read")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a readable JSON object ({error})") from error


def _download(model: ModelConfig, where: str, supplied: list[str]) -> Path:
    """The repository's files in the Hugging Face cache, fetched where they are not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    weights = WEIGHT_PATTERNS if model.load_format == "safetensors" else ()
    known = f"a folder, a named checkpoint ({', '.join(supplied) or 'none'})"
    try:
        folder = snapshot_download(
            model.name,
            revision=model.revision,
            allow_patterns=[*SMALL_FILE_PATTERNS, *weights],
        )
    except HFValidationError as error:
        raise CheckpointError(f"{where} is neither {known} nor a repository's name") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{where} is a gated repository; accept its terms on huggingface.co and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where} is neither {known} nor a repository on huggingface.co that you may read; "
            "for a private one set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{where} has no revision {model.revision!r}; correct it") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not {known}, is not in the local Hugging Face cache, and could not be "
            f"fetched from huggingface.co ({type(error).__name__}); check the name and the network"
        ) from error
    return Path(folder)
