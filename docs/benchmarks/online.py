"""A server under load, as several client processes at once see it.

    python docs/benchmarks/online.py http://127.0.0.1:8000 --clients 4 --output online.json

One client is one process, and with hundreds of streams it is late itself before a fast server is:
each scenario's requests, users and arrivals are shared out among so many. Any OpenAI-compatible
server will do that takes prompts as token ids; requests are those of `chat-1024`. What a client was
late by, sampled every 5 ms, stands beside the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from offline import say

from quire.cli.bench import online, report, workloads
from quire.cli.bench.report import Sample
from quire.cli.bench.workloads import Workload
from quire.cli.remote import Remote


class Scenario(NamedTuple):
    """So many requests, from so many users at once or with so many arrivals a second."""

    name: str
    requests: int
    users: int | None = None
    rate: float | None = None


SCENARIOS = (
    Scenario("one-user", 12, users=1),
    Scenario("64-users", 384, users=64),
    Scenario("512-users", 1024, users=512),
    Scenario("40-per-second", 600, rate=40),
)
WARM_UP = Scenario("warm-up", 8, users=8)


def main() -> None:
    """Run the scenarios one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", help="as the server calls it; its first one by default")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--scenarios", default=",".join(each.name for each in SCENARIOS))
    parser.add_argument("--vocab-size", type=int, default=128256)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    model = args.model or asyncio.run(Remote(args.url).model())
    work = workloads.make("chat-1024", vocab_size=args.vocab_size, max_model_len=args.max_model_len)
    chosen = [each for each in SCENARIOS if each.name in args.scenarios.split(",")]
    lines = []
    with ProcessPoolExecutor(args.clients) as pool:
        for scenario in (WARM_UP, *chosen):
            found = run(pool, args.clients, scenario, work, args.url, model)
            line = {"scenario": scenario.name, "clients": args.clients} | found
            say(**line)
            lines.append(line)
    if args.output is not None:
        args.output.write_text(json.dumps({"what": "online", "lines": lines[1:]}, indent=1) + "\n")


def run(
    pool: ProcessPoolExecutor,
    clients: int,
    scenario: Scenario,
    work: Workload,
    url: str,
    model: str,
) -> dict[str, object]:
    """A scenario in numbers, of all clients together."""
    shares = min(clients, scenario.users or clients)
    parts = []
    for share in range(shares):
        taken = slice(share, scenario.requests, shares)
        part = Workload(scenario.name, work.prompts[taken], work.outputs[taken])
        users = None if scenario.users is None else scenario.users // shares
        rate = None if scenario.rate is None else scenario.rate / shares
        parts.append(pool.submit(_client, url, model, part, users, rate, share))
    results = [part.result() for part in parts]
    samples = [sample for found, _ in results for sample in found]
    # Processes of one machine share the clock.
    begun = min(sample.start for sample in samples)
    ended = max(arrival for sample in samples for arrival in sample.arrivals)
    total = report.summarize(
        samples, ended - begun, {}, [late for _, lags in results for late in lags]
    )
    latencies = {
        metric: {"p50": value.p50, "p99": value.p99} for metric, value in total.latencies.items()
    }
    lag = None if total.lag is None else {"p50": total.lag.p50, "p99": total.lag.p99}
    return {
        "requests": total.requests, "failed": total.failed, "first_error": total.first_error,
        "s": total.seconds, "out_tok_s": total.output_rate, "ms": latencies, "client_lag_ms": lag,
    }  # fmt: skip


def _client(
    url: str, model: str, work: Workload, users: int | None, rate: float | None, seed: int
) -> tuple[list[Sample], list[float]]:
    """One process's share; seconds on the machine's clock."""

    async def measure() -> tuple[list[Sample], list[float]]:
        async with online.lag() as lags:
            samples = await online.load(
                Remote(url), model, work, concurrency=users, rate=rate, seed=seed
            )
        return samples, lags

    return asyncio.run(measure())


if __name__ == "__main__":
    main()
