"""What an operator meets: phases in the log, JSON logs, health, signals in bad moments, process 1."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest
from live_server import LiveServer
from namespaces import IN_NAMESPACE, needs_namespaces

from headway.entrypoint.healthcheck import main as health

pytestmark = pytest.mark.e2e

PHASES = ["getting the model", "starting the engine process", "importing torch", "loading weights", "sizing the KV cache", "warming up"]


def engine_of(server: LiveServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def test_json_log_from_the_banner_to_the_end() -> None:
    with LiveServer(command="entrypoint", env={"SM_VLLM_MODEL": "demo", "SM_VLLM_LOG_FORMAT": "json"}) as server:
        server.wait_ready()
        assert psutil.Process(server.process.pid).environ()["PYTHONUNBUFFERED"] == "1"
        httpx.post(f"{server.url}/invocations", json={"prompt": 1}, headers={"X-Amzn-SageMaker-Inference-Id": "inference-7"})
        assert server.stop() == 0
        objects = [json.loads(line) for line in server.log().splitlines()]
    assert all({"time", "level", "role", "message"} <= set(line) for line in objects)
    assert objects[0]["message"].startswith("headway ")
    messages = [line["message"] for line in objects]
    told = [match[1] for message in messages if (match := re.fullmatch(r"phase (.+) \d+\.\d\d s", message))]
    assert [name for name in told if name in PHASES] == PHASES
    assert "loading the tokenizer" in told
    (line,) = [line for line in objects if "POST /invocations" in line["message"]]
    assert line["inference_id"] == "inference-7"
    assert line["request_id"]
    assert not any("Application startup complete" in message for message in messages)


def test_health_is_asked_without_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the environment, with no process list: on a developer's machine that shows other servers too."""
    with LiveServer("demo") as server:
        environ = {"SM_PORT": str(server.port)}
        server.wait_for(lambda: "phase" in httpx.get(f"{server.url}/ping").text)
        if health(environ, tmp_path) == 1:
            assert "answered 503: The model is not ready yet: " in capsys.readouterr().out
        server.wait_ready()
        assert health(environ, tmp_path) == 0
        assert capsys.readouterr().out.endswith(f"ready: {server.url}/ping\n")


@pytest.mark.alone
def test_a_second_signal_ends_the_wait_even_for_a_stuck_engine() -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        engine = engine_of(server)
        body = {"prompt": "Tell me everything:", "max_tokens": 3000, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
            next(stream.iter_lines())
            engine.suspend()
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: "refusing new work" in server.log())
            since = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - since < 8
        assert not engine.is_running()


def test_signals_on_the_way_out_do_not_turn_the_status() -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        deadline = time.monotonic() + 20
        while server.process.poll() is None and time.monotonic() < deadline:
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


def test_an_engine_that_is_killed_while_it_loads() -> None:
    with LiveServer("demo") as server:
        server.wait_for(lambda: "phase importing torch" in server.log())
        engine_of(server).kill()
        assert server.process.wait(timeout=60) == 1
        last = server.log().splitlines()[-1]
        assert last.startswith("headway: error: the engine has stopped while ")
        assert "the engine process was killed (SIGKILL)" in last


@needs_namespaces
def test_process_1_of_a_container() -> None:
    """Nothing but the image's command in its own process namespace: SIGTERM reaches it, its end is the container's, and orphans that
    others leave to it (`docker exec`, a health check) are collected."""
    with LiveServer(command="entrypoint", env={"SM_VLLM_MODEL": "demo"}, prefix=IN_NAMESPACE) as server:
        server.wait_ready()
        (first,) = psutil.Process(server.process.pid).children()
        enter = ["nsenter", "--target", str(first.pid), "--pid", "--mount"]
        subprocess.run([*enter, "sh", "-c", "sleep 0.1 & exit 0"], check=True, timeout=120)
        server.wait_for(lambda: any(child.status() == psutil.STATUS_ZOMBIE for child in first.children()))
        server.wait_for(lambda: not any(child.status() == psutil.STATUS_ZOMBIE for child in first.children()))
        os.kill(first.pid, signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert "SIGTERM: refusing new work" in server.log()
