"""The engine's loop: take requests in, schedule, execute, update, emit. One instance an engine process; no sockets here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from headway.server.engine.adapters import AdapterResidency
from headway.server.engine.executor.base import Executor
from headway.server.engine.expert_balancing import ExpertBalancer
from headway.server.engine.handle import StepHandle
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.connector import SchedulerSide, WorkerSide
from headway.server.engine.messages import StepOutput
from headway.server.engine.sleep import Done, Sleeper
from headway.server.engine.step_scheduler import StepPlan, StepScheduler
from headway.server.engine.structured.awaited import AwaitedGrammars
from headway.server.errors import AdapterError
from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineRequest,
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolRequest,
    SleepMode,
    SleepPart,
    SleepState,
    TokenDelta,
)

_GRAMMAR_POLL_MS = 2  # while a grammar is compiled and nothing else is to be done
_FETCH_POLL_MS = 2  # the same, while KV is on its way, or an adapter is read
_NO_ADAPTERS = "This engine takes no adapters; start it with --enable-lora."
_LEASE_POLL_MS = 50  # the same, while KV is kept for others


class EngineCore:
    """Owns the scheduler and the executor; every accepted request ends in exactly one terminal delta."""

    def __init__(
        self,
        scheduler: StepScheduler,
        executor: Executor,
        info: EngineInfo,
        kv: KVCacheManager,
        *,
        sleep_patience_s: float = 0.0,
        num_steps_ahead: int = 0,
        transfers: tuple[SchedulerSide, WorkerSide] | None = None,
        adapters: AdapterResidency | None = None,
        balancer: ExpertBalancer | None = None,
    ) -> None:
        """``sleep_patience_s``: how long open requests may go on before a sleep that waits for them. ``num_steps_ahead``: so many are set
        going beside the one whose result is awaited. ``transfers``: the two sides of the KV connector. ``adapters`` None: it takes none.
        ``balancer``: that of rank 0."""
        self.info = info
        self._scheduler = scheduler
        self._executor = executor
        self._kv = kv
        self._sleeper = Sleeper(scheduler, executor, kv, sleep_patience_s)
        self._awaited = AwaitedGrammars(executor)
        self._transfers = transfers
        self._emit: Callable[[StepOutput], None] | None = None
        self._balancer = balancer
        self._has_begun = True  # the last step had something to compute
        self._pending: list[TokenDelta] = []  # terminal deltas that no step produced: aborts, refusals
        self._has_news = False  # the counts have changed outside of a step
        self._adapters = adapters
        self._num_ahead = num_steps_ahead
        self._under_way: deque[tuple[StepPlan, StepHandle[Any], float]] = deque()
        self._num_steps = 0
        self._last_end = 0.0  # of a step
        self._last_step = (0, 0.0)  # tokens, seconds; of a step that computed nothing: 0

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do or to tell. What is frozen in a sleep is nothing to do."""
        if self._pending or self._has_news or self._under_way:
            return True
        return (self._scheduler.has_work or self._awaits_adapters) and not self._sleeper.state.is_asleep

    def add_request(self, request: EngineRequest) -> None:
        try:
            self._check(request)
            if not self._sleeper.is_awake:
                self._sleeper.hold(request)
                self._has_news = True
            elif self._awaited.holds(request) or self._holds_for_adapter(request):
                self._has_news = True
            else:
                self._scheduler.add(request)
        except ValueError as refusal:  # the API process checks everything that a user can get wrong
            self._pending.append(TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=str(refusal)))

    def _check(self, request: EngineRequest) -> None:
        if isinstance(request, PoolRequest) != (self.info.pooling is not None):
            does = "generates text" if self.info.pooling is None else "pools texts"
            raise ValueError(f"This engine {does} and does nothing else.")

    def _holds_for_adapter(self, request: EngineRequest) -> bool:
        if not isinstance(request, GenerateRequest) or request.adapter_id is None:
            return False
        if self._adapters is None:
            raise ValueError(_NO_ADAPTERS)
        return self._adapters.holds(request)

    def abort(self, request_ids: list[str]) -> None:
        deltas = [*self._scheduler.abort(request_ids), *self._sleeper.abort(request_ids), *self._awaited.abort(request_ids)]
        if self._adapters is not None:
            deltas += self._adapters.abort(request_ids)
        self._forget(deltas)
        self._pending += deltas

    def abort_all(self) -> None:
        waiting = self._adapters.request_ids() if self._adapters is not None else []
        self.abort([*self._scheduler.open_request_ids(), *self._sleeper.held_ids(), *self._awaited.request_ids(), *waiting])

    def reset_prefix_cache(self, preempt_running: bool) -> bool:
        """Nobody finds what was computed before. False: requests that run still use some of it, unless they were preempted first."""
        if preempt_running:
            self._scheduler.preempt_all()
        self._kv.reset_prefix_cache()
        self._has_news = True
        return not self._kv.has_holders

    @property
    def sleep_state(self) -> SleepState:
        return self._sleeper.state

    def watch_sleep(self, watcher: Callable[[SleepState], None]) -> None:
        """``watcher`` hears of each change of the sleep's state, before whoever asked for it hears that it is done."""
        self._sleeper.on_change = watcher

    def sleep(self, level: int, mode: SleepMode, done: Done) -> None:
        """See Sleeper.begin; ``settle`` does the rest."""
        if mode == "abort":
            self._pending += self._awaited.abort(self._awaited.request_ids())
            self._pending += self._adapters.abort(self._adapters.request_ids()) if self._adapters is not None else []
        self._pending += self._sleeper.begin(level, mode, done)

    def emit_early(self, emit: Callable[[StepOutput], None]) -> None:
        """``emit`` gets what must be known while a step runs, not after it: where KV will be. To be set before the first step."""
        self._emit = emit

    @property
    def awaits_grammars(self) -> bool:
        """Whether ``settle`` should be called again soon, though there may be no step to run."""
        return len(self._awaited) > 0

    @property
    def patience_ms(self) -> int | None:
        """How long a message may be waited for before ``step`` or ``settle`` has something to look at; None: however long."""
        if len(self._awaited) > 0:
            return _GRAMMAR_POLL_MS
        if self._awaits_adapters:
            return _FETCH_POLL_MS
        if self._transfers is None:
            return None
        policy, _ = self._transfers
        return _FETCH_POLL_MS if policy.is_fetching else _LEASE_POLL_MS if policy.has_leases else None

    @property
    def waits_for_others(self) -> bool:
        """Whether requests are open that all wait for KV, for blocks that a transfer holds, or for adapters that are read."""
        if self._has_begun or self._under_way or self._has_news:
            return False
        is_transferring = self._transfers is not None and (self._transfers[0].is_fetching or self._transfers[0].has_leases)
        return is_transferring or self._awaits_adapters

    @property
    def _awaits_adapters(self) -> bool:
        return self._adapters is not None and self._adapters.has_work

    def _take_in_transfers(self) -> None:
        if self._transfers is not None:
            policy, workers = self._transfers
            self._has_news |= policy.take_in(workers.take_reports())
            self._hand_over_transfers()

    def _hand_over_transfers(self) -> None:
        """What the scheduler has decided, before the plan that comes of it, and before anybody hears of it."""
        if self._transfers is not None:
            policy, workers = self._transfers
            if orders := policy.take_orders():
                workers.order(orders)
            if announced := policy.take_announced():
                assert self._emit is not None, "emit_early comes first"
                self._emit(StepOutput([TokenDelta(request_id, kv_source=source) for request_id, source in announced], self.stats()))

    def settle(self) -> None:
        """Takes in what became of transfers and requests whose grammars are compiled, and falls asleep if that was asked for and it is
        time: not while a step is under way. To be called after each step, and where there was none to run. Raises what ended a process
        of the executor's."""
        self._executor.check_alive()
        self._take_in_transfers()
        for request in self._awaited.release():
            self.add_request(request)
        if self._under_way:
            return
        before = self._sleeper.state
        self._pending += self._sleeper.settle()
        self._has_news |= self._sleeper.state != before
        self._take_released()

    def wake_up(self, parts: Sequence[SleepPart] | None) -> None:
        """See Sleeper.wake. Raises what kept the engine from waking; it then sleeps on."""
        self._sleeper.wake(parts)
        self._take_released()

    def _take_released(self) -> None:
        for request in self._sleeper.release():
            self.add_request(request)

    def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool, done: Done) -> None:
        """Requests may have it once ``done`` has heard None. With ``preload`` that is when it has been read, which steps don't wait for;
        else it is read with its first request. ``done`` hears an AdapterError if that fails, and nothing has changed."""
        if self._adapters is None:
            done(AdapterError(_NO_ADAPTERS))
            return
        adapters = self._adapters
        adapters.add(adapter)

        def finish(problem: Exception | None) -> None:
            if problem is not None:
                adapters.remove(adapter.id)
            done(problem)

        self.pin_adapter(adapter.id, preload, is_pinned, finish)

    def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool, done: Done) -> None:
        """One that is pinned keeps its place on the device once it has it. ``preload``, ``done``: as of ``add_adapter``."""
        if self._adapters is None:
            done(AdapterError(_NO_ADAPTERS))
        elif preload and self._sleeper.state.refuses_requests:
            done(AdapterError("The engine is asleep: an adapter can be loaded once it is woken."))
        elif not self._adapters.knows(adapter_id):
            done(AdapterError(f"No adapter with the id {adapter_id} is registered."))
        elif preload:
            self._adapters.load(adapter_id, is_pinned, done)
        else:
            self._adapters.pin(adapter_id, is_pinned)
            done(None)

    def remove_adapter(self, adapter_id: int) -> None:
        """Raises AdapterError if it is not known, or if an open request has it."""
        if self._adapters is None:
            raise AdapterError(_NO_ADAPTERS)
        self._adapters.remove(adapter_id)
        self._has_news = True

    def _release_adapted(self) -> None:
        """Requests whose adapter is there now go to the scheduler, which took them in when they came: a sleep that is on its way lets
        them finish."""
        if self._adapters is None or self._sleeper.state.is_asleep:
            return
        for request in self._adapters.release():
            try:
                self._scheduler.add(request)
            except ValueError as refusal:
                self._pending.append(TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=str(refusal)))
        self._pending += self._adapters.take_ended()

    def _forget(self, deltas: Iterable[TokenDelta]) -> None:
        for delta in deltas:
            if delta.finish_reason is not None:
                self._awaited.forget(delta.request_id)
                if self._adapters is not None:
                    self._adapters.forget(delta.request_id)

    def step(self) -> StepOutput:
        """Sets a step going, if there is one, and returns what became of the requests in the oldest that is under way: this one, or with
        steps ahead one before, so that the device has work while the host makes the next plan."""
        self._take_in_transfers()
        self._release_adapted()
        self._has_news, self._last_step = False, (0, 0.0)
        deltas, self._pending = self._pending, []
        num_ahead = self._num_ahead if self._sleeper.is_awake else 0  # nothing may be under way when the engine falls asleep
        self._has_begun = len(self._under_way) <= num_ahead and self._begin_step()
        if self._under_way and not (self._has_begun and len(self._under_way) <= num_ahead):
            deltas += self._finish_step()
        deltas += self._scheduler.take_refused()
        self._hand_over_transfers()
        self._forget(deltas)
        return StepOutput(deltas, self.stats())

    def _begin_step(self) -> bool:
        """Whether there was one to begin."""
        started = time.perf_counter()
        plan = None if self._sleeper.state.is_asleep else self._scheduler.schedule()
        self._hand_over_transfers()
        if plan is None:
            return False
        self._under_way.append((plan, self._executor.submit(plan), started))
        return True

    def _finish_step(self) -> list[TokenDelta]:
        """Takes in the oldest step that is under way."""
        plan, handle, started = self._under_way.popleft()
        deltas = self._scheduler.update(plan, handle.result())
        ended = time.perf_counter()
        # A step that was set going while another ran had the device to itself from the end of that one.
        self._last_step = (plan.num_tokens, ended - max(started, self._last_end))
        self._last_end = ended
        self._num_steps += 1
        return deltas

    def stats(self) -> EngineStats:
        tokens, seconds = self._last_step
        counts = self._scheduler.stats()
        stats: EngineStats = msgspec.structs.replace(
            counts,
            num_waiting=counts.num_waiting + self._sleeper.num_held + len(self._awaited) + len(self._adapters or ()),
            num_steps=self._num_steps,
            last_step_tokens=tokens,
            last_step_s=seconds,
            transfers=None if self._transfers is None else self._transfers[0].take_stats(),
            adapters=None if self._adapters is None else self._adapters.stats,
            balancing=None if self._balancer is None else self._balancer.stats,
        )
        return stats

    def check_idle(self) -> None:
        """Invariants, looked at when nothing runs: a leak is a bug to hear of at once."""
        self._kv.check()

    def shutdown(self) -> None:
        if self._transfers is not None:
            self._transfers[1].close()
        self._executor.shutdown()
