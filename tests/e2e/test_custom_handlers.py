"""Custom handlers in the real server process: `headway serve demo` with a model.py."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from ports import claimed_port

pytestmark = pytest.mark.e2e

SCRIPT = """
import json, sys, time
import anyio
import model_hosting_container_standards.sagemaker as sagemaker_standards
from model_hosting_container_standards.common.handler.registry import handler_registry

@sagemaker_standards.custom_ping_handler
async def ping(request):
    return {"status": "mine"}

@sagemaker_standards.custom_invocation_handler
def invoke(request):
    body = anyio.from_thread.run(request.json)
    if "sleep" in body:
        sys.stdout.write(f"asleep for {body['sleep']}\\n")  # in one write: two threads do so at the same time
        time.sleep(body["sleep"])
        return "awake"
    request._body = json.dumps({"prompt": body["question"], "max_tokens": 4}).encode()
    answer = anyio.from_thread.run(handler_registry.get_framework_default("invoke"), request)
    return {"answer": json.loads(answer.body)["choices"][0]["text"]}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(SCRIPT)
    return tmp_path


def test_a_script_answers_and_a_stop_waits_for_it_but_not_for_ever(directory: Path) -> None:
    env = {"SAGEMAKER_MODEL_PATH": str(directory)}
    with LiveServer("demo", "--enable-custom-handlers", "--shutdown-timeout=5", env=env) as server, ThreadPoolExecutor() as pool:
        server.wait_ready()
        assert httpx.get(f"{server.url}/ping").json() == {"status": "mine"}

        def invoke(body: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{server.url}/invocations", json=body, timeout=60)

        assert isinstance(invoke({"question": "Once upon"}).json()["answer"], str)
        slow, stuck = pool.submit(invoke, {"sleep": 2}), pool.submit(invoke, {"sleep": 3600})
        server.wait_for(lambda: "asleep for 2\n" in server.log() and "asleep for 3600" in server.log())
        assert server.stop() == 0
        assert slow.result().json() == "awake"
        assert stuck.result().status_code == 500


def test_a_broken_script_ends_the_start_with_status_2_and_one_line(directory: Path) -> None:
    (directory / "model.py").write_text("import sys\nraise RuntimeError('out of coffee')\n")
    command = [sys.executable, "-m", "headway.server.cli", "serve", "demo", "--port", str(claimed_port()), "--enable-custom-handlers"]
    done = subprocess.run([*command, f"--custom-script={directory}/model.py"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    last = done.stderr.splitlines()[-1]
    where = f"--custom-script: {directory}/model.py, line 2"
    assert last == f"headway: error: {where}: RuntimeError: out of coffee; the log has the traceback"


def test_a_stop_while_the_script_loads_is_no_failure(directory: Path) -> None:
    (directory / "model.py").write_text("import time\nprint('at it', flush=True)\ntime.sleep(600)\n")
    with LiveServer("demo", "--enable-custom-handlers", f"--custom-script={directory}/model.py") as server:
        server.wait_for(lambda: "at it" in server.log())
        assert server.stop() == 0
        assert "error" not in server.log()
