"""Calls that concern all engines: each gets them at the same time, and where only some can do what is asked, none keeps it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol

from headway.server.engine.calls import Calls
from headway.server.errors import AdapterError, EngineDead, HeadwayError, SleepConflict, SleepFailed
from headway.server.types import AdapterRef, SleepMode, SleepPart, SleepState

log = logging.getLogger(__name__)


class Callee(Protocol):
    """An engine that can be called."""

    @property
    def calls(self) -> Calls: ...

    @property
    def sleep_state(self) -> SleepState: ...


class JointCalls:
    """Raises as Calls does; the message names the engine where others had no such trouble."""

    def __init__(self, engines: Sequence[Callee]) -> None:
        self._engines = engines

    async def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool) -> None:
        failures = await _all(engine.calls.add_adapter(adapter, preload, is_pinned) for engine in self._engines)
        if not any(failures):
            return
        await self._undo(
            f"adapter {adapter.name} could not be removed",
            (engine.calls.remove_adapter(adapter.id) for engine, failure in self._with(failures) if failure is None),
        )
        raise _told(failures, "could not load the adapter, and no other has kept it")

    async def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool) -> None:
        failures = await _all(engine.calls.pin_adapter(adapter_id, preload, is_pinned) for engine in self._engines)
        if any(failures):
            raise _told(failures, "could not load the adapter, and the others have")

    async def remove_adapter(self, adapter_id: int) -> None:
        failures = await _all(engine.calls.remove_adapter(adapter_id) for engine in self._engines)
        if any(failures):
            raise _told(failures, "could not remove the adapter, and the others have")

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        return all(await asyncio.gather(*(engine.calls.reset_prefix_cache(preempt_running) for engine in self._engines)))

    async def sleep(self, level: int, mode: SleepMode) -> None:
        were_awake = [engine.sleep_state.level is None for engine in self._engines]
        failures = await _all(engine.calls.sleep(level, mode) for engine in self._engines)
        if not any(failures):
            return
        fallen = [engine for (engine, failure), was in zip(self._with(failures), were_awake, strict=True) if failure is None and was]
        await self._undo("an engine could not be woken", (engine.calls.wake_up(None) for engine in fallen))
        raise _told(failures, "could not fall asleep, and the others are awake again")

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        failures = await _all(engine.calls.wake_up(parts) for engine in self._engines)
        if any(failures):
            raise _told(failures, "could not wake, and the others have")

    def _with(self, failures: Sequence[HeadwayError | None]) -> Iterable[tuple[Callee, HeadwayError | None]]:
        return zip(self._engines, failures, strict=True)

    async def _undo(self, what_failed: str, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
        for failure in await _all(calls):
            if failure is not None and not isinstance(failure, EngineDead):
                log.error("After a call that another engine could not do, %s: %s", what_failed, failure)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> list[HeadwayError | None]:
    """What each call failed of, None for those that were done; they run to their ends, whatever becomes of the others."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, HeadwayError):
            raise result
    return [result if isinstance(result, HeadwayError) else None for result in results]


def _told(failures: Sequence[HeadwayError | None], what: str) -> HeadwayError:
    """The first failure, with what became of the others where they had none."""
    index, first = next((index, failure) for index, failure in enumerate(failures) if failure is not None)
    if all(failures) or not isinstance(first, AdapterError | SleepConflict | SleepFailed):
        return first
    return type(first)(f"Engine {index} {what}: {first}")
