"""Adapters on the demo model as a user has them: registered over HTTP, another answer, deleted, the old answer again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo_model import demo_files
from live_server import LiveServer
from tiny_adapters import ALL, EVERYTHING, make_adapter

from headway.server.loading.model_config import read_config

pytestmark = pytest.mark.e2e

QUESTION: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
IDENTIFIER = "X-Amzn-SageMaker-Adapter-Identifier"


def answer(server: LiveServer, path: str = "/invocations", model: str = "", **headers: str) -> str:
    response = httpx.post(f"{server.url}{path}", json={**QUESTION, "model": model}, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


def test_an_adapter_changes_the_answer_and_its_end_brings_the_old_one_back(tmp_path: Path) -> None:
    config = read_config(demo_files())
    for i, name in enumerate(("first", "second", "third")):
        make_adapter(tmp_path / name, config, seed=i, spread=0.05, targets=EVERYTHING if name == "third" else ALL)
    options = [
        "--enable-lora",
        "--max-loras",
        "2",
        "--lora-allowed-prefixes",
        str(tmp_path),
        "--lora-modules",
        f"at-start={tmp_path}/third",
    ]
    with LiveServer("demo", *options) as server:
        server.wait_ready()
        plain = answer(server)
        at_start = answer(server, "/v1/completions", model="at-start")
        registered = httpx.post(f"{server.url}/adapters", json={"name": "a", "src": f"{tmp_path}/first"}, timeout=60)
        assert (registered.status_code, registered.json()) == (200, {"status": "Adapter a registered"})
        adapted = answer(server, **{IDENTIFIER: "a"})
        assert len({plain, at_start, adapted}) == 3
        assert answer(server) == plain
        assert answer(server, "/v1/completions", model="a") == adapted
        # A third one takes the slot of the one that was idle longest, which comes back when it is asked for.
        assert httpx.post(f"{server.url}/adapters", json={"name": "b", "src": f"{tmp_path}/second"}, timeout=60).status_code == 200
        assert answer(server, model="b") not in (plain, at_start, adapted)
        assert answer(server, model="at-start") == at_start
        assert answer(server, model="a") == adapted
        assert httpx.delete(f"{server.url}/adapters/a", timeout=60).json() == {"status": "Adapter a unregistered"}
        assert httpx.post(f"{server.url}/invocations", json=QUESTION, headers={IDENTIFIER: "a"}, timeout=60).status_code == 404
        assert answer(server) == plain
        bad = httpx.post(f"{server.url}/adapters", json={"name": "c", "src": "/etc"}, timeout=60)
        assert bad.status_code == 400
        (tmp_path / "first" / "adapter_model.safetensors").write_bytes(b"no")
        bad = httpx.post(f"{server.url}/adapters", json={"name": "c", "src": f"{tmp_path}/first"}, timeout=60)
        assert (bad.status_code, "damaged" in bad.text) == (400, True)
        registered = httpx.post(f"{server.url}/adapters", json={"name": "c", "src": f"{tmp_path}/first", "preload": False}, timeout=60)
        assert registered.status_code == 200, "its files are read with the first request"
        bad = httpx.post(f"{server.url}/invocations", json=QUESTION, headers={IDENTIFIER: "c"}, timeout=60)
        assert (bad.status_code, "damaged" in bad.text) == (400, True)
        assert answer(server) == plain, "the engine lives on"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=40) == 0


def test_an_adapter_of_the_start_that_is_not_there_ends_it_with_one_line(tmp_path: Path) -> None:
    with LiveServer("demo", "--enable-lora", "--lora-modules", f"a={tmp_path}/none") as server:
        assert server.process.wait(timeout=120) == 2
        last = server.log().strip().splitlines()[-1]
        assert (
            last
            == f"headway: error: --lora-modules a: There is no adapter in '{tmp_path}/none': the directory does not exist or can't be read."
        )
