"""The ranks beside the engine, which is rank 0: started together, told the same, and watched. One that ends, ends the engine."""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from headway.server.distributed.groups import PeerLost
from headway.server.distributed.rendezvous import RankGroups
from headway.server.engine.executor.rank import Answer, Rank
from headway.server.engine.executor.rank_messages import Failed, Stop, ToRank, encode
from headway.server.engine.kv.transfer.orders import Report
from headway.server.errors import HeadwayError, ModelSourceError, RankDied

log = logging.getLogger(__name__)

_ECHO_S = 1.0  # a rank that lost another one may be heard before that one's end
_CAUSE_S = 10.0  # until the end is heard that the loss of another rank follows from: a busy machine needs seconds to end a process
_TELL_S = 3.0  # until whoever runs the engine has noticed; then its process ends, so that no request waits longer

A = TypeVar("A", bound=Answer)


class Ranks:
    """Called from one thread. Nobody is left when the engine's process ends, however it does: each watches for that by itself."""

    def __init__(self, ranks: Sequence[Rank], release: Callable[[], None] = lambda: None) -> None:
        """``ranks`` have been started; ``release`` is called once all have ended."""
        self._processes = ranks
        self._release = release
        self._groups: RankGroups | None = None
        self._failure: HeadwayError | None = None
        self._has_failed = threading.Event()
        self._is_told = threading.Event()  # the failure was raised
        self._is_over = False
        self._watch = threading.Thread(target=self._listen, daemon=True, name="ranks-watch")
        self._watch.start()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def hosts(self) -> list[str | None]:
        """See Rank.host."""
        return [process.host for process in self._processes]

    def give_groups(self, groups: RankGroups) -> None:
        """Those of rank 0, which are aborted when a rank ends, so that nobody waits for it."""
        self._groups = groups

    def tell(self, message: ToRank) -> None:
        data = encode(message)
        for process in self._processes:
            process.tell(data)

    def answers(self, kind: type[A]) -> list[A]:
        """One of each rank, which must be of this kind. Raises the failure of a rank that ends instead."""
        found: list[A] = []
        for process in self._processes:
            answer = process.answers.get()
            if answer is None:
                self._has_failed.wait()
                self.check()
            assert isinstance(answer, kind), f"rank {process.rank} says {answer}"
            found.append(answer)
        return found

    def take_reports(self) -> list[Report]:
        """What their workers of the KV connector have done, once."""
        return [process.reports.get() for process in self._processes for _ in range(process.reports.qsize())]

    def check(self) -> None:
        """Raises the first cause if a rank has ended: RankDied, or ModelSourceError for a wrong option or model."""
        if self._failure is not None:
            self._is_told.set()
            raise self._failure

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """In the place of an error that only follows from a rank's end, raises that one's cause."""
        try:
            yield
        except PeerLost:
            self.check()
            self._has_failed.wait(timeout=_CAUSE_S)
            self.check()
            raise
        except HeadwayError:
            raise
        except Exception:
            self.check()
            raise

    def fail(self, cause: str) -> RankDied:
        """Nothing can go on any more: each ``check`` raises it from now on."""
        failure = RankDied(cause)
        self._failure = self._failure or failure
        return failure

    def end(self, patience_s: float = 2.0) -> None:
        """Tells them to stop, waits, then makes sure. Safe to repeat."""
        if self._is_over:
            return
        self._is_over = True
        self.tell(Stop())
        deadline = time.monotonic() + patience_s
        self._watch.join(patience_s)
        for process in self._processes:
            process.end(max(deadline - time.monotonic(), 0))
        self._release()

    def _listen(self) -> None:
        """In a thread: what ranks say, until all of them have ended."""
        living = {process.link: process for process in self._processes}
        ended: list[tuple[Rank, Failed]] = []
        decide_at: float | None = None
        while living or decide_at is not None:
            timeout = None if decide_at is None else max(decide_at - time.monotonic(), 0)
            for link in multiprocessing.connection.wait(list(living), timeout):  # type: ignore[arg-type]
                process = living[link]  # type: ignore[index]
                if not process.listen():
                    del living[process.link]
                    ended.append((process, process.last_words()))
            if ended and decide_at is None and not (self._has_failed.is_set() or self._is_over):
                decide_at = time.monotonic() + _ECHO_S
            if decide_at is not None and (time.monotonic() >= decide_at or not all(words.is_echo for _, words in ended)):
                decide_at = None
                self._decide(ended)

    def _decide(self, ended: list[tuple[Rank, Failed]]) -> None:
        """Names the first cause and releases whoever waits."""
        if self._is_over:
            return
        process, words = min(ended, key=lambda pair: pair[1].is_echo)
        is_own = words.is_user_error
        self._failure = self._failure or (ModelSourceError(words.cause) if is_own else RankDied(f"rank {process.rank} {words.cause}"))
        self._has_failed.set()
        for other in self._processes:
            other.answers.put(None)
        if self._groups is not None:
            self._groups.abort()
        if not self._is_told.wait(_TELL_S) and not self._is_over:
            log.error("The engine ends: %s", self._failure)
            logging.shutdown()
            os._exit(1)
