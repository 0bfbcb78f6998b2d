"""Requests through a real router to real servers."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import openai
import pytest
from aiohttp import web
from routed import RoutedServers, SmallServer, closed_port, raw_exchange, routed, small_server, until

from headway.server.api import file_watch

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def events_of(request: web.Request, *, num: int = 3, end: bytes = DONE) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(num):
        await response.write(EVENT)
    await response.write(end)
    return response


async def full(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "full"}}, status=503, headers={"retry-after": "7"})


def breaking_after(num: int, tail: bytes = b"") -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if num or tail:
            await response.prepare(request)
            await response.write(EVENT * num + tail)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handle


async def metric(running: RoutedServers, client: aiohttp.ClientSession, start: str) -> float:
    async with client.get(f"{running.url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if line.startswith(start)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def ask(running: RoutedServers, client: aiohttp.ClientSession, path: str = "/v1/completions") -> tuple[int, bytes]:
    async with client.post(running.url + path, json={"prompt": "a"}) as answer:
        return answer.status, await answer.read()


def test_a_request_goes_through_as_it_is() -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url) as running, aiohttp.ClientSession() as client:
            body = bytes(range(256)) * 8000  # more than one write takes
            headers = {"authorization": "Bearer k", "traceparent": "00-1-2-01", "x-request-id": "mine", "content-type": "a/b"}
            async with client.put(f"{running.url}/a%2Fb/c?x=1&y=%20", data=io.BytesIO(body), headers=headers) as answer:
                assert (answer.status, await answer.read()) == (200, body)
                assert answer.headers["x-path"] == "/a%2Fb/c?x=1&y=%20"
                assert answer.headers.getall("x-request-id") == ["mine"]
            [got] = server.requests
            assert (got.method, {name: got.headers[name] for name in headers}) == ("PUT", headers)
            assert got.headers["x-forwarded-for"] == "127.0.0.1"
            assert got.headers["host"] == server.url.removeprefix("http://")

    asyncio.run(main())


def test_the_first_event_arrives_before_the_last_is_made() -> None:
    has_first = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.wait_for(has_first.wait(), 10)
        await response.write(DONE)
        return response

    async def main() -> None:
        async with (
            small_server(handle) as server,
            routed(server.url) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.url}/v1/chat/completions", json=CHAT) as answer,
        ):
            assert await answer.content.readexactly(len(EVENT)) == EVENT
            has_first.set()
            assert await answer.read() == DONE

    asyncio.run(main())


def test_the_openai_client() -> None:
    async def main() -> None:
        async with (
            small_server(events_of) as server,
            routed(server.url) as running,
            openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="secret-key", max_retries=0) as client,
        ):
            stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "word " * 3
            assert server.requests[0].headers["authorization"] == "Bearer secret-key"

    asyncio.run(main())


@pytest.mark.parametrize("first", ["nobody", "full", "breaks"])
def test_a_request_goes_on_while_nobody_has_begun_to_answer(first: str) -> None:
    async def main() -> None:
        handle = {"nobody": full, "full": full, "breaks": breaking_after(0)}[first]
        async with (
            small_server(handle) as bad,
            small_server() as good,
            routed(bad.url, good.url, routing={"policy": "round-robin"}) as running,
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


def test_a_compressed_answer_stays_compressed() -> None:
    async def zipped(request: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(b"text"), headers={"content-encoding": "gzip"})

    async def main() -> None:
        async with (
            small_server(zipped) as server,
            routed(server.url) as running,
            aiohttp.ClientSession() as client,
            client.get(f"{running.url}/x") as answer,
        ):
            assert (answer.headers["content-encoding"], await answer.read()) == ("gzip", b"text")

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
            await asyncio.wait_for(is_at_work.wait(), 10)
            if has_begun:
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await asyncio.wait_for(was_ended.wait(), 10)
            await until(lambda: running.router.fleet.servers[0].num_open == 0)

    asyncio.run(main())


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
            await asyncio.wait_for(is_stopped.wait(), 20)
            assert written < 2**26, "what the sockets of four ends hold, and no more"
            writer.close()

    asyncio.run(main())


def test_servers_share_the_load_and_one_that_is_ejected_gets_none() -> None:
    async def main() -> None:
        async with small_server() as a, small_server() as b, routed(a.url, b.url) as running, aiohttp.ClientSession() as client:
            for _ in range(6):
                await ask(running, client)
            assert (len(a.requests), len(b.requests)) == (3, 3)
            a.ping_status = 503
            await until(lambda: running.router.fleet.num_healthy == 1)
            for _ in range(4):
                await ask(running, client)
            assert (len(a.requests), len(b.requests)) == (3, 7)
            a.ping_status = 200
            await running.all_healthy()
            for _ in range(2):
                await ask(running, client)
            assert (len(a.requests), len(b.requests)) == (4, 8)
            assert await metric(running, client, "headway:router_ejections_total") == 1

    asyncio.run(main())


def test_the_load_that_servers_report_decides_and_stays_here() -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"endpoint-load-metrics": "TEXT named_metrics.num_requests_waiting=9"})

    async def main() -> None:
        async with small_server(busy) as a, small_server() as b, routed(a.url, b.url) as running, aiohttp.ClientSession() as client:
            for _ in range(8):
                async with client.post(f"{running.url}/v1/completions", json={}) as answer:
                    assert "endpoint-load-metrics" not in answer.headers
            assert (len(a.requests), len(b.requests)) == (1, 7)

    asyncio.run(main())


def test_conversations_stay_at_their_server() -> None:
    async def main() -> None:
        async with small_server() as a, small_server() as b, small_server() as c:
            servers = (a, b, c)
            async with routed(*(s.url for s in servers), routing={"policy": "prefix"}) as running, aiohttp.ClientSession() as client:
                seen: dict[str, set[str]] = {}
                for turn in range(3):
                    for name in ("x", "y", "z", "u", "v", "w"):
                        messages = [{"role": "user", "content": name}, *[{"role": "assistant", "content": "ok"}] * turn]
                        for server in servers:
                            server.requests.clear()
                        async with client.post(f"{running.url}/v1/chat/completions", json={"messages": messages}) as answer:
                            assert answer.status == 200
                        seen.setdefault(name, set()).update(server.url for server in servers if server.requests)
                assert all(len(urls) == 1 for urls in seen.values())
                assert len(Counter(url for urls in seen.values() for url in urls)) > 1

    asyncio.run(main())


def test_the_list_of_servers_changes_while_requests_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_EVERY_S", 0.01)
    may_end = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.wait_for(may_end.wait(), 10)
        await response.write(DONE)
        return response

    async def main() -> None:
        path = tmp_path / "servers.yaml"
        async with small_server(slow) as a, small_server() as b:
            path.write_text(a.url)
            async with (
                routed(routing={"servers_file": str(path)}) as running,
                aiohttp.ClientSession() as client,
                client.post(f"{running.url}/v1/chat/completions", json=CHAT) as answer,
            ):
                path.write_text(json.dumps({"servers": [b.url]}))
                await until(lambda: [server.url for server in running.router.fleet.servers] == [b.url])
                await running.all_healthy()
                assert (await ask(running, client))[0] == 200
                assert (len(a.requests), len(b.requests)) == (1, 1)
                may_end.set()
                assert (await answer.read()).endswith(DONE)

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
                options = {"connect_timeout_s": 0.2, "health_interval_s": 60.0}
                async with (
                    routed(gone.url, good.url, routing={"policy": "round-robin"}, upstream=options) as running,
                    aiohttp.ClientSession() as client,
                ):
                    running.router.fleet.servers[0].url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
                    assert (await ask(running, client))[0] == 200
                    assert running.router.fleet.num_healthy == 1
                    assert "took no connection within 0.2 s" in running.router.fleet.servers[0].health.cause

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

    asyncio.run(main())
    assert "broke off" in caplog.text
    assert "hush-hush" not in caplog.text


def test_the_answer_to_head_has_its_length_and_no_body() -> None:
    async def main() -> None:
        async with small_server(_sized) as server, routed(server.url) as running, aiohttp.ClientSession() as client:
            for _ in range(2):  # the connection is good for another
                async with client.head(f"{running.url}/v1/models") as answer:
                    assert (answer.status, answer.headers["content-length"], await answer.read()) == (200, "5", b"")

    asyncio.run(main())


async def _sized(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"12345")


def test_connections_to_servers_are_kept() -> None:
    async def main() -> None:
        async with small_server() as server, routed(server.url, upstream={"health_interval_s": 60.0}) as running:
            async with aiohttp.ClientSession() as client:
                for _ in range(5):
                    await ask(running, client)
            assert len({_peer(server, number) for number in range(5)}) == 1

    asyncio.run(main())


def _peer(server: SmallServer, number: int) -> object:
    return server.requests[number].headers["x-forwarded-for"], server.requests[number].protocol
