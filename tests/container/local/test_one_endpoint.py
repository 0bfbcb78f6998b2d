"""The endpoint of --url loses its calls while its pings fail, and gets them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hostile_container import HostileContainer
from threaded_server import ThreadedServer

from headway.container.local.errors import PlatformError
from headway.container.local.faults import Faults, read_faults
from headway.container.local.one_endpoint import OneEndpoint
from headway.container.local.targets import Wish


async def until(endpoint: OneEndpoint, faults: Faults, condition: Callable[[], bool]) -> None:
    pinging = asyncio.create_task(endpoint.keep_pinging(faults, every_s=0.001))
    try:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)
    finally:
        pinging.cancel()
        await asyncio.wait((pinging,))


def takes_calls(endpoint: OneEndpoint) -> bool:
    try:
        with endpoint.lease("chat", Wish()):
            return True
    except PlatformError as problem:
        return problem.status != 503


def test_bad_pings_end_the_calls_and_a_good_one_brings_them_back(capfd: pytest.CaptureFixture[str]) -> None:
    container = HostileContainer(ping_status=503)
    with ThreadedServer(container) as server:
        endpoint = OneEndpoint("chat", server.url)
        assert takes_calls(endpoint)  # in service at once
        asyncio.run(until(endpoint, Faults(), lambda: not takes_calls(endpoint)))
        container.ping_status = 200
        asyncio.run(until(endpoint, Faults(), lambda: takes_calls(endpoint)))
    told = capfd.readouterr().err
    assert f"{server.url}/ping: status 503; calls get ServiceUnavailable" in told
    assert f"{server.url}/ping is 200 again" in told


def test_slow_pings_are_bad_ones() -> None:
    with ThreadedServer(HostileContainer()) as server:
        endpoint = OneEndpoint("chat", server.url)
        asyncio.run(until(endpoint, read_faults("slow-ping=3s"), lambda: not takes_calls(endpoint)))
        with pytest.raises(PlatformError, match=r"no answer within 2 s \(a fault\)"), endpoint.lease("chat", Wish()):
            pass
