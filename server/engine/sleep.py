"""Whether the engine sleeps, and the way there and back. Policy only: what becomes of tensors is the executor's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway.server.engine.executor.base import Executor
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.request import aborted
from headway.server.engine.step_scheduler import StepScheduler
from headway.server.errors import EngineAsleep, SleepConflict
from headway.server.types import EngineRequest, SleepMode, SleepPart, SleepState, TokenDelta

log = logging.getLogger(__name__)

Done = Callable[[Exception | None], None]
_PARTS: dict[int, tuple[SleepPart, ...]] = {0: ("scheduling",), 1: ("weights", "kv_cache"), 2: ("weights", "kv_cache")}


@dataclass(frozen=True, slots=True)
class _Fall:
    """The way from awake to asleep."""

    level: int
    before: SleepState
    done: Done
    deadline: float | None  # with mode wait: when what is still open is aborted


class Sleeper:
    """Owns the engine's sleep, and the requests that came while it lasts.

    ::

        awake --begin--> falling asleep --settle--> asleep --wake--> awake

    Between ``begin`` and ``settle`` open requests are finished where the mode is wait. One engine has one of these and calls come one
    after the other, so whatever several clients ask for at the same time happens in some order, and each is told what it led to.
    """

    def __init__(self, scheduler: StepScheduler, executor: Executor, kv: KVCacheManager, patience_s: float) -> None:
        """``patience_s``: how long mode wait lets open requests go on."""
        self.state = SleepState()
        self.on_change: Callable[[SleepState], None] = lambda state: None
        self._scheduler = scheduler
        self._executor = executor
        self._kv = kv
        self._patience_s = patience_s
        self._fall: _Fall | None = None
        self._mode: SleepMode = "abort"  # of the last fall
        self._held: dict[str, EngineRequest] = {}

    @property
    def is_awake(self) -> bool:
        """Neither asleep nor on the way there."""
        return self.state.level is None

    @property
    def num_held(self) -> int:
        return len(self._held)

    # Requests that come, or go, meanwhile

    def hold(self, request: EngineRequest) -> None:
        """Keeps a request until the engine wakes. Raises ValueError where this sleep takes none."""
        if self.state.level and self._mode != "keep":
            raise ValueError(str(EngineAsleep(self.state.level)))
        self._held[request.request_id] = request

    def abort(self, request_ids: Sequence[str]) -> list[TokenDelta]:
        """The terminal deltas of those that are held; other ids are ignored."""
        dropped = [self._held.pop(request_id) for request_id in request_ids if request_id in self._held]
        return [aborted(request) for request in dropped]

    def held_ids(self) -> list[str]:
        return list(self._held)

    def release(self) -> list[EngineRequest]:
        """What was held, in the order of arrival, once the engine is awake; nothing before."""
        if not self.is_awake:
            return []
        released, self._held = list(self._held.values()), {}
        return released

    # The way there and back

    def begin(self, level: int, mode: SleepMode, done: Done) -> list[TokenDelta]:
        """Starts to fall asleep. ``done`` hears how it ended: None once the engine sleeps, else what came between, and nothing changed.

        Returns terminal deltas: of what is aborted, and of refusals that nobody has taken.
        """
        if (conflict := self._conflict(level, mode)) is not None:
            done(conflict)
            return []
        deadline = time.monotonic() + self._patience_s if mode == "wait" else None
        self._fall = _Fall(level, self.state, done, deadline)
        self._mode = mode
        self._change(SleepState(level, self.state.parts))
        return [*self._scheduler.take_refused(), *(self._abort_all() if mode == "abort" else [])]

    def settle(self) -> list[TokenDelta]:
        """Falls asleep if nothing is open any more that is to end first, or its time is over. Returns terminal deltas."""
        fall = self._fall
        if fall is None or (fall.deadline is not None and self._scheduler.has_work and time.monotonic() < fall.deadline):
            return []
        late = self._scheduler.open_request_ids() if fall.deadline is not None else []
        aborted = self._scheduler.abort(late)
        if aborted:
            log.warning("%d requests were still open after %.0f s and are aborted", len(aborted), self._patience_s)
        self._fall = None
        try:
            if fall.level:
                self._executor.sleep(fall.level)
                self._scheduler.preempt_all()
                self._kv.reset_prefix_cache()
        except Exception as problem:  # whatever it was, nothing has changed: the engine goes on, and whoever asked is told
            self._change(fall.before)
            fall.done(problem)
            return aborted
        self._change(SleepState(fall.level, _PARTS[fall.level]))
        fall.done(None)
        return aborted

    def wake(self, parts: Sequence[SleepPart] | None) -> None:
        """Wakes ``parts`` of what sleeps, None: all of it; the engine is awake once nothing sleeps any more. Ends a fall, too.

        Raises what kept the executor from it; what was woken before stays awake.
        """
        if self._fall is not None:
            fall, self._fall = self._fall, None
            self._change(fall.before)
            fall.done(SleepConflict("The engine was woken before it slept."))
        for part in self.state.parts:
            if parts is None or part in parts:
                if part != "scheduling":
                    self._executor.wake_up(part)
                left = tuple(other for other in self.state.parts if other != part)
                self._change(SleepState(self.state.level, left) if left else SleepState())

    def _conflict(self, level: int, mode: SleepMode) -> SleepConflict | None:
        now = self.state.level
        if self._fall is not None:
            return SleepConflict("The engine is falling asleep already: wait for that, or wake it first.")
        if now and level != now:
            return SleepConflict(f"The engine is asleep at level {now}: wake it before it goes to level {level}.")
        if mode == "wait" and self.state.is_asleep and (self._scheduler.has_work or self._held):
            return SleepConflict("Requests are open that can't finish while the engine sleeps: wake it first, or use mode abort or keep.")
        return None

    def _abort_all(self) -> list[TokenDelta]:
        return [*self._scheduler.abort(self._scheduler.open_request_ids()), *self.abort(self.held_ids())]

    def _change(self, state: SleepState) -> None:
        self.state = state
        self.on_change(state)
