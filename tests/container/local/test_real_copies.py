"""The control plane over the real server: a process of this installation with a tiny model."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

from control_plane import LiveControlPlane
from tiny_served import make_served_model

from headway.container.local.control.plane import ControlPlane
from headway.container.local.copies.process import ProcessStarter
from headway.container.local.health import Pace
from headway.container.local.targets import Wish


def test_a_directory_is_served_by_a_process_and_ends_with_the_runtime(tmp_path: Path) -> None:
    make_served_model(tmp_path)
    with LiveControlPlane(ProcessStarter(os.environ), Pace(start_ping_every_s=0.1)) as live:

        async def make(plane: ControlPlane) -> None:
            plane.make_endpoint("real", {"SM_VLLM_MAX_MODEL_LEN": "64", "SM_VLLM_HOST": "127.0.0.1"}, model_directory=tmp_path)

        async def url(plane: ControlPlane) -> str:
            with plane.lease("real", Wish()) as target:
                return target.url

        live.run(make)
        live.wait_in_service("real")
        body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
        request = urllib.request.Request(f"{live.run(url)}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 2
    assert not any("is replaced" in line for line in live.said)
