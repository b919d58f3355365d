"""Workloads against their recipes, statistics against numpy, load against a server."""

import asyncio
import contextlib
import json
import random
import time

import msgspec
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.cli.bench import online, report, workloads
from quire.cli.bench.report import Sample
from quire.cli.remote import Remote, RemoteError
from quire.core.errors import ConfigError

BIG = {"vocab_size": 128256, "max_model_len": 32768}


def peers_ids(rng, count):
    return [rng.randrange(1000, 120000) for _ in range(count)]


def test_large_workloads_are_those_of_the_published_figures():
    rng = random.Random(0)
    assert workloads.make("latency-1", **BIG).prompts == [peers_ids(rng, 128)]
    rng = random.Random(0)
    chat = workloads.make("chat-1024", **BIG)
    for prompt, output in zip(chat.prompts[:50], chat.outputs, strict=False):
        length = min(2048, max(4, int(rng.lognormvariate(4.6, 1.2))))
        assert prompt == peers_ids(rng, length)
        assert output == min(1024, max(4, int(rng.lognormvariate(4.8, 1.0))))
    sizes = {
        name: (len(work.prompts), len(work.prompts[0]), work.outputs[0])
        for name in ("decode-64", "batch-1024", "long-16x16k", "prefix-256")
        for work in [workloads.make(name, **BIG)]
    }
    assert sizes == {
        "decode-64": (64, 128, 512),
        "batch-1024": (1024, 512, 256),
        "long-16x16k": (16, 16384, 64),
        "prefix-256": (256, 2112, 64),
    }
    prefixes = {tuple(prompt[:2048]) for prompt in workloads.make("prefix-256", **BIG).prompts}
    assert len(prefixes) == 1


@pytest.mark.parametrize("name", workloads.NAMES)
def test_workloads_fit_a_small_model(name):
    work = workloads.make(name, vocab_size=320, max_model_len=256)
    for prompt, output in zip(work.prompts, work.outputs, strict=True):
        assert prompt
        assert output >= 1
        assert len(prompt) + output <= 256
        assert 0 <= min(prompt) <= max(prompt) < 320
    again = workloads.make(name, vocab_size=320, max_model_len=256)
    assert again == work
    assert bool(work.note) == (name not in ("smoke-4", "latency-small", "decode-16", "mixed-64"))


