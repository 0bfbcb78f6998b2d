"""Work that would hold up the event loop, and with it /ping, moved to threads where a request brings much of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Tokenising takes about 1 us a token: a body of up to this many bytes costs the event loop less than a thread's hand-over twice.
_MAX_INLINE_BYTES = 4000
# JSON takes up to 70 ns a byte to parse and refuse, the worst for a list of empty lists (2026-11): 1 ms at this size. Many such bodies
# may come in one turn of the event loop.
_MAX_INLINE_JSON_BYTES = 16 * 1024
# The JSON parser holds the interpreter's lock from beginning to end, up to 0.75 s for 16 MiB: with one such thread the event loop
# gets its turn after each body, with several it would wait for all of them.
_parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headway-parser")

_T = TypeVar("_T")


async def off_loop(num_bytes: int, work: Callable[[], _T], *, runs_template: bool = False) -> _T:
    """``work``'s result, out of a thread if the request, a body of ``num_bytes``, brings much to do: in texts, ids, tools or keys.

    ``runs_template``: the request brings a chat template of its own, a program that may take any time however short it is.
    """
    return work() if num_bytes <= _MAX_INLINE_BYTES and not runs_template else await asyncio.to_thread(work)


async def in_parser(num_bytes: int, work: Callable[[], _T]) -> _T:
    """The same for parsing and validating: large bodies one at a time."""
    if num_bytes <= _MAX_INLINE_JSON_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_parser, work)
