"""Work that stops when its client goes away: the one place where a disconnect becomes a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from headway.server.api.errors import ClientDisconnected

_T = TypeVar("_T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of ``work``. If the client disconnects first, ``work`` is cancelled, and ClientDisconnected raised once it has ended.

    The request's body must have been read to its end: ``receive`` then has only the disconnect left to tell.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected("The client has gone.")
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
