"""Prometheus: the metrics that vLLM's dashboards read, under their names.

Updates are a few additions on plain numbers; families are made when a scrape asks for them.
Names that vLLM has renamed are given under both, from the same numbers.
"""

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ...core.config import Config
from ...core.contracts.exporter import Exporter, Rejection
from ...core.metrics import EngineStats, RequestRecord
from ...core.step import FinishReason
from .histogram import E2E, GAPS, TTFT, Histogram, token_bounds

__all__ = ("Prometheus",)

# Name, its older names, words.
Names = tuple[str, tuple[str, ...], str]

HISTOGRAMS: dict[str, Names] = {
    "step_tokens": ("iteration_tokens_total", (), "Tokens computed in a step of the engine"),
    "prompt": ("request_prompt_tokens", (), "Prompt tokens of a request"),
    "generated": ("request_generation_tokens", (), "Tokens of a completion"),
    "computed": (
        "request_prefill_kv_computed_tokens",
        (),
        "Prompt tokens of a request that were computed, not found in the cache",
    ),
    "longest": (
        "request_max_num_generation_tokens",
        (),
        "Tokens of a request's longest completion",
    ),
    "preemptions": (
        "request_num_preemptions",
        (),
        "Times that a request's sequences were sent back to the queue",
    ),
    "n": ("request_params_n", (), "Completions asked for"),
    "max_tokens": ("request_params_max_tokens", (), "Most tokens a request may generate"),
    "ttft": ("time_to_first_token_seconds", (), "From arrival to the first token"),
    "gap": (
        "inter_token_latency_seconds",
        ("time_per_output_token_seconds",),
        "Between the arrivals of consecutive tokens",
    ),
    "tpot": (
        "request_time_per_output_token_seconds",
        (),
        "Mean seconds per token of a completion after its first",
    ),
    "e2e": ("e2e_request_latency_seconds", (), "From arrival to the last token"),
    "queue": ("request_queue_time_seconds", (), "In the queue"),
    "inference": ("request_inference_time_seconds", (), "From leaving the queue to the end"),
    "prefill": ("request_prefill_time_seconds", (), "From leaving the queue to the first token"),
    "decode": ("request_decode_time_seconds", (), "From the first token to the last"),
}
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)
REJECTIONS: tuple[str, ...] = get_args(Rejection)


