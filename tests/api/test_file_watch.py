"""Files are looked at for as long as the server runs, beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from headway.server.api import file_watch
from headway.server.api.file_watch import keep_looking


def test_it_goes_on_looking_beside_the_loop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(file_watch, "LOOK_EVERY_S", 0.001)
    threads: list[int] = []

    async def watch() -> None:
        enough = asyncio.Event()
        loop = asyncio.get_running_loop()

        def look() -> None:
            threads.append(threading.get_ident())
            if len(threads) == 1:
                raise OSError("a disk that is gone for a moment")
            loop.call_soon_threadsafe(enough.set)

        looking = asyncio.create_task(keep_looking(look))
        await asyncio.wait_for(enough.wait(), 60)
        assert not looking.done()
        looking.cancel()

    asyncio.run(watch())
    assert threading.get_ident() not in threads
    assert "a disk that is gone for a moment" in caplog.text
