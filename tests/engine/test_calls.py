"""Questions to the engine: each ends with its own answer, or with the engine."""

from __future__ import annotations

import asyncio

import pytest

from headway.server.engine.calls import Calls
from headway.server.errors import AdapterError, EngineDead


def test_each_call_gets_its_own_answer() -> None:
    async def main() -> None:
        calls = Calls()
        first, second, third = (calls.begin() for _ in range(3))
        calls.answer(second[0], AdapterError("no"))
        calls.answer(first[0], None)
        assert await first[1] is None
        with pytest.raises(AdapterError, match="no"):
            await second[1]
        calls.fail_all(EngineDead("it burned"))
        with pytest.raises(EngineDead, match="it burned"):
            await third[1]

    asyncio.run(main())


def test_an_answer_to_nobody_is_dropped() -> None:
    async def main() -> None:
        calls = Calls()
        call_id, answered = calls.begin()
        answered.cancel()
        calls.answer(call_id, AdapterError("too late"))
        calls.fail_all(EngineDead("later still"))

    asyncio.run(main())