class Prometheus(Exporter):
    """Keeps numbers; renders the text format.

    Args:
        config: resolved.
    """

    def __init__(self, config: Config) -> None:
        tokens = token_bounds(config.model.max_model_len or 10**6)
        steps = token_bounds(config.schedule.max_num_batched_tokens or 10**5)
        bounds: dict[str, tuple[float, ...]] = {
            "step_tokens": steps,
            "prompt": tokens,
            "generated": tokens,
            "computed": tokens,
            "max_tokens": tokens,
            "longest": tokens,
            "preemptions": token_bounds(100),
            "n": token_bounds(100),
            "ttft": TTFT,
            "gap": GAPS,
            "tpot": GAPS,
        }
        self._histograms = {name: Histogram(bounds.get(name, E2E)) for name in HISTOGRAMS}
        self._labels = {
            "model_name": config.server.served_model_name or config.model.name,
            "engine": "0",
        }
        self._cache_config = {
            "block_size": str(config.cache.block_size),
            "cache_dtype": config.cache.kv_dtype,
            "enable_prefix_caching": str(config.cache.prefix_caching),
            "gpu_memory_utilization": str(config.cache.gpu_memory_utilization),
        }
        self._speculates = config.speculation.method is not None
        self._stats = EngineStats()
        self._finished: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._alive = False
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def engine(self, stats: EngineStats) -> None:
        """Keep the last; its counters run from the engine's start."""
        if stats.step > self._stats.step:
            self._histograms["step_tokens"].add(stats.step_tokens)
        self._stats = stats

    def request(self, record: RequestRecord) -> None:
        """Count a finished request."""
        self._finished[record.finish_reason] += 1
        values: dict[str, float] = {
            "prompt": record.num_prompt,
            "computed": record.num_prompt - record.num_cached,
            "longest": max(completion.num_generated for completion in record.completions),
            "preemptions": sum(completion.num_preemptions for completion in record.completions),
            "n": len(record.completions),
            "max_tokens": record.max_tokens,
            "e2e": record.finished - record.arrival,
            "queue": record.queued,
            "inference": record.finished - record.arrival - record.queued,
        }
        if record.first_token is not None:
            values["ttft"] = record.first_token - record.arrival
            values["prefill"] = record.first_token - record.arrival - record.queued
            values["decode"] = record.finished - record.first_token
        for name, value in values.items():
            self._histograms[name].add(value)
        for completion in record.completions:
            self._histograms["generated"].add(completion.num_generated)
            self._histograms["gap"].add_all(completion.token_gaps)
            if completion.num_generated > 1:
                mean = sum(completion.token_gaps) / (completion.num_generated - 1)
                self._histograms["tpot"].add(mean)

    def rejected(self, reason: Rejection) -> None:
        """Count a request that was not taken in."""
        self._rejections[reason] += 1

    def healthy(self, alive: bool) -> None:
        """Whether the engine runs."""
        self._alive = alive

    def render(self) -> tuple[bytes, str]:
        """The text format and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """Every family, for a scrape; this makes a collector of the registry's."""
        yield from self._gauges()
        yield from self._counters()
        for key, (name, aliases, words) in HISTOGRAMS.items():
            for each in (name, *aliases):
                yield self._histograms[key].family(f"vllm:{each}", words, self._labels)

    def _gauges(self) -> Iterator[Metric]:
        stats = self._stats
        used = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
        hits = stats.prefix_hits / stats.prefix_queries if stats.prefix_queries else 0.0
        for name, value, words in (
            ("num_requests_running", stats.running, "Sequences that run"),
            ("num_requests_waiting", stats.waiting, "Requests in the queue"),
            ("kv_cache_usage_perc", used, "Share of KV cache blocks in use; 1 is all"),
            ("gpu_cache_usage_perc", used, "Share of KV cache blocks in use; 1 is all"),
            ("gpu_prefix_cache_hit_rate", hits, "Share of looked-up prompt tokens found"),
            ("engine_healthy", float(self._alive), "1 while the engine runs"),
        ):
            yield self._add(GaugeMetricFamily(f"vllm:{name}", words, labels=[*self._labels]), value)
        labels = self._labels | self._cache_config | {"num_gpu_blocks": str(stats.blocks_total)}
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Settings of the KV cache", labels=[*labels]
        )
        info.add_metric(list(labels.values()), 1)
        yield info

    def _counters(self) -> Iterator[Metric]:
        stats = self._stats
        queries = "Prompt tokens looked up in the prefix cache"
        hits = "Prompt tokens found in the prefix cache"
        for name, value, words in (
            ("prefix_cache_queries", stats.prefix_queries, queries),
            ("gpu_prefix_cache_queries", stats.prefix_queries, queries),
            ("prefix_cache_hits", stats.prefix_hits, hits),
            ("gpu_prefix_cache_hits", stats.prefix_hits, hits),
            ("num_preemptions", stats.preemptions, "Sequences sent back to the queue"),
            ("prompt_tokens", stats.prompt_tokens, "Prompt tokens computed or found in the cache"),
            ("prompt_tokens_cached", stats.prefix_hits, hits),
            ("generation_tokens", stats.generated_tokens, "Tokens emitted"),
            ("corrupted_requests", stats.corrupted, "Sequences whose logits were no numbers"),
        ):
            family = CounterMetricFamily(f"vllm:{name}", words, labels=[*self._labels])
            yield self._add(family, value)
        if self._speculates:
            yield from self._speculation(stats)
        words = "Finished requests by reason"
        yield self._by("request_success", words, "finished_reason", FINISH_REASONS, self._finished)
        words = "Requests that were not taken in, by reason"
        yield self._by("admission_rejections", words, "reason", REJECTIONS, self._rejections)

    def _speculation(self, stats: EngineStats) -> Iterator[Metric]:
        for name, value, words in (
            ("num_drafts", stats.drafts, "Chains of drafts verified"),
            ("num_draft_tokens", stats.draft_tokens, "Drafts verified"),
            ("num_accepted_tokens", stats.accepted_tokens, "Drafts accepted"),
        ):
            family = CounterMetricFamily(f"vllm:spec_decode_{name}", words, labels=[*self._labels])
            yield self._add(family, value)
        positions = tuple(map(str, range(len(stats.accepted_at))))
        yield self._by(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafts accepted, by position in their chain",
            "position",
            positions,
            Counter(dict(zip(positions, stats.accepted_at, strict=True))),
        )

    def _by(
        self, name: str, words: str, label: str, values: tuple[str, ...], counts: Counter[str]
    ) -> CounterMetricFamily:
        """A counter with one sample for each value of a label."""
        family = CounterMetricFamily(f"vllm:{name}", words, labels=[*self._labels, label])
        for value in values:
            family.add_metric([*self._labels.values(), value], counts[value])
        return family

    def _add(
        self, family: GaugeMetricFamily | CounterMetricFamily, value: float
    ) -> GaugeMetricFamily | CounterMetricFamily:
        family.add_metric(list(self._labels.values()), value)
        return family
