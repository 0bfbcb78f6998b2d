from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from headway.server.garbage import spare_long_lived


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_is_not_looked_at_again() -> None:
    kept = [[number] for number in range(100)]
    spare_long_lived()
    looked_at = {id(thing) for thing in gc.get_objects()}
    assert not looked_at & {id(thing) for thing in kept}
    assert gc.get_freeze_count() >= 100


def test_garbage_of_before_and_after_is_collected() -> None:
    class Ring:
        num_ended = 0

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            Ring.num_ended += 1

    Ring()
    spare_long_lived()
    assert Ring.num_ended == 1
    Ring()
    gc.collect()
    assert Ring.num_ended == 2
    assert gc.isenabled()
