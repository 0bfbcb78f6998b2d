"""Servers that named actors of a Ray cluster stand for. The cluster is a stand-in: what is asked of Ray is its list of names."""

from __future__ import annotations

import asyncio
import json
import os
from importlib import machinery
from pathlib import Path

import pytest
from routed import until

from headway.server.errors import ConfigError
from headway.server.router.sources import ray_actors
from headway.server.router.sources.ray_actors import RayActors

# A package called ray that reads the names from a file beside it, and is lost with its cluster when that is gone.
RAY = """
import json, pathlib, sys
names = pathlib.Path(__file__).with_name("names.json")

def init(address, namespace, log_to_driver):
    assert (address, namespace) == ("auto", "llm")
    if not names.exists():
        print("a line of Ray's own", file=sys.stderr)
        raise ConnectionError("Could not find any running Ray instance.")

class util:
    @staticmethod
    def list_named_actors():
        return json.loads(names.read_text())
"""


def test_names_that_are_addresses_come_and_go_with_their_actors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "ray"
    package.mkdir()
    (package / "__init__.py").write_text(RAY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[2] / 'src'}")
    monkeypatch.setattr(ray_actors, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(ray_actors, "_AGAIN_AFTER_S", 0.01)
    told: list[list[str]] = []

    def put(*names: str) -> None:
        beside = package / "new"
        beside.write_text(json.dumps(names))
        beside.replace(package / "names.json")

    async def main() -> None:
        task = asyncio.create_task(RayActors("llm").run(told.append))
        await until(lambda: "(ConnectionError: Could not find any running Ray instance.); no server is known yet" in caplog.text)
        put("http://10.0.0.2:8080", "trainer", "http://10.0.0.1:8080/")
        await until(lambda: told == [["http://10.0.0.1:8080", "http://10.0.0.2:8080"]])
        (package / "names.json").unlink()
        await until(lambda: "2 servers of before stay" in caplog.text)
        put("http://10.0.0.2:8080")
        await until(lambda: told[1:] == [["http://10.0.0.2:8080"]])
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())


def test_without_ray_the_start_ends_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinery.PathFinder, "find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match="pip install ray"):
        RayActors("llm")
