"""Servers by a name that is resolved again and again."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from routed import until

from headway.server.router.sources import dns
from headway.server.router.sources.dns import DnsName


def answer(*addresses: str) -> list[tuple[Any, ...]]:
    """As getaddrinfo gives it."""
    families = [(one, socket.AF_INET6 if ":" in one else socket.AF_INET) for one in addresses]
    return [(family, socket.SOCK_STREAM, 6, "", (one, 8080)) for one, family in families]


async def run(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> list[list[str]]:
    """What is told while the resolver gives these answers, until all are given."""
    left = list(answers)

    async def resolve(name: str, port: int, **_: Any) -> Any:
        assert (name, port) == ("llm.models.svc", 8080)
        if not left:
            await asyncio.Event().wait()
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(dns, "RESOLVE_EVERY_S", 0)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    told: list[list[str]] = []
    task = asyncio.create_task(DnsName("llm.models.svc", 8080).run(told.append))
    await until(lambda: not left)
    await asyncio.sleep(0)
    task.cancel()
    return told


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([answer("10.0.0.2", "10.0.0.1"), answer("10.0.0.1", "10.0.0.2")], [["10.0.0.1", "10.0.0.2"]]),
        ([answer("10.0.0.1"), answer("10.0.0.3"), []], [["10.0.0.1"], ["10.0.0.3"], []]),
        ([answer("fd00::1", "10.0.0.1")], [["10.0.0.1"]]),
        ([answer("fd00::1")], [["[fd00::1]"]]),
        ([answer("10.0.0.1"), socket.gaierror(-2, "unknown"), socket.gaierror(-3, "try again"), answer("10.0.0.1")], [["10.0.0.1"]]),
    ],
)
def test_changes_are_told_and_trouble_changes_nothing(monkeypatch: pytest.MonkeyPatch, answers: list[Any], told: list[list[str]]) -> None:
    heard = asyncio.run(run(monkeypatch, answers))
    assert heard == [[f"http://{host}:8080" for host in hosts] for hosts in told]


def test_a_trouble_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(run(monkeypatch, [socket.gaierror(-2, "Name or service not known")] * 3))
    assert caplog.text.count("can't be resolved (Name or service not known); no server is known yet") == 1


def test_a_name_of_this_machine() -> None:
    async def main() -> None:
        told: list[list[str]] = []
        task = asyncio.create_task(DnsName("localhost", 8080).run(told.append))
        await until(lambda: told)
        task.cancel()
        assert told == [["http://127.0.0.1:8080"]]

    asyncio.run(main())
