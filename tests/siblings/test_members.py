"""Processes that are started again when they end, until that would be of no use."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from headway.server.counts import LEADER, Count, Counts
from headway.server.siblings import restarts
from headway.server.siblings.members import Members


def test_one_that_ends_is_replaced_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(restarts, "_FIRST_DELAY_S", 0.0)
    counts = Counts.create(tmp_path, 2)
    started: list[BaseProcess] = []

    def launch(index: int) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
        process.start()
        started.append(process)
        return process

    ended: list[int] = []
    started_again: list[int] = []

    def on_restart(index: int) -> None:
        started_again.append(index)
        started[-1].kill()

    async def main() -> str | None:
        members = Members("Test process", tmp_path, counts, launch)
        members.begin()
        members.keep(ended.append, on_restart)
        started[0].kill()
        await asyncio.wait_for(members.given_up.wait(), 60)
        await members.stop()
        return members.reason

    reason = asyncio.run(main())
    assert reason is not None
    assert reason.startswith("Test process 1 was killed (SIGKILL)")
    assert reason.endswith("3 were started again within 10 minutes, and no more are")
    assert (ended, started_again, len(started)) == ([1] * 4, [1] * 3, 4)
    assert caplog.text.count("another one is started in 0 s") == 3


def test_one_that_ends_in_a_drain_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    counts = Counts.create(tmp_path, 2)
    counts.set(Count.IS_DRAINING, 1)
    assert counts.of(LEADER, Count.IS_DRAINING)
    started: list[BaseProcess] = []

    def launch(index: int) -> BaseProcess:
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,), daemon=True)
        process.start()
        started.append(process)
        return process

    async def main() -> None:
        has_ended = asyncio.Event()
        members = Members("Test process", tmp_path, counts, launch)
        members.begin()
        members.keep(lambda _: has_ended.set(), lambda _: None)
        await asyncio.wait_for(has_ended.wait(), 60)
        await members.stop()
        assert members.reason is None

    asyncio.run(main())
    assert len(started) == 1
