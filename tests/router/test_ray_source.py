"""Servers that named actors of a Ray cluster stand for. The cluster is a stand-in: what is asked of Ray is its list of names."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from importlib import machinery
from pathlib import Path
from typing import Any

import psutil
import pytest
from routed import until

from headway.server.errors import ConfigError
from headway.server.router.sources import ray_actors
from headway.server.router.sources.ray_actors import RayActors

# A package called ray that reads the names from a file beside it, is lost with its cluster when that is gone, and is silent while there is
# a file that says so.
RAY = """
import json, pathlib, sys, time
names = pathlib.Path(__file__).with_name("names.json")

def init(address, namespace, log_to_driver):
    assert (address, namespace) == ("auto", "llm")
    if not names.exists():
        print("a line of Ray's own", file=sys.stderr)
        raise ConnectionError("Could not find any running Ray instance.")

class util:
    @staticmethod
    def list_named_actors():
        while names.with_name("silent").exists():
            time.sleep(0.01)
        return json.loads(names.read_text())
"""


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """That package's folder."""
    folder = tmp_path / "ray"
    folder.mkdir()
    (folder / "__init__.py").write_text(RAY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[2] / 'src'}")
    monkeypatch.setattr(ray_actors, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(ray_actors, "_AGAIN_AFTER_S", 0.01)
    return folder


def put(package: Path, *names: str) -> None:
    beside = package / "new"
    beside.write_text(json.dumps(names))
    beside.replace(package / "names.json")


def test_names_that_are_addresses_come_and_go_with_their_actors(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: list[list[str]] = []

    async def main() -> None:
        task = asyncio.create_task(RayActors("llm").run(told.append))
        await until(lambda: "(ConnectionError: Could not find any running Ray instance.); no server is known yet" in caplog.text)
        put(package, "http://10.0.0.2:8080", "trainer", "http://10.0.0.1:8080/")
        await until(lambda: told == [["http://10.0.0.1:8080", "http://10.0.0.2:8080"]])
        (package / "names.json").unlink()
        await until(lambda: "2 servers of before stay" in caplog.text)
        put(package, "http://10.0.0.2:8080")
        await until(lambda: told[1:] == [["http://10.0.0.2:8080"]])
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())


def test_a_cluster_that_is_silent_is_told_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[list[str]] = []
    started: list[int] = []
    make = asyncio.create_subprocess_exec

    async def counted(*command: str, **options: Any) -> Any:
        process = await make(*command, **options)
        started.append(process.pid)
        return process

    async def main() -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
        monkeypatch.setattr(ray_actors, "_ANSWER_WITHIN_S", 3)  # from the first question on: one that is open keeps the limit it began with
        names = [f"http://10.0.0.1:{port}" for port in range(10_000, 14_000)]  # a line of more than 64 KiB, asyncio's own limit
        put(package, *names)
        task = asyncio.create_task(RayActors("llm").run(told.append))
        await until(lambda: told == [names])
        (package / "silent").touch()
        await until(lambda: len(started) > 2)
        (package / "silent").unlink()
        put(package, "http://10.0.0.2:8080")
        await until(lambda: told[1:] == [["http://10.0.0.2:8080"]])
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())
    assert caplog.text.count("Ray has not answered within 3 s") == 1
    assert "head is gone; 4000 servers of before stay" in caplog.text
    assert not any(map(psutil.pid_exists, started))


def test_without_a_process_to_ask_with_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    num_tries = 0

    async def refused(*_: object, **__: object) -> None:
        nonlocal num_tries
        num_tries += 1
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def main() -> None:
        monkeypatch.setattr(ray_actors, "_AGAIN_AFTER_S", 0.01)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
        task = asyncio.create_task(RayActors("llm").run(print))
        await until(lambda: num_tries > 1)
        task.cancel()

    asyncio.run(main())
    assert caplog.text.count("no process can be started to ask Ray (Resource temporarily unavailable); no server is known yet") == 1


def test_without_ray_the_start_ends_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinery.PathFinder, "find_spec", lambda *_: None)
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # another test's
    with pytest.raises(ConfigError, match="pip install ray"):
        RayActors("llm")
