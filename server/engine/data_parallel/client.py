"""The engines of a server, one or more, as the API sees them: one EngineClient, which picks an engine for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from headway.server.config.server import ServerConfig
from headway.server.counts import Count, Counts
from headway.server.engine.admission import Admission
from headway.server.engine.client import DeltaStream
from headway.server.engine.data_parallel.calls import JointCalls
from headway.server.engine.data_parallel.phases import JointPhases
from headway.server.engine.data_parallel.policy import Balancer
from headway.server.engine.data_parallel.prefixes import PrefixMemory, prefix_names
from headway.server.engine.data_parallel.processes import EngineProcesses
from headway.server.engine.data_parallel.whole import joint_info, joint_sleep_state, joint_stats
from headway.server.engine.links import LinkAddresses
from headway.server.engine.process_client import ProcessEngineClient
from headway.server.errors import EngineAsleep, EngineDead, EngineNotReady
from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    PoolRequest,
    SleepMode,
    SleepPart,
    SleepState,
)

_READY, _DEAD = "ready", "dead"  # phases


class DataParallelClient:
    """EngineClient over --data-parallel-size engine processes. Lives on one event loop; ``run`` is its receiving task.

    The deltas of a request come straight from its engine. The death of one engine is that of all: half a server that looks healthy
    would be worse than none.
    """

    def __init__(self, config: ServerConfig, directory: Path, counts: Counts, *, on_phase: Callable[[str, float], None]) -> None:
        """``directory`` is where the engines meet the API processes. ``on_phase`` hears of each phase of their start, "ready" included,
        and when it began (time.monotonic())."""
        num_engines = config.data_parallel.data_parallel_size
        self._counts = counts
        self._admission = Admission(config.overload.max_num_queued_reqs, config.overload.max_num_queued_tokens, counts)
        self._phases = JointPhases(num_engines, self._enter)
        self._on_phase = on_phase
        self._phase = "starting"
        self._info: EngineInfo | None = None
        self._dead_cause: str | None = None
        self._balancer = Balancer(num_engines, first=counts.index)
        self._keeps_prefixes = num_engines > 1 and config.cache.enable_prefix_caching
        self._prefixes: PrefixMemory | None = None
        self.engines = tuple(
            ProcessEngineClient(
                LinkAddresses.of(directory, index, counts.index),
                self._admission,
                index,
                on_phase=partial(self._phases.enter, index),
                on_ready=self._on_ready,
                on_end=self.die,
            )
            for index in range(num_engines)
        )
        self._calls = JointCalls(self.engines)
        self.ended = asyncio.Event()  # dead, for whatever reason
        self.became_ready = asyncio.Event()

    # State

    @property
    def phase(self) -> str:
        return self._phase

    def set_phase(self, phase: str) -> None:
        """For what happens before the engine processes exist: fetching the model."""
        if self._phase not in (_READY, _DEAD):
            self._phase = phase

    def _enter(self, phase: str, since: float) -> None:
        if self._dead_cause is None:
            self._phase = phase
            self._on_phase(phase, since)

    def _on_ready(self, since: float) -> None:
        infos = [engine.info for engine in self.engines if engine.info is not None]
        if len(infos) < len(self.engines) or self._dead_cause is not None:
            return
        self._info = joint_info(infos)
        if self._keeps_prefixes:
            self._prefixes = PrefixMemory([info.num_blocks * info.block_size for info in infos])
        self._enter(_READY, since)
        self.became_ready.set()

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def stats(self) -> EngineStats:
        return joint_stats([engine.stats for engine in self.engines])

    @property
    def dead_cause(self) -> str | None:
        return self._dead_cause

    @property
    def died_of_user_error(self) -> bool:
        return any(engine.died_of_user_error for engine in self.engines)

    @property
    def num_open_requests(self) -> int:
        return self._counts.total(Count.OPEN_REQUESTS)

    @property
    def sleep_state(self) -> SleepState:
        return joint_sleep_state([engine.sleep_state for engine in self.engines])

    @property
    def sleep_level(self) -> int:
        return self.sleep_state.given_back_level

    def seconds_since_progress(self) -> float:
        return max(engine.seconds_since_progress() for engine in self.engines)

    # Requests

    def check_room(self) -> None:
        """See EngineClient.check_room."""
        self._admission.check(num_requests=1, num_prompt_tokens=1)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[DeltaStream]:
        """See EngineClient.generate: admission now, deltas as they come."""
        self._check_awake()
        self._admission.admit(requests)
        return [self._engine_for(request).generate(request) for request in requests]

    def pool(self, requests: Sequence[PoolRequest]) -> list[DeltaStream]:
        """See EngineClient.pool."""
        self._check_awake()
        self._admission.admit(requests)
        batches: dict[int, list[PoolRequest]] = {}
        streams: list[DeltaStream] = []
        for request in requests:
            engine = self._least_busy()
            streams.append(engine.open(request.request_id))
            batches.setdefault(engine.index, []).append(request)
        for index, batch in batches.items():
            self.engines[index].pool(batch)
        return streams

    def _engine_for(self, request: GenerateRequest) -> ProcessEngineClient:
        if self._prefixes is None:
            return self._least_busy()
        names = prefix_names(request)
        engine = self._choose(self._prefixes.num_cached(names))
        self._prefixes.note(engine.index, names)
        return engine

    def _least_busy(self) -> ProcessEngineClient:
        return self._choose([0] * len(self.engines))

    def _choose(self, num_cached: Sequence[int]) -> ProcessEngineClient:
        if len(self.engines) == 1:
            return self.engines[0]
        return self.engines[self._balancer.choose([engine.load for engine in self.engines], num_cached)]

    # Calls

    async def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool) -> None:
        self._check_awake()
        await self._calls.add_adapter(adapter, preload, is_pinned)

    async def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool) -> None:
        self._check_awake()
        await self._calls.pin_adapter(adapter_id, preload, is_pinned)

    async def remove_adapter(self, adapter_id: int) -> None:
        self._check_ready()
        await self._calls.remove_adapter(adapter_id)

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        self._check_ready()
        self._forget_prefixes()
        return await self._calls.reset_prefix_cache(preempt_running)

    async def sleep(self, level: int, mode: SleepMode) -> None:
        self._check_ready()
        if level:
            self._forget_prefixes()
        await self._calls.sleep(level, mode)

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        self._check_ready()
        await self._calls.wake_up(parts)

    def _forget_prefixes(self) -> None:
        if self._prefixes is not None:
            self._prefixes.forget()

    def _check_ready(self) -> None:
        if self._dead_cause is not None:
            raise EngineDead(self._dead_cause)
        if self._phase != _READY:
            raise EngineNotReady(self._phase)

    def _check_awake(self) -> None:
        self._check_ready()
        if (state := self.sleep_state).refuses_requests:
            raise EngineAsleep(state.level or 0)

    # API processes

    def drop_client(self, index: int) -> None:
        """For the leader: has the engines abort what an API process that has ended left open."""
        for engine in self.engines:
            engine.drop_client(index)

    def add_client(self, index: int) -> None:
        """For the leader: has the engines talk to the process that takes the place of one that was dropped."""
        for engine in self.engines:
            engine.add_client(index)

    # The end

    async def run(self, ends: Sequence[Awaitable[str]]) -> None:
        """Receives until an engine has ended; ``ends`` give the cause, each that of one engine, where it leaves no last words.

        Start it once the engines' processes have been started.
        """
        receiving = [asyncio.create_task(engine.run(end)) for engine, end in zip(self.engines, ends, strict=True)]
        try:
            ended, _ = await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in receiving:
                task.cancel()

    def die(self, cause: str) -> None:
        """Ends every open stream with the cause; the first cause stays."""
        if self._dead_cause is not None:
            return
        self._dead_cause = cause
        self._phase = _DEAD
        for engine in self.engines:
            engine.die(cause)
        self.ended.set()

    async def stop(self, processes: EngineProcesses, patience_s: float = 2.0) -> None:
        """For the leader: asks the engines to stop, waits, makes sure. Open requests end with FinishReason.ABORT."""
        if self._phase != _READY:
            patience_s = 0  # while they load they do not listen, and hold nothing that could be lost
        for engine in self.engines:
            engine.begin_stop()
        await asyncio.to_thread(processes.kill, patience_s)
        self.close()

    def close(self) -> None:
        """Ends what is open; the engines, if they live, go on."""
        self.die("the server is stopping")
        for engine in self.engines:
            engine.close()
