"""SIGINT and SIGTERM, from the runtime's first moment to its last."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator

from headway.server.signals import STOP_SIGNALS, interrupt_at_signals

INTERRUPTED = 130  # as a shell has it


class Stop:
    """What was asked for. The first signal ends what goes on, at first the start itself; each further one hurries the way out."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.num_asked = 0
        self._end = end
        self._hurry: list[Callable[[], object]] = []

    def ask(self) -> None:
        self.num_asked += 1
        if self.num_asked == 1:
            self._end()
            return
        for hurry in self._hurry:
            hurry()

    def by(self, end: Callable[[], object]) -> None:
        """From now on the first signal calls ``end`` instead. If it has come already, the task that is to be ended has been cancelled."""
        self._end = end

    def hurried_by(self, hurry: Callable[[], object]) -> None:
        self._hurry.append(hurry)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """For the block both signals raise KeyboardInterrupt, while no event loop takes them. For the main thread."""
    before = [(number, signal.getsignal(number)) for number in STOP_SIGNALS]
    interrupt_at_signals()
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


async def until_stopped(work: Callable[[Stop], Awaitable[None]]) -> int:
    """The exit status: 0 if ``work`` could end as it wished, and INTERRUPTED if it was cancelled while it started, or was hurried.

    The loop takes the signals until it is closed: what comes on the way out is too late.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    stop = Stop(task.cancel)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.ask)
    try:
        await work(stop)
    except asyncio.CancelledError:
        if not stop.num_asked:
            raise
        return INTERRUPTED
    return 0 if stop.num_asked < 2 else INTERRUPTED
