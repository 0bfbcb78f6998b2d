"""A place for one copy: it is started, watched, replaced when it dies or fails its pings, and drained before it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headway.container.local.copies.base import Copy, CopyFailed, CopySpec, Starter
from headway.container.local.copies.gpus import Gpus
from headway.container.local.copies.log import CopyLog
from headway.container.local.health import Pace, Pinger
from headway.server.errors import sentence_of

_NUM_LOGS = 5  # that are kept of one seat's copies


@dataclass(slots=True)
class Workshop:
    """What every seat works with. ``say`` prints a line for people; ``logs`` is where copies' logs lie."""

    starter: Starter
    pinger: Pinger
    pace: Pace
    logs: Path
    say: Callable[[str], None]
    gpus: Gpus | None = None  # None: copies aren't told of any
    lives: set[asyncio.Task[None]] = field(default_factory=set)  # of the seats; each adds its own
    is_hurried: bool = False

    @property
    def stop_patience_s(self) -> float:
        return 0.0 if self.is_hurried else self.pace.stop_patience_s

    async def close(self) -> None:
        """Ends all that still lives, whoever it belongs to, without waiting for requests."""
        lives = list(self.lives)
        self._end()
        await asyncio.gather(*lives, return_exceptions=True)

    def hurry(self) -> None:
        """Ends them too, and from now on nobody has patience with a copy. Remembered, since a life that is cancelled twice before it runs
        again hears of it once."""
        self.is_hurried = True
        self._end()

    def _end(self) -> None:
        for life in self.lives:
            life.cancel()


