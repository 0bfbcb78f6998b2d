"""Servers whose answers hold nothing: checks of what an answer holds neither pass nor break."""

from __future__ import annotations

from typing import Any, cast

import pytest
from stub_contract import KEY, Stub
from stub_server import StubServer

from headway.container.conformance.events import is_end, text_of
from headway.container.conformance.outcome import Verdict
from headway.container.conformance.registry import chosen
from headway.container.conformance.run import check_url
from headway.container.conformance.shapes import Shape
from headway.container.conformance.subject import Wishes

TOPICS = ["invocations", "streams", "errors", "openai", "metrics", "batch", "adapters", "sessions", "bidirectional", "security"]
# What 200 alone, or any JSON as a whole, is enough for.
CONTENT = {"invocations", "bidirectional.answers", "bidirectional.pong", "streams.only-when-asked", "errors.survived"}
CONTENT |= {"openai.model-empty", "metrics.open", "security.routes"}
ODD = [b"{}", b"[]", b"7", b"null", b'{"choices": {}}', b'{"choices": [7]}', b'{"choices": [{"message": 7, "delta": "x"}]}', b'[{"a": 1}]']


class Odd:
    """An ASGI application that answers 200 to everything, and refuses every WebSocket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            while (await receive()).get("more_body"):
                pass
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self._content)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._content})


@pytest.mark.parametrize("content", ODD, ids=lambda content: content.decode())
def test_odd_json_passes_nothing_that_reads_it(content: bytes) -> None:
    with StubServer(cast(Any, Odd(content))) as server:
        results = check_url(
            chosen(TOPICS, ["streams.disconnect"]), server.url, Wishes("a-key", adapter="/opt/ml/model/sql", timeout_s=5), lambda _: None
        )
    passed = {result.check.id for result in results if result.verdict is Verdict.PASSED}
    assert {check_id for check_id in passed if not {check_id, check_id.partition(".")[0]} & CONTENT} == set()


@pytest.mark.parametrize("piece", [None, 7, [], {}, {"choices": 7}, {"choices": "x"}, {"choices": {"0": 1}}, {"choices": [{"delta": "x"}]}])
def test_a_piece_of_any_form_has_no_text_and_no_end(piece: object) -> None:
    assert text_of(piece) == ""
    assert not is_end(piece)


def test_a_ping_beside_invocations_that_all_fail_shows_nothing() -> None:
    with StubServer(Stub("invocations.answers")) as server:
        wishes = Wishes(KEY, Shape("chat", {"messages": []}))
        [result] = check_url(chosen(["ping.load"], []), server.url, wishes, lambda _: None)
    assert result.verdict is Verdict.SKIPPED, result
