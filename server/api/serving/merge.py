"""Several engine streams as one, each turn with all that has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from headway.server.engine.client import DeltaStream
from headway.server.types import TokenDelta

Arrivals = list[tuple[int, list[TokenDelta]]]


def merged(streams: Sequence[DeltaStream]) -> AsyncGenerator[Arrivals, None]:
    """(index of the stream, its deltas in order) for all that is there, whenever something is. Ends when all streams have.

    Closing it early leaves the streams open.
    """
    return _lone(streams[0]) if len(streams) == 1 else _merged_by_tasks(streams)


async def _lone(stream: DeltaStream) -> AsyncGenerator[Arrivals, None]:
    """By far the most frequent case: no task of its own."""
    async for first in stream:
        deltas = [first]
        while (more := stream.take_nowait()) is not None:
            deltas.append(more)
        yield [(0, deltas)]


async def _merged_by_tasks(streams: Sequence[DeltaStream]) -> AsyncGenerator[Arrivals, None]:
    waiting: dict[int, list[TokenDelta]] = {}
    arrived = asyncio.Event()

    async def pump(index: int, stream: DeltaStream) -> None:
        async for delta in stream:
            waiting.setdefault(index, []).append(delta)
            arrived.set()

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    for task in pumps:
        task.add_done_callback(lambda _: arrived.set())
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            all_done = all(task.done() for task in pumps)
            if waiting:
                arrivals = list(waiting.items())
                waiting.clear()
                yield arrivals
            if all_done:
                for task in pumps:
                    task.result()
                return
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.wait(pumps)
