"""From the engine's deltas to what a caller receives: text, log-probabilities, and the record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .metrics import CompletionRecord, RequestRecord
from .output import CompletionDelta, CompletionOutput, Logprob, RequestOutput, StreamDelta
from .request import Request, SamplingParams
from .step import Delta, FinishReason, TokenLogprobs
from .text.detokenizer import IncrementalDetokenizer
from .text.tokenizer import Tokenizer

__all__ = ("Collector", "gather")


@dataclass(slots=True)
class _Completion:
    """One of a request's n completions."""

    request: Request
    detokenizer: IncrementalDetokenizer | None
    num_tokens: int = 0
    queued: float = 0.0
    first_token: float | None = None
    last_token: float = 0.0
    gaps: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    record: CompletionRecord | None = None


class Collector:
    """Follows one request with its n completions.

    Args:
        request_id: the caller's handle.
        requests: one a completion, as sent to the engine.
        params: as given.
        tokenizer: for text.
        streamed: whether somebody reads tokens as they come; else each completion is given whole
            at its end, but where a stop string may end it or log-probabilities come with tokens.
    """

    def __init__(
        self,
        request_id: str,
        requests: list[Request],
        params: SamplingParams,
        tokenizer: Tokenizer,
        *,
        streamed: bool = True,
    ) -> None:
        self.request_id = request_id
        self.params = params
        self.prompt_token_ids = requests[0].prompt_token_ids
        self._tokenizer = tokenizer
        self._holds = not (streamed or params.stop_strings or params.logprobs is not None)
        self._completions = {
            request.request_id: (index, _Completion(request, self._detokenizer()))
            for index, request in enumerate(requests)
        }
        self._num_cached = 0
        self._num_drafts = 0
        self._num_accepted = 0
        self._prompt_logprobs: list[dict[int, Logprob] | None] = [None]

    @property
    def unfinished(self) -> list[str]:
        """Engine ids of completions that still run."""
        return [name for name, (_, part) in self._completions.items() if part.record is None]

    def take(self, delta: Delta) -> tuple[StreamDelta | None, str | None]:
        """Take in a delta of one of the completions.

        Returns:
            What is new for the caller, if anything; and the engine id to abort when a stop string
            has ended a completion that the engine still runs.
        """
        index, part = self._completions[delta.request_id]
        if part.record is not None:
            return None, None
        self._note(part, delta)
        if delta.prompt_logprobs and index == 0:
            self._prompt_logprobs += [self._entry(entry) for entry in delta.prompt_logprobs]
        if self._holds:
            part.held += delta.token_ids
            if delta.finish_reason is None:
                return None, None
            delta.token_ids = part.held
        news = self._news(index, part, delta)
        abort = delta.request_id if news.finish_reason and not delta.finish_reason else None
        if news.finish_reason is not None:
            self._end(part, news.finish_reason, delta.num_preemptions)
        if not (news.text or news.token_ids or news.finish_reason):
            return None, None
        finished = news.finish_reason is not None and not self.unfinished
        stream = StreamDelta(
            self.request_id,
            self.prompt_token_ids,
            [news],
            finished,
            self._num_cached,
            self._num_accepted,
            self._num_drafts - self._num_accepted,
        )
        complete = len(self._prompt_logprobs) == len(self.prompt_token_ids)
        if self.params.prompt_logprobs is not None and complete:
            stream.prompt_logprobs = self._prompt_logprobs
        return stream, abort

    def give_up(self, reason: FinishReason) -> None:
        """Nobody waits any more, or nobody answers: what still runs has ended for this reason."""
        for _, part in self._completions.values():
            if part.record is None:
                part.num_tokens += len(part.held)
                self._end(part, reason, 0)

    def record(self) -> RequestRecord | None:
        """The whole request for observers; None while a completion still runs."""
        parts = [part for _, part in self._completions.values()]
        records = [part.record for part in parts if part.record is not None]
        if len(records) < len(parts):
            return None
        return RequestRecord(
            request_id=self.request_id,
            num_prompt=len(self.prompt_token_ids),
            num_cached=self._num_cached,
            max_tokens=parts[0].request.max_tokens,
            arrival=parts[0].request.arrival,
            completions=records,
        )

    def _detokenizer(self) -> IncrementalDetokenizer | None:
        if not self.params.detokenize:
            return None
        return IncrementalDetokenizer(
            self._tokenizer,
            self.prompt_token_ids,
            skip_special_tokens=self.params.skip_special_tokens,
            stop=self.params.stop_strings,
            include_stop=self.params.include_stop_str_in_output,
        )

    def _news(self, index: int, part: _Completion, delta: Delta) -> CompletionDelta:
        news = CompletionDelta(
            index,
            "",
            delta.token_ids,
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            error=delta.error,
        )
        if part.detokenizer is not None:
            self._decode(part.detokenizer, news)
        part.num_tokens += len(news.token_ids)
        if self.params.logprobs is not None and news.token_ids:
            entries = (delta.logprobs or [])[: len(news.token_ids)]
            news.logprobs = [self._entry(entry) for entry in entries]
        return news

    def _decode(self, detokenizer: IncrementalDetokenizer, news: CompletionDelta) -> None:
        visible = news.token_ids
        if news.finish_reason == "stop" and not self.params.include_stop_str_in_output:
            visible = visible[:-1]
        piece = detokenizer.feed(visible)
        news.text = piece.text
        if piece.stop is not None:
            news.token_ids = visible[: piece.num_tokens]
            news.finish_reason = "stop"
            news.stop_reason = piece.stop
        elif news.finish_reason is not None:
            news.text += detokenizer.finish()

    def _entry(self, entry: TokenLogprobs) -> dict[int, Logprob]:
        text = self._tokenizer.token_text
        found = {entry.token_id: Logprob(entry.logprob, entry.rank, text(entry.token_id))}
        pairs = zip(entry.top_ids, entry.top_logprobs, strict=True)
        for rank, (token, logprob) in enumerate(pairs, 1):
            found.setdefault(token, Logprob(logprob, rank, text(token)))
        return found

    def _note(self, part: _Completion, delta: Delta) -> None:
        now = time.monotonic()
        if delta.num_drafts:
            self._num_drafts += delta.num_drafts
            self._num_accepted += delta.num_accepted
        if part.first_token is None:
            self._num_cached = max(self._num_cached, delta.num_cached)
            part.queued = part.queued or delta.queued
        if not delta.token_ids:
            return
        if part.first_token is None:
            part.first_token = now
        else:
            part.gaps.append(now - part.last_token)
        part.last_token = now

    def _end(self, part: _Completion, reason: FinishReason, num_preemptions: int) -> None:
        part.record = CompletionRecord(
            finish_reason=reason,
            num_generated=part.num_tokens,
            queued=part.queued,
            first_token=part.first_token,
            finished=time.monotonic(),
            token_gaps=part.gaps,
            num_preemptions=num_preemptions,
        )


def gather(output: RequestOutput, delta: StreamDelta) -> None:
    """Add a delta to a whole output in place."""
    output.num_cached_tokens = delta.num_cached_tokens
    output.num_accepted_tokens = delta.num_accepted_tokens
    output.num_rejected_tokens = delta.num_rejected_tokens
    output.finished = delta.finished
    output.prompt_logprobs = delta.prompt_logprobs or output.prompt_logprobs
    for news in delta.completions:
        whole: CompletionOutput = output.outputs[news.index]
        whole.text += news.text
        whole.token_ids += news.token_ids
        if news.logprobs is not None:
            whole.logprobs = (whole.logprobs or []) + news.logprobs
            drawn = (next(iter(entry.values())).logprob for entry in news.logprobs)
            whole.cumulative_logprob = (whole.cumulative_logprob or 0.0) + sum(drawn)
        if news.finish_reason is not None:
            whole.finish_reason = news.finish_reason
            whole.stop_reason = news.stop_reason
            whole.error = news.error
