"""A real server asleep: its memory, its answers, and what comes over it meanwhile."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
ARGUMENTS = ("demo", "--dtype", "float32", "--max-model-len", "2048", "--enable-sleep-mode", "--enable-dev-routes")
PROMPT: dict[str, Any] = {"prompt": "The three largest cities of Europe are", "max_tokens": 40, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(*ARGUMENTS) as live:
        yield live.wait_ready()


def post(server: LiveServer, path: str, body: object = None) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


def text(server: LiveServer) -> str:
    answer = post(server, "/v1/completions", PROMPT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def engine_of(server: LiveServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def test_memory_goes_and_the_same_answer_comes_back(server: LiveServer) -> None:
    before = text(server)
    awake = engine_of(server).memory_info().rss
    assert post(server, "/sleep?level=2").json() == {"status": "sleeping", "level": 2}
    asleep = engine_of(server).memory_info().rss
    assert asleep < 0.55 * awake, f"{asleep / 2**20:.0f} of {awake / 2**20:.0f} MiB"
    assert post(server, "/v1/completions", PROMPT).status_code == 503
    assert httpx.get(f"{server.url}/health").json()["status"] == "sleeping"
    assert post(server, "/wake_up").json() == {"status": "awake", "tags": None}
    assert text(server) == before


def test_kept_streams_go_on(server: LiveServer) -> None:
    before = text(server)
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**PROMPT, "stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        seen = [next(lines), next(lines)]
        assert post(server, "/sleep?level=1&mode=keep").status_code == 200
        assert post(server, "/reset_prefix_cache").json() == {"success": True}
        assert post(server, "/wake_up").status_code == 200
        events = [line for line in [*seen, *lines] if line.startswith("data: {")]
    assert "".join(httpx.Response(200, text=event[6:]).json()["choices"][0]["text"] for event in events) == before


def test_a_sleep_that_aborts_says_so_in_the_stream(server: LiveServer) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**PROMPT, "max_tokens": 2000, "stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert post(server, "/pause").status_code == 200
        events = [line for line in lines if line]
    assert "put to sleep, which has aborted this request" in events[-2]
    assert events[-1] == "data: [DONE]"
    assert post(server, "/resume").json() == {"status": "resumed"}


def test_many_callers_at_once(server: LiveServer) -> None:
    """Each is told what happened, and the last word counts."""
    before = text(server)
    rng = random.Random(5)
    paths = [rng.choice(("/sleep", "/sleep?level=1&mode=keep", "/sleep?level=1&mode=wait", "/pause", "/wake_up")) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: post(server, path), paths))
        done = [*pool.map(lambda _: post(server, "/wake_up"), range(4))]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["status"] for answer in done} == {"awake"}
    assert text(server) == before
    assert server.metric("vllm:num_requests_waiting") == 0


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_that_sleeps_at_once(number: signal.Signals) -> None:
    """What is frozen can't finish, so nothing is waited for."""
    with LiveServer(*ARGUMENTS) as server:
        server.wait_ready()
        with httpx.stream("POST", f"{server.url}/v1/completions", json={**PROMPT, "stream": True}, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert post(server, "/sleep?mode=keep").status_code == 200
            since = time.monotonic()
            server.process.send_signal(number)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert "shutting down and has aborted this request" in events[-2]
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - since < 8


def test_an_engine_that_dies_asleep_is_missed() -> None:
    with LiveServer(*ARGUMENTS) as server:
        server.wait_ready()
        assert post(server, "/sleep").status_code == 200
        engine_of(server).kill()
        server.wait_for(lambda: httpx.get(f"{server.url}/ping").json()["status"] == "dead", 60)
        refused = post(server, "/wake_up")
        assert refused.status_code == 503
        assert "SIGKILL" in refused.json()["error"]["message"]
        assert server.process.wait(timeout=60) == 1
