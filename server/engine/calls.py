"""Questions to the engine that wait for their answers."""

from __future__ import annotations

import asyncio
from itertools import count

from headway.server.errors import HeadwayError


class Calls:
    """Lives on one event loop. Each call is answered once."""

    def __init__(self) -> None:
        self._ids = count()
        self._open: dict[int, asyncio.Future[None]] = {}

    def begin(self) -> tuple[int, asyncio.Future[None]]:
        """A call's id, and what ends with its answer."""
        call_id = next(self._ids)
        answered = self._open[call_id] = asyncio.get_running_loop().create_future()
        return call_id, answered

    def answer(self, call_id: int, error: HeadwayError | None) -> None:
        answered = self._open.pop(call_id)
        if answered.done():
            return  # whoever asked has gone
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    def fail_all(self, error: HeadwayError) -> None:
        for call_id in list(self._open):
            self.answer(call_id, error)
