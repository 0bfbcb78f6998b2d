"""How the router ends, its TLS, and what a server's sudden death does to open requests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from certificates import Authority, TlsFiles
from polling import wait_until
from routed import DONE, EVENT, begun_for_ever, closed_port, event_then_done, raw_exchange, routed, small_server, until

from headway.server.errors import ConfigError
from headway.server.router.config import RouterConfig, UpstreamConfig
from headway.server.router.running import Life
from headway.server.router.sources.base import Listing
from headway.server.router.sources.choice import source_of
from headway.server.router.upstream import Upstream
from headway.server.signals import STOP_SIGNALS

# A server that answers half of its requests with a stream which never ends, and the other half not at all.
STUCK = """
import asyncio, sys
from aiohttp import web

async def answer(request):
    if request.path == "/ping":
        return web.Response()
    body = await request.read()
    if b"stream" in body:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\\n\\n")
    await asyncio.Event().wait()

app = web.Application()
app.router.add_route("*", "/{path:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


async def whole(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"whole")


def test_a_server_killed_under_32_requests() -> None:
    async def main() -> None:
        port = closed_port()
        process = subprocess.Popen([sys.executable, "-c", STUCK, str(port)])
        try:
            async with (
                small_server(whole) as other,
                routed(f"http://127.0.0.1:{port}", wait=False) as running,
                aiohttp.ClientSession() as client,
            ):
                await running.all_healthy()
                url = f"{running.url}/v1/completions"
                bodies = [b'"stream"' if number % 2 else b'"whole"' for number in range(32)]
                asked = [asyncio.create_task(_read(client, url, body)) for body in bodies]
                await until(lambda: running.router.fleet.servers[0].num_open == 32)
                await until(lambda: sum(task.get_name() == "begun" for task in asked) == 16)
                running.router.fleet.update([running.router.fleet.servers[0].url, other.url])
                await running.all_healthy()
                process.kill()
                answers = await asyncio.wait_for(asyncio.gather(*asked), 60)
                for body, answer in zip(bodies, answers, strict=True):
                    if body == b'"whole"':
                        assert answer == b"whole", "nothing was sent yet: another server answers"
                    else:
                        first, error, done, empty = answer.split(b"\n\n")
                        assert (first, done, empty) == (b"data: 1", b"data: [DONE]", b"")
                        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == 502
                await until(lambda: running.router.fleet.num_healthy == 1)
                assert all(server.num_open == 0 for server in running.router.fleet.servers)
        finally:
            process.kill()
            process.wait()

    asyncio.run(main())


async def _read(client: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with client.post(url, data=body) as answer:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("begun")
        return await answer.read()


def test_a_drain_lets_open_requests_end_and_takes_no_new_ones() -> None:
    may_end = asyncio.Event()

    async def main() -> None:
        async with small_server(event_then_done(may_end)) as server, routed(server.url) as running, aiohttp.ClientSession() as client:
            async with client.post(f"{running.url}/v1/completions", json={}) as answer:
                running.stop()
                async with aiohttp.ClientSession() as later:
                    await until(lambda: running.router.app.is_draining)
                    async with later.post(f"{running.url}/v1/completions", json={}) as refused:
                        assert (refused.status, "retry-after" in refused.headers) == (503, True)
                        assert refused.headers["connection"] == "close", "the next one is for another router"
                    async with later.get(f"{running.url}/ping") as ping:
                        assert (ping.status, (await ping.json())["status"]) == (503, "draining")
                may_end.set()
                assert await answer.read() == EVENT + DONE
            assert len(server.requests) == 1

    asyncio.run(main())


def test_what_is_open_at_the_end_of_a_drain_is_told_so_in_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    """By the router, which ends it: the server has done nothing wrong."""

    async def main() -> None:
        async with (
            small_server(begun_for_ever(EVENT, "text/event-stream")) as server,
            routed(server.url, listen={"shutdown_timeout": 0}) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.url}/v1/completions", json={}) as answer,
        ):
            assert await answer.content.readexactly(len(EVENT)) == EVENT
            running.stop()
            error, done, empty = (await answer.read()).split(b"\n\n")
            told = json.loads(error.removeprefix(b"data: "))["error"]
            assert (told["code"], "router is shutting down" in told["message"]) == (503, True)
            assert (done + b"\n\n", empty) == (DONE, b"")
            shown = running.router.metrics.render().decode()
            assert f'headway:router_requests_total{{server="{server.url}",status="cut"}} 1.0' in shown
            assert 'status="broken"' not in shown
            assert "broke off" not in caplog.text

    asyncio.run(main())


def test_a_plain_body_that_is_open_at_the_end_of_a_drain_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with (
            small_server(begun_for_ever(b"half", "application/octet-stream")) as server,
            routed(server.url, listen={"shutdown_timeout": 0}) as running,
            aiohttp.ClientSession() as client,
            client.post(f"{running.url}/v1/completions", json={}) as answer,
        ):
            assert await answer.content.readexactly(4) == b"half"
            running.stop()
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
            assert b'status="cut"} 1.0' in running.router.metrics.render()
            assert "1 request still open and cut off" in caplog.text
            assert "ASGI" not in caplog.text, "uvicorn's word for the same, which says nothing to a reader"

    asyncio.run(main())


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_command_ends_with_0_at_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    port, log = closed_port(), tmp_path / "log"
    argv = [sys.executable, "-m", "headway.server.cli", "router", "--servers", f"http://127.0.0.1:{closed_port()}"]
    with log.open("wb") as file:
        process = subprocess.Popen([*argv, "--host", "127.0.0.1", "--port", str(port)], stderr=file, env=dict(os.environ))

        async def ask() -> None:
            async def answers() -> bool:
                try:
                    return (await raw_exchange(port, b"GET /ping HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 503")
                except OSError:
                    return False

            deadline = time.monotonic() + 60
            while not await answers():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)

        try:
            asyncio.run(ask())
            wait_until(lambda: "it takes no connection" in log.read_text())
            process.send_signal(number)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    text = log.read_text()
    assert "it takes no connection" in text
    assert f"{number.name}: refusing new work" in text
    assert "Traceback" not in text


def test_tls_on_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        ours, theirs = Authority(), Authority()
        files = TlsFiles(tmp_path, ours.identity())
        ca = tmp_path / "ca.pem"
        ca.write_bytes(theirs.pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        theirs.identity().configure_cert(context)
        async with small_server(whole, ssl_context=context) as server:
            async with (
                routed(server.url, upstream={"ca": str(ca)}, tls=files.options) as running,
                aiohttp.ClientSession() as client,
                client.get(f"{running.url}/x", ssl=ours.client()) as answer,
            ):
                assert await answer.read() == b"whole"
            async with routed(server.url, wait=False) as running:
                await until(lambda: "its certificate can't be trusted" in running.router.fleet.servers[0].health.cause)
                assert running.router.fleet.num_healthy == 0

    asyncio.run(main())


def test_a_machine_that_is_gone_is_noticed_under_a_request() -> None:
    """The system asks the other end of a silent connection whether it is still there."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async def main() -> None:
        async with (
            small_server(endless) as server,
            Upstream(UpstreamConfig()) as upstream,
            await upstream.ask("GET", server.url, "/x") as answer,
        ):
            assert answer._response.connection is not None
            transport = answer._response.connection.transport
            assert transport is not None
            connected = transport.get_extra_info("socket")
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000

    asyncio.run(main())


def test_authorities_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="No such file"):
        Upstream(UpstreamConfig(ca=str(path)))
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match="must be a PEM file"):
        Upstream(UpstreamConfig(ca=str(path)))


def test_a_crew_that_cannot_go_on_is_drained_and_ends_with_1(caplog: pytest.LogCaptureFixture) -> None:
    class Spent:
        """See Crew: its last request ends in the drain."""

        num_open = 1
        may_take_work = False
        is_stopped = False

        def begin(self) -> None: ...

        async def ready(self) -> None: ...

        async def failed(self) -> str:
            return "No process is left"

        def change_servers(self, listing: Listing) -> None: ...

        def begin_drain(self) -> None:
            self.num_open = 0

        async def stop(self) -> None:
            self.is_stopped = True

    async def main() -> None:
        config, crew = RouterConfig.model_validate({"routing": {"servers": ["http://a"]}}), Spent()
        assert await asyncio.wait_for(Life(config, source_of(config), crew).serve([]), 60) == 1
        assert crew.is_stopped
        assert "cut off" not in caplog.text

    asyncio.run(main())
    assert "No process is left" in caplog.text
