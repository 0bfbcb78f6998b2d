"""How a child ended, in words; that it ends with its parent is shown by tests/e2e."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal

import pytest

from headway.server.children import exited, how_it_ended
from headway.server.machine import num_oom_kills


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (-signal.SIGKILL, "was killed (SIGKILL), most often by a kernel short of memory"),
        (-signal.SIGSEGV, "was ended by SIGSEGV"),
        (3, "exited with status 3; its last log lines say why"),
    ],
)
def test_how_it_ended(status: int, sentence: str) -> None:
    assert how_it_ended(status, num_oom_kills()) == sentence


def test_the_end_is_noticed_on_the_event_loop() -> None:
    child = multiprocessing.get_context("spawn").Process(target=os._exit, args=(4,))
    child.start()
    asyncio.run(asyncio.wait_for(exited(child.sentinel), 60))
    child.join()
    assert child.exitcode == 4
    child.close()
