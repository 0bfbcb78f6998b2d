"""Clients that would break the router, or its servers through it."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web
from routed import (
    ask,
    breaking_after,
    full,
    raw_exchange,
    raw_server,
    routed,
    small_server,
)


def test_a_client_that_does_not_read_stops_the_server_and_fills_no_memory() -> None:
    written, is_stopped = 0, asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        piece = b"x" * 2**16
        with contextlib.suppress(TimeoutError):
            while written < 2**28:
                await asyncio.wait_for(response.write(piece), 1.0)
                written += len(piece)
        is_stopped.set()
        return response

    async def main() -> None:
        async with small_server(flood) as server, routed(server.url) as running:
            _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**10)
            writer.write(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(is_stopped.wait(), 60)
            assert written < 2**26, "what the sockets of four ends hold, and no more"
            writer.close()

    asyncio.run(main())


def test_bodies_are_limited() -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url, routing={"max_request_body_bytes": 2048}) as running:
            async with aiohttp.ClientSession() as client, client.post(f"{running.url}/v1/completions", data=b"x" * 2049) as answer:
                assert answer.status == 413
                assert "--max-request-body-bytes" in (await answer.json())["error"]["message"]
            chunked = (
                b"POST /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
                + b"400\r\n"
                + b"x" * 1024
                + b"\r\n"
            )
            assert (await raw_exchange(running.port, chunked + chunked.partition(b"\r\n\r\n")[2] * 2 + b"0\r\n\r\n")).startswith(
                b"HTTP/1.1 413"
            )
            assert server.requests == []

    asyncio.run(main())


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\rc: d\r\n\r\n",
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_read_in_none(head: bytes) -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url) as running:
            assert (await raw_exchange(running.port, head)).startswith(b"HTTP/1.1 400")
            assert server.requests == []

    asyncio.run(main())


@pytest.mark.parametrize("target", [b"http://evil.test/x", b"//evil.test/x", b"/x@evil.test", b"/%0d%0aHost:%20evil.test"])
def test_no_request_leads_elsewhere(target: bytes) -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url) as running:
            request = b"GET %s HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n" % target
            assert (await raw_exchange(running.port, request)).startswith(b"HTTP/1.1 200")
            assert len(server.requests) == 1

    asyncio.run(main())


def test_a_websocket_is_refused_with_a_sentence() -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url) as running, aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await client.ws_connect(f"{running.url}/invocations-bidirectional-stream")
            assert caught.value.status == 501
            assert server.requests == []

    asyncio.run(main())


def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level("DEBUG", logger="headway"):
            async with (
                small_server(breaking_after(1)) as a,
                small_server(full) as b,
                routed(a.url, b.url, routing={"policy": "round-robin"}) as running,
                aiohttp.ClientSession() as client,
            ):
                for _ in range(4):
                    async with client.post(
                        running.url, json={"prompt": "hush-hush"}, headers={"authorization": "Bearer hush-hush"}
                    ) as answer:
                        await answer.read()

    async def no_http() -> None:
        head = b"HTTP/1.1 200 OK\r\nset-cookie hush-hush\r\n\r\n"
        with caplog.at_level("DEBUG", logger="headway"):
            async with raw_server(head) as url, routed(url) as running, aiohttp.ClientSession() as client:
                assert (await ask(running, client, "/adapters"))[0] == 502

    asyncio.run(main())
    asyncio.run(no_http())
    assert "broke off" in caplog.text
    assert "hush-hush" not in caplog.text
