"""A model in S3, from the entrypoint's environment to an answer."""

from __future__ import annotations

import threading

import httpx
import pytest
from demo_model import demo_gguf
from live_server import LiveServer
from s3_server import BUCKET, running_s3

pytestmark = pytest.mark.e2e


def test_a_model_in_s3(tmp_path: object) -> None:
    go = threading.Event()
    with running_s3() as s3:
        s3.put({"m/demo.gguf": demo_gguf().read_bytes()})
        s3.on_range = lambda: (go.wait(60), None)[1]
        environment = {
            "SM_VLLM_MODEL": f"s3://{BUCKET}/m/",
            "SM_VLLM_MAX_MODEL_LEN": "512",
            "HEADWAY_CACHE": str(tmp_path),
            **s3.environment,
        }
        with LiveServer(command="entrypoint", env=environment) as server:
            # It answers from the start, and says what it is waiting for.
            server.wait_for(lambda: f"downloading s3://{BUCKET}/m/: 1 file, 98.4 MB" in httpx.get(f"{server.url}/ping").text)
            assert httpx.get(f"{server.url}/ping").status_code == 503
            go.set()
            server.wait_ready()
            body = {"prompt": "1, 2, 3, 4,", "max_tokens": 3, "temperature": 0}
            answer = httpx.post(f"{server.url}/invocations", json=body, timeout=60)
            assert answer.json()["choices"][0]["text"].startswith(" 5")
            assert "testing-secret" not in server.log()


def test_a_download_does_not_hold_up_the_end(tmp_path: object) -> None:
    held = threading.Event()
    with running_s3() as s3:
        s3.put({"m/demo.gguf": bytes(1000)})
        s3.on_range = lambda: (held.wait(60), None)[1]
        environment = {"HEADWAY_CACHE": str(tmp_path), **s3.environment}
        with LiveServer(f"s3://{BUCKET}/m/demo.gguf", env=environment) as server:
            server.wait_for(lambda: bool(s3.ranges))
            assert server.stop() == 0
        held.set()
