"""What goes on behind a record after its call was answered: one thing at a time, ended with the runtime."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine

from headway.server.errors import HeadwayError
from headway.server.words import cut

MAX_REASON = 1024


class Work:
    """``say`` gets the traceback of a bug: whoever waits for the record sees only that it failed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, steps: Coroutine[None, None, None], on_failure: Callable[[str], None]) -> asyncio.Task[None]:
        """``on_failure`` gets a reason that fits into FailureReason. Cancelled work fails without a word: the runtime ends."""
        task = asyncio.create_task(self._run(steps, on_failure))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, steps: Coroutine[None, None, None], on_failure: Callable[[str], None]) -> None:
        try:
            await steps
        except HeadwayError as problem:
            self._say(str(problem))
            on_failure(cut(str(problem), MAX_REASON))
        except Exception as bug:  # the edge of this task: an endpoint that stays Creating for ever would say nothing
            self._say("".join(traceback.format_exception(bug)))
            on_failure(cut(f"The local runtime failed: {type(bug).__name__}: {bug}", MAX_REASON))
