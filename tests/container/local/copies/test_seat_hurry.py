"""On the way out a second signal leaves copies no time, whenever it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from headway.container.local.copies.base import Copy, CopySpec, Starter
from headway.container.local.copies.log import CopyLog
from headway.container.local.copies.seat import Seat, Workshop
from headway.container.local.faults import Faults
from headway.container.local.health import Pace, Pinger


class _Good(Pinger):
    async def ping(self, url: str) -> str | None:
        return None


class _Stubborn:
    """Ends only when its time is over."""

    url = "http://nowhere"

    def __init__(self) -> None:
        self.patience_s: list[float] = []

    async def ended(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError("it never ends")

    async def stop(self, patience_s: float) -> None:
        self.patience_s.append(patience_s)


class _Starter:
    def __init__(self, copy: _Stubborn) -> None:
        self._copy = copy

    async def start(self, spec: CopySpec, gpus: Sequence[str], log: CopyLog) -> Copy:
        return cast(Copy, self._copy)


def patience_of_the_end(directory: Path, *, is_hurried: bool) -> list[float]:
    async def live() -> list[float]:
        copy = _Stubborn()
        pace = Pace(start_ping_every_s=0, num_good_pings=1)
        workshop = Workshop(cast(Starter, _Starter(copy)), _Good(1, Faults()), pace, directory, lambda line: None)
        seat = Seat("chat/1/AllTraffic/1", "The container", CopySpec(None, {}), workshop)
        await asyncio.wait_for(seat.wait_in_service(), 60)
        if is_hurried:
            workshop.hurry()  # in the same turn of the loop as what follows: the life of the seat hears of it once
        await asyncio.wait_for(workshop.close(), 60)
        return copy.patience_s

    return asyncio.run(live())


def test_a_hurry_in_the_turn_in_which_the_end_begins_counts(tmp_path: Path) -> None:
    assert patience_of_the_end(tmp_path, is_hurried=True) == [0.0]


def test_without_one_copies_have_their_time(tmp_path: Path) -> None:
    assert patience_of_the_end(tmp_path, is_hurried=False) == [Pace().stop_patience_s]
