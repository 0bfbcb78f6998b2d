from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from headway.server.garbage import collect_spared, spare_long_lived


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


class Ring:
    """Only the collector ends it."""

    def __init__(self, ended: list[str], name: str) -> None:
        self.itself = self
        self._ended, self._name = ended, name

    def __del__(self) -> None:
        self._ended.append(self._name)


def test_garbage_of_before_and_after_is_collected() -> None:
    ended: list[str] = []
    Ring(ended, "before")
    spare_long_lived()
    assert ended == ["before"]
    Ring(ended, "after")
    gc.collect()
    assert ended == ["before", "after"]
    assert gc.isenabled()


def test_what_was_spared_can_be_given_up_after_all() -> None:
    ended: list[str] = []
    model = Ring(ended, "model")
    kept = [[0]]
    spare_long_lived()
    del model
    gc.collect()
    assert ended == []
    collect_spared()
    assert ended == ["model"]
    assert id(kept) not in {id(thing) for thing in gc.get_objects()}


def test_nothing_is_spared_unasked() -> None:
    collect_spared()
    assert gc.get_freeze_count() == 0
