"""The engine's loop: take requests in, schedule, execute, update, emit. One instance an engine process; no sockets here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

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
_FETCH_POLL_MS = 2  # the same, while KV is on its way
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
        balancer: ExpertBalancer | None = None,
    ) -> None:
        """``sleep_patience_s``: how long open requests may go on before a sleep that waits for them. ``num_steps_ahead``: so many are set
        going beside the one whose result is awaited. ``transfers``: the two sides of the KV connector. ``balancer``: that of rank 0.
        """
        self.info = info
        self._scheduler = scheduler
        self._executor = executor
        self._kv = kv
        self._sleeper = Sleeper(scheduler, executor, kv, sleep_patience_s)
        self._awaited = AwaitedGrammars(executor)
        self._transfers = transfers
        self._balancer = balancer
        self._has_begun = True  # the last step had something to compute
        self._pending: list[TokenDelta] = []  # terminal deltas that no step produced: aborts, refusals
        self._has_news = False  # the counts have changed outside of a step
        self._adapter_ids: set[int] = set()  # loaded
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
        return self._scheduler.has_work and not self._sleeper.state.is_asleep

    def add_request(self, request: EngineRequest) -> None:
        try:
            self._check(request)
            if not self._sleeper.is_awake:
                self._sleeper.hold(request)
                self._has_news = True
            elif self._awaited.holds(request):
                self._has_news = True
            else:
                self._scheduler.add(request)
        except ValueError as refusal:  # the API process checks everything that a user can get wrong
            self._pending.append(TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=str(refusal)))

    def _check(self, request: EngineRequest) -> None:
        if isinstance(request, PoolRequest) != (self.info.pooling is not None):
            does = "generates text" if self.info.pooling is None else "pools texts"
            raise ValueError(f"This engine {does} and does nothing else.")
        if isinstance(request, GenerateRequest) and request.adapter_id is not None and request.adapter_id not in self._adapter_ids:
            raise ValueError(f"The request's adapter (id {request.adapter_id}) is not loaded.")

    def abort(self, request_ids: list[str]) -> None:
        self._pending += [*self._scheduler.abort(request_ids), *self._sleeper.abort(request_ids), *self._awaited.abort(request_ids)]

    def abort_all(self) -> None:
        self.abort([*self._scheduler.open_request_ids(), *self._sleeper.held_ids(), *self._awaited.request_ids()])

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
        self._pending += self._sleeper.begin(level, mode, done)

    @property
    def awaits_grammars(self) -> bool:
        """Whether ``settle`` should be called again soon, though there may be no step to run."""
        return len(self._awaited) > 0

    @property
    def patience_ms(self) -> int | None:
        """How long a message may be waited for before ``step`` or ``settle`` has something to look at; None: however long."""
        if len(self._awaited) > 0:
            return _GRAMMAR_POLL_MS
        if self._transfers is None:
            return None
        policy, _ = self._transfers
        return _FETCH_POLL_MS if policy.is_fetching else _LEASE_POLL_MS if policy.has_leases else None

    @property
    def waits_for_transfers(self) -> bool:
        """Whether requests are open that all wait for KV, or for blocks that a transfer holds."""
        if self._transfers is None or self._has_begun or self._under_way or self._has_news:
            return False
        return self._transfers[0].is_fetching or self._transfers[0].has_leases

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

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Steps wait for as long as the files are read. Raises AdapterError, and then nothing has changed."""
        if self._sleeper.state.refuses_requests:
            raise AdapterError("The engine is asleep: an adapter can be loaded once it is woken.")
        self._executor.load_adapter(adapter)
        self._adapter_ids.add(adapter.id)

    def unload_adapter(self, adapter_id: int) -> None:
        """Raises AdapterError if it is not loaded, or if an open request has it: its slot would become another adapter's."""
        if self._scheduler.uses_adapter(adapter_id):
            raise AdapterError(f"Requests with the adapter of id {adapter_id} are open.")
        self._executor.unload_adapter(adapter_id)
        self._adapter_ids.remove(adapter_id)

    def step(self) -> StepOutput:
        """Sets a step going, if there is one, and returns what became of the requests in the oldest that is under way: this one, or with
        steps ahead one before, so that the device has work while the host makes the next plan."""
        self._take_in_transfers()
        self._has_news, self._last_step = False, (0, 0.0)
        deltas, self._pending = self._pending, []
        num_ahead = self._num_ahead if self._sleeper.is_awake else 0  # nothing may be under way when the engine falls asleep
        self._has_begun = len(self._under_way) <= num_ahead and self._begin_step()
        if self._under_way and not (self._has_begun and len(self._under_way) <= num_ahead):
            deltas += self._finish_step()
        deltas += self._scheduler.take_refused()
        self._hand_over_transfers()
        for delta in deltas:
            if delta.finish_reason is not None:
                self._awaited.forget(delta.request_id)
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
            num_waiting=counts.num_waiting + self._sleeper.num_held + len(self._awaited),
            num_steps=self._num_steps,
            last_step_tokens=tokens,
            last_step_s=seconds,
            transfers=None if self._transfers is None else self._transfers[0].take_stats(),
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
