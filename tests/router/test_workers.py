"""Several processes on one port."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from routed import DONE, EVENT, event_then_done, small_server, until
from router_process import RouterProcess, router_process

from headway.server.errors import ConfigError
from headway.server.router.config import RouterConfig
from headway.server.router.sources.base import Listing
from headway.server.router.workers import Workers
from headway.server.words import plural

FAST = ["--workers", "2", "--health-interval-s", "0.05", "--no-access-log", "--shutdown-timeout", "120"]


def value(text: str, name: str, **labels: str) -> float:
    """Of one sample in an exposition."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
    [found] = [sample.value for sample in samples if sample.labels == labels]
    return float(found)


def num_connections(router: RouterProcess, pid: int) -> int:
    """Of clients with a process."""
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == router.port for one in connections)


@asynccontextmanager
async def connected(router: RouterProcess, pid: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose one connection is with this process, which has no other one."""
    async with asyncio.timeout(60):
        while True:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
                async with client.get(f"{router.url}/ping"):
                    is_there = num_connections(router, pid) == 1
                if is_there:
                    yield client
                    return


async def post_alone(router: RouterProcess, path: str = "/v1/completions") -> int:
    """On a connection of its own, which any process may get."""
    async with aiohttp.ClientSession() as client, client.post(router.url + path, json={"prompt": "a"}) as answer:
        return answer.status


async def scraped(router: RouterProcess) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"{router.url}/metrics") as answer:
        return await answer.text()


async def all_take_requests(router: RouterProcess, url: str) -> None:
    """Each process knows the server, which shows in its own answer only, and has asked it for its health: the gauge is the least of all
    who know it."""
    for pid in router.pids().values():
        async with connected(router, pid) as client:
            text = ""
            while f'headway:router_server_healthy{{server="{url}"}} 1.0' not in text:
                async with client.get(f"{router.url}/metrics") as answer:
                    text = await answer.text()
                await asyncio.sleep(0.01)


def test_what_all_processes_count_is_one_and_they_take_up_one_list(tmp_path: Path) -> None:
    async def main() -> None:
        servers = tmp_path / "servers"
        async with small_server() as a, small_server() as b:
            servers.write_text(a.url)
            async with router_process([*FAST, "--servers-file", str(servers)], tmp_path / "log") as router:
                await all_take_requests(router, a.url)
                assert {await post_alone(router) for _ in range(30)} == {200}
                texts = [await scraped(router) for _ in range(6)]
                assert {value(text, "headway:router_requests_total", server=a.url, status="200") for text in texts} == {30.0}
                assert {value(text, "headway:router_overhead_seconds_count") for text in texts} == {30.0}
                assert {value(text, "headway:router_open_requests", server=a.url) for text in texts} == {0.0}
                servers.write_text(b.url)
                await all_take_requests(router, b.url)
                assert {await post_alone(router) for _ in range(30)} == {200}
                assert (len(a.requests), len(b.requests)) == (30, 30)
                assert a.url not in await scraped(router)
                router.terminate()
                assert await router.ended() == 0
                assert "Traceback" not in router.log

    asyncio.run(main())


async def read(url: str, begun: list[int], number: int) -> bytes | None:
    """A stream, on a connection of its own; None if that is cut."""
    async with aiohttp.ClientSession() as client:
        try:
            async with client.post(f"{url}/v1/completions", json={"prompt": "a"}) as answer:
                first = await answer.content.readexactly(len(EVENT))
                begun.append(number)
                return first + await answer.read()
        except (aiohttp.ClientError, OSError):
            return None


def test_a_process_killed_under_32_streams_ends_its_own_and_a_drain_waits_for_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with (
            small_server(event_then_done(gate)) as server,
            router_process([*FAST, "--servers", server.url], tmp_path / "log") as router,
        ):
            await all_take_requests(router, server.url)
            begun: list[int] = []
            streams = [asyncio.create_task(read(router.url, begun, number)) for number in range(32)]
            await until(lambda: len(begun) == 32)
            killed = router.pids()[1]
            num_lost = num_connections(router, killed)
            assert 0 < num_lost < 32, "the kernel gives each some of them"
            os.kill(killed, signal.SIGKILL)
            await until(lambda: sum(stream.done() for stream in streams) == num_lost)
            await router.says("Router process 1 was killed (SIGKILL)")
            await until(lambda: router.pids()[1] != killed)
            async with connected(router, router.pids()[1]):
                pass
            assert value(await scraped(router), "headway:router_open_requests", server=server.url) == 32 - num_lost
            router.terminate()
            await router.says(f"refusing new work, {plural(32 - num_lost, 'request')} open")
            async with asyncio.timeout(60):
                while await post_alone(router) != 503:
                    await asyncio.sleep(0.01)
            gate.set()
            answers = await asyncio.gather(*streams)
            assert (answers.count(None), answers.count(EVENT + DONE)) == (num_lost, 32 - num_lost)
            assert await router.ended() == 0
            assert not any(map(psutil.pid_exists, router.pids().values()))

    asyncio.run(main())


@pytest.mark.parametrize("topics", [{"upstream": {"ca": "none.pem"}}, {"tls": {"ssl_certfile": "none.pem", "ssl_keyfile": "none.pem"}}])
def test_files_that_no_process_could_use_end_the_start(tmp_path: Path, topics: dict[str, Any]) -> None:
    config = RouterConfig.model_validate({"routing": {"servers": ["http://a"]}, "listen": {"workers": 2}, **topics})
    with pytest.raises(ConfigError, match="No such file"):
        Workers(config, Listing(["http://a"]), [], tmp_path)
    assert not list(tmp_path.iterdir())
