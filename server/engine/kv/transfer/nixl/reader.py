"""The decode server's end of the side channel: claims a prompt's blocks, reads them layer by layer, lets go of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from headway.server.engine.kv.transfer.nixl.agent import Agent, Read, TransferFailed
from headway.server.engine.kv.transfer.nixl.keeper import Own
from headway.server.engine.kv.transfer.nixl.pages import layers_of, runs_of, spans
from headway.server.engine.kv.transfer.nixl.wire import Channel, ChannelError, Claim, Granted, Refused, Release, Released
from headway.server.engine.kv.transfer.orders import Fetch, Fetched, Report, Settled

log = logging.getLogger(__name__)

# Together they stay below 5 s, in which a request hears that its KV will not come.
_CLAIM_S = 2.0
_STALL_S = 1.5  # a layer that does not come
_RELEASE_S = 1.0
_LOOK_S = 0.0005  # between two looks at what is read
_LAYERS_AHEAD = 4
_MAX_READS = 8  # fetches that read at a time; more would only share the network


@dataclass(slots=True)
class _Progress:
    """Of one fetch."""

    num_bytes: int = 0
    num_descriptors: int = 0
    post_s: float = 0.0
    transfer_s: float = 0.0
    open: deque[Read] = field(default_factory=deque)


class Reader:
    """In the side channel's thread. ``report`` hears how each fetch ended, and when nothing of it goes on any more."""

    def __init__(self, own: Own, report: Callable[[Report], None], *, compares: bool) -> None:
        """``compares``: checksums."""
        self._own = own
        self._report = report
        self._compares = compares
        self._reads = asyncio.Semaphore(_MAX_READS)

    async def fetch(self, order: Fetch) -> None:
        progress, error = _Progress(), None
        try:
            await self._fetch(order, progress)
        except (ChannelError, TransferFailed, TimeoutError, OSError) as problem:
            error = self._sentence(order, str(problem) or "it did not answer in time")
            log.warning("%s", error)
        except Exception as problem:  # the edge of the thread: whoever waits must hear of a bug, too
            error = self._sentence(order, f"{type(problem).__name__}: {problem}")
            log.exception("%s", error)
        is_settled = not progress.open
        fetched = Fetched(
            order.fetch_id,
            error,
            is_settled,
            progress.num_bytes,
            progress.num_descriptors,
            progress.post_s,
            progress.transfer_s,
        )
        self._report(fetched)
        if not is_settled:
            await self._settle(progress)
            self._report(Settled(order.fetch_id))

    def _sentence(self, order: Fetch, why: str) -> str:
        return f"The prompt's KV did not come from the prefill server at {order.source.host}:{self._port(order)}: {why}."

    def _port(self, order: Fetch) -> int:
        return order.source.port + self._own.layout.rank

    async def _fetch(self, order: Fetch, progress: _Progress) -> None:
        async with asyncio.timeout(_CLAIM_S):
            reader, writer = await asyncio.open_connection(order.source.host, self._port(order))
            try:
                channel = await Channel.greeted(reader, writer, self._own.secret, is_keeper=False)
                claim = Claim(order.source.token, order.digest, self._own.layout, self._compares and bool(order.block_ids))
                granted = await channel.ask(claim)
            except BaseException:
                writer.close()
                raise
        try:
            await self._read_granted(order, granted, progress)
            async with asyncio.timeout(_RELEASE_S):
                released = await channel.ask(Release(order.source.token))
            if not isinstance(released, Released) or not released.was_held:
                raise ChannelError("it gave the blocks to others before they were read")
        finally:
            writer.close()

    async def _read_granted(self, order: Fetch, granted: object, progress: _Progress) -> None:
        if isinstance(granted, Refused):
            raise ChannelError(granted.reason)
        theirs = self._checked(order, granted)
        if not order.block_ids:
            return
        assert isinstance(granted, Granted)
        async with self._reads:
            started = time.perf_counter()
            await self._read(order.block_ids, theirs, granted, progress)
            progress.transfer_s = time.perf_counter() - started
        expected = granted.checksums[order.first_block :]
        if self._compares and self._own.pages.checksums(order.block_ids) != expected[: len(theirs)]:
            raise ChannelError("what arrived is not what was sent: the checksums differ")

    def _checked(self, order: Fetch, granted: object) -> list[int]:
        """Their blocks for ours. Raises ChannelError for what can't be right."""
        if not isinstance(granted, Granted):
            raise ChannelError("it answers a claim with something else")
        theirs = granted.block_ids[order.first_block : order.first_block + len(order.block_ids)]
        is_right = (
            len(theirs) == len(order.block_ids)
            and all(0 <= block_id < granted.num_blocks for block_id in theirs)
            and len(granted.addresses) == len(self._own.pages.addresses)
        )
        if not is_right:
            raise ChannelError("it grants other blocks than those of the prompt")
        return theirs

    async def _read(self, ours: list[int], theirs: list[int], granted: Granted, progress: _Progress) -> None:
        own, runs = self._own, runs_of(ours, theirs)
        counts = [count for _, _, count in runs]
        # Loaded once for all fetches; what a stalled one has forgotten the next one asks for anew.
        name = own.agent.know(granted.agent)
        try:
            for here, there in zip(layers_of(own.pages.addresses), layers_of(granted.addresses), strict=True):
                to = spans(here, [our for our, _, _ in runs], counts, own.pages.block_bytes, own.pages.device)
                source = spans(there, [their for _, their, _ in runs], counts, own.pages.block_bytes, granted.device)
                started = time.perf_counter()
                progress.open.append(own.agent.begin_read(name, to, source, granted.memory))
                progress.post_s += time.perf_counter() - started
                progress.num_descriptors += len(to)
                progress.num_bytes += int(to[:, 1].sum())
                if len(progress.open) >= _LAYERS_AHEAD:
                    await self._finish_layer(granted, progress)
            while progress.open:
                await self._finish_layer(granted, progress)
        except TransferFailed:
            own.agent.forget(granted.agent)
            raise

    async def _finish_layer(self, granted: Granted, progress: _Progress) -> None:
        until = time.monotonic() + _STALL_S
        read = progress.open[0]
        while not self._look(read, progress):
            if time.monotonic() > until or not self._own.agent.is_known(granted.agent):
                raise TransferFailed("the connection is cut, or stands still")
            await asyncio.sleep(_LOOK_S)
        progress.open.popleft()

    def _look(self, read: Read, progress: _Progress) -> bool:
        agent: Agent = self._own.agent
        try:
            return agent.look(read)
        except TransferFailed:
            progress.open.remove(read)
            raise

    async def _settle(self, progress: _Progress) -> None:
        """Until nothing writes the blocks any more: the connection is ended, so each read ends too."""
        while progress.open:
            try:
                is_done = self._look(progress.open[0], progress)
            except TransferFailed:
                continue
            if is_done:
                progress.open.popleft()
            else:
                await asyncio.sleep(0.05)
