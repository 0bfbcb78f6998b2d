"""The way of one request: read whole, sent to a server, to another one while none has begun to answer, and the answer streamed back."""

from __future__ import annotations

import logging
import re
import time

from starlette.types import Receive, Scope, Send

from headway.server.api.disconnect import while_connected
from headway.server.api.errors import ClientDisconnected
from headway.server.api.stream import EVENTS
from headway.server.errors import RequestError, ServerLost
from headway.server.router.config import RoutingConfig
from headway.server.router.fleet import Fleet
from headway.server.router.headers import to_server
from headway.server.router.load_report import LOAD_HEADER
from headway.server.router.metrics import NO_SERVER, RouterMetrics
from headway.server.router.pairing import Paired, Pairing
from headway.server.router.prefix_key import prefix_key
from headway.server.router.relay import Relay
from headway.server.router.requests import RoutedRequest
from headway.server.router.servers import Server
from headway.server.router.upstream import Answer, ServerBroke, ServerUnreached, Upstream

log = logging.getLogger(__name__)

# What may stand in a request's line. Anything else could be read in two ways.
_GOOD_TARGET = re.compile(rb"/[\x21-\x7e]*")
_FULL = 503
# By which a decode server says, before its answer begins, that the KV cache of another one did not come (vLLM's, and ours).
_FAILED = 500
_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"')
_POLICIES_BY_PREFIX = ("prefix", "disaggregated")


class Proxy:
    """An ASGI application. Raises, before an answer has begun, the HeadwayErrors that a client can be told."""

    def __init__(
        self, config: RoutingConfig, fleet: Fleet, upstream: Upstream, metrics: RouterMetrics, pairing: Pairing | None = None
    ) -> None:
        """``pairing``: what comes before a server is asked, where servers have halves."""
        self._prefix_bytes = config.prefix_bytes if config.policy in _POLICIES_BY_PREFIX else None
        self._pairing = pairing
        self._num_tries = 1 + config.retries
        self._fleet = fleet
        self._upstream = upstream
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._read(scope, await _body(receive))
        try:
            await while_connected(receive, self._serve(request, scope, send))
        except ClientDisconnected:
            log.debug("Request %s: the client left", request.request_id)

    def _read(self, scope: Scope, body: bytes) -> RoutedRequest:
        started = time.perf_counter()
        target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        if not _GOOD_TARGET.fullmatch(target):
            raise RequestError("The request's path must begin with a slash and hold visible ASCII characters only; encode others with %.")
        request_id, client = scope["headway.request_id"], scope["client"]
        sent = to_server(scope["headers"], request_id, client[0] if client else None, scope["scheme"])
        key = prefix_key(body, dict(sent), self._prefix_bytes) if self._prefix_bytes is not None and body else None
        path = scope["path"]
        return RoutedRequest(request_id, scope["method"], path, target.decode(), scope["headers"], sent, body, key, started)

    async def _serve(self, request: RoutedRequest, scope: Scope, send: Send) -> None:
        tried: list[Server] = []
        paired: Paired | None = None
        server = self._next(request, tried)
        try:
            while server is not None:
                with self._fleet.taking(server):
                    if paired is None:
                        paired = Paired(request.body) if self._pairing is None else await self._pairing.pair(request)
                    failure = await self._try(server, request, paired.body, tried, scope, send)
                    if failure == "not_fetched":
                        paired.give_up()
                        self._metrics.count_unpaired(failure)
                        log.info("Request %s is sent to %s again, without another server's KV cache", request.request_id, server.url)
                        failure = await self._try(server, request, request.body, tried, scope, send)
                if failure is None:
                    return
                self._metrics.count_retry(server.url, failure)
                log.info("Request %s goes on to another server: %s (%s)", request.request_id, failure, server.url)
                if failure != "unreached":
                    paired.give_up()
                    paired = None  # the KV cache that it names may have been fetched, and is kept no longer
                server = self._next(request, tried)
        except BaseException:  # a client that leaves, too
            if paired is not None:
                paired.give_up()
            raise
        self._metrics.count_answer(NO_SERVER, _FULL)
        raise self._fleet.none_available()

    def _next(self, request: RoutedRequest, tried: list[Server]) -> Server | None:
        """None if there is none, or there were tries enough."""
        server = self._fleet.choose(request.key, tried) if len(tried) < self._num_tries else None
        if server is not None:
            tried.append(server)
        return server

    async def _try(self, server: Server, request: RoutedRequest, body: bytes, tried: list[Server], scope: Scope, send: Send) -> str | None:
        """None if the client has its answer; else in a word why it must be asked for again: ``not_fetched`` if this server could not use
        the KV cache that ``body`` names, another word if another server must be asked. Raises ServerLost."""
        spent = time.perf_counter() - request.started if self._pairing is None and len(tried) == 1 else None
        try:
            answer = await self._upstream.ask(request.method, server.url, request.target, request.sent_headers, body)
        except ServerUnreached as problem:
            self._fleet.refused(server, str(problem))
            return "unreached"
        except ServerBroke as problem:
            return self._broke(server, request, problem)
        async with answer:
            self._fleet.heard(server, answer.header(LOAD_HEADER))
            if answer.status == _FULL and self._is_worth_another(server, answer, tried):
                return "503"
            try:
                if body is not request.body and await _begins_with_error(answer):
                    return "not_fetched"
            except ServerBroke as problem:
                return self._broke(server, request, problem)
            await Relay(server, answer, request.headers, self._fleet, self._metrics, spent).run(scope, send)
        return None

    def _broke(self, server: Server, request: RoutedRequest, problem: ServerBroke) -> str:
        """Before it answered. Raises ServerLost where another server must not do it again."""
        self._fleet.broke(server, str(problem))
        if request.is_repeatable:
            return "broke"
        self._metrics.count_answer(server.url, "broken")
        log.warning("Request %s: %s: %s", request.request_id, server.url, problem)
        raise ServerLost("The server that got this request broke off before it answered; it may have been carried out.") from problem

    def _is_worth_another(self, server: Server, answer: Answer, tried: list[Server]) -> bool:
        """The server has said 503: it gets peace. Whether there is another one to ask; if not, its own words are the best answer."""
        self._fleet.rest(server, answer.header("retry-after"))
        return len(tried) < self._num_tries and self._fleet.has_another(tried)


async def _begins_with_error(answer: Answer) -> bool:
    """Whatever it is: nothing of an answer has come yet. The status of a stream is out before the KV cache that it waits for is there."""
    if not (answer.header("content-type") or "").startswith(EVENTS.media_type):
        return answer.status == _FAILED
    return (await answer.peek()).startswith(_ERROR_EVENTS)


async def _body(receive: Receive) -> bytes:
    """The whole body, since a second server must get it too. Raises ClientDisconnected, and what limits it."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The client has gone.")
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)
