"""Hears of changes to a file that others replace: by writing it, by a rename, by the swap of a link in its path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

log = logging.getLogger(__name__)

# Where the system tells nothing (network file systems, a link that leads to another directory), a change is seen this late.
LOOK_AGAIN_S = 5.0
# How often watchfiles looks for news of the system, and how long it waits for more of them.
_STEP_MS, _DEBOUNCE_MS = 100, 200


async def chances_of_change(path: Path) -> AsyncIterator[None]:
    """Comes whenever something happened in the directory of ``path``, and every LOOK_AGAIN_S. The caller compares contents.

    It is the directory that is watched: a watch on the file itself is lost with the first rename over it, and Kubernetes changes a
    mounted Secret by swapping the link ..data beside it.
    """
    while True:
        try:
            async for _ in awatch(
                path.parent,
                watch_filter=None,
                recursive=False,
                step=_STEP_MS,
                debounce=_DEBOUNCE_MS,
                rust_timeout=int(LOOK_AGAIN_S * 1000),
                yield_on_timeout=True,
            ):
                yield
        except (OSError, RuntimeError) as problem:  # no such directory at the moment, or no watches left
            log.debug("%s can't be watched: %s", path.parent, problem)
            await asyncio.sleep(LOOK_AGAIN_S)
            yield
