"""Questions to the engine: each ends with its own answer, or with the engine."""

from __future__ import annotations

import asyncio

import pytest

from headway.server.engine.calls import Calls
from headway.server.engine.messages import AddAdapter, CallDone, RemoveAdapter, ResetPrefixCache, Sleep, ToEngine, WakeUp
from headway.server.errors import AdapterError, EngineDead, SleepConflict, SleepFailed
from headway.server.types import AdapterRef

ADAPTER = AdapterRef(1, "a", "/a")


def test_each_call_gets_its_own_answer() -> None:
    async def main() -> None:
        sent: list[ToEngine] = []
        calls = Calls(sent.append)
        first = asyncio.create_task(calls.add_adapter(ADAPTER, True, False))
        second = asyncio.create_task(calls.remove_adapter(1))
        third = asyncio.create_task(calls.reset_prefix_cache(True))
        fourth = asyncio.create_task(calls.wake_up(["weights"]))
        await asyncio.sleep(0)
        assert sent == [AddAdapter(0, ADAPTER, True, False), RemoveAdapter(1, 1), ResetPrefixCache(2, True), WakeUp(3, ["weights"])]
        calls.answer(CallDone(2, is_complete=False))
        calls.answer(CallDone(1, "no"))
        calls.answer(CallDone(0))
        assert await first is None
        with pytest.raises(AdapterError, match="no"):
            await second
        assert await third is False
        calls.fail_all(EngineDead("it burned"))
        with pytest.raises(EngineDead, match="it burned"):
            await fourth

    asyncio.run(main())


def test_a_refusal_is_told_from_a_failure() -> None:
    async def main() -> None:
        calls = Calls(lambda message: calls.answer(CallDone(message.call_id, "why", has_failed=message.level == 2)))  # type: ignore[union-attr]
        for level, kind in ((1, SleepConflict), (2, SleepFailed)):
            asking = asyncio.create_task(calls.sleep(level, "abort"))
            with pytest.raises(kind, match="why"):
                await asking

    asyncio.run(main())


def test_an_answer_to_nobody_is_dropped() -> None:
    async def main() -> None:
        sent: list[ToEngine] = []
        calls = Calls(sent.append)
        asking = asyncio.create_task(calls.sleep(1, "wait"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert sent == [Sleep(0, 1, "wait")]
        calls.answer(CallDone(0, "too late"))
        calls.fail_all(EngineDead("later still"))

    asyncio.run(main())
