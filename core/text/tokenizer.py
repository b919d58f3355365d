"""Text to token ids and back, for the tokenizers that Hugging Face models come with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..config import ModelConfig
from ..errors import CheckpointError, InvalidRequest
from ..source import Source
from .pieces import Pieces, pieces_of
from .template import ChatTemplate
from .tokenizer_files import SpecialTokens, TokenizerFiles, usable

__all__ = ("Tokenizer",)

# Of one text: longer ones are refused before a tokenizer takes memory for them.
_MAX_CHARACTERS = 32 * 2**20


class _Backend(Protocol):
    """What a tokenizer library must do."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str: ...

    def token_to_id(self, text: str) -> int | None: ...

    def vocab_size(self) -> int: ...


class Tokenizer:
    """One model's tokenizer; made by ``load``, safe to use from several threads.

    Attributes:
        special_ids: tokens that skip_special_tokens leaves out.
        bos_token_id: begins a sequence, where the model has such a token.
        eos_token_id: ends a sequence.
        pieces: token id -> bytes, when the text of tokens is their bytes joined; None when only
            the library can decode.
    """

    def __init__(
        self,
        backend: _Backend,
        special: SpecialTokens,
        templates: Mapping[str, str],
        pieces: Pieces | None,
    ) -> None:
        self._backend = backend
        self._special = special
        self._template_texts = templates
        self._templates: dict[str, ChatTemplate] = {}
        self.pieces = pieces
        self.special_ids = special.ids
        self.bos_token_id = self._named("bos_token")
        self.eos_token_id = self._named("eos_token")

    @classmethod
    def load(cls, source: Source, model: ModelConfig | None = None) -> Tokenizer:
        """Read a model's tokenizer.

        Args:
            source: of the model's files.
            model: may name another tokenizer and a file with a chat template.

        Raises:
            CheckpointError: when the files are missing or damaged.
            ConfigError: when the chat template's file cannot be used.
        """
        model = model or ModelConfig()
        files = TokenizerFiles.find(source, model)
        with usable(files.folder):
            if not files.has_native:
                return cls._load_with_transformers(files)
            native, special = files.native()
            return cls(_Native(native), special, files.templates(), pieces_of(native))

    @classmethod
    def _load_with_transformers(cls, files: TokenizerFiles) -> Tokenizer:
        loaded, special, templates = files.with_transformers()
        native = getattr(loaded, "backend_tokenizer", None)
        if native is None:
            return cls(_Transformers(loaded), special, templates, None)
        return cls(_Native(native), special, templates, pieces_of(native))

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        return self._backend.vocab_size()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; long texts take long, so call it away from an event loop.

        Args:
            text: any; special tokens written in it become those tokens.
            add_special_tokens: add what the tokenizer puts around a text, such as bos.

        Raises:
            InvalidRequest: when the text is too long or not valid Unicode.
        """
        if len(text) > _MAX_CHARACTERS:
            raise InvalidRequest(
                f"the prompt has {len(text)} characters; at most {_MAX_CHARACTERS}", "prompt"
            )
        try:
            return self._backend.encode(text, add_special_tokens)
        except (UnicodeError, TypeError) as error:
            raise InvalidRequest(
                "the prompt must be valid Unicode text, without lone surrogates", "prompt"
            ) from error

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; ids that are no tokens have none.

        Raises:
            InvalidRequest: when an id is negative or does not fit 32 bits.
        """
        try:
            return self._backend.decode(list(ids), skip_special_tokens)
        except OverflowError as error:
            raise InvalidRequest("token ids must be integers of 0 or more", "prompt") from error

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, a leading space included; empty for an unknown id."""
        if self.pieces is not None:
            return self.pieces(token)
        return self.decode([token], skip_special_tokens=False).encode()

    def token_text(self, token: int) -> str:
        """A token's text for display; parts of a character show as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as text, special tokens included; see ``ChatTemplate.render``.

        Raises:
            InvalidRequest: when there is no chat template or it refuses the messages.
        """
        return self._template("default" if tools is None else "tool_use").render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """A conversation as token ids: ``render_chat``, then encoded with nothing added."""
        text = self.render_chat(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
        )
        return self.encode(text, add_special_tokens=False)

    def _template(self, name: str) -> ChatTemplate:
        """The template of that name, or the default; compiled when first used."""
        texts = self._template_texts
        name = name if name in texts else "default"
        if name not in texts:
            raise InvalidRequest(
                "this model has no chat template; set model.chat_template to a file with one, or "
                "send a prompt instead of messages",
                "messages",
            )
        if name not in self._templates:
            self._templates[name] = self._compile(texts[name])
        return self._templates[name]

    def _compile(self, text: str) -> ChatTemplate:
        import jinja2

        try:
            return ChatTemplate(text, self._special.named)
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the model's chat template does not compile ({error}); set model.chat_template "
                "to a file with a working one"
            ) from error

    def _named(self, name: str) -> int | None:
        text = self._special.named.get(name)
        return None if text is None else self._backend.token_to_id(text)


class _Native:
    """The tokenizers library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.token_to_id = tokenizer.token_to_id

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def vocab_size(self) -> int:
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size


class _Transformers:
    """A tokenizer written in Python, as transformers loads it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def token_to_id(self, text: str) -> int | None:
        found: int | None = self._tokenizer.convert_tokens_to_ids(text)
        return found

    def vocab_size(self) -> int:
        return len(self._tokenizer)
