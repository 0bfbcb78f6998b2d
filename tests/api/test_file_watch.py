"""Changes that the system tells of come soon; the rest is looked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headway.server.api import file_watch
from headway.server.api.file_watch import chances_of_change


async def first(chances: AsyncIterator[None]) -> float:
    """Seconds until the next chance."""
    started = time.monotonic()
    await asyncio.wait_for(anext(chances), timeout=20)
    return time.monotonic() - started


def test_a_change_in_the_directory_comes_at_once(tmp_path: Path) -> None:
    async def watch() -> float:
        chances = chances_of_change(tmp_path / "keys")
        waiting = asyncio.ensure_future(first(chances))
        deadline = time.monotonic() + 10
        number = 0
        while not waiting.done() and time.monotonic() < deadline:  # until the watch stands nothing is noticed
            number += 1
            (tmp_path / f"file-{number}").write_text("x")
            await asyncio.sleep(0.05)
        return await waiting

    assert asyncio.run(watch()) < file_watch.LOOK_AGAIN_S


def test_where_nothing_is_told_it_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_AGAIN_S", 0.3)

    async def watch(path: Path) -> None:
        chances = chances_of_change(path)
        for _ in range(2):
            await first(chances)

    asyncio.run(watch(tmp_path / "keys"))  # a link to a file elsewhere, for one, brings no news


def test_a_directory_that_is_not_there_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_AGAIN_S", 0.05)

    async def watch() -> None:
        chances = chances_of_change(tmp_path / "later" / "keys")
        await first(chances)
        (tmp_path / "later").mkdir()
        for _ in range(3):
            await first(chances)

    asyncio.run(watch())
