"""What came of a step is asked for once, whatever it is."""

from __future__ import annotations

import pytest

from headway.server.engine.handle import StepHandle


def test_the_same_result_each_time() -> None:
    calls: list[int] = []
    handle = StepHandle(lambda: calls.append(0) or len(calls))
    assert [handle.result(), handle.result()] == [1, 1]


def test_a_step_that_broke_halfway_is_not_taken_in_again() -> None:
    """Its tokens may have been counted by some of the options that follow them."""
    calls: list[int] = []

    def finish() -> None:
        calls.append(0)
        raise MemoryError("no room to count tokens")

    handle = StepHandle(finish)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            handle.result()
    assert len(calls) == 1