class Seat:
    """``who`` begins the sentences about it: "The primary container for production variant AllTraffic".

    ``welcome`` gets each copy that is ready before requests do. One task owns the copy's life; all else is read only.
    """

    def __init__(
        self,
        name: str,
        who: str,
        spec: CopySpec,
        workshop: Workshop,
        start_window_s: float | None = None,
        welcome: Callable[[Copy], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.copy: Copy | None = None  # while it is in service
        self.num_open = 0
        self._who, self._spec, self._workshop, self._welcome = who, spec, workshop, welcome
        self._window_s = start_window_s or workshop.pace.start_window_s
        self._was_in_service = asyncio.get_running_loop().create_future()
        self._idle = asyncio.Event()
        self._idle.set()
        self._killed = asyncio.Event()
        self._num_started = 0
        self._life = asyncio.create_task(self._live())
        workshop.lives.add(self._life)
        self._life.add_done_callback(self._end)

    async def wait_in_service(self) -> None:
        """Returns once it has been in service. Raises CopyFailed if its first copy failed: then there will be no other."""
        await asyncio.shield(self._was_in_service)

    @contextlib.contextmanager
    def busy(self) -> Iterator[Copy]:
        """The copy in service, with one more request open inside of the block."""
        assert self.copy is not None, "only a seat that is in service takes requests"
        self.num_open += 1
        self._idle.clear()
        try:
            yield self.copy
        finally:
            self.num_open -= 1
            if not self.num_open:
                self._idle.set()

    def kill(self) -> None:
        """The copy in service dies at once, requests and all, and is replaced."""
        self._killed.set()

    async def retire(self, drain_limit_s: float) -> None:
        """Takes no requests from now on; waits for those that are open, and stops the copy."""
        self.copy = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_limit_s)
        self._life.cancel()
        await asyncio.wait([self._life])
        self._was_in_service.cancel()

    def _end(self, life: asyncio.Task[None]) -> None:
        self._workshop.lives.discard(life)
        if not life.cancelled() and (bug := life.exception()) is not None:
            self._workshop.say("".join(traceback.format_exception(bug)))
            self._fail(CopyFailed(f"{self._who} could not be run: {sentence_of(bug)}"))

    def _fail(self, problem: CopyFailed) -> None:
        if not self._was_in_service.done():
            self._was_in_service.set_exception(problem)
            self._was_in_service.exception()  # whoever waits gets it; nobody need

    async def _live(self) -> None:
        """One copy after the other, until it is cancelled or the first one fails."""
        pause_s = self._workshop.pace.first_pause_s
        while True:
            began = asyncio.get_running_loop().time()
            try:
                reason = await self._one_copy()
            except CopyFailed as problem:
                if not self._was_in_service.done():
                    self._fail(problem)
                    return
                reason = str(problem)
            if asyncio.get_running_loop().time() - began > self._workshop.pace.longest_pause_s:
                pause_s = self._workshop.pace.first_pause_s
            self._workshop.say(f"{self.name}: {reason} It is replaced in {pause_s:g} s.")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._workshop.pace.longest_pause_s)

    async def _one_copy(self) -> str:
        """From its start to its end, and why it ended. Raises CopyFailed if it was never in service."""
        self._num_started += 1
        self._forget_log(self._num_started - _NUM_LOGS)
        log = CopyLog(self._workshop.logs / f"{self.name}.{self._num_started}.log", self._echo)
        try:
            with self._lent_gpus() as gpus:
                copy = await self._start(gpus, log)
                try:
                    return await self._serve(copy, log)
                finally:
                    self.copy = None
                    await copy.stop(self._workshop.stop_patience_s)
        except CopyFailed as problem:
            raise CopyFailed(f"{self._who} {problem}") from problem
        finally:
            log.close()

    def _forget_log(self, number: int) -> None:
        """A copy that dies every minute would fill the disk with them."""
        for suffix in ("", ".1"):
            (self._workshop.logs / f"{self.name}.{number}.log{suffix}").unlink(missing_ok=True)

    def _echo(self, line: str) -> None:
        self._workshop.say(f"{self.name}: {line}")

    def _lent_gpus(self) -> contextlib.AbstractContextManager[Sequence[str]]:
        return self._workshop.gpus.lend(self._spec.num_gpus) if self._workshop.gpus else contextlib.nullcontext(())

    async def _start(self, gpus: Sequence[str], log: CopyLog) -> Copy:
        try:
            return await self._workshop.starter.start(self._spec, gpus, log)
        except CopyFailed as problem:
            raise CopyFailed(f"could not be started. {problem}") from problem

    async def _serve(self, copy: Copy, log: CopyLog) -> str:
        ended = asyncio.create_task(copy.ended())
        try:
            await self._until_ready(copy, ended, log)
            if self._welcome:
                await self._welcome(copy)
            self.copy = copy
            if not self._was_in_service.done():
                self._was_in_service.set_result(None)
            return await self._until_bad(copy, ended, log)
        finally:
            ended.cancel()

    async def _until_ready(self, copy: Copy, ended: asyncio.Task[str], log: CopyLog) -> None:
        ready = asyncio.create_task(
            self._pings_until(copy, True, self._workshop.pace.num_good_pings, self._workshop.pace.start_ping_every_s)
        )
        try:
            await asyncio.wait([ready, ended], timeout=self._window_s, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not ended.done():
                return
        finally:
            ready.cancel()
        how = f"It {ended.result()}" if ended.done() else f"No lasting 200 within {self._window_s:g} s"
        raise CopyFailed(f"did not pass the ping health check. {how}. {_last_words(log)}")

    async def _until_bad(self, copy: Copy, ended: asyncio.Task[str], log: CopyLog) -> str:
        pace = self._workshop.pace
        self._killed.clear()
        bad = asyncio.create_task(self._pings_until(copy, False, pace.num_bad_pings, pace.ping_every_s))
        killed = asyncio.create_task(self._killed.wait())
        try:
            await asyncio.wait([bad, ended, killed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            bad.cancel()
            killed.cancel()
        if ended.done():
            return f"the container {ended.result()}. {_last_words(log)}"
        if killed.done():
            await copy.stop(0.0)
            return "the container was killed, as --faults asked."
        return f"the container failed {pace.num_bad_pings} pings in a row. {_last_words(log)}"

    async def _pings_until(self, copy: Copy, wanted: bool, in_a_row: int, every_s: float) -> None:
        streak = 0
        while streak < in_a_row:
            problem = await self._workshop.pinger.ping(copy.url)
            streak = streak + 1 if (problem is None) is wanted else 0
            if streak < in_a_row:
                await asyncio.sleep(every_s)


def _last_words(log: CopyLog) -> str:
    line = log.last_line()
    return f'Its last log line: "{line}". All of it: {log.path}' if line else "It printed nothing."
