"""Disconnects, engine trouble, drain, health: what the server does when things go away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from api_server import ApiServer

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
LONG = {"prompt": "x", "max_tokens": 250}


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations"])
@pytest.mark.parametrize("n", [1, 3])
def test_leaving_a_stream_aborts_every_choice(server: ApiServer, path: str, n: int) -> None:
    server.engine.is_endless = True
    server.engine.text = "a"
    with server.client.stream("POST", path, json={**LONG, "stream": True, "n": n}) as answer:
        next(answer.iter_raw())
    server.wait_for(lambda: server.engine.num_open_requests == 0)
    assert len(server.engine.aborted_ids) == n
    assert server.client.get("/load").json() == {"server_load": 0}


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_a_whole_answer_aborts_every_choice(server: ApiServer, n: int) -> None:
    server.engine.gate.clear()
    server.leave("/v1/chat/completions", {**CHAT, "n": n}, lambda: server.engine.num_open_requests == n)
    server.wait_for(lambda: len(server.engine.aborted_ids) == n)
    assert server.engine.num_open_requests == 0


def test_200_clients_that_leave_mid_stream(server: ApiServer) -> None:
    server.engine.is_endless = True

    async def leave(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
            async for _ in answer.aiter_raw():
                return

    async def main() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            await asyncio.gather(*(leave(client) for _ in range(200)))

    asyncio.run(main())
    server.wait_for(lambda: server.engine.num_open_requests == 0)
    assert len(server.engine.requests) == 200


def test_nothing_stays_behind_requests_of_every_fate(server: ApiServer) -> None:
    """Tasks, connections, engine requests, the count of /load."""

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {**LONG, "stream": number % 2 == 0, "n": 1 + number % 3}
        match number % 5:
            case 0 | 1:
                assert (await client.post("/v1/completions", json=body)).status_code == 200
            case 2:
                assert (await client.post("/invocations", json={"prompt": 1})).status_code == 400
            case 3:
                async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
                    async for _ in answer.aiter_raw():
                        break
            case 4:
                asking = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"n": 3}))
                await asyncio.sleep(0)
                asking.cancel()

    async def main() -> None:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            await asyncio.gather(*(one(client, number) for number in range(300)))

    before = server.num_tasks()
    asyncio.run(main())
    server.wait_for(lambda: not server.connections and server.num_tasks() <= before)
    assert server.engine.num_open_requests == 0
    assert server.client.get("/load").json() == {"server_load": 0}


def test_an_engine_that_dies_is_told_in_the_stream_and_to_the_probes(server: ApiServer) -> None:
    server.engine.is_endless = True
    with server.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.on_loop(lambda: server.engine.die("it was killed (SIGKILL)"))
        rest = [line for line in lines if line]
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert error["code"] == 503
    assert "SIGKILL" in error["message"]
    assert rest[-1] == "data: [DONE]"
    for path in ("/ping", "/health"):
        probe = server.client.get(path)
        assert probe.status_code == 503
        assert probe.json()["status"] == "dead"
        assert "SIGKILL" in probe.json()["reason"]
    refused = server.post("/v1/completions", {"prompt": "x"})
    assert refused.status_code == 503
    assert "SIGKILL" in refused.json()["error"]["message"]


def test_an_engine_that_dies_fails_a_whole_answer(server: ApiServer) -> None:
    server.engine.gate.clear()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
            while not server.engine.num_open_requests:
                await asyncio.sleep(0.001)
            server.on_loop(lambda: server.engine.die("out of memory"))
            return await asking

    answer = asyncio.run(ask())
    assert answer.status_code == 503
    assert "out of memory" in answer.json()["error"]["message"]


@pytest.mark.parametrize("n", [1, 2])
def test_one_request_that_breaks_is_a_500_and_the_rest_goes_on(server: ApiServer, n: int) -> None:
    server.engine.fail_after = 2
    answer = server.post("/v1/completions", {"prompt": "x", "n": n})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "something broke"
    streamed = server.post("/v1/completions", {"prompt": "x", "n": n, "stream": True})
    assert streamed.status_code == 200
    assert "something broke" in streamed.text.split("\n\n")[-3]
    server.engine.fail_after = None
    assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
    assert server.engine.num_open_requests == 0


def test_a_full_queue_admits_all_choices_or_none(server: ApiServer) -> None:
    server.engine.max_open = 2
    answer = server.post("/v1/completions", {"prompt": "x", "n": 3, "stream": True})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["type"] == "ServiceUnavailableError"
    assert server.engine.num_open_requests == 0
    assert server.post("/v1/completions", {"prompt": "x", "n": 2}).status_code == 200


def test_before_it_is_ready_everything_says_so() -> None:
    with ApiServer(is_ready=False) as server:
        server.engine.phase = "loading weights"
        for method in ("GET", "POST"):
            probe = server.client.request(method, "/ping")
            assert probe.status_code == 503
            assert probe.json() == {
                "status": "starting", "phase": "loading weights", "reason": "The model is not ready yet: loading weights.",
            }  # fmt: skip
            assert "retry-after" in probe.headers
        for answer in (server.post("/v1/chat/completions", CHAT), server.post("/invocations", CHAT), server.client.get("/v1/models")):
            assert answer.status_code == 503
            assert "loading weights" in answer.json()["error"]["message"]
            assert "retry-after" in answer.headers
        assert server.client.get("/version").status_code == server.client.get("/metrics").status_code == 200
        server.engine.phase = "ready"
        assert server.client.get("/ping").status_code == 503  # the tokenizer is not there yet
        assert server.engine.info is not None
        server.served.set_ready(server.engine.info)
        for method in ("GET", "POST", "HEAD"):
            assert server.client.request(method, "/ping").status_code == 200
        assert server.client.get("/health").json() == {"status": "ok", "phase": "ready", "reason": None}


def test_a_hung_engine_is_not_healthy(server: ApiServer) -> None:
    server.engine.stalled_s = 61.0
    probe = server.client.get("/ping")
    assert probe.status_code == 503
    assert probe.json()["status"] == "hung"
    server.engine.stalled_s = 1.0
    assert server.client.get("/ping").status_code == 200


def test_draining_refuses_what_is_new_and_finishes_what_is_open(server: ApiServer) -> None:
    server.engine.gate.clear()
    with server.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
        server.drain.begin()
        probe = httpx.get(server.url + "/ping")
        assert (probe.status_code, probe.json()["status"]) == (503, "draining")
        refused = httpx.post(server.url + "/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        server.on_loop(server.engine.gate.set)
        assert answer.read().decode().endswith("data: [DONE]\n\n")


def test_draining_sends_clients_elsewhere(server: ApiServer) -> None:
    """Connections that were open before: an idle one is answered and closed, one with a stream is closed behind its end."""
    server.engine.gate.clear()
    with httpx.Client(base_url=server.url) as idle, httpx.Client(base_url=server.url) as streaming:
        assert "connection" not in idle.get("/ping").headers
        with streaming.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            server.wait_for(lambda: len(server.connections) == 2)
            server.drain.begin()
            server.on_loop(server.close_after_answers)
            for path in ("/ping", "/v1/models", "/no-such-route"):
                assert httpx.get(server.url + path).headers["connection"] == "close"
            assert idle.post("/v1/completions", json={"prompt": "x"}).headers["connection"] == "close"
            server.wait_for(lambda: len(server.connections) == 1)
            server.on_loop(server.engine.gate.set)
            assert answer.read().decode().endswith("data: [DONE]\n\n")
        server.wait_for(lambda: not server.connections)


def test_a_silent_stream_beats() -> None:
    with ApiServer(http={"sse_keep_alive_interval": 0.02}) as server:
        server.engine.gate.clear()
        with server.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            lines = answer.iter_lines()
            assert [next(lines), next(lines), next(lines)] == [": keep-alive", "", ": keep-alive"]
            server.on_loop(server.engine.gate.set)
            assert [line for line in lines if line][-1] == "data: [DONE]"
