"""Questions to the engine that wait for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count

from headway.server.engine.messages import AddAdapter, CallDone, PinAdapter, RemoveAdapter, ResetPrefixCache, Sleep, ToEngine, WakeUp
from headway.server.errors import AdapterError, HeadwayError, SleepConflict, SleepFailed
from headway.server.types import AdapterRef, SleepMode, SleepPart


class Calls:
    """Lives on one event loop. Each call is answered once: by the engine, or by its end."""

    def __init__(self, send: Callable[[ToEngine], None]) -> None:
        self._send = send
        self._ids = count()
        self._open: dict[int, asyncio.Future[CallDone]] = {}

    async def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool) -> None:
        """Raises AdapterError."""
        await self._change_adapters(partial(AddAdapter, adapter=adapter, preload=preload, is_pinned=is_pinned))

    async def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool) -> None:
        """Raises AdapterError."""
        await self._change_adapters(partial(PinAdapter, adapter_id=adapter_id, preload=preload, is_pinned=is_pinned))

    async def remove_adapter(self, adapter_id: int) -> None:
        """Raises AdapterError."""
        await self._change_adapters(partial(RemoveAdapter, adapter_id=adapter_id))

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        return (await self._ask(partial(ResetPrefixCache, preempt_running=preempt_running))).is_complete

    async def sleep(self, level: int, mode: SleepMode) -> None:
        """Raises SleepConflict, SleepFailed."""
        await self._change_sleep(partial(Sleep, level=level, mode=mode))

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        """Raises SleepFailed."""
        await self._change_sleep(partial(WakeUp, parts=parts))

    def answer(self, done: CallDone) -> None:
        """For whoever receives from the engine."""
        answered = self._open.pop(done.call_id)
        if not answered.done():  # else whoever asked has gone
            answered.set_result(done)

    def fail_all(self, error: HeadwayError) -> None:
        for answered in self._open.values():
            if not answered.done():
                answered.set_exception(error)
        self._open.clear()

    async def _change_adapters(self, message: Callable[[int], ToEngine]) -> None:
        done = await self._ask(message)
        if done.refusal is not None:
            raise AdapterError(f"The adapter can't be loaded: {done.refusal}" if done.has_failed else done.refusal)

    async def _change_sleep(self, message: Callable[[int], ToEngine]) -> None:
        done = await self._ask(message)
        if done.refusal is not None:
            raise SleepFailed(done.refusal) if done.has_failed else SleepConflict(done.refusal)

    async def _ask(self, message: Callable[[int], ToEngine]) -> CallDone:
        """Sends the message of a new call's id. Raises what ``fail_all`` was given."""
        call_id = next(self._ids)
        answered: asyncio.Future[CallDone] = asyncio.get_running_loop().create_future()
        self._open[call_id] = answered
        self._send(message(call_id))
        return await answered
