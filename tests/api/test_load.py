"""/load counts what is being answered, and never drifts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import ApiServer
from websockets.sync.client import connect

from headway.server.api.sagemaker.bidirectional import END

COUNTED = {"enable_server_load_tracking": True}
WHOLE: dict[str, Any] = {"prompt": "x"}
STREAM: dict[str, Any] = {"prompt": "x", "stream": True}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
# Good ones and bad ones.
REQUESTS = [
    *[("/v1/completions", body) for body in (WHOLE, STREAM, {"prompt": "x", "n": 3}, {"promt": "x"}, {"prompt": "x" * 999})],
    *[("/invocations", body) for body in (WHOLE, STREAM, CHAT, {"prompt": "x", "model": "unknown"}, {"x": 1})],
    *[("/v1/chat/completions", body) for body in (CHAT, CHAT | {"stream": True}, {"messages": []})],
    ("/tokenize", WHOLE),
]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(observability=COUNTED) as server:
        yield server


def load(server: ApiServer) -> int:
    number: int = server.client.get("/load").json()["server_load"]
    return number


def hold(server: ApiServer) -> None:
    server.on_loop(server.engine.gate.clear)
    server.wait_for(lambda: not server.engine.gate.is_set())


def post_all(server: ApiServer, requests: list[tuple[str, dict[str, Any]]]) -> list[int]:
    """Sends them together; the engine goes on once all are counted, as the caller has checked by then."""

    async def post() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            sending = [asyncio.create_task(client.post(path, **options)) for path, options in requests]
            while (await client.get("/load")).json()["server_load"] != len(requests):  # the test's time-out ends it
                await asyncio.sleep(0.002)
            server.on_loop(server.engine.gate.set)
            return [(await answer).status_code for answer in sending]

    return asyncio.run(post())


def test_every_way_to_ask_counts_as_one(server: ApiServer) -> None:
    hold(server)
    lines = "\n".join([json.dumps(WHOLE)] * 3)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"json": {**WHOLE, "n": 2}}),
        ("/v1/completions", {"json": STREAM}),
        ("/v1/chat/completions", {"json": CHAT}),
        ("/invocations", {"json": WHOLE}),
        ("/invocations", {"content": lines, "headers": {"content-type": "application/jsonlines"}}),
    ]
    assert post_all(server, requests) == [200] * 5
    server.wait_for(lambda: load(server) == 0)


def test_a_message_of_a_websocket_counts_and_an_idle_one_does_not(server: ApiServer) -> None:
    hold(server)
    with connect(f"ws{server.url.removeprefix('http')}/invocations-bidirectional-stream") as socket:
        assert load(server) == 0
        socket.send(json.dumps(STREAM))
        server.wait_for(lambda: load(server) == 1)
        server.on_loop(server.engine.gate.set)
        while socket.recv().encode() != END:
            pass
        server.wait_for(lambda: load(server) == 0)
        hold(server)
        socket.send(json.dumps(STREAM))
        server.wait_for(lambda: load(server) == 1)
    server.wait_for(lambda: load(server) == 0)  # the client has gone


def test_without_the_option_it_is_nought() -> None:
    with ApiServer() as server:
        hold(server)
        with server.client.stream("POST", "/v1/completions", json=STREAM) as answer:
            assert httpx.get(f"{server.url}/load").json() == {"server_load": 0}
            server.on_loop(server.engine.gate.set)
            answer.read()


async def outcome(client: httpx.AsyncClient, draw: random.Random) -> None:
    """One request that ends in one of many ways."""
    path, body = draw.choice(REQUESTS)
    content = draw.choice([json.dumps(body).encode()] * 9 + [b"{", b"[" * 99, b"x" * 5000])
    kind = draw.choice(["application/json"] * 9 + ["application/jsonlines", "text/plain"])
    patience = draw.choice([20.0, 20.0, 0.03, 0.01, 0.002])  # a client in a hurry goes, from a whole answer or a stream
    with contextlib.suppress(httpx.TimeoutException):
        await client.post(path, content=content, headers={"content-type": kind}, timeout=patience)


def test_it_is_nought_after_whatever_came_of_hundreds_of_requests() -> None:
    draw = random.Random(1)
    with ApiServer(observability=COUNTED, overload={"max_request_body_bytes": 4096}) as server:
        server.engine.is_endless = True

        async def storm() -> None:
            limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
            async with httpx.AsyncClient(base_url=server.url, limits=limits) as client:
                for fault in (None, "full", "failing", None, "dead"):
                    server.engine.max_open = 2 if fault == "full" else None
                    server.engine.fail_after = 1 if fault == "failing" else None
                    requests = [asyncio.create_task(outcome(client, draw)) for _ in range(80)]
                    if fault is None:
                        async with client.stream("POST", "/v1/completions", json=STREAM):
                            pass  # and gone
                    if fault == "dead":
                        await requests[draw.randrange(20)]
                        server.on_loop(lambda: server.engine.die("it burned"))
                    await asyncio.gather(*requests)

        asyncio.run(storm())
        server.wait_for(lambda: load(server) == 0)
        assert len(server.engine.requests) > 20, "hardly any request came to the engine"
        assert server.engine.aborted_ids, "no client left early"
