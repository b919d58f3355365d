"""LLM: the engine in this process, for scripts and batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from .collect import Collector, gather
from .config import Config
from .engine import Engine
from .errors import ConfigError, EngineDeadError, InvalidRequest
from .frontend import Frontend, Prompt
from .interrupt import Interruptible
from .memory import collecting_seldom
from .output import CompletionOutput, RequestOutput, StreamDelta
from .progress import count_bar
from .registry import Registry
from .request import SamplingParams
from .source import locate
from .step import Delta
from .text.tokenizer import Tokenizer

__all__ = ("LLM",)

Message = dict[str, Any]

# Keyword of LLM -> dotted key of the configuration; the names are vLLM's.
_KEYWORDS = {
    "tokenizer": "model.tokenizer",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "max_model_len": "model.max_model_len",
    "quantization": "model.quantization",
    "load_format": "model.load_format",
    "trust_remote_code": "model.trust_remote_code",
    "seed": "model.seed",
    "chat_template": "model.chat_template",
    "gpu_memory_utilization": "cache.gpu_memory_utilization",
    "block_size": "cache.block_size",
    "kv_cache_dtype": "cache.kv_dtype",
    "enable_prefix_caching": "cache.prefix_caching",
    "max_num_seqs": "schedule.max_num_seqs",
    "max_num_batched_tokens": "schedule.max_num_batched_tokens",
    "enable_chunked_prefill": "schedule.chunked_prefill",
    "scheduling_policy": "schedule.policy",
    "tensor_parallel_size": "parallel.tensor_parallel_size",
    "speculative_model": "speculation.model",
    "speculative_config": "speculation",
    "attention_backend": "attention.backend",
}
# The same of those that turn a setting off where they are true, and else leave it alone.
_SWITCHES_OFF = {"enforce_eager": "schedule.graphs"}


class LLM:
    """A model, ready to generate. The keywords are named as in vLLM.

    Args:
        model: a name that a plugin supplies (``demo``), a folder, or a repository.
        config: everything else, for keys that have no keyword.
        keywords: settings by vLLM's names (dtype, max_model_len, max_num_seqs, ...); None leaves
            a setting alone.

    Raises:
        QuireError: what the user must change.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "demo",
        *,
        config: Config | None = None,
        **keywords: Any,
    ) -> None:
        written = _with_keywords(config or Config(), os.fspath(model), keywords)
        self._start(written, Registry(written.plugins.load), None)

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        registry: Registry | None = None,
        on_phase: Callable[[str, float], None] | None = None,
    ) -> LLM:
        """An LLM from a whole configuration.

        Args:
            config: as written.
            registry: with the plugins it names; built when None.
            on_phase: called with each phase of the start and its seconds.
        """
        self = cls.__new__(cls)
        self._start(config, registry or Registry(config.plugins.load), on_phase)
        return self

    def _start(
        self,
        config: Config,
        registry: Registry,
        on_phase: Callable[[str, float], None] | None,
    ) -> None:
        source = locate(config.model, registry)
        self.tokenizer = Tokenizer.load(source, config.model)
        self.engine = Engine.start(config, registry, on_phase or (lambda name, seconds: None))
        self.config = self.engine.info.config
        self.reasons = self.engine.info.reasons
        self._frontend = Frontend(self.engine.info, source, self.tokenizer)
        self._collectors: dict[str, Collector] = {}
        self._streams: dict[str, deque[StreamDelta]] = {}

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, which is the attribute ``tokenizer`` as well."""
        return self.tokenizer

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, batched as the engine sees fit; outputs in the order of the prompts.

        Args:
            prompts: one or many of: text, token ids, ``{"prompt": ...}``,
                ``{"prompt_token_ids": [...]}``.
            sampling_params: for all, or one a prompt.
            use_tqdm: show a progress bar.
            priority: one a prompt, for policies that look at it; smaller is sooner.

        Raises:
            InvalidRequest: for any prompt or parameter that cannot run; nothing was started.
        """
        many = _as_list(prompts)
        params = _spread(sampling_params, len(many))
        if priority is not None and len(priority) != len(many):
            raise InvalidRequest(
                f"there are {len(many)} prompts and {len(priority)} priorities; give one a prompt",
                "priority",
            )
        encoded = [self._frontend.encode(prompt) for prompt in many]
        return self._run(encoded, params, use_tqdm=use_tqdm, priority=priority)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations, each a list of messages with role and content.

        Args:
            messages: one conversation or many.
            sampling_params: for all, or one a conversation.
            use_tqdm: show a progress bar.
            tools: declared to the model by its template.
            add_generation_prompt: end with the opening of an answer.
            continue_final_message: let the model go on with the last message.
            chat_template_kwargs: further variables of the template.
        """
        chats: list[Any] = (
            [messages] if messages and isinstance(messages[0], dict) else list(messages)
        )
        params = _spread(sampling_params, len(chats))
        encoded: list[tuple[str | None, list[int]]] = []
        for chat in chats:
            text = self.tokenizer.render_chat(
                chat,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                template_kwargs=chat_template_kwargs,
            )
            encoded.append((text, self.tokenizer.encode(text, add_special_tokens=False)))
        return self._run(encoded, params, use_tqdm=use_tqdm, priority=None)

    def score(
        self, prompts: Prompt | Sequence[Prompt], *, prompt_logprobs: int = 0, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """Log-probabilities of the prompts' own tokens, in ``output.prompt_logprobs``.

        Args:
            prompts: as for ``generate``.
            prompt_logprobs: how many of the likeliest tokens to report beside each.
            use_tqdm: show a progress bar.
        """
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=prompt_logprobs)
        return self.generate(prompts, params, use_tqdm=use_tqdm)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[StreamDelta]:
        """Complete one prompt and yield what is new after each step; closing it aborts.

        Several may be read in turns, and ``generate`` be called meanwhile.
        """
        _, ids = self._frontend.encode(prompt)
        with Interruptible():
            collector = self._submit(ids, sampling_params or SamplingParams(), streamed=True)
            news = self._streams[collector.request_id] = deque()
        try:
            while news or collector.unfinished:
                while news:
                    yield news.popleft()
                if collector.unfinished:
                    with Interruptible():
                        self._step()
        finally:
            with Interruptible():
                del self._streams[collector.request_id]
                self._drop([collector])

    def reset_prefix_cache(self) -> None:
        """Forget what is cached of earlier prompts, as before a measurement."""
        self.engine.scheduler.forget_prefixes()

    def shutdown(self) -> None:
        """Free the model; the object is of no use afterwards."""
        self.engine.shutdown()

    def _run(
        self,
        encoded: list[tuple[str | None, list[int]]],
        params: list[SamplingParams],
        *,
        use_tqdm: bool,
        priority: Sequence[int] | None,
    ) -> list[RequestOutput]:
        collectors: list[Collector] = []
        outputs: dict[str, RequestOutput] = {}
        order: list[RequestOutput] = []
        with Interruptible() as interruption, collecting_seldom():
            try:
                for index, ((text, ids), one) in enumerate(zip(encoded, params, strict=True)):
                    collector = self._submit(ids, one, priority[index] if priority else 0)
                    collectors.append(collector)
                    parts = [CompletionOutput(number) for number in range(one.n)]
                    output = RequestOutput(collector.request_id, text, ids, None, parts, False)
                    outputs[collector.request_id] = output
                    order.append(output)
                self._finish_all(outputs, use_tqdm, interruption)
            finally:
                self._drop(collectors)
        return order

    def _finish_all(
        self, outputs: dict[str, RequestOutput], use_tqdm: bool, interruption: Interruptible
    ) -> None:
        left = len(outputs)
        with count_bar(left, "prompts", show=use_tqdm) as advance:
            while left:
                interruption.deliver()
                for delta in self._step():
                    gather(outputs[delta.request_id], delta)
                    if delta.finished:
                        left -= 1
                        advance()

    def _submit(
        self, ids: list[int], params: SamplingParams, priority: int = 0, *, streamed: bool = False
    ) -> Collector:
        collector, requests = self._frontend.collect(
            ids, params, priority=priority, streamed=streamed
        )
        taken = []
        try:
            for request in requests:
                self.engine.add(request)
                taken.append(request.request_id)
        except Exception:
            for request_id in taken:
                self.engine.abort(request_id)
            raise
        for request in requests:
            self._collectors[request.request_id] = collector
        return collector

    def _step(self) -> list[StreamDelta]:
        """What is new, but for what belongs to open streams, which is kept for them."""
        if not self.engine.has_work():
            raise EngineDeadError("the engine has nothing to do and a request is unfinished")
        news: list[StreamDelta] = []
        for delta in self.engine.step():
            found = self._take(delta)
            if found is not None:
                self._streams.get(found.request_id, news).append(found)
        return news

    def _take(self, delta: Delta) -> StreamDelta | None:
        collector = self._collectors.get(delta.request_id)
        if collector is None:
            return None
        stream, abort = collector.take(delta)
        if abort is not None:
            self.engine.abort(abort)
        if delta.finish_reason is not None or abort is not None:
            del self._collectors[delta.request_id]
        return stream

    def _drop(self, collectors: list[Collector]) -> None:
        """Abort what an exception or a closed iterator left behind."""
        for collector in collectors:
            for request_id in collector.unfinished:
                self.engine.abort(request_id)
                self._collectors.pop(request_id, None)


def _as_list(prompts: Any) -> list[Prompt]:
    if isinstance(prompts, str | dict):
        return [prompts]
    if not isinstance(prompts, Iterable):
        kind = type(prompts).__name__
        raise InvalidRequest(f"prompts must be a prompt or a list of them, not {kind}", "prompt")
    many = list(prompts)
    if many and all(isinstance(item, int) and not isinstance(item, bool) for item in many):
        return [many]
    return many


def _spread(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * count
    if not isinstance(params, list | tuple) or not all(
        isinstance(one, SamplingParams) for one in params
    ):
        raise InvalidRequest(
            "sampling_params must be a SamplingParams, or a list with one a prompt",
            "sampling_params",
        )
    if len(params) != count:
        raise InvalidRequest(
            f"there are {count} prompts and {len(params)} sampling_params; give one for all, or "
            "one a prompt",
            "sampling_params",
        )
    return list(params)


def _with_keywords(config: Config, model: str, keywords: dict[str, Any]) -> Config:
    values = msgspec.to_builtins(config)
    values["model"]["name"] = model
    for name, value in keywords.items():
        key = _KEYWORDS.get(name) or _SWITCHES_OFF.get(name)
        if key is None:
            known_names = ", ".join(sorted(_KEYWORDS | _SWITCHES_OFF))
            raise ConfigError(f"LLM has no keyword {name!r}; it has {known_names}, and config")
        if name in _SWITCHES_OFF:
            if not isinstance(value, bool | None):
                raise ConfigError(f"{name} must be True or False, not {type(value).__name__}")
            value = False if value else None
        if value is not None:
            section, _, field = key.partition(".")
            if field:
                values[section][field] = value
            elif isinstance(value, dict):
                values[section] |= value
            else:
                kind = type(value).__name__
                raise ConfigError(f"{name} must be a dict of the section {section}, not {kind}")
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a setting is of the wrong kind: {error}") from error
