"""The first half of a request under the policy `disaggregated`: a prefill server computes its prompt and keeps the KV cache for a decode
server."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

import msgspec

from headway.server.api.stream import EVENTS
from headway.server.errors import ServerDraining
from headway.server.router.config import RoutingConfig
from headway.server.router.fleet import Fleet
from headway.server.router.load_report import LOAD_HEADER
from headway.server.router.metrics import RouterMetrics
from headway.server.router.requests import RoutedRequest
from headway.server.router.servers import Server
from headway.server.router.transfer_bodies import announced_params, decode_body, params_of, prefill_body, refuse_own_params
from headway.server.router.upstream import Answer, ServerBroke, ServerUnreached, Upstream

log = logging.getLogger(__name__)

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/invocations"})
_FULL = 503
# An answer of one token; with logprobs and the prompt's token ids it may be long.
_MOST_ANSWER_BYTES = 16 * 1024 * 1024
_MOST_EVENT_BYTES = 1024 * 1024
# It answers, and gives no KV cache away: the prompt is shorter than a block, or the request is a bad one, which the decode server will say
# in words that fit what the client sent.
_SAYS_NO = "no_transfer"


@dataclass(slots=True)
class Paired:
    """``body``: a request's as a decode server is to get it. ``prefill``: what a prefill server still does for it; None: no more."""

    body: bytes
    prefill: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """Nobody reads what is computed."""
        if self.prefill is not None:
            self.prefill.cancel()


class Pairing:
    """``fleet`` are the prefill servers. A good request never fails here: what no prefill server can do, the decode server does itself.

    A prefill server that can says where the KV cache will be before it computes it: the decode server then reads while it computes.
    """

    def __init__(self, config: RoutingConfig, fleet: Fleet, upstream: Upstream, metrics: RouterMetrics) -> None:
        self._num_tries = 1 + config.retries
        self._fleet = fleet
        self._upstream = upstream
        self._metrics = metrics
        self._under_way: set[asyncio.Task[None]] = set()

    async def pair(self, request: RoutedRequest) -> Paired:
        """Once a prefill server has said where the KV cache is, or will be. Raises RequestError, ServerDraining."""
        refuse_own_params(request.body)
        asked = prefill_body(request.body) if request.method == "POST" and request.path in _PATHS else None
        if asked is None:
            return Paired(request.body)
        tried: list[Server] = []
        while len(tried) < self._num_tries and (server := self._fleet.choose(request.key, tried)) is not None:
            tried.append(server)
            outcome = await self._prefill(server, request, asked)
            if isinstance(outcome, Paired):
                return outcome
            if outcome == _SAYS_NO:
                return self._unpaired(request, outcome)
            self._metrics.count_retry(server.url, outcome)
        return self._unpaired(request, "failed" if tried else "no_server")

    def _unpaired(self, request: RoutedRequest, reason: str) -> Paired:
        self._metrics.count_unpaired(reason)
        log.info("Request %s goes to a decode server alone: %s", request.request_id, reason)
        return Paired(request.body)

    async def _prefill(self, server: Server, request: RoutedRequest, body: bytes) -> Paired | str:
        """Where the KV cache is; else in a word why not, of which only ``_SAYS_NO`` is the server's last."""
        # Read here, so it must not come compressed.
        headers = [(name, value) for name, value in request.sent_headers if name != "accept-encoding"]
        async with AsyncExitStack() as stack:
            stack.enter_context(self._fleet.taking(server))
            try:
                answer = await stack.enter_async_context(await self._upstream.ask("POST", server.url, request.target, headers, body))
                self._fleet.heard(server, answer.header(LOAD_HEADER))
                if answer.status == _FULL:
                    self._fleet.rest(server, answer.header("retry-after"))
                    self._metrics.count_answer(server.url, _FULL)
                    return "503"
                is_stream = (answer.header("content-type") or "").startswith(EVENTS.media_type)
                params = await (_announced(answer) if is_stream else _whole(answer)) if answer.status == 200 else None
            except ServerUnreached as problem:
                self._fleet.refused(server, str(problem))
                return "unreached"
            except ServerBroke as problem:
                self._broke(server, problem)
                return "broke"
            server.health.answered()
            self._metrics.count_answer(server.url, answer.status)
            if params is None:
                return _SAYS_NO
            prefill = self._go_on(server, answer, stack.pop_all()) if is_stream else None
            return Paired(decode_body(request.body, params), prefill)

    def _broke(self, server: Server, problem: ServerBroke) -> None:
        self._fleet.broke(server, str(problem))
        self._metrics.count_answer(server.url, "broken")

    def _go_on(self, server: Server, answer: Answer, until_then: AsyncExitStack) -> asyncio.Task[None]:
        task = asyncio.create_task(self._rest(server, answer, until_then))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _rest(self, server: Server, answer: Answer, until_then: AsyncExitStack) -> None:
        """What is behind the announcement says nothing new. Where it does not come, the decode server has noticed, too."""
        async with until_then:
            try:
                while await answer.next_piece():
                    pass
            except ServerBroke as problem:
                self._fleet.broke(server, str(problem))
            except ServerDraining:
                log.debug("The router stops while %s computes a prompt", server.url)


async def _whole(answer: Answer) -> msgspec.Raw | None:
    pieces, num_bytes = [], 0
    while piece := await answer.next_piece():
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > _MOST_ANSWER_BYTES:
            return None
    return params_of(b"".join(pieces))


async def _announced(answer: Answer) -> msgspec.Raw | None:
    """The first event has it, or none has. What keeps a connection awake comes before it."""
    text = b""
    while len(text) <= _MOST_EVENT_BYTES and (piece := await answer.next_piece()):
        text += piece
        *events, text = text.split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                return announced_params(event)
    return None
