"""AsyncLLM and the engine's process: streams, aborts, deaths."""

import asyncio
import contextlib
import os
import select
import subprocess
import sys

import pytest

from quire import AsyncLLM, SamplingParams
from quire.core.config import Config, ModelConfig, PluginsConfig, ScheduleConfig
from quire.core.contracts.exporter import Exporter
from quire.core.errors import (
    CapacityError,
    EngineDeadError,
    InvalidRequest,
    Overloaded,
    PluginError,
)
from quire.core.metrics import EngineStats, RequestRecord

LONG = SamplingParams(max_tokens=1500, ignore_eos=True, temperature=0)
SHORT = SamplingParams(max_tokens=12, ignore_eos=True, temperature=0)


@contextlib.asynccontextmanager
async def running(**sections):
    llm = await AsyncLLM.start(Config(**sections))
    try:
        yield llm
    finally:
        await llm.shutdown()


async def tokens_of(llm: AsyncLLM, prompt, params: SamplingParams) -> list[int]:
    found: list[int] = []
    async for delta in llm.stream(prompt, params):
        for completion in delta.completions:
            found += completion.token_ids
    return found


async def idle(llm: AsyncLLM) -> None:
    """Wait, without a clock, until the engine holds nothing: every probe is a step of its own."""
    for _ in range(200):
        await tokens_of(llm, [7], SamplingParams(max_tokens=2, ignore_eos=True))
        if llm.stats.blocks_used == 0 and llm.stats.running == 0:
            return
    raise AssertionError(f"the engine never emptied: {llm.stats}")


async def test_streams_aborts_and_errors() -> None:
    phases: list[str] = []
    llm = await AsyncLLM.start(Config(), on_phase=lambda name, seconds: phases.append(name))
    try:
        assert phases[:2] == ["process", "resolve"]
        assert phases.index("weights") < phases.index("cache")
        assert llm.config.schedule.max_num_seqs is not None
        alone = await tokens_of(llm, "def f(", SHORT)
        together = await asyncio.gather(*(tokens_of(llm, "def f(", SHORT) for _ in range(20)))
        assert together == [alone] * 20
        last = None
        async for output in llm.generate("def f(", SHORT):
            last = output
        assert last is not None and last.finished
        assert last.outputs[0].token_ids == alone

        left = llm.stream("x", LONG)
        await anext(left)
        await left.aclose()
        named = llm.stream("x", LONG, request_id="mine")
        await anext(named)
        llm.abort("mine")
        llm.abort("nobody")
        reasons = [c.finish_reason async for delta in named for c in delta.completions]
        assert reasons[-1] == "abort"
        with pytest.raises(InvalidRequest, match="at most 2048 fit") as refused:
            await anext(llm.stream([5], SamplingParams(max_tokens=5000)))
        assert refused.value.param == "max_tokens"
        await idle(llm)
    finally:
        await llm.shutdown()
    with pytest.raises(EngineDeadError):
        await anext(llm.stream([5], SHORT))


async def test_a_third_cut_off_midway_and_the_rest_complete() -> None:
    async with running() as llm:
        wanted = {i: await tokens_of(llm, [i + 5, i + 9], SHORT) for i in range(5)}

        async def one(index: int) -> None:
            if index % 3:
                assert (
                    await tokens_of(llm, [index % 5 + 5, index % 5 + 9], SHORT)
                    == (wanted[index % 5])
                )
                return
            stream = llm.stream([index % 5 + 5], LONG)
            async for _ in stream:
                break
            await stream.aclose()

        await asyncio.gather(*(one(index) for index in range(200)))
        await idle(llm)


