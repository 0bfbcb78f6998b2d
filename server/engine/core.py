"""The engine's loop: take requests in, schedule, execute, update, emit. One instance an engine process; no sockets here."""

from __future__ import annotations

import time
from typing import Protocol

import msgspec

from headway.server.engine.batch import BatchPlan, BatchResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.messages import StepOutput
from headway.server.engine.scheduler import Scheduler
from headway.server.errors import AdapterError
from headway.server.types import AdapterRef, EngineInfo, EngineStats, FinishReason, GenerateRequest, TokenDelta


class Executor(Protocol):
    """Where a step's tensors live: in this process, or in workers."""

    def execute(self, plan: BatchPlan) -> BatchResult:
        """Runs one step. Rows that break are isolated in the result; raises only when nothing works any more."""
        ...

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Raises AdapterError, and then nothing has changed."""
        ...

    def unload_adapter(self, adapter_id: int) -> None:
        """Raises AdapterError if it is not loaded."""
        ...

    def shutdown(self) -> None: ...


class EngineCore:
    """Owns the scheduler and the executor; every accepted request ends in exactly one terminal delta."""

    def __init__(self, scheduler: Scheduler, executor: Executor, info: EngineInfo, kv: KVCacheManager) -> None:
        self.info = info
        self._scheduler = scheduler
        self._executor = executor
        self._kv = kv
        self._pending: list[TokenDelta] = []  # terminal deltas that no step produced: aborts, refusals
        self._adapter_ids: set[int] = set()  # loaded
        self._num_steps = 0
        self._last_step = (0, 0.0)  # tokens, seconds

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._pending)

    def add_request(self, request: GenerateRequest) -> None:
        try:
            if request.adapter_id is not None and request.adapter_id not in self._adapter_ids:
                raise ValueError(f"The request's adapter (id {request.adapter_id}) is not loaded.")
            self._scheduler.add(request)
        except ValueError as refusal:  # the API process checks everything that a user can get wrong
            self._pending.append(TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=str(refusal)))

    def abort(self, request_ids: list[str]) -> None:
        self._pending += self._scheduler.abort(request_ids)

    def abort_all(self) -> None:
        self.abort(self._scheduler.open_request_ids())

    def reset_prefix_cache(self) -> None:
        self._kv.reset_prefix_cache()

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Steps wait for as long as the files are read. Raises AdapterError, and then nothing has changed."""
        self._executor.load_adapter(adapter)
        self._adapter_ids.add(adapter.id)

    def unload_adapter(self, adapter_id: int) -> None:
        """Raises AdapterError if it is not loaded, or if an open request has it: its slot would become another adapter's."""
        if self._scheduler.uses_adapter(adapter_id):
            raise AdapterError(f"Requests with the adapter of id {adapter_id} are open.")
        self._executor.unload_adapter(adapter_id)
        self._adapter_ids.remove(adapter_id)

    def step(self) -> StepOutput:
        """Runs one step, if there is one to run, and returns what became of the requests."""
        started = time.perf_counter()
        deltas, self._pending = self._pending, []
        plan = self._scheduler.schedule()
        if plan is not None:
            result = self._executor.execute(plan)
            deltas += self._scheduler.update(plan, result)
            self._num_steps += 1
            self._last_step = (plan.num_tokens, time.perf_counter() - started)
        deltas += self._scheduler.take_refused()
        return StepOutput(deltas, self.stats())

    def stats(self) -> EngineStats:
        tokens, seconds = self._last_step
        stats: EngineStats = msgspec.structs.replace(
            self._scheduler.stats(), num_steps=self._num_steps, last_step_tokens=tokens, last_step_s=seconds
        )
        return stats

    def check_idle(self) -> None:
        """Invariants, looked at when nothing runs: a leak is a bug to hear of at once."""
        self._kv.check()

    def shutdown(self) -> None:
        self._executor.shutdown()
