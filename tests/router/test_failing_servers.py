"""What becomes of a request whose server, or whose client, fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import aiohttp
import pytest
import uvloop
from aiohttp import web
from routed import (
    CHAT,
    DONE,
    EVENT,
    ask,
    breaking_after,
    closed_port,
    full,
    metric,
    raw_exchange,
    raw_server,
    routed,
    small_server,
    until,
)


@pytest.mark.parametrize("first", ["nobody", "full", "breaks"])
def test_a_request_goes_on_while_nobody_has_begun_to_answer(first: str) -> None:
    async def main() -> None:
        handle = {"nobody": full, "full": full, "breaks": breaking_after(0)}[first]
        async with (
            small_server(handle) as bad,
            small_server() as good,
            # Its health is not asked for again, or that might find out first that it is gone.
            routed(bad.url, good.url, routing={"policy": "round-robin"}, upstream={"health_interval_s": 600.0}) as running,
            aiohttp.ClientSession() as client,
        ):
            if first == "nobody":  # known as healthy, and gone since
                running.router.fleet.servers[0].url = f"http://127.0.0.1:{closed_port()}"
            assert (await ask(running, client))[0] == 200
            assert len(bad.requests) == (first != "nobody")
            assert await metric(running, client, "headway:router_retries_total") == 1
            assert await metric(running, client, "headway:router_overhead_seconds_count") == 0, "a retry would not be the router's"

    asyncio.run(main())


def test_tries_are_limited_and_a_servers_own_503_is_the_last_word() -> None:
    async def main() -> None:
        async with (
            small_server(full) as a,
            small_server(full) as b,
            small_server(full) as c,
            routed(a.url, b.url, c.url, routing={"retries": 1}) as running,
            aiohttp.ClientSession() as client,
        ):
            async with client.post(f"{running.url}/v1/completions", json={}) as answer:
                assert (answer.status, answer.headers["retry-after"]) == (503, "7")
                assert (await answer.json())["error"]["message"] == "full"
            assert sum(len(server.requests) for server in (a, b, c)) == 2
            assert running.router.fleet.num_healthy == 3, "full is not ill"

    asyncio.run(main())


def test_a_server_that_is_silent_about_its_health_keeps_no_other_from_being_asked(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            is_asked.set()
            await reader.read()  # until the router leaves

    async def main() -> None:
        async with (
            await asyncio.start_server(silent, "127.0.0.1", 0) as hanging,
            small_server() as other,
            routed(
                f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}", other.url, wait=False, upstream={"health_timeout_s": 600.0}
            ) as running,
        ):
            await asyncio.wait_for(is_asked.wait(), 60)
            await until(lambda: running.router.fleet.num_healthy == 1)
            other.ping_status = 503
            await until(lambda: running.router.fleet.num_healthy == 0)

    is_asked = asyncio.Event()
    asyncio.run(main())
    assert "A question" not in caplog.text, "the router's end is no fault of the question that is open"


def test_what_may_have_been_carried_out_is_not_sent_twice() -> None:
    async def main() -> None:
        async with (
            small_server(breaking_after(0)) as a,
            small_server(breaking_after(0)) as b,
            routed(a.url, b.url) as running,
            aiohttp.ClientSession() as client,
        ):
            status, body = await ask(running, client, "/adapters")
            assert status == 502
            assert json.loads(body)["error"]["type"] == "BadGatewayError"
            assert len(a.requests) + len(b.requests) == 1

    asyncio.run(main())


@pytest.mark.parametrize("tail", [b"", b'data: {"half'])
def test_a_stream_that_breaks_ends_with_an_error_event(tail: bytes) -> None:
    async def main() -> None:
        async with (
            small_server(breaking_after(2, tail)) as server,
            small_server() as other,
            routed(server.url, other.url, routing={"policy": "round-robin"}) as running,
            aiohttp.ClientSession() as client,
        ):
            async with client.post(f"{running.url}/v1/chat/completions", json=CHAT) as answer:
                text = await answer.read()
            assert text.startswith(EVENT * 2)
            error, done, empty = text.removeprefix(EVENT * 2).split(b"\n\n")
            assert "broke off" in json.loads(error.removeprefix(b"data: "))["error"]["message"]
            assert (done + b"\n\n", empty) == (DONE, b"")
            assert other.requests == []
            assert await metric(running, client, f'headway:router_requests_total{{server="{server.url}",status="broken"}}') == 1

    asyncio.run(main())


def test_of_a_plain_body_that_breaks_the_connection_is_cut() -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "100"})
        await response.prepare(request)
        await response.write(b'{"a":')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def main() -> None:
        async with (
            small_server(half) as server,
            routed(server.url) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.url}/v1/completions", json={}) as answer,
        ):
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

    asyncio.run(main())


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


def test_a_client_of_http_1_0_is_told_by_a_reset_that_its_answer_broke_off() -> None:
    """It has neither chunks nor a length to see it by."""

    async def main() -> None:
        async with raw_server(CHUNKED) as url, routed(url) as running:
            with pytest.raises(ConnectionResetError):
                await raw_exchange(running.port, b"GET /x HTTP/1.0\r\n\r\n")
        async with raw_server(CHUNKED + b"0\r\n\r\n") as url, routed(url) as running:
            assert (await raw_exchange(running.port, b"GET /x HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nhello")

    asyncio.run(main())
    uvloop.run(main())  # which the command runs on


def test_the_last_answer_of_a_connection_that_breaks_off_has_no_last_chunk() -> None:
    async def main() -> None:
        async with raw_server(CHUNKED) as url, routed(url) as running:
            answer = await raw_exchange(running.port, b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert answer.endswith(b"\r\n\r\n5\r\nhello\r\n")

    asyncio.run(main())


def test_an_answer_that_is_no_http_from_its_middle_on_ends_there() -> None:
    async def main() -> None:
        may_go_on = asyncio.Event()
        async with (
            raw_server(CHUNKED, b"no length\r\n", may_go_on) as url,
            routed(url) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.url}/v1/completions", json={}) as answer,
        ):
            assert await answer.content.readexactly(5) == b"hello"
            may_go_on.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await asyncio.wait_for(answer.read(), 60)
            assert await metric(running, client, f'headway:router_requests_total{{server="{url}",status="broken"}}') == 1

    asyncio.run(main())


@pytest.mark.parametrize("head", [b"garbage", b"HTTP/1.1 999 Odd", b"HTTP/1.1 101 Other", b"HTTP/1.1 200 OK\r\nx-a: b\x01c"])
def test_what_cannot_be_passed_on_is_as_good_as_no_answer(head: bytes) -> None:
    async def main() -> None:
        async with (
            raw_server(head + b"\r\ncontent-length: 0\r\n\r\n") as bad,
            small_server() as good,
            routed(bad, good.url, routing={"policy": "round-robin"}) as running,
            aiohttp.ClientSession() as client,
        ):
            assert (await ask(running, client))[0] == 200
            assert await metric(running, client, f'headway:router_retries_total{{reason="broke",server="{bad}"}}') == 1

    asyncio.run(main())


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_client_that_leaves_ends_the_servers_work(has_begun: bool) -> None:
    is_at_work, was_ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if has_begun:
            await response.prepare(request)
            await response.write(EVENT)
        is_at_work.set()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 10)
        except asyncio.CancelledError:
            was_ended.set()
            raise
        return response

    async def main() -> None:
        async with small_server(handle) as server, routed(server.url) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            await asyncio.wait_for(is_at_work.wait(), 60)
            if has_begun:
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await asyncio.wait_for(was_ended.wait(), 60)
            await until(lambda: running.router.fleet.servers[0].num_open == 0)

    asyncio.run(main())


def test_without_a_healthy_server_the_router_says_so_and_is_none_itself() -> None:
    async def main() -> None:
        async with routed(f"http://127.0.0.1:{closed_port()}", wait=False) as running, aiohttp.ClientSession() as client:
            async with client.post(f"{running.url}/v1/completions", json={}) as answer:
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
                error = (await answer.json())["error"]
                assert error["type"] == "ServiceUnavailableError"
                assert "127.0.0.1" not in error["message"]
            for path in ("/ping", "/health"):
                async with client.get(running.url + path) as answer:
                    assert (answer.status, (await answer.json())["status"]) == (503, "unhealthy")

    asyncio.run(main())


def test_a_server_that_takes_no_connection_is_left_for_another() -> None:
    """Its backlog is full, so that a connection hangs, as with a machine that is gone."""

    async def main() -> None:
        with socket.socket() as hanging, contextlib.ExitStack() as stack:
            hanging.bind(("127.0.0.1", 0))
            hanging.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(hanging.getsockname())
            async with small_server() as good, small_server() as gone:
                options = {"connect_timeout_s": 1.0, "health_interval_s": 60.0}
                async with (
                    routed(gone.url, good.url, routing={"policy": "round-robin"}, upstream=options) as running,
                    aiohttp.ClientSession() as client,
                ):
                    running.router.fleet.servers[0].url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
                    assert (await ask(running, client))[0] == 200
                    assert running.router.fleet.num_healthy == 1
                    assert "took no connection within 1 s" in running.router.fleet.servers[0].health.cause

    asyncio.run(main())
