"""Looks again and again at files that others replace while the server runs: a renewed certificate, a list of keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


async def keep_looking(look: Callable[[], None]) -> None:
    """Never returns. Calls ``look``, which compares contents, in a thread of its own every LOOK_EVERY_S.

    Notifications would come at once, but not from NFS or FUSE, nor on a node where others have used up the inotify instances, nor
    where a link leads to another directory; and reading a few small files takes 0.1 ms. A file system that hangs holds up its thread
    only.
    """
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(look)
        except Exception:  # the edge of a task: whatever is wrong with a file now, the next one may be good
            log.exception("A look at files that may have changed broke")
