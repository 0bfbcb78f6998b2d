"""The first half of a request under the policy `disaggregated`: a prefill server computes its prompt and keeps the KV cache for a decode
server."""

from __future__ import annotations

import logging

import msgspec

from headway.server.router.config import RoutingConfig
from headway.server.router.fleet import Fleet
from headway.server.router.load_report import LOAD_HEADER
from headway.server.router.metrics import RouterMetrics
from headway.server.router.requests import RoutedRequest
from headway.server.router.servers import Server
from headway.server.router.transfer_bodies import decode_body, params_of, prefill_body
from headway.server.router.upstream import Answer, ServerBroke, ServerUnreached, Upstream

log = logging.getLogger(__name__)

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/invocations"})
_FULL = 503
# An answer of one token; with logprobs and the prompt's token ids it may be long.
_MOST_ANSWER_BYTES = 16 * 1024 * 1024
# It answers, and gives no KV cache away: the prompt is shorter than a block, or the request is a bad one, which the decode server will say
# in words that fit what the client sent.
_SAYS_NO = "no_transfer"


class Pairing:
    """Owns nothing: ``fleet`` are the prefill servers. A request never fails here. What no prefill server can do, the decode server
    does itself."""

    def __init__(self, config: RoutingConfig, fleet: Fleet, upstream: Upstream, metrics: RouterMetrics) -> None:
        self._num_tries = 1 + config.retries
        self._fleet = fleet
        self._upstream = upstream
        self._metrics = metrics

    async def body_for_decode(self, request: RoutedRequest) -> bytes:
        """The request's body as a decode server is to get it, after a prefill server has done its part. Raises ServerDraining."""
        asked = prefill_body(request.body) if request.method == "POST" and request.path in _PATHS else None
        if asked is None:
            return request.body
        tried: list[Server] = []
        while len(tried) < self._num_tries and (server := self._fleet.choose(request.key, tried)) is not None:
            tried.append(server)
            with self._fleet.taking(server):
                outcome = await self._prefill(server, request, asked)
            if isinstance(outcome, msgspec.Raw):
                return decode_body(request.body, outcome)
            if outcome == _SAYS_NO:
                return self._unpaired(request, outcome)
            self._metrics.count_retry(server.url, outcome)
        return self._unpaired(request, "failed" if tried else "no_server")

    def _unpaired(self, request: RoutedRequest, reason: str) -> bytes:
        self._metrics.count_unpaired(reason)
        log.info("Request %s goes to a decode server alone: %s", request.request_id, reason)
        return request.body

    async def _prefill(self, server: Server, request: RoutedRequest, body: bytes) -> msgspec.Raw | str:
        """Where the KV cache is; else in a word why not, of which only ``_SAYS_NO`` is the server's last."""
        # Read here, so it must not come compressed.
        headers = [(name, value) for name, value in request.sent_headers if name != "accept-encoding"]
        try:
            async with await self._upstream.ask("POST", server.url, request.target, headers, body) as answer:
                self._fleet.heard(server, answer.header(LOAD_HEADER))
                if answer.status == _FULL:
                    self._fleet.rest(server, answer.header("retry-after"))
                    self._metrics.count_answer(server.url, _FULL)
                    return "503"
                params = params_of(await _whole(answer)) if answer.status == 200 else None
        except ServerUnreached as problem:
            self._fleet.refused(server, str(problem))
            return "unreached"
        except ServerBroke as problem:
            self._fleet.broke(server, str(problem))
            self._metrics.count_answer(server.url, "broken")
            return "broke"
        server.health.answered()
        self._metrics.count_answer(server.url, answer.status)
        return params or _SAYS_NO


async def _whole(answer: Answer) -> bytes:
    pieces, num_bytes = [], 0
    while piece := await answer.next_piece():
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > _MOST_ANSWER_BYTES:
            return b""
    return b"".join(pieces)
