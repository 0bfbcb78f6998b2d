"""2,000 requests of every fate through 64 connections: what they held must be free again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
from live_server import LiveServer

from headway.server.bench.stub_model import write_stub_model

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

KEY = "soak-key"
NUM_REQUESTS = 2000
NUM_WARMUP = 1000
NUM_CONNECTIONS = 64
# Measured 2026-11 over 12,000 requests behind a warm-up: 2 to 13 MiB (threads' heaps), level from 6,000 on. The engine's 48 MiB are
# one compiled product for each number of rows. 16 KiB a request would show.
MAX_GROWTH_BYTES = 32 * 2**20
MAX_ENGINE_GROWTH_BYTES = 96 * 2**20

Fate = Callable[[aiohttp.ClientSession, int], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("soak")
    write_stub_model(directory)
    # Few rows and tokens a step: each number of rows costs the engine memory once, which is no leak.
    options = "--load-format dummy --max-model-len 512 --kv-cache-memory-bytes 8m --max-num-seqs 16 --max-num-batched-tokens 64"
    with LiveServer(str(directory), *options.split(), "--disable-uvicorn-access-log", env={"VLLM_API_KEY": KEY}) as live:
        yield live.wait_ready()


async def whole(http: aiohttp.ClientSession, number: int) -> None:
    async with http.post("/v1/completions", json={"prompt": f"day {number}", "max_tokens": 2, "n": 1 + number % 2}) as answer:
        assert answer.status == 200
        assert len((await answer.json())["choices"]) == 1 + number % 2


async def streamed(http: aiohttp.ClientSession, number: int) -> None:
    body = {"messages": [{"role": "user", "content": f"night {number}"}], "max_tokens": 4, "stream": True}
    async with http.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")


async def left_in_a_stream(http: aiohttp.ClientSession, number: int) -> None:
    body = {"prompt": f"year {number}", "max_tokens": 400, "stream": True, "ignore_eos": True}
    async with http.post("/v1/completions", json=body) as answer:
        assert answer.status == 200
        await answer.content.readany()
        answer.close()


async def left_while_waiting(http: aiohttp.ClientSession, number: int) -> None:
    body = {"prompt": f"hour {number}", "max_tokens": 400, "ignore_eos": True}
    with pytest.raises(TimeoutError):
        await http.post("/v1/completions", json=body, timeout=aiohttp.ClientTimeout(total=0.05))


async def without_key(http: aiohttp.ClientSession, number: int) -> None:
    async with http.post("/invocations", json={"prompt": "x"}, headers={"Authorization": "Bearer another"}) as answer:
        assert answer.status == 401


async def refused(http: aiohttp.ClientSession, number: int) -> None:
    bodies: list[dict[str, Any]] = [{"prompt": "x", "temperature": 9}, {"prompt": "x", "model": "none"}, {"prompt": "many " * 3000}, {}]
    async with http.post("/v1/completions", json=bodies[number % len(bodies)]) as answer:
        assert answer.status in (400, 404)


# Each as often as it stands here.
FATES: tuple[Fate, ...] = (whole, whole, streamed, streamed, left_in_a_stream, left_while_waiting, without_key, refused)


def soak(server: LiveServer, num_requests: int) -> None:
    """Requests of all fates, each as it must end; then waits until the server has nothing open, and fails if something stays so."""
    numbers = itertools.count()

    async def client(http: aiohttp.ClientSession) -> None:
        while (number := next(numbers)) < num_requests:
            await FATES[number % len(FATES)](http, number)

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=NUM_CONNECTIONS)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(server.url, connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(60)) as http:
            await asyncio.gather(*(client(http) for _ in range(NUM_CONNECTIONS)))

    asyncio.run(main())
    for metric in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        server.wait_for(lambda metric=metric: server.metric(metric) == 0)
    authorized = {"Authorization": f"Bearer {KEY}"}
    server.wait_for(lambda: httpx.get(f"{server.url}/load", headers=authorized).json() == {"server_load": 0})
    api = psutil.Process(server.process.pid)
    server.wait_for(lambda: not [c for c in api.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED])


def held(server: LiveServer) -> dict[str, list[int]]:
    """What the API process and its children hold, in this order."""
    api = psutil.Process(server.process.pid)
    processes = [api, *api.children(recursive=True)]
    return {
        "fds": [process.num_fds() for process in processes],
        "rss": [process.memory_info().rss for process in processes],
    }


def test_nothing_is_held_after_requests_of_every_fate(server: LiveServer) -> None:
    soak(server, NUM_WARMUP)
    before = held(server)
    soak(server, NUM_REQUESTS)
    after = held(server)
    assert sum(after["fds"]) <= sum(before["fds"])
    api, *others = (now - then for now, then in zip(after["rss"], before["rss"], strict=True))
    assert api < MAX_GROWTH_BYTES
    assert max(others) < MAX_ENGINE_GROWTH_BYTES
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert "Traceback" not in server.log()