def test_an_unknown_workload_lists_the_known():
    with pytest.raises(ConfigError, match="mixed-64"):
        workloads.make("nope", **BIG)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.floats(0, 1),
)
def test_percentiles_are_numpys(values, share):
    expected = numpy.percentile(numpy.array(values), share * 100)
    assert report.percentile(values, share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_summary_against_numpy():
    rng = numpy.random.default_rng(0)
    samples = []
    for _ in range(40):
        start = float(rng.uniform(0, 5))
        gaps = rng.uniform(0.01, 0.1, int(rng.integers(1, 20)))
        arrivals = [float(value) for value in start + numpy.cumsum(gaps)]
        counts = [int(count) for count in rng.integers(1, 4, len(arrivals))]
        samples.append(Sample(start, 10, sum(counts), arrivals, counts))
    samples.append(Sample(0.0, 10, 5, error="gone"))
    samples[0].wanted += 1
    found = report.summarize(samples, 8.0, {"ttft": 50.0, "itl": 90.0})
    good = samples[:-1]
    ttft = numpy.array([s.arrivals[0] - s.start for s in good]) * 1e3
    e2e = numpy.array([s.arrivals[-1] - s.start for s in good]) * 1e3
    itl = numpy.concatenate([numpy.diff(s.arrivals) for s in good]) * 1e3
    tpot = numpy.array(
        [
            (s.arrivals[-1] - s.arrivals[0]) * 1e3 / sum(s.counts[1:])
            for s in good
            if len(s.counts) > 1
        ]
    )
    for metric, values in (("ttft", ttft), ("e2e", e2e), ("itl", itl), ("tpot", tpot)):
        latency = found.latencies[metric]
        assert latency.mean == pytest.approx(values.mean())
        assert latency.p50 == pytest.approx(numpy.percentile(values, 50))
        assert latency.p99 == pytest.approx(numpy.percentile(values, 99))
    tokens = sum(sum(s.counts) for s in good)
    assert found.output_rate == pytest.approx(tokens / 8)
    assert found.total_rate == pytest.approx((tokens + 400) / 8)
    assert (found.requests, found.failed, found.short, found.first_error) == (40, 1, 1, "gone")
    kept = sum(
        first <= 50 and all(numpy.diff(s.arrivals) * 1e3 <= 90)
        for first, s in zip(ttft, good, strict=True)
    )
    assert found.goodput == pytest.approx(kept / 8)


def test_goals():
    assert report.parse_goals(["ttft:200 tpot:50", "e2e:9"]) == {"ttft": 200, "tpot": 50, "e2e": 9}
    for bad in ("ttft", "ttft:fast", "speed:3"):
        with pytest.raises(ConfigError):
            report.parse_goals([bad])


def test_saved_file_holds_the_run_and_the_plot_is_a_picture(tmp_path):
    samples = [Sample(5.0, 3, 2, [5.5, 6.0], [1, 1]), Sample(5.0, 3, 2, error="x")]
    found = report.summarize(samples, 1.0, {})
    about = report.Settings(
        mode="offline", model="m", workload="w", note="", machine={"python": "3"}
    )
    report.save(tmp_path / "a" / "run.json", found, about, samples)
    whole = json.loads((tmp_path / "a" / "run.json").read_text())
    assert whole["samples"][0]["arrivals"] == [0.5, 1.0]
    assert whole["report"]["latencies"]["ttft"]["p50"] == 500
    assert report.plot(tmp_path / "run.png", samples, "t")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


class TinyServer:
    """Speaks just enough of the protocol, byte by byte as told; counts what runs at once."""

    def __init__(self, pieces: int = 3) -> None:
        self.pieces = pieces
        self.running = self.most = 0
        self.bodies: list[dict] = []
        self.answer: bytes | None = None

    async def handle(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length")), 0
        )
        self.bodies.append(msgspec.json.decode(await reader.readexactly(length) or b"{}"))
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(self.answer or self._stream())
        self.running -= 1
        await writer.drain()
        writer.close()

    def _stream(self) -> bytes:
        events = [b'data: {"choices": [{"text": "x"}]}\n\n'] * self.pieces
        events.append(b'data: {"choices": [], "usage": {"completion_tokens": 7}}\n\n')
        events.append(b"data: [DONE]\n\n")
        whole = b"".join(events)
        # Chunks that cut events anywhere.
        cuts = [whole[i : i + 11] for i in range(0, len(whole), 11)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(cut), cut) for cut in cuts) + b"0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body

    @contextlib.asynccontextmanager
    async def running_at(self):
        async with await asyncio.start_server(self.handle, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            yield f"http://{host}:{port}/v1"


async def test_load_keeps_concurrency_and_counts_tokens():
    work = workloads.make("mixed-64", vocab_size=512, max_model_len=256)
    server = TinyServer()
    async with server.running_at() as url:
        samples = await online.load(Remote(url), "m", work, concurrency=4)
    assert server.most <= 4
    assert [body["prompt"] for body in server.bodies] == work.prompts
    assert all(sample.error is None for sample in samples)
    assert all(sample.counts == [2, 2, 3] for sample in samples)
    assert [sample.num_prompt for sample in samples] == [len(p) for p in work.prompts]


async def test_poisson_arrivals_take_their_time():
    work = workloads.make("smoke-4", vocab_size=512, max_model_len=256)
    rng = random.Random(3)
    due = sum(rng.expovariate(50) for _ in range(3))
    async with TinyServer().running_at() as url:
        samples = await online.load(Remote(url), "m", work, rate=50, seed=3)
    assert samples[3].start - samples[0].start >= due * 0.9


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            b'HTTP/1.1 429 No\r\nContent-Length: 34\r\n\r\n{"error": {"message": "too many"}}',
            "429: too many",
        ),
        (b"HTTP/1.1 500 No\r\n\r\nplain words", "500: plain words"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": []}\n\n', "before [DONE]"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"message": "died"}}\n\n', "died"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nda", "broke"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"choi\n\n', "OpenAI's protocol"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: 3\n\n", "OpenAI's protocol"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": null}\n\n', "before [DONE]"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
        (b"", "broke"),
    ],
)
async def test_a_server_that_fails_makes_an_error_and_no_crash(answer, words):
    server = TinyServer()
    server.answer = answer or b"\r"
    work = workloads.make("latency-small", vocab_size=512, max_model_len=256)
    async with server.running_at() as url:
        (sample,) = await online.load(Remote(url), "m", work)
    assert words in (sample.error or "")


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"3", b"{}", b'{"data": 3}', b'{"data": []}', b'{"data": [{"id": 1}]}'],
)
async def test_a_server_that_names_no_model(body):
    server = TinyServer()
    server.answer = b"HTTP/1.1 200 OK\r\n\r\n" + body
    async with server.running_at() as url:
        with pytest.raises(RemoteError, match=r"OpenAI's protocol|names no model"):
            await Remote(url).model()


@pytest.mark.parametrize(
    "url", ["", "http://", "http://x:y", "http://x:99999", "http://[::1", "a b://"]
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="--url must be like"):
        Remote(url)


async def test_nobody_there():
    with pytest.raises(RemoteError, match="quire serve"):
        await Remote("http://127.0.0.1:9").call("/v1/models")


async def _blocked(seconds: float) -> list[float]:
    async with online.lag() as lags:
        await asyncio.sleep(0)
        # The client does something else: what arrives meanwhile it sees only afterwards.
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(2 * online._LOOK_EVERY)
    return lags


def test_a_client_that_is_late_says_so():
    lags = asyncio.run(_blocked(0.1))
    assert max(lags) > 0.09
    found = report.summarize([Sample(0.0, 3, 1, [0.1], [1])], 1.0, {}, lags)
    assert found.lag is not None and found.lag.p99 > 80
    settings = report.Settings(mode="", model="m", workload="w", note="", machine={})
    names = list(report.table(found, settings).columns[0].cells)
    assert "client lag ms" in names and "TTFT ms" in names
