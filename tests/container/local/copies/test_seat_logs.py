"""Copies that die again and again leave no more logs than somebody reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from headway.container.local.copies.base import Copy, CopySpec, Starter
from headway.container.local.copies.log import CopyLog
from headway.container.local.copies.seat import Seat, Workshop
from headway.container.local.faults import Faults
from headway.container.local.health import Pace, Pinger


class _Good(Pinger):
    async def ping(self, url: str) -> str | None:
        return None


class _Short:
    url = "http://nowhere"

    async def ended(self) -> str:
        await asyncio.sleep(0.02)
        return "exited with status 1"

    async def stop(self, patience_s: float) -> None:
        """It has ended."""


class _Starter:
    num = 0

    async def start(self, spec: CopySpec, gpus: Sequence[str], log: CopyLog) -> Copy:
        self.num += 1
        log.write(b"words\n")
        return cast(Copy, _Short())


def test_the_last_logs_are_kept(tmp_path: Path) -> None:
    async def live() -> None:
        starter: Any = _Starter()
        pace = Pace(start_ping_every_s=0, num_good_pings=1, first_pause_s=0.001, longest_pause_s=0.001)
        workshop = Workshop(cast(Starter, starter), _Good(1, Faults()), pace, tmp_path, lambda line: None)
        seat = Seat("chat/1/AllTraffic/1", "The container", CopySpec(None, {}), workshop)
        async with asyncio.timeout(60):
            while starter.num < 9:
                await asyncio.sleep(0.01)
        await seat.retire(0)
        newest = starter.num
        names = {path.name for path in tmp_path.rglob("*.log")}
        assert names == {f"1.{number}.log" for number in range(newest - 4, newest + 1)}

    asyncio.run(live())
