"""Requests through a real router to real servers."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import aiohttp
import openai
import pytest
from aiohttp import web
from routed import (
    CHAT,
    DONE,
    EVENT,
    SmallServer,
    ask,
    event_then_done,
    events_of,
    metric,
    raw_server,
    routed,
    small_server,
    until,
)

from headway.server.api import file_watch
from headway.server.router.policies import least_load


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

    async def main() -> None:
        async with (
            small_server(event_then_done(has_first)) as server,
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


def test_the_load_that_servers_report_decides_and_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_load, "FRESH_S", 600.0)

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
                    for name in "abcdefghijklmnopqrst":  # so many that chance does not lead them all to one server
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

    async def main() -> None:
        path = tmp_path / "servers.yaml"
        async with small_server(event_then_done(may_end)) as a, small_server() as b:
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


def test_the_answer_to_head_has_its_length_and_no_body() -> None:
    async def main() -> None:
        async with small_server(_sized) as server, routed(server.url) as running, aiohttp.ClientSession() as client:
            for _ in range(2):  # the connection is good for another
                async with client.head(f"{running.url}/v1/models") as answer:
                    assert (answer.status, answer.headers["content-length"], await answer.read()) == (200, "5", b"")

    asyncio.run(main())


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_tells_no_length_of_one(status: int) -> None:
    async def main() -> None:
        async with (
            raw_server(b"HTTP/1.1 %d X\r\ncontent-length: 5\r\netag: x\r\n\r\n" % status) as url,
            routed(url) as running,
            aiohttp.ClientSession() as client,
        ):
            for _ in range(2):  # the connection is good for another
                async with client.get(f"{running.url}/x") as answer:
                    assert (answer.status, answer.headers["etag"], "content-length" in answer.headers) == (status, "x", False)

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
