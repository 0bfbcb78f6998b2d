"""Several API processes on one port: real ones, over one engine with a tiny model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live_server import LiveServer
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e

LONG = {"prompt": "Tell me everything:", "max_tokens": 60_000, "stream": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def server(model: str) -> Iterator[LiveServer]:
    options = ("--max-num-queued-reqs", "6", "--api-key", "key-of-all", "--enable-server-load-tracking")
    with LiveServer(model, "-asc", "2", *options) as live:
        yield live.wait_ready()


KEY = {"Authorization": "Bearer key-of-all"}


def follower_pids(server: LiveServer) -> list[int]:
    """In the order in which they were started."""
    return [int(pid) for pid in re.findall(r"API process \d+ is process (\d+)", server.log())]


def ask(server: LiveServer, **more: Any) -> httpx.Response:
    """On a connection of its own, which may reach either process."""
    body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True, **more}
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=KEY, timeout=60)


def answered_by(server: LiveServer) -> Counter[str]:
    """Log role -> answers that were 200."""
    return Counter(re.findall(r" (api\S*) +\S+ - \"POST /v1/completions HTTP/1.1\" 200", server.log()))


@contextmanager
def open_stream(server: LiveServer, **more: Any) -> Iterator[tuple[int, Iterator[str]]]:
    """The process that answers, and the lines behind the first one of its answer."""
    with httpx.stream("POST", f"{server.url}/v1/completions", json=LONG | more, headers=KEY, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        lines = answer.iter_lines()
        next(lines)
        yield holder(server, answer.extensions["network_stream"].get_extra_info("client_addr")[1]), lines


def holder(server: LiveServer, port: int) -> int:
    """The API process that has the other end of the connection from ``port``."""
    for process in [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]:
        if any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp")):
            return process.pid
    raise AssertionError(f"nobody holds the connection from {port}")


def streams_on_both(server: LiveServer, stack: ExitStack, **more: Any) -> list[Iterator[str]]:
    """An open stream of each process."""
    streams: dict[int, Iterator[str]] = {}
    for _ in range(60):
        with ExitStack() as one:
            pid, stream = one.enter_context(open_stream(server, **more))
            if pid not in streams:
                streams[pid] = stream
                stack.push(one.pop_all())
        if len(streams) == 2:
            return list(streams.values())
    raise AssertionError("one process gets all connections")


def loads(server: LiveServer) -> set[int]:
    """What /load says, asked until both processes have surely been."""
    return {httpx.get(f"{server.url}/load", headers=KEY).json()["server_load"] for _ in range(20)}


def test_both_answer_and_metrics_add_up(server: LiveServer) -> None:
    before = server.metric("vllm:generation_tokens_total")
    for _ in range(30):
        assert ask(server).status_code == 200
    assert set(answered_by(server)) == {"api", "api-1"}
    for _ in range(10):  # whichever is asked
        text = httpx.get(f"{server.url}/metrics").text
        assert 'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 30.0' in text
        assert server.metric("vllm:generation_tokens_total") - before == 90
        assert server.metric("vllm:e2e_request_latency_seconds_count") == 30
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        assert len(re.findall(r"^vllm:num_requests_running\{", text, re.MULTILINE)) == 1
    assert server.metric("vllm:iteration_tokens_total_count") <= 90 + 30  # each step once, not once a process
    pids = [server.process.pid, *follower_pids(server)]
    memory = float(re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)[0])
    assert memory == pytest.approx(sum(psutil.Process(pid).memory_info().rss for pid in pids), rel=0.2)


def test_the_key_guards_every_process(server: LiveServer) -> None:
    assert {httpx.get(f"{server.url}/v1/models").status_code for _ in range(20)} == {401}
    assert not any("key-of-all" in word for pid in follower_pids(server) for word in psutil.Process(pid).cmdline())
    assert not any("key-of-all" in value for pid in follower_pids(server) for value in psutil.Process(pid).environ().values())


def test_load_and_the_limit_of_open_requests_hold_over_both(server: LiveServer) -> None:
    with ExitStack() as stack:
        streams_on_both(server, stack)
        server.wait_for(lambda: loads(server) == {2})
        for _ in range(4):
            stack.enter_context(open_stream(server))
        assert {ask(server).status_code for _ in range(12)} == {503}
    server.wait_for(lambda: loads(server) == {0})
    assert ask(server).status_code == 200


def test_the_same_request_id_twice_at_once(server: LiveServer) -> None:
    with ExitStack() as stack:
        for stream in streams_on_both(server, stack, request_id="the-same", max_tokens=300):
            last = [line for line in stream if line][-1]
            assert last == "data: [DONE]"


def test_the_banner_and_a_second_server(server: LiveServer, model: str) -> None:
    assert f"address  {server.url}, shared by 2 API processes" in server.log()
    command = [sys.executable, "-m", "headway.server.cli", "serve", model, "-asc", "2", "--host", "127.0.0.1", "--port", str(server.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use, held by " in second.stderr


def test_a_follower_that_is_killed_is_replaced(model: str) -> None:
    with LiveServer(model, "-asc", "2") as server:
        server.wait_ready()
        (first,) = follower_pids(server)
        for _ in range(20):
            assert ask(server).status_code == 200
        with ExitStack() as stack:
            streams = streams_on_both(server, stack)
            psutil.Process(first).kill()
            assert sorted(_goes_on(stream) for stream in streams) == [False, True]
            server.wait_for(lambda: server.metric("vllm:num_requests_running") == 1)
            server.wait_for(lambda: len(follower_pids(server)) == 2)
        server.wait_for(lambda: server.metric("vllm:num_requests_running") == 0)
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        before = answered_by(server)
        server.wait_for(lambda: ask(server).status_code == 200 and len(answered_by(server) - before) == 2)
        assert "API process 1 was killed (SIGKILL)" in server.log()
        (second,) = {*follower_pids(server)} - {first}
        assert psutil.Process(second).nice() == psutil.Process(server.process.pid).nice()
        text = httpx.get(f"{server.url}/metrics").text  # those of the dead one, too
        answered = re.findall(r'^http_requests_total\{handler="/v1/completions",method="POST",status="2xx"\} (\S+)', text, re.MULTILINE)
        assert sum(map(float, answered)) >= 20, text
        assert server.stop() == 0


def _goes_on(stream: Iterator[str]) -> bool:
    """Reads what has come, up to the break where the other side is gone."""
    try:
        return all(next(stream) is not None for _ in range(2000))
    except httpx.RemoteProtocolError:
        return False


def test_followers_that_die_again_and_again_end_the_server(model: str) -> None:
    with LiveServer(model, "-asc", "2") as server:
        for count in range(1, 5):
            server.wait_for(lambda count=count: len(follower_pids(server)) == count)
            psutil.Process(follower_pids(server)[-1]).kill()
        assert server.process.wait(timeout=60) == 1
        last = server.log().splitlines()[-1]
        assert last.startswith("headway: error: API process 1 was killed (SIGKILL)")
        assert "3 were started again within 10 minutes, and no more are" in last


def test_nobody_outlives_the_leader(model: str) -> None:
    with LiveServer(model, "-asc", "2") as server:
        server.wait_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive


def test_sigterm_lets_the_streams_of_all_finish(model: str) -> None:
    with LiveServer(model, "-asc", "2") as server:
        server.wait_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        with ExitStack() as stack:
            streams = streams_on_both(server, stack, max_tokens=2500, stream_options={"include_usage": True})
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: {httpx.get(f"{server.url}/ping").status_code for _ in range(10)} == {503})
            assert {ask(server).status_code for _ in range(10)} == {503}
            for stream in streams:
                rest = [line for line in stream if line.startswith("data:")]
                assert json.loads(rest[-2].removeprefix("data:"))["usage"]["completion_tokens"] == 2500
        assert server.process.wait(timeout=60) == 0
        assert not psutil.wait_procs(children, timeout=60)[1]


@pytest.mark.alone
def test_the_end_is_in_time_whatever_is_open_or_stuck(model: str) -> None:
    with LiveServer(model, "-asc", "2", "--shutdown-timeout", "1") as server:
        server.wait_ready()
        (follower,) = map(psutil.Process, follower_pids(server))
        with ExitStack() as stack:
            streams_on_both(server, stack)
            follower.suspend()
            since = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - since < 1 + 5 + 3  # the timeout, then engine and processes, and a busy machine
        assert not follower.is_running()


def test_sigterm_while_loading_ends_at_once(model: str) -> None:
    with LiveServer(model, "-asc", "3") as server:
        server.wait_for(lambda: len(follower_pids(server)) == 2)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert not psutil.wait_procs(children, timeout=60)[1]


def test_the_engine_s_death_is_told_by_all(model: str) -> None:
    with LiveServer(model, "-asc", "2") as server:
        server.wait_ready()
        followers = follower_pids(server)
        children = psutil.Process(server.process.pid).children()
        (engine,) = [one for one in children if one.pid not in followers and "spawn_main" in " ".join(one.cmdline())]
        with ExitStack() as stack:
            streams = streams_on_both(server, stack)
            engine.kill()
            for stream in streams:
                assert any("the engine process was killed (SIGKILL)" in line for line in stream)
        told = {httpx.get(f"{server.url}/ping").text for _ in range(10)}
        assert all("SIGKILL" in text for text in told), told
        assert server.process.wait(timeout=60) == 1
        assert server.log().splitlines()[-1].startswith("headway: error: the engine has stopped: the engine process was killed")


def test_requests_spread_over_many_threads_are_all_counted(server: LiveServer) -> None:
    before = server.metric("vllm:generation_tokens_total")

    def some() -> None:
        for _ in range(10):
            while ask(server).status_code != 200:
                pass

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.metric("vllm:generation_tokens_total") - before == 240
    assert loads(server) == {0}
