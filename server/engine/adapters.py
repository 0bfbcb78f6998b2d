"""Which adapters are in the host's memory and on the device, and the requests that wait for one. Policy only: no tensor comes here."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from headway.server.engine.executor.base import Executor
from headway.server.engine.expiry import Expiry, queue_timeout
from headway.server.engine.request import aborted
from headway.server.errors import AdapterError, RankDied, sentence_of
from headway.server.stats import AdapterStats
from headway.server.types import AdapterRef, FinishReason, GenerateRequest, RequestTimes, TokenDelta

log = logging.getLogger(__name__)

Done = Callable[[Exception | None], None]

# So long may requests whose adapter is on the device pass by one that waits for a place: their adapters might never be idle else.
_PATIENCE_S = 1.0


@dataclass(slots=True, eq=False)
class _Adapter:
    ref: AdapterRef
    copy: Future[None] | None = None  # in the host's memory, or being read; None: neither
    is_pinned: bool = False  # keeps its place once it has one
    users: set[str] = field(default_factory=set)  # requests that the scheduler has
    waiting: dict[str, GenerateRequest] = field(default_factory=dict)
    calls: list[Done] = field(default_factory=list)  # whoever wants it loaded

    @property
    def is_awaited(self) -> bool:
        return bool(self.waiting or self.calls)


class AdapterResidency:
    """Owns these requests, and the two tiers: copies in the host's memory, those of the device's slots among them, and the slots.

    ::

        known --read, beside the steps--> copied --placed, between two steps--> on the device
              <------dropped-------------        <--its slot to another one---

    In both tiers the adapter idle longest goes first, and none that a request has, waits for, or that is pinned. (Not a cache of a
    library: which one may go depends on all that.) Requests wait beside the scheduler's queue, hold nothing there, and hold up nobody.
    """

    def __init__(self, executor: Executor, max_loras: int, max_cpu_loras: int, clock: Callable[[], float] = time.time) -> None:
        self._executor = executor
        self._max_placed = max_loras
        self._max_copies = max_cpu_loras
        self._clock = clock
        self._known: dict[int, _Adapter] = {}
        self._copies: OrderedDict[int, _Adapter] = OrderedDict()  # the one idle longest first
        self._placed: dict[int, _Adapter] = {}  # of these, on the device
        self._awaited: OrderedDict[int, _Adapter] = OrderedDict()  # in the order in which they were asked for
        self._by_request: dict[str, _Adapter] = {}
        self._expiry = Expiry()
        self._ended: list[TokenDelta] = []
        self._lacking_since: float | None = None  # the first of the awaited has found no place

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(len(adapter.waiting) for adapter in self._awaited.values())

    @property
    def has_work(self) -> bool:
        """Whether somebody waits, or there is a terminal delta to take."""
        return bool(self._awaited or self._ended)

    @property
    def stats(self) -> AdapterStats:
        return AdapterStats(
            loaded=tuple(self._placed),
            running=tuple(key for key, adapter in self._placed.items() if adapter.users),
            waiting=tuple(key for key, adapter in self._awaited.items() if adapter.waiting),
        )

    # Adapters come and go

    def knows(self, adapter_id: int) -> bool:
        return adapter_id in self._known

    def add(self, ref: AdapterRef) -> None:
        """Requests may have it from now on. Nothing is read."""
        assert ref.id not in self._known, "ids are given once"
        self._known[ref.id] = _Adapter(ref)

    def load(self, adapter_id: int, is_pinned: bool, done: Done) -> None:
        """Reads it if it is not in memory, and places it if there is a place that is idle; ``done`` hears of it, or what is wrong."""
        adapter = self._get(adapter_id)

        def finish(problem: Exception | None) -> None:
            if problem is None:
                adapter.is_pinned = is_pinned
            done(problem)

        adapter.calls.append(finish)
        self._awaited.setdefault(adapter_id, adapter)

    def pin(self, adapter_id: int, is_pinned: bool) -> None:
        self._get(adapter_id).is_pinned = is_pinned

    def remove(self, adapter_id: int) -> None:
        """Raises AdapterError if it is unknown, or a request has it or waits for it."""
        adapter = self._get(adapter_id)
        if adapter.users or adapter.is_awaited:
            raise AdapterError(f"Requests with the adapter {adapter.ref.name} are open.")
        self._drop(adapter)
        del self._known[adapter_id]

    # Requests

    def holds(self, request: GenerateRequest) -> bool:
        """Whether the request has to wait, and so is kept here; else its adapter stays on the device until ``forget``.

        Raises ValueError if nobody has added its adapter.
        """
        if request.adapter_id is None:
            return False
        adapter = self._known.get(request.adapter_id)
        if adapter is None:
            raise ValueError(f"The request's adapter (id {request.adapter_id}) is not registered.")
        self._by_request[request.request_id] = adapter
        if self._is_placed(adapter) and not adapter.waiting and not self._must_queue():
            self._use(adapter, request)
            return False
        adapter.waiting[request.request_id] = request
        self._awaited.setdefault(request.adapter_id, adapter)
        self._expiry.add(request)
        return True

    def forget(self, request_id: str) -> None:
        """It has ended, wherever it was."""
        adapter = self._by_request.pop(request_id, None)
        if adapter is None:
            return
        adapter.users.discard(request_id)
        if (request := adapter.waiting.pop(request_id, None)) is not None:
            self._expiry.discard(request)
            if not adapter.is_awaited:
                del self._awaited[adapter.ref.id]

    def request_ids(self) -> list[str]:
        """Of those that wait."""
        return [request_id for adapter in self._awaited.values() for request_id in adapter.waiting]

    def abort(self, request_ids: Iterable[str]) -> list[TokenDelta]:
        """The terminal deltas of those that wait; other ids are ignored."""
        deltas = []
        for request_id in request_ids:
            adapter = self._by_request.get(request_id)
            if adapter is not None and request_id in adapter.waiting:
                deltas.append(aborted(adapter.waiting[request_id]))
                self.forget(request_id)
        return deltas

    def take_ended(self) -> list[TokenDelta]:
        """The terminal deltas of those whose adapter can't be loaded, or that have waited too long; once."""
        ended, self._ended = self._ended, []
        return ended

    def release(self) -> list[GenerateRequest]:
        """Takes in what has been read, places what can be placed, begins to read what may be read. Returns the requests that have their
        adapter now. Costs nothing for adapters that nobody waits for."""
        self._expire()
        self._end_hopeless()
        released: list[GenerateRequest] = []
        is_lacking = False
        for adapter in list(self._awaited.values()):
            if adapter.copy is None and not self._begin_copy(adapter):
                is_lacking = True
                break
            assert adapter.copy is not None, "it has been begun"
            if not adapter.copy.done():
                continue
            if (problem := adapter.copy.exception() or self._place(adapter)) is not None:
                self._fail(adapter, problem)
                continue
            self._answer(adapter)
            if not self._is_placed(adapter) or (is_lacking and self._must_queue()):
                is_lacking = is_lacking or bool(adapter.waiting)
            else:
                released += self._release(adapter)
            if not adapter.is_awaited:
                del self._awaited[adapter.ref.id]
        self._note_lack(is_lacking)
        return released

    def _release(self, adapter: _Adapter) -> Iterator[GenerateRequest]:
        waiting, adapter.waiting = adapter.waiting, {}
        for request in waiting.values():
            self._expiry.discard(request)
            self._use(adapter, request)
            yield request

    def _use(self, adapter: _Adapter, request: GenerateRequest) -> None:
        adapter.users.add(request.request_id)
        self._copies.move_to_end(adapter.ref.id)

    def _answer(self, adapter: _Adapter, problem: Exception | None = None) -> None:
        calls, adapter.calls = adapter.calls, []
        for done in calls:
            done(problem)

    def _fail(self, adapter: _Adapter, problem: BaseException) -> None:
        """Ends whoever waits; the next one has it read anew."""
        self._drop(adapter)
        del self._awaited[adapter.ref.id]
        is_known = isinstance(problem, AdapterError)
        if not is_known:
            log.error("Adapter %s could not be loaded", adapter.ref.name, exc_info=problem)
        text = str(problem) if is_known else f"The adapter {adapter.ref.name} could not be loaded: {sentence_of(problem)}"
        for request in list(adapter.waiting.values()):
            times = RequestTimes(request.arrival_time, None, None, None)
            self._ended.append(
                TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=text, is_request_fault=is_known, times=times)
            )
            self._by_request.pop(request.request_id)
            self._expiry.discard(request)
        adapter.waiting.clear()
        self._answer(adapter, problem if isinstance(problem, Exception) else AdapterError(text))

    def _expire(self) -> None:
        now = self._clock()
        for request_id in self._expiry.take_due(now):
            self._ended.append(queue_timeout(self._by_request[request_id].waiting[request_id], now))
            self.forget(request_id)

    def _end_hopeless(self) -> None:
        """Those that were let in before the last place was pinned: waiting on, they would keep the room for copies that the call which
        unpins a place, or deletes an adapter, may stand behind."""
        if len(self._placed) < self._max_placed or not all(adapter.is_pinned for adapter in self._placed.values()):
            return
        for adapter in [awaited for awaited in self._awaited.values() if not self._is_placed(awaited)]:
            text = f"Every place on the device is pinned by now (--max-loras {self._max_placed}): unpin or delete one of those adapters."
            self._fail(adapter, AdapterError(text))

    # Fairness

    def _must_queue(self) -> bool:
        """Whether somebody has waited for a place so long that those who have theirs must not take it up again first."""
        return self._lacking_since is not None and self._clock() - self._lacking_since > _PATIENCE_S

    def _note_lack(self, is_lacking: bool) -> None:
        if not is_lacking:
            self._lacking_since = None
        elif self._lacking_since is None:
            self._lacking_since = self._clock()

    # The two tiers

    def _begin_copy(self, adapter: _Adapter) -> bool:
        """Whether there is room for it in the host's memory."""
        if len(self._copies) >= self._max_copies:
            victim = self._idle(lambda other: not self._is_placed(other)) or self._idle(lambda other: True)
            if victim is None:
                return False
            self._drop(victim)
        self._copies[adapter.ref.id] = adapter
        adapter.copy = self._executor.read_adapter(adapter.ref)
        return True

    def _is_placed(self, adapter: _Adapter) -> bool:
        return adapter.ref.id in self._placed

    def _place(self, adapter: _Adapter) -> Exception | None:
        """Places it if it is not and there is a place. What is wrong with it, if that shows only now."""
        if self._is_placed(adapter):
            return None
        if len(self._placed) >= self._max_placed:
            victim = self._idle(self._is_placed)
            if victim is None:
                return None
            self._displace(victim)
        try:
            self._executor.load_adapter(adapter.ref.id)
        except RankDied:
            raise
        except Exception as problem:  # a user's files come in here: whatever is wrong with them must not end the engine
            return problem
        self._placed[adapter.ref.id] = adapter
        self._copies.move_to_end(adapter.ref.id)
        log.info("Adapter %s is on the device (%d of %d)", adapter.ref.name, len(self._placed), self._max_placed)
        return None

    def _idle(self, is_meant: Callable[[_Adapter], bool]) -> _Adapter | None:
        """The one idle longest that may go. One on the device that requests are kept from by ``_must_queue`` may, too."""
        for adapter in self._copies.values():
            may_go = not adapter.is_awaited or (self._is_placed(adapter) and self._must_queue())
            if may_go and not adapter.users and not adapter.is_pinned and is_meant(adapter):
                return adapter
        return None

    def _displace(self, adapter: _Adapter) -> None:
        self._executor.unload_adapter(adapter.ref.id)
        del self._placed[adapter.ref.id]

    def _drop(self, adapter: _Adapter) -> None:
        if self._is_placed(adapter):
            self._displace(adapter)
        if adapter.copy is not None:
            self._executor.drop_adapter(adapter.ref.id)
            adapter.copy = None
            del self._copies[adapter.ref.id]

    def _get(self, adapter_id: int) -> _Adapter:
        if adapter_id not in self._known:
            raise AdapterError(f"No adapter with the id {adapter_id} is registered.")
        return self._known[adapter_id]