async def test_the_death_of_the_engine_is_noticed_at_once() -> None:
    async with running() as llm:
        told: list[bool] = []

        class Watch:
            def engine(self, stats) -> None: ...
            def request(self, record) -> None: ...
            def healthy(self, alive: bool) -> None:
                told.append(alive)

        llm.add_observer(Watch())
        streams = [llm.stream("x", LONG) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        llm._link._process.kill()
        for stream in streams:
            with pytest.raises(EngineDeadError):
                async for _ in stream:
                    pass
        await asyncio.wait_for(llm.wait_dead(), 10)
        assert not llm.alive
        assert told == [True, False]


async def test_a_full_queue_is_overload() -> None:
    schedule = ScheduleConfig(max_num_seqs=1, max_waiting=1)
    async with running(schedule=schedule) as llm:
        busy = llm.stream("x", LONG)
        await anext(busy)
        results = [asyncio.ensure_future(anext(llm.stream("y", SHORT))) for _ in range(4)]
        done, _ = await asyncio.wait(results, return_when=asyncio.FIRST_EXCEPTION)
        assert any(isinstance(task.exception(), Overloaded) for task in done)
        for task in results:
            task.cancel()
        await asyncio.gather(*results, return_exceptions=True)
        await busy.aclose()


async def test_refusals_of_the_start_keep_their_kind() -> None:
    with pytest.raises(CapacityError, match="made for 2048"):
        await AsyncLLM.start(Config(model=ModelConfig(max_model_len=9999)))
    with pytest.raises(PluginError, match="no installed distribution"):
        await AsyncLLM.start(Config(plugins=PluginsConfig(load=("nothing",))))


POLICY = """
from quire.core.hooks import Manifest, Provision, hookimpl

@hookimpl
def quire_manifest():
    parts = (Provision("policy", "moody", "moody:Moody"),)
    return Manifest(name="moody", version="1", contracts={"policy": 1}, provides=parts)

class Moody:
    def rank(self, candidate):
        if candidate.num_tokens == 3:
            raise RuntimeError("planted")
        return (candidate.arrival,)
"""


async def test_a_policy_that_fails_on_a_request_fails_that_request_alone(
    tmp_path, monkeypatch
) -> None:
    info = tmp_path / "moody-1.0.dist-info"
    info.mkdir()
    (tmp_path / "moody.py").write_text(POLICY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quire.plugins]\nmoody = moody\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    moody = ScheduleConfig(policy="moody")
    async with running(plugins=PluginsConfig(load=("moody",)), schedule=moody) as llm:
        alone = await tokens_of(llm, [5, 6], SHORT)
        other = asyncio.ensure_future(tokens_of(llm, [5, 6], SHORT))
        completions = [c async for d in llm.stream([5, 6, 7], SHORT) for c in d.completions]
        assert [c.finish_reason for c in completions] == ["error"]
        assert "could not be queued" in (completions[0].error or "")
        assert await other == alone
        await idle(llm)


def test_the_engine_ends_with_its_parent() -> None:
    program = """
import asyncio, os, signal
from quire import AsyncLLM
from quire.core.config import Config
async def main():
    llm = await AsyncLLM.start(Config())
    print(llm._link._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True
    )
    # The pidfd of a process becomes readable when it ends, whoever its parent was.
    with contextlib.suppress(ProcessLookupError):
        watched = os.pidfd_open(int(done.stdout))
        assert select.select([watched], [], [], 30)[0], "the engine outlived its parent"


class Watching(Exporter):
    """Keeps all that it is told."""

    def __init__(self, config: Config | None = None) -> None:
        self.stats: list[EngineStats] = []
        self.records: list[RequestRecord] = []
        self.rejections: list[str] = []

    def engine(self, stats: EngineStats) -> None:
        self.stats.append(stats)

    def request(self, record: RequestRecord) -> None:
        self.records.append(record)

    def rejected(self, reason: str) -> None:
        self.rejections.append(reason)

    def healthy(self, alive: bool) -> None:
        pass

    def render(self) -> tuple[bytes, str]:
        return b"", "text/plain"


async def test_counters_move_while_a_request_runs() -> None:
    watching = Watching()
    schedule = ScheduleConfig(max_num_batched_tokens=16, max_num_seqs=4)
    async with running(schedule=schedule) as llm:
        llm.add_observer(watching)
        stream = llm.stream(list(range(5, 85)), SHORT)
        seen = []
        async for delta in stream:
            seen.append((llm.stats.prompt_tokens, llm.stats.generated_tokens))
            assert not (watching.records and not delta.finished)
        assert [generated for _, generated in seen] == list(range(1, 13))
        assert {prompt for prompt, _ in seen} == {80}
        # The prompt took five steps, of which the first four brought its caller nothing.
        pieces = [s.prompt_tokens for s in watching.stats if s.generated_tokens == 0]
        assert {16, 32, 48, 64} <= set(pieces)
        (record,) = watching.records
        assert (record.num_prompt, record.num_generated) == (80, 12)
        assert record.finish_reason == "length"


async def test_a_request_is_recorded_once_however_it_ends() -> None:
    watching = Watching()
    schedule = ScheduleConfig(max_num_seqs=1, max_waiting=2)
    async with running(schedule=schedule) as llm:
        llm.add_observer(watching)
        two = SamplingParams(max_tokens=5, n=2, temperature=0, ignore_eos=True)
        assert len(await tokens_of(llm, "a b", two)) == 10
        (record,) = watching.records
        assert len(record.completions) == 2
        assert record.num_generated == 10

        left = llm.stream("x", LONG)
        await anext(left)
        await left.aclose()
        assert [record.finish_reason for record in watching.records] == ["length", "abort"]

        with pytest.raises(InvalidRequest):
            await anext(llm.stream([5], SamplingParams(max_tokens=5000)))
        with pytest.raises(InvalidRequest):
            await anext(llm.stream([], SHORT))
        many = SamplingParams(max_tokens=1500, n=6, ignore_eos=True)
        with pytest.raises(Overloaded):
            await anext(llm.stream("x", many))
        assert watching.rejections == ["invalid", "invalid", "queue_full"]
        assert len(watching.records) == 2
        await idle(llm)


async def test_a_reader_that_is_behind_catches_up_in_one_piece() -> None:
    async with running() as llm:
        params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0)
        expected = await tokens_of(llm, [5, 6], params)
        stream = llm.stream([5, 6], params)
        first = await anext(stream)
        await idle(llm)
        rest = await anext(stream)
        assert rest.finished
        pieces = [*first.completions, *rest.completions]
        assert [token for piece in pieces for token in piece.token_ids] == expected
        assert [piece.finish_reason for piece in pieces][-1] == "length"
        assert len(pieces) > 2
