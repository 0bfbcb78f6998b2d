"""The decode server's end of the side channel: claims a prompt's blocks, reads them as they are computed, lets go of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from headway.server.engine.kv.transfer.nixl.agent import Agent, Read, TransferFailed
from headway.server.engine.kv.transfer.nixl.keeper import Own
from headway.server.engine.kv.transfer.nixl.pages import runs_of, spans
from headway.server.engine.kv.transfer.nixl.wire import (
    Channel,
    ChannelError,
    Claim,
    Granted,
    Message,
    Next,
    Ready,
    Refused,
    Release,
    Released,
)
from headway.server.engine.kv.transfer.orders import Fetch, Fetched, Report, Settled
from headway.server.types import KVSource
from headway.server.words import plural

log = logging.getLogger(__name__)

# What is waited for at a time stays, with what may stand before and behind it, below 5 s: then a request hears that its KV will not come.
_CLAIM_S = 2.0
_NEXT_S = 2.0  # to hear of more blocks, or that there are none yet
_STALL_S = 1.5  # a layer that does not come
_RELEASE_S = 1.0
_LOOK_S = 0.0005  # between two looks at what is read
_LAYERS_AHEAD = 4
_MAX_READS = 8  # fetches that read at a time, of those that have something to read; more would only share the network


@dataclass(slots=True)
class _Progress:
    """Of one fetch. ``mark``: that the device must have passed before blocks are filled."""

    mark: torch.cuda.Event | None
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

    async def fetch(self, order: Fetch, mark: torch.cuda.Event | None = None) -> None:
        """``mark``: see Pages.mark."""
        progress, error = _Progress(mark), None
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
        host, port = address_of(order.source, self._own.layout.rank)
        return f"The prompt's KV did not come from the prefill server at {host}:{port}: {why}."

    async def _connected(self, order: Fetch) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the rank that has what this one needs. Raises ChannelError where there is none such, OSError."""
        here, there = self._own.layout.num_ranks, order.source.num_ranks
        try:
            return await asyncio.open_connection(*address_of(order.source, self._own.layout.rank))
        except OSError as problem:
            if here == there:
                raise
            raise ChannelError(f"it has {plural(there, 'rank')} and this server {here}: start both alike") from problem

    async def _fetch(self, order: Fetch, progress: _Progress) -> None:
        async with asyncio.timeout(_CLAIM_S):
            reader, writer = await self._connected(order)
            try:
                channel = await Channel.greeted(reader, writer, self._own.secret, is_keeper=False)
                claim = Claim(order.source.token, order.digest, self._own.layout, self._compares and bool(order.block_ids))
                granted = await channel.ask(claim)
                if isinstance(granted, Refused):
                    raise ChannelError(granted.reason)
            except BaseException:
                writer.close()
                raise
        try:
            if order.block_ids:
                await self._read_parts(order, self._checked(granted), channel, progress)
            async with asyncio.timeout(_RELEASE_S):
                released = await channel.ask(Release(order.source.token))
            if not isinstance(released, Released) or not released.was_held:
                raise ChannelError("it gave the blocks to others before they were read")
        finally:
            writer.close()

    async def _read_parts(self, order: Fetch, granted: Granted, channel: Channel, progress: _Progress) -> None:
        """Each as soon as it is computed, until all of ours have come. Of a chunk that is being computed a part is a few layers."""
        known, end = Next(0, 0, 0), order.first_block + len(order.block_ids)
        while known.num_blocks < end:
            async with asyncio.timeout(_NEXT_S):
                ready = self._checked_part(await channel.ask(known), known, granted)
            if ready.block_ids:
                await self._read_part(order, known, ready, granted, progress)
                known = self._after(known, ready)
            if ready.is_whole and known.num_blocks < end:
                raise ChannelError("it grants other blocks than those of the prompt")

    def _after(self, known: Next, ready: Ready) -> Next:
        if ready.end_layer == self._own.pages.num_layers:
            return Next(known.num_blocks + len(ready.block_ids), 0, 0)
        return Next(known.num_blocks, len(ready.block_ids), ready.end_layer)

    async def _read_part(self, order: Fetch, known: Next, ready: Ready, granted: Granted, progress: _Progress) -> None:
        first = max(order.first_block - known.num_blocks, 0)  # those before it are here already
        at = known.num_blocks + first - order.first_block
        ours = order.block_ids[at : at + max(len(ready.block_ids) - first, 0)]
        if not ours:
            return
        theirs = ready.block_ids[first : first + len(ours)]
        while progress.mark is not None and not progress.mark.query():  # type: ignore[no-untyped-call]
            await asyncio.sleep(_LOOK_S)
        async with self._reads:
            started = time.perf_counter()
            await self._read(ours, theirs, range(known.num_layers, ready.end_layer), granted, progress)
            progress.transfer_s += time.perf_counter() - started
        if self._compares:
            sums = self._own.pages.checksums(ours, known.num_layers, ready.end_layer)
            if sums != ready.checksums[first : first + len(ours)]:
                raise ChannelError("what arrived is not what was sent: the checksums differ")

    def _checked(self, granted: Message) -> Granted:
        """Raises ChannelError for what can't be right, as ``_checked_part`` does."""
        if not isinstance(granted, Granted):
            raise ChannelError("it answers a claim with something else")
        if len(granted.addresses) != len(self._own.pages.addresses):
            raise ChannelError("it grants other blocks than those of the prompt")
        return granted

    def _checked_part(self, ready: Message, known: Next, granted: Granted) -> Ready:
        if isinstance(ready, Refused):
            raise ChannelError(ready.reason)
        is_right = (
            isinstance(ready, Ready)
            and all(0 <= block_id < granted.num_blocks for block_id in ready.block_ids)
            and (not ready.block_ids or known.num_layers < ready.end_layer <= self._own.pages.num_layers)
            and (not ready.block_ids or known.num_begun in (0, len(ready.block_ids)))
        )
        if not is_right:
            raise ChannelError("it grants other blocks than those of the prompt")
        assert isinstance(ready, Ready)
        return ready

    async def _read(self, ours: list[int], theirs: list[int], layers: range, granted: Granted, progress: _Progress) -> None:
        own, runs = self._own, runs_of(ours, theirs)
        counts = [count for _, _, count in runs]
        # Loaded once for all fetches; what a stalled one has forgotten the next one asks for anew.
        name = own.agent.know(granted.agent)
        try:
            for layer in layers:
                here, there = own.pages.of_layer(own.pages.addresses, layer), own.pages.of_layer(granted.addresses, layer)
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
        except Exception:  # whatever it was: what has begun must end, or its blocks would never be free
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


def address_of(source: KVSource, rank: int) -> tuple[str, int]:
    """Where that rank of the other server is heard."""
    return source.hosts[rank] if rank < len(source.hosts) else source.host, source.port + rank
