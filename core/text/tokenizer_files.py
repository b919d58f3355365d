"""The files a tokenizer is made of, read the way transformers reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..source import Source

__all__ = ("SpecialTokens", "TokenizerFiles", "usable")

_PATTERNS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.jinja", "*.model")
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_MAX_TEMPLATE = 4 * 2**20


class SpecialTokens(msgspec.Struct, frozen=True):
    """Tokens with a role.

    Attributes:
        named: role, such as ``bos_token`` -> the token's text.
        ids: of every special token, named or not.
    """

    named: dict[str, str]
    ids: frozenset[int]


class TokenizerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A folder, and what goes with it.

    Attributes:
        folder: with tokenizer.json or older files.
        settings: of tokenizer_config.json.
        override: the text of a chat template that replaces the model's.
        revision: of the repository the folder came from.
        trust_remote_code: whether code of the repository may run.
    """

    folder: Path
    settings: dict[str, Any]
    override: str | None
    revision: str | None
    trust_remote_code: bool

    @classmethod
    def find(cls, source: Source, model: ModelConfig) -> TokenizerFiles:
        """The model's own tokenizer, or the one its configuration names instead.

        Raises:
            CheckpointError: when that other tokenizer does not exist.
            ConfigError: when the chat template's file cannot be read.
        """
        folder = source.folder if model.tokenizer is None else _folder(model.tokenizer)
        return cls(
            folder=folder,
            settings=_read(folder / "tokenizer_config.json"),
            override=_override(model.chat_template),
            revision=source.revision if model.tokenizer is None else None,
            trust_remote_code=source.trust_remote_code,
        )

    @property
    def has_native(self) -> bool:
        """Whether there is a tokenizer.json."""
        return (self.folder / "tokenizer.json").is_file()

    def native(self) -> tuple[Any, SpecialTokens]:
        """A ``tokenizers.Tokenizer`` with every special token the settings name.

        As in transformers, tokenizer.json alone says what is put around a text.

        Raises:
            CheckpointError: when tokenizer.json cannot be read.
        """
        import tokenizers

        path = self.folder / "tokenizer.json"
        try:
            native = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
        native.no_truncation()
        native.no_padding()
        listed = self.settings.get("added_tokens_decoder") or {}
        entries = [entry for _, entry in sorted(listed.items(), key=lambda item: int(item[0]))]
        named, texts = self._special_texts()
        entries += [{"content": text, "special": True, "normalized": False} for text in texts]
        known = {token.content for token in native.get_added_tokens_decoder().values()}
        for entry in entries:
            # A token that tokenizer.json adds already stays as it is there.
            if entry["content"] not in known:
                known.add(entry["content"])
                native.add_tokens([tokenizers.AddedToken(**entry)])
        added = native.get_added_tokens_decoder().items()
        ids = frozenset(index for index, token in added if token.special)
        return native, SpecialTokens(named, ids)

    def with_transformers(self) -> tuple[Any, SpecialTokens, dict[str, str]]:
        """A tokenizer for which there is no tokenizer.json, and its chat templates.

        Raises:
            CheckpointError: when transformers cannot load it either.
        """
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(
                str(self.folder),
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
            )
        except Exception as error:
            raise CheckpointError(
                f"{self.folder} has no tokenizer.json, and transformers cannot load another "
                f"tokenizer from it: {' '.join(str(error).split())[:300]}"
            ) from error
        named = {role: str(text) for role, text in loaded.special_tokens_map.items()}
        special = SpecialTokens(named, frozenset(loaded.all_special_ids))
        return loaded, special, self.templates()

    def templates(self) -> dict[str, str]:
        """Name -> text: "default", and others such as "tool_use"."""
        if self.override is not None:
            return {"default": self.override}
        found: dict[str, str] = {}
        single = self.folder / "chat_template.jinja"
        if single.is_file():
            found["default"] = single.read_text(encoding="utf-8")
        for path in sorted((self.folder / "additional_chat_templates").glob("*.jinja")):
            found[path.stem] = path.read_text(encoding="utf-8")
        if found:
            return found
        listed = self.settings.get("chat_template")
        if isinstance(listed, str):
            return {"default": listed}
        if isinstance(listed, list):
            return msgspec.convert(
                {entry["name"]: entry["template"] for entry in listed}, dict[str, str]
            )
        return {}

    def _special_texts(self) -> tuple[dict[str, str], list[str]]:
        """Role -> text, and every special text in the order of their addition."""
        settings = dict(self.settings)
        if "added_tokens_decoder" not in settings:
            settings |= _read(self.folder / "special_tokens_map.json")
        extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
        roles = [role for role in settings if role.endswith("_token") and role not in _NAMED]
        named = {role: _text(settings[role]) for role in (*_NAMED, *roles) if role in settings}
        if isinstance(extra, dict):
            named |= {role: _text(entry) for role, entry in extra.items()}
            extra = None
        kept = {role: text for role, text in named.items() if text is not None}
        listed = [text for entry in extra or () if (text := _text(entry)) is not None]
        return kept, list(dict.fromkeys([*kept.values(), *listed]))


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Whatever else is wrong with a tokenizer's files is said of them.

    Raises:
        CheckpointError: for values of kinds that nobody expects there, and files that are no text.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(
            f"the tokenizer's files in {folder} cannot be used ({reason}); fetch them again"
        ) from error


def _text(entry: Any) -> str | None:
    """A token's text, however it was written down; None when it is no token."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"model.tokenizer names {name!r}, which is not a folder; use a folder or a "
            "repository as OWNER/NAME"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer {name!r} is neither a folder nor could it be downloaded "
            f"({type(error).__name__})"
        ) from error


def _override(name: str | None) -> str | None:
    if name is None:
        return None
    path = Path(name)
    try:
        if path.stat().st_size > _MAX_TEMPLATE:
            raise ConfigError(f"model.chat_template: {name} is larger than any chat template")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"model.chat_template: {name} cannot be read ({type(error).__name__}); name a text "
            "file with a jinja template"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON object: {error}") from error
