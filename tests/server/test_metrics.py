"""The exporter: vLLM's names, from the engine's numbers, checked by prometheus's own parser."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference
from prometheus_client.parser import text_string_to_metric_families

from quire.core.config import Config, SpeculationConfig
from quire.core.metrics import CompletionRecord, EngineStats, RequestRecord
from quire.plugins.exporters.histogram import E2E, GAPS, TTFT, Histogram, token_bounds
from quire.plugins.exporters.prometheus import FINISH_REASONS, Prometheus

LABELS = {"model_name": "demo", "engine": "0"}


def completion(**changes) -> CompletionRecord:
    values = {
        "finish_reason": "stop",
        "num_generated": 3,
        "queued": 0.5,
        "first_token": 101.0,
        "finished": 104.0,
        "token_gaps": [1.0, 2.0],
    }
    return CompletionRecord(**(values | changes))


def record(*completions: CompletionRecord) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        num_prompt=10,
        num_cached=4,
        max_tokens=16,
        arrival=100.0,
        completions=list(completions),
    )


def scrape(exporter: Prometheus) -> dict[str, float]:
    """Sample name, with labels beyond the two common ones, to value."""
    body, content_type = exporter.render()
    assert content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            if not sample.name.startswith("vllm:"):
                continue
            extra = {k: v for k, v in sample.labels.items() if k not in LABELS}
            assert {k: sample.labels[k] for k in LABELS} == LABELS
            key = sample.name.removeprefix("vllm:")
            found[key + "".join(f"[{v}]" for v in extra.values())] = sample.value
    return found


@pytest.fixture
def exporter() -> Prometheus:
    made = Prometheus(Config())
    made.healthy(True)
    return made


def test_the_engine(exporter):
    exporter.engine(EngineStats(1, 3, 5, 30, 120, 100, 40, 2, 64))
    found = scrape(exporter)
    assert found["num_requests_running"] == 3
    assert found["num_requests_waiting"] == 5
    assert found["kv_cache_usage_perc"] == found["gpu_cache_usage_perc"] == 0.25
    assert found["prefix_cache_queries_total"] == found["gpu_prefix_cache_queries_total"] == 100
    assert found["prefix_cache_hits_total"] == found["gpu_prefix_cache_hits_total"] == 40
    assert found["gpu_prefix_cache_hit_rate"] == 0.4
    assert found["num_preemptions_total"] == 2
    assert found["iteration_tokens_total_sum"] == 64
    assert found["engine_healthy"] == 1
    exporter.engine(EngineStats(1, 0, 0, 0, 120, 100, 40, 2, 64))
    exporter.healthy(False)
    found = scrape(exporter)
    assert found["kv_cache_usage_perc"] == found["engine_healthy"] == 0
    assert found["iteration_tokens_total_count"] == 1


def test_token_counters_are_the_engines(exporter):
    stats = EngineStats(step=1, prefix_hits=4, prompt_tokens=10, generated_tokens=3, corrupted=2)
    exporter.engine(stats)
    exporter.request(record(completion()))
    found = scrape(exporter)
    assert found["prompt_tokens_total"] == 10
    assert found["prompt_tokens_cached_total"] == 4
    assert found["generation_tokens_total"] == 3
    assert found["corrupted_requests_total"] == 2


def test_speculation_is_counted_where_there_is_any(exporter):
    assert not any("spec_decode" in name for name in scrape(exporter))
    exporter = Prometheus(Config(speculation=SpeculationConfig(method="ngram")))
    exporter.engine(
        EngineStats(step=9, drafts=4, draft_tokens=12, accepted_tokens=5, accepted_at=[3, 2, 0])
    )
    found = scrape(exporter)
    assert found["spec_decode_num_drafts_total"] == 4
    assert found["spec_decode_num_draft_tokens_total"] == 12
    assert found["spec_decode_num_accepted_tokens_total"] == 5
    name = "spec_decode_num_accepted_tokens_per_pos_total"
    assert [found[f"{name}[{position}]"] for position in range(3)] == [3, 2, 0]


def test_a_step_that_is_told_twice_counts_once(exporter):
    """An abort between two steps brings the statistics again."""
    for _ in range(2):
        exporter.engine(EngineStats(step=1, step_tokens=64))
    assert scrape(exporter)["iteration_tokens_total_count"] == 1


def test_a_request(exporter):
    exporter.request(
        record(
            completion(num_preemptions=2),
            completion(num_generated=5, first_token=102.0, finished=108.0, token_gaps=[1.5] * 4),
        )
    )
    found = scrape(exporter)
    assert found["request_success_total[stop]"] == 1
    assert found["request_success_total[abort]"] == 0
    sums = {
        "request_prompt_tokens": 10,
        "request_generation_tokens": 8,
        "request_max_num_generation_tokens": 5,
        "request_num_preemptions": 2,
        "request_prefill_kv_computed_tokens": 6,
        "request_params_n": 2,
        "request_params_max_tokens": 16,
        "time_to_first_token_seconds": 1.0,
        "inter_token_latency_seconds": 9.0,
        "time_per_output_token_seconds": 9.0,
        "request_time_per_output_token_seconds": 3.0,
        "e2e_request_latency_seconds": 8.0,
        "request_queue_time_seconds": 0.5,
        "request_inference_time_seconds": 7.5,
        "request_prefill_time_seconds": 0.5,
        "request_decode_time_seconds": 7.0,
    }
    assert {name: found[f"{name}_sum"] for name in sums} == sums
    counts = {name: found[f"{name}_count"] for name in sums}
    each_token = {"inter_token_latency_seconds": 6, "time_per_output_token_seconds": 6}
    each_completion = {
        "request_generation_tokens": 2,
        "request_time_per_output_token_seconds": 2,
    }
    assert counts == dict.fromkeys(sums, 1) | each_token | each_completion
    assert found["time_to_first_token_seconds_bucket[0.75]"] == 0
    assert found["time_to_first_token_seconds_bucket[1.0]"] == 1


@pytest.mark.parametrize(
    ("reasons", "whole"),
    [
        (["stop", "length"], "length"),
        (["abort", "stop"], "abort"),
        (["stop", "error", "abort"], "error"),
    ],
)
def test_a_request_ends_as_its_worst_completion_does(reasons, whole, exporter):
    exporter.request(record(*(completion(finish_reason=reason) for reason in reasons)))
    found = scrape(exporter)
    each = {reason: found[f"request_success_total[{reason}]"] for reason in FINISH_REASONS}
    assert each == dict.fromkeys(FINISH_REASONS, 0) | {whole: 1}


def test_a_request_without_tokens(exporter):
    exporter.request(
        record(completion(first_token=None, num_generated=0, token_gaps=[], finish_reason="abort"))
    )
    found = scrape(exporter)
    assert found["request_success_total[abort]"] == 1
    assert found["time_to_first_token_seconds_count"] == 0
    assert found["e2e_request_latency_seconds_count"] == 1


def test_a_request_that_is_not_taken_in(exporter):
    for reason in ("queue_full", "queue_full", "invalid"):
        exporter.rejected(reason)
    found = scrape(exporter)
    assert found["admission_rejections_total[queue_full]"] == 2
    assert found["admission_rejections_total[invalid]"] == 1


def test_two_exporters_do_not_meet():
    one, other = Prometheus(Config()), Prometheus(Config())
    one.request(record(completion()))
    assert scrape(other)["request_success_total[stop]"] == 0


@settings(max_examples=30, deadline=None)
@given(
    bounds=st.sampled_from([TTFT, GAPS, E2E, token_bounds(5000)]),
    values=st.lists(st.floats(0, 10_000) | st.sampled_from(GAPS), max_size=40),
)
def test_histograms_count_as_prometheus_does(bounds, values):
    registry = CollectorRegistry()
    reference = Reference("h", "words", buckets=bounds, registry=registry)
    ours = Histogram(bounds)
    ours.add_all(values)
    for value in values:
        reference.observe(value)
    expected = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in ours.family("h", "words", {}).samples
    }
    assert found == pytest.approx(expected)


def test_token_buckets_reach_the_longest_sequence():
    assert token_bounds(4096) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


async def test_the_endpoint(server):
    await server.http.post("/v1/completions", json={"prompt": "x"})
    response = await server.http.get("/metrics")
    assert response.headers["content-type"].count("charset") == 1
    text = response.text
    (line,) = [x for x in text.splitlines() if x.startswith("vllm:request_prompt_tokens_count")]
    assert float(line.split()[-1]) >= 1
