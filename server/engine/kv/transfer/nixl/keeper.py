"""The prefill server's end of the side channel: tells readers which blocks are theirs, and hears when they have them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from headway.server.engine.kv.transfer.layout import BlockLayout
from headway.server.engine.kv.transfer.nixl.agent import Agent
from headway.server.engine.kv.transfer.nixl.offers import Known, Offers
from headway.server.engine.kv.transfer.nixl.pages import Pages
from headway.server.engine.kv.transfer.nixl.wire import (
    Channel,
    ChannelError,
    Claim,
    Granted,
    Next,
    Ready,
    Refused,
    Release,
    Released,
    mismatch,
)
from headway.server.engine.kv.transfer.orders import Claimed, Report, Sent

log = logging.getLogger(__name__)

_CLAIM_S = 5.0  # until a reader must have said what it wants
_OFFER_S = 1.0  # a reader may be faster than the engine's word to this rank
_NEWS_S = 0.5  # a reader that waits for more hears as often that this server lives
_LAYER_S = 0.002  # between two looks at how many layers of a step are done
_MAX_READERS = 1024


@dataclass(frozen=True, slots=True)
class Own:
    """What a rank has, on either side. ``secret``: of the key file, or nothing."""

    pages: Pages
    agent: Agent
    layout: BlockLayout
    secret: bytes


class Keeper:
    """Serves connections in the side channel's thread. ``report`` is called for each offer that ends here."""

    def __init__(self, own: Own, offers: Offers, report: Callable[[Report], None], keep_s: float) -> None:
        self._own = own
        self._offers = offers
        self._report = report
        self._keep_s = keep_s
        self._num_readers = 0
        self._news = asyncio.Event()

    def tell_readers(self) -> None:
        """An offer has more blocks, or has ended. In the side channel's thread."""
        self._news.set()
        self._news = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._num_readers >= _MAX_READERS:
            writer.close()
            return
        self._num_readers += 1
        try:
            await self._talk(reader, writer)
        except (ChannelError, TimeoutError, OSError) as problem:
            log.warning("A connection to the KV side channel ended: %s", str(problem) or "it said nothing in time")
        except asyncio.CancelledError:
            log.debug("The rank ends while a reader is connected")  # Python 3.11's streams would tell of it with a traceback
        finally:
            self._num_readers -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_CLAIM_S):
            channel = await Channel.greeted(reader, writer, self._own.secret, is_keeper=True)
            claim = await channel.receive()
        if not isinstance(claim, Claim):
            raise ChannelError("it begins with something else than a claim")
        answer = await self._answer(claim)
        if isinstance(answer, Refused):
            channel.send(answer)
            await writer.drain()
            return
        is_over = False
        try:
            channel.send(answer)
            await self._tell_parts(channel, claim)
            is_over = True
            was_held = self._end(claim.token, is_lost=False)
            channel.send(Released(was_held))
            await writer.drain()
        finally:
            if not is_over:
                self._end(claim.token, is_lost=True)

    async def _tell_parts(self, channel: Channel, claim: Claim) -> None:
        """Until the reader lets go of them. Raises ChannelError, TimeoutError."""
        while True:
            async with asyncio.timeout(self._keep_s):
                message = await channel.receive()
            if isinstance(message, Release) and message.token == claim.token:
                return
            if not isinstance(message, Next) or min(message.num_blocks, message.num_begun, message.num_layers) < 0:
                raise ChannelError("it holds something and says something else than that it wants more, or lets go of it")
            channel.send(await self._part(claim, Known(message.num_blocks, message.num_begun, message.num_layers)))

    async def _part(self, claim: Claim, known: Known) -> Ready | Refused:
        """What is new, as soon as something is; after a while, that nothing is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _NEWS_S
        while (part := self._offers.part(claim.token, known)) is not None and not part.is_news and (left := until - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LAYER_S) if part.is_computing else left):
                    await self._news.wait()
        if part is None:
            return Refused("the prefill server does not compute it to its end, or keeps it no longer")
        sums = self._own.pages.checksums(part.block_ids, known.num_layers, part.end_layer) if claim.wants_checksums else []
        return Ready(part.block_ids, part.is_whole, part.end_layer, sums)

    async def _answer(self, claim: Claim) -> Granted | Refused:
        if (difference := mismatch(self._own.layout, claim.layout)) is not None:
            return Refused(difference)
        await self._wait_for_offer(claim.token)
        why_not = self._offers.claim(claim.token, claim.digest)
        if why_not is not None:
            return Refused(why_not)
        self._report(Claimed(claim.token))
        return self._granted()

    async def _wait_for_offer(self, token: str) -> None:
        """Of rank 0 each offer is here before anybody hears of it."""
        until = asyncio.get_running_loop().time() + _OFFER_S
        while self._own.layout.rank > 0 and not self._offers.has(token) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.005)

    def _granted(self) -> Granted:
        pages = self._own.pages
        return Granted(pages.num_blocks, self._own.agent.metadata, pages.addresses, pages.memory, pages.device)

    def _end(self, token: str, *, is_lost: bool) -> bool:
        was_held = self._offers.release(token)
        if was_held:
            self._report(Sent(token, is_lost))
        return was_held
