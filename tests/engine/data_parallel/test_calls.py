"""Calls to all engines: done by all, or undone where only some could, and told with the engine that could not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from headway.server.engine.calls import Calls
from headway.server.engine.data_parallel.calls import JointCalls
from headway.server.engine.messages import AddAdapter, CallDone, PinAdapter, RemoveAdapter, ResetPrefixCache, Sleep, ToEngine, WakeUp
from headway.server.errors import AdapterError, EngineDead, HeadwayError, SleepConflict, SleepFailed
from headway.server.types import AdapterRef, SleepState

ADAPTER = AdapterRef(4, "a", "/a")
Answer = Callable[[Any], CallDone | None]


def done(message: Any) -> CallDone:
    return CallDone(message.call_id)


def refuses(kind: Any, has_failed: bool = False) -> Answer:
    return lambda message: CallDone(message.call_id, "it can't", has_failed) if isinstance(message, kind) else done(message)


class Engine:
    """Answers its calls at once, as ``answer`` says; None: it dies of them."""

    def __init__(self, answer: Answer = done) -> None:
        self._answer = answer
        self.heard: list[ToEngine] = []
        self.sleep_state = SleepState()
        self.calls = Calls(self._receive)

    def _receive(self, message: ToEngine) -> None:
        self.heard.append(message)
        asyncio.get_running_loop().call_soon(self._reply, message)

    def _reply(self, message: ToEngine) -> None:
        if (answer := self._answer(message)) is None:
            self.calls.fail_all(EngineDead("it burned"))
        else:
            self.calls.answer(answer)

    @property
    def kinds(self) -> list[type]:
        return [type(message) for message in self.heard]


def failure_of(call: Callable[[JointCalls], Coroutine[Any, Any, object]], *engines: Engine) -> HeadwayError:
    with pytest.raises(HeadwayError) as caught:
        asyncio.run(call(JointCalls(engines)))
    return caught.value


def test_all_get_them_and_the_answers_are_one() -> None:
    first, second = Engine(), Engine(lambda message: CallDone(message.call_id, is_complete=not isinstance(message, ResetPrefixCache)))

    async def main() -> bool:
        calls = JointCalls([first, second])
        await calls.add_adapter(ADAPTER, True, False)
        await calls.pin_adapter(4, False, True)
        await calls.remove_adapter(4)
        await calls.sleep(1, "abort")
        await calls.wake_up(None)
        return await calls.reset_prefix_cache(False)

    assert asyncio.run(main()) is False
    assert first.kinds == second.kinds == [AddAdapter, PinAdapter, RemoveAdapter, Sleep, WakeUp, ResetPrefixCache]


def test_an_adapter_that_one_can_not_load_is_kept_by_none() -> None:
    first, second, third = Engine(), Engine(refuses(AddAdapter)), Engine()
    error = failure_of(lambda calls: calls.add_adapter(ADAPTER, True, False), first, second, third)
    assert isinstance(error, AdapterError)
    assert str(error) == "Engine 1 could not load the adapter, and no other has kept it: it can't"
    assert first.kinds == third.kinds == [AddAdapter, RemoveAdapter]
    assert second.kinds == [AddAdapter]


def test_what_none_can_do_is_told_as_it_is_by_one() -> None:
    engines = [Engine(refuses(AddAdapter)) for _ in range(2)]
    assert str(failure_of(lambda calls: calls.add_adapter(ADAPTER, True, False), *engines)) == "it can't"
    assert [engine.kinds for engine in engines] == [[AddAdapter]] * 2


def test_a_dead_engine_is_told_as_that() -> None:
    error = failure_of(lambda calls: calls.add_adapter(ADAPTER, True, False), Engine(), Engine(lambda message: None))
    assert str(error) == "The engine has stopped: it burned"


def test_where_one_can_not_sleep_the_others_wake() -> None:
    first, second = Engine(), Engine(refuses(Sleep, has_failed=True))
    error = failure_of(lambda calls: calls.sleep(1, "abort"), first, second)
    assert isinstance(error, SleepFailed)
    assert str(error) == "Engine 1 could not fall asleep, and the others are awake again: it can't"
    assert (first.kinds, second.kinds) == ([Sleep, WakeUp], [Sleep])


def test_what_slept_before_is_not_woken() -> None:
    first, second = Engine(), Engine(refuses(Sleep))
    first.sleep_state = SleepState(0, ("scheduling",))
    assert isinstance(failure_of(lambda calls: calls.sleep(1, "keep"), first, second), SleepConflict)
    assert first.kinds == [Sleep]


def test_the_others_wake_and_unload_where_one_can_not() -> None:
    for call, kind, told in [
        (lambda calls: calls.wake_up(["weights"]), WakeUp, "Engine 0 could not wake, and the others have: it can't"),
        (lambda calls: calls.pin_adapter(4, True, True), PinAdapter, "Engine 0 could not load the adapter, and the others have: it can't"),
        (lambda calls: calls.remove_adapter(4), RemoveAdapter, "Engine 0 could not remove the adapter, and the others have: it can't"),
    ]:
        first, second = Engine(refuses(kind, has_failed=kind is WakeUp)), Engine()
        assert str(failure_of(call, first, second)) == told
        assert second.kinds == [kind]


def test_what_can_not_be_undone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    failure_of(lambda calls: calls.add_adapter(ADAPTER, True, False), Engine(refuses(RemoveAdapter)), Engine(refuses(AddAdapter)))
    assert "After a call that another engine could not do, adapter a could not be removed: it can't" in caplog.text
