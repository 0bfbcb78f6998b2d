"""Servers that named actors of a Ray cluster stand for. The cluster is a stand-in: what is asked of Ray is its list of names."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from routed import until

from headway.server.errors import ConfigError
from headway.server.router.sources import ray_actors
from headway.server.router.sources.ray_actors import RayActors


class Cluster:
    """In the place of the module ``ray``."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_there = True
        self.started: dict[str, Any] | None = None
        self.util = SimpleNamespace(list_named_actors=self._list)

    def is_initialized(self) -> bool:
        return self.started is not None

    def init(self, **options: Any) -> None:
        if not self.is_there:
            raise ConnectionError("Could not find any\nrunning Ray instance.")
        self.started = options

    def shutdown(self) -> None:
        self.started = None

    def _list(self) -> list[str]:
        if not self.is_there:
            raise RuntimeError("lost the cluster")
        return self.names


def test_names_that_are_addresses_come_and_go_with_their_actors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    cluster, told = Cluster(), list[list[str]]()
    monkeypatch.setitem(sys.modules, "ray", cluster)  # type: ignore[arg-type]
    monkeypatch.setattr(ray_actors, "ASK_EVERY_S", 0.005)

    async def main() -> None:
        cluster.is_there = False
        task = asyncio.create_task(RayActors("llm").run(told.append))
        await until(lambda: "Could not find any running Ray instance.; no server is known yet" in caplog.text)
        cluster.names = ["http://10.0.0.2:8080", "trainer", "http://10.0.0.1:8080/"]
        cluster.is_there = True
        await until(lambda: told == [["http://10.0.0.1:8080", "http://10.0.0.2:8080"]])
        assert cluster.started is not None
        assert (cluster.started["address"], cluster.started["namespace"]) == ("auto", "llm")
        cluster.is_there = False
        await until(lambda: "lost the cluster; 2 servers of before stay" in caplog.text)
        cluster.names.pop()
        cluster.is_there = True
        await until(lambda: told[1:] == [["http://10.0.0.2:8080"]])
        task.cancel()

    asyncio.run(main())


def test_without_ray_the_start_ends_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install 'ray"):
        RayActors("llm")
