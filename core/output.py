"""What callers receive: named as in vLLM, so that its quick starts run here."""

from dataclasses import dataclass, field

from .step import FinishReason

__all__ = ("CompletionDelta", "CompletionOutput", "Logprob", "RequestOutput", "StreamDelta")


@dataclass(slots=True)
class Logprob:
    """One candidate at a position.

    Attributes:
        logprob: natural logarithm of its probability under the model.
        rank: 1 for the likeliest of the vocabulary; None where not known.
        decoded_token: its text.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionDelta:
    """What is new of one completion.

    Attributes:
        index: of the completion, from 0 to n - 1.
        text: new text, safe to show (no partial character, no prefix of a stop string).
        token_ids: new tokens.
        logprobs: one dict a token, token id -> Logprob, the drawn one first; None if not asked for.
        finish_reason: set in the last delta of this completion and in no other.
        stop_reason: the stop string or stop token id that ended it; None for end-of-sequence.
        error: why, for finish_reason "error".
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None


@dataclass(slots=True)
class StreamDelta:
    """What is new of a request with n completions, after one step of the engine.

    Attributes:
        request_id: of the whole request.
        prompt_token_ids: in every delta, the same list.
        completions: those with news, in the order it came; one may come twice where the reader was
            behind the engine.
        finished: whether this is the last delta.
        num_cached_tokens: prompt tokens taken from the prefix cache.
        num_accepted_tokens: drafts of a speculator that became tokens, so far.
        num_rejected_tokens: drafts that did not, so far.
        prompt_logprobs: in the delta that completes them: None for the first token, then a dict
            a token.
    """

    request_id: str
    prompt_token_ids: list[int]
    completions: list[CompletionDelta]
    finished: bool
    num_cached_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    def append(self, later: "StreamDelta") -> None:
        """Take in what came next."""
        self.completions += later.completions
        self.finished = later.finished
        self.num_accepted_tokens = later.num_accepted_tokens
        self.num_rejected_tokens = later.num_rejected_tokens
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs


@dataclass(slots=True)
class CompletionOutput:
    """One whole completion; attributes as in CompletionDelta, accumulated."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: str | None = None


@dataclass(slots=True)
class RequestOutput:
    """A request and its completions.

    Attributes:
        request_id: made by the engine's client.
        prompt: as text, where it was given as text or messages.
        prompt_token_ids: what the model saw.
        prompt_logprobs: None for the first token, then token id -> Logprob; None if not asked for.
        outputs: n completions, by index.
        finished: whether all have ended.
        num_cached_tokens: prompt tokens taken from the prefix cache.
        num_accepted_tokens: drafts of a speculator that became tokens.
        num_rejected_tokens: drafts that did not.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int = 0
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0
