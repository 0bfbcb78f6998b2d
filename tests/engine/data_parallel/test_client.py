"""The engines as one client, over real sockets: what goes where, when it is ready, and that the death of one is that of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import fake_info

from headway.server.config.server import ServerConfig
from headway.server.counts import Count, Counts
from headway.server.engine.client import DeltaStream
from headway.server.engine.data_parallel.client import DataParallelClient
from headway.server.engine.links import EngineLinks
from headway.server.engine.messages import (
    AddPoolRequests,
    AddRequest,
    Died,
    DropClient,
    Phase,
    Ready,
    SleepChanged,
    StepOutput,
    ToEngine,
)
from headway.server.errors import EngineAsleep, EngineDead, EngineNotReady, QueueFull
from headway.server.types import (
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolingParams,
    PoolRequest,
    SamplingParams,
    SleepState,
    TokenDelta,
)

INFO = fake_info(300)


class Group:
    """A client and the ends of its two engines."""

    def __init__(self, directory: Path, **topics: Any) -> None:
        config = ServerConfig.model_validate({"data_parallel": {"data_parallel_size": 2}, **topics})
        self.phases: list[tuple[str, float]] = []
        self.counts = Counts.alone()
        self.client = DataParallelClient(config, directory, self.counts, on_phase=lambda name, since: self.phases.append((name, since)))
        self.engines = [EngineLinks(directory, index, 1) for index in range(2)]
        loop = asyncio.get_running_loop()
        self.ends: list[asyncio.Future[str]] = [loop.create_future() for _ in range(2)]
        self.running = asyncio.create_task(self.client.run(self.ends))

    async def ready(self) -> None:
        for engine in self.engines:
            engine.send_to_all(Ready(INFO, 1.0))
        await self.client.became_ready.wait()

    def received(self, engine: int, at_least: int = 1) -> list[ToEngine]:
        messages: list[ToEngine] = []
        while len(messages) < at_least:
            messages += [message for _, message in self.engines[engine].receive(wait=True)]
        return messages

    def nothing_for(self, engine: int) -> bool:
        return not list(self.engines[engine].receive(wait=False))

    async def report(self, engine: int, *deltas: TokenDelta, **stats: int) -> None:
        told = asyncio.Event()
        self.client.engines[engine].watch_steps(lambda _: told.set())
        self.engines[engine].send_step(StepOutput(list(deltas), EngineStats(**stats)))
        await told.wait()

    async def close(self) -> None:
        self.client.close()
        self.running.cancel()
        for engine in self.engines:
            engine.close(0)


def within(directory: Path, test: Callable[[Group], Awaitable[None]], **topics: Any) -> None:
    async def main() -> None:
        group = Group(directory, **topics)
        try:
            await test(group)
        finally:
            await group.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def request(name: str, prompt: int = 1, length: int = 4) -> GenerateRequest:
    return GenerateRequest(name, [prompt] * length, SamplingParams(), 0.0)


def engine_of(*streams: DeltaStream) -> list[int]:
    return [stream.engine_index for stream in streams]


def test_it_is_ready_when_all_are(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        first, second = group.engines
        first.send_to_all(Phase("loading", 1.0))
        first.send_to_all(Ready(INFO, 5.0))
        while group.client.engines[0].info is None:
            await asyncio.sleep(0)
        assert group.phases == []
        with pytest.raises(EngineNotReady):
            group.client.generate([request("a")])
        second.send_to_all(Phase("loading", 2.0))
        second.send_to_all(Ready(msgspec.structs.replace(INFO, max_model_len=100), 7.0))
        await group.client.became_ready.wait()
        assert group.phases == [("loading", 2.0), ("ready", 7.0)]
        assert group.client.info is not None
        assert group.client.info.max_model_len == 100

    within(tmp_path, test)


def test_requests_are_spread_and_their_deltas_come_from_their_engine(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        streams = group.client.generate([request(name, prompt) for prompt, name in enumerate("abcd")])
        assert engine_of(*streams) == [0, 1, 0, 1]
        messages = [group.received(engine, 2) for engine in (0, 1)]
        assert [[added.request.request_id for added in of if isinstance(added, AddRequest)] for of in messages] == [["a", "c"], ["b", "d"]]
        await group.report(1, TokenDelta("b", [7]), num_running=1)
        assert (await anext(streams[1])).token_ids == [7]
        # "d" has been received and runs no more; the others are on their way, as far as is known.
        assert engine_of(*group.client.generate([request("e", 9)])) == [1]
        assert group.client.stats.num_running == 1

    within(tmp_path, test)


def test_a_shared_prefix_goes_where_it_has_been(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        for name, prompt, engine in [("a", 1, 0), ("b", 2, 1), ("c", 2, 1), ("d", 1, 0), ("e", 1, 0)]:
            (stream,) = group.client.generate([request(name, prompt, length=256)])
            assert stream.engine_index == engine
            await stream.aclose()
            group.received(engine)
            await group.report(engine)

    within(tmp_path, test)


def test_without_a_prefix_cache_nothing_is_remembered(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        streams = [group.client.generate([request(name, length=256)])[0] for name in "abcd"]
        assert engine_of(*streams) == [0, 1, 0, 1]

    within(tmp_path, test, cache={"enable_prefix_caching": False})


def test_texts_of_a_request_are_spread_with_one_message_an_engine(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        texts = [PoolRequest(name, [1], PoolingParams("embed"), 0.0) for name in "abcde"]
        streams = group.client.pool(texts)
        assert engine_of(*streams) == [0, 1, 0, 1, 0]
        assert [group.received(engine) for engine in (0, 1)] == [[AddPoolRequests(texts[::2])], [AddPoolRequests(texts[1::2])]]

    within(tmp_path, test)


def test_limits_hold_over_all_engines(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        streams = group.client.generate([request(name) for name in "abc"])
        with pytest.raises(QueueFull):
            group.client.generate([request("d"), request("e")])
        assert group.client.num_open_requests == group.counts.total(Count.OPEN_REQUESTS) == 3
        for stream in streams:
            await stream.aclose()
        assert group.client.num_open_requests == 0

    within(tmp_path, test, overload={"max_num_queued_reqs": 4})


@pytest.mark.parametrize("has_last_words", [True, False])
def test_the_death_of_one_is_that_of_all(tmp_path: Path, has_last_words: bool) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        streams = group.client.generate([request(name) for name in "abcd"])
        loading = asyncio.create_task(group.client.reset_prefix_cache(False))
        await asyncio.sleep(0)
        if has_last_words:
            group.engines[1].send_to_all(Died("in engine 1: out of paper"))
        else:
            group.ends[1].set_result("engine process 1 was killed")
        cause = "in engine 1: out of paper" if has_last_words else "engine process 1 was killed"
        for stream in streams:
            delta = await anext(stream)
            assert (delta.finish_reason, delta.error) == (FinishReason.ERROR, f"The engine has stopped: {cause}")
        with pytest.raises(EngineDead, match=cause):
            await loading
        with pytest.raises(EngineDead, match=cause):
            group.client.generate([request("e")])
        await group.running
        assert group.client.ended.is_set()
        assert (group.client.dead_cause, group.client.phase, group.client.num_open_requests) == (cause, "dead", 0)
        group.client.die("something else")
        assert group.client.dead_cause == cause

    within(tmp_path, test)


def test_nobody_gets_in_while_one_sleeps(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        group.engines[1].send_to_all(SleepChanged(SleepState(2, ("weights", "kv_cache"))))
        while not group.client.sleep_state.is_asleep:
            await asyncio.sleep(0)
        with pytest.raises(EngineAsleep):
            group.client.generate([request("a")])
        assert group.client.sleep_level == 2
        assert group.nothing_for(0)

    within(tmp_path, test)


def test_a_hang_of_one_is_seen(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        group.client.generate([request("a")])
        assert group.client.engines[1].seconds_since_progress() == 0
        await asyncio.sleep(0.002)
        assert group.client.seconds_since_progress() > 0

    within(tmp_path, test)


def test_every_engine_drops_a_process_that_has_ended(tmp_path: Path) -> None:
    async def test(group: Group) -> None:
        await group.ready()
        group.client.drop_client(3)
        assert [group.received(engine) for engine in (0, 1)] == [[DropClient(3)], [DropClient(3)]]

    within(tmp_path, test)
