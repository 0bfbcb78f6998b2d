"""Processes that a server starts: they end with their parent, and it can say how they ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time

from headway.server.machine import memory_limit, num_oom_kills
from headway.server.words import gib


def ignore_signals() -> None:
    """In a child. They reach the whole group (ctrl-C, systemd, kill -- -PGID), but the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def die_with_parent() -> None:
    """In a child: ends it when its parent is gone, however that went. An orphan would keep the device, or the port."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


async def exited(sentinel: int) -> None:
    """Returns once the child of that sentinel has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sentinel)


def how_it_ended(status: int | None, oom_kills_before: int) -> str:
    """What follows the name of a child in a sentence. ``oom_kills_before``: num_oom_kills() when it was started."""
    if status == -signal.SIGKILL:
        return f"was killed (SIGKILL), {_killer(oom_kills_before)}"
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}; its last log lines say why"


def _killer(oom_kills_before: int) -> str:
    if num_oom_kills() == oom_kills_before:
        return "most often by a kernel short of memory"
    limit = memory_limit()
    return "by the kernel, since " + (
        f"the container's memory limit of {gib(limit.limit_bytes)} was reached" if limit else "the memory was used up"
    )
