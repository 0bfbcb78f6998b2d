"""/sleep, /wake_up and the development routes: who may call them, what they take, and what requests meet while the engine sleeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from api_server import ApiServer

from headway.server.api.routes.table import DEVELOPMENT_ROUTES, SLEEP_ROUTES
from headway.server.errors import SleepConflict, SleepFailed
from headway.server.types import SleepMode, SleepPart, SleepState

ON = {"enable_sleep_mode": True, "enable_dev_routes": True}
ROUTES = {
    ("POST", "/sleep"): "enable_sleep_mode",
    ("POST", "/wake_up"): "enable_sleep_mode",
    ("GET", "/is_sleeping"): "enable_sleep_mode",
    ("POST", "/reset_prefix_cache"): "enable_dev_routes",
    ("GET", "/server_info"): "enable_dev_routes",
    ("POST", "/pause"): "enable_dev_routes",
    ("POST", "/resume"): "enable_dev_routes",
    ("GET", "/is_paused"): "enable_dev_routes",
}
KEY = {"Authorization": "Bearer k"}


@pytest.fixture
def live() -> Iterator[ApiServer]:
    with ApiServer(development=ON) as server:
        yield server


@pytest.mark.parametrize("switch", ["enable_sleep_mode", "enable_dev_routes", None])
def test_each_switch_opens_its_own_routes_and_only_with_the_key(switch: str | None) -> None:
    with ApiServer(development={switch: True} if switch else {}, security={"api_key": ["k"]}) as server:
        for (method, path), needed in ROUTES.items():
            assert server.client.request(method, path).status_code == 401, path
            assert server.client.request(method, path, headers=KEY).status_code == (200 if switch == needed else 404), path
        for path in ("/collective_rpc", "/update_weights", "/release_kv_cache_memory"):
            assert server.client.post(path, headers=KEY).status_code == 404


def test_sleep_and_wake(live: ApiServer) -> None:
    assert live.client.get("/is_sleeping").json() == {"is_sleeping": False}
    assert live.client.post("/sleep").json() == {"status": "sleeping", "level": 1}
    assert live.client.get("/is_sleeping").json() == {"is_sleeping": True}
    assert live.client.get("/is_paused").json() == {"is_paused": True}
    woken = live.client.post("/wake_up?tags=weights")
    assert woken.json() == {"status": "sleeping", "tags": ["weights"]}
    assert live.client.post("/wake_up?tags=weights&tags=kv_cache").json() == {"status": "awake", "tags": ["weights", "kv_cache"]}
    assert live.client.post("/sleep?level=2&mode=wait", content=b"{}").json() == {"status": "sleeping", "level": 2}
    assert live.client.post("/wake_up").json() == {"status": "awake", "tags": None}
    assert live.engine.sleep_log == [
        ("sleep", 1, "abort"),
        ("wake_up", ["weights"]),
        ("wake_up", ["weights", "kv_cache"]),
        ("sleep", 2, "wait"),
        ("wake_up", None),
    ]


def test_pause_and_resume(live: ApiServer) -> None:
    assert live.client.post("/pause?mode=keep").json() == {"status": "paused"}
    assert live.client.get("/is_paused").json() == {"is_paused": True}
    assert live.client.get("/is_sleeping").json() == {"is_sleeping": True}
    assert live.client.post("/resume").json() == {"status": "resumed"}
    live.client.post("/pause?clear_cache=false")
    assert live.engine.sleep_log == [
        ("sleep", 0, "keep"),
        ("reset", True),
        ("wake_up", ["scheduling"]),
        ("sleep", 0, "abort"),
    ]
    live.engine.sleep_state = SleepState(1, ("weights", "kv_cache"))
    refused = live.client.post("/resume")
    assert refused.status_code == 409
    assert "/wake_up" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ("/sleep?level=3", "level"),
        ("/sleep?level=-1", "level"),
        ("/sleep?level=deep", "level"),
        ("/sleep?level=", "level"),
        ("/sleep?mode=later", "mode"),
        ("/sleep?lvl=1", "lvl"),
        ("/wake_up?tags=weights&tags=gpu", "tags.1"),
        ("/pause?clear_cache=perhaps", "clear_cache"),
        ("/resume?mode=abort", "mode"),
        ("/reset_prefix_cache?reset_running_requests=2", "reset_running_requests"),
        ("/reset_prefix_cache?reset_external=true", "reset_external"),
    ],
)
def test_a_bad_parameter_is_named(live: ApiServer, call: str, param: str) -> None:
    answer = live.client.post(call)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not live.engine.sleep_log


def test_a_body_is_not_ignored(live: ApiServer) -> None:
    answer = live.post("/sleep", {"level": 2})
    assert answer.status_code == 400
    assert "query" in answer.json()["error"]["message"]
    assert not live.engine.sleep_log
    assert live.client.get("/server_info?config_format=yaml").json()["error"]["param"] == "config_format"


def test_what_cannot_be_done_says_why(live: ApiServer) -> None:
    live.engine.sleep_error = SleepConflict("The engine is falling asleep already.")
    assert live.client.post("/sleep").status_code == 409
    live.engine.sleep_error = SleepFailed("out of memory")
    failed = live.client.post("/wake_up")
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == "out of memory"
    live.engine.phase = "loading weights"
    starting = live.client.post("/sleep")
    assert starting.status_code == 503
    assert "loading weights" in starting.json()["error"]["message"]
    live.engine.die("it was killed (SIGKILL)")
    for path in ("/sleep", "/wake_up", "/pause", "/reset_prefix_cache"):
        dead = live.client.post(path)
        assert dead.status_code == 503
        assert "SIGKILL" in dead.json()["error"]["message"]
    live.drain.begin()
    assert "shutting down" in live.client.post("/sleep").json()["error"]["message"]


@pytest.mark.parametrize("level", [1, 2])
def test_while_the_engine_sleeps(live: ApiServer, level: int) -> None:
    live.client.post(f"/sleep?level={level}")
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"prompt": "x", "stream": True}),
        ("/invocations", {"prompt": "x"}),
    ]
    for path, body in bodies:
        refused = live.post(path, body)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert f"asleep at level {level}" in refused.json()["error"]["message"]
    for path in ("/ping", "/health"):
        probe = live.client.get(path)
        assert probe.status_code == 200, "a restart would undo what was asked for"
        assert probe.json() == {"status": "sleeping", "phase": "ready", "reason": f"The engine is asleep at level {level}."}
    assert live.client.get("/v1/models").status_code == 200
    assert live.post("/tokenize", {"prompt": "x"}).status_code == 200
    live.client.post("/wake_up")
    assert live.client.get("/health").json()["status"] == "ok"
    assert all(live.post(path, body).status_code == 200 for path, body in bodies)


def test_on_its_way_to_sleep_it_takes_nothing_new(live: ApiServer) -> None:
    live.engine.sleep_state = SleepState(1)
    assert live.post("/v1/completions", {"prompt": "x"}).status_code == 503
    assert live.client.get("/is_sleeping").json() == {"is_sleeping": False}
    assert live.client.get("/ping").json()["status"] == "sleeping"


def test_a_pause_takes_requests(live: ApiServer) -> None:
    live.client.post("/pause")
    assert live.post("/v1/completions", {"prompt": "x"}).status_code == 200
    assert live.client.get("/ping").json()["reason"] == "The engine is asleep at level 0."


def test_a_request_that_crosses_a_sleep_is_told_so(live: ApiServer) -> None:
    def fall_asleep() -> None:
        live.engine.sleep_state = SleepState(1)

    live.engine.on_admit, live.engine.fail_after = fall_asleep, 0
    crossed = live.post("/v1/completions", {"prompt": "x"})
    assert crossed.status_code == 503
    assert "asleep at level 1" in crossed.json()["error"]["message"]
    assert crossed.headers["retry-after"]


def test_the_prefix_cache_is_reset(live: ApiServer) -> None:
    assert live.client.post("/reset_prefix_cache").json() == {"success": True}
    live.engine.has_blocks_in_use = True
    assert live.client.post("/reset_prefix_cache?reset_external=false").json() == {"success": False}
    assert live.client.post("/reset_prefix_cache?reset_running_requests=true").json() == {"success": True}


def test_server_info_shows_no_secret() -> None:
    model = {"hf_token": "hf_s3cret", "override_generation_config": {"note": "s3cret-key"}}
    with ApiServer(development=ON, security={"api_key": ["s3cret-key"]}, model={"model": "tiny", **model}) as server:
        headers = {"Authorization": "Bearer s3cret-key"}
        as_object = server.client.get("/server_info?config_format=json", headers=headers)
        as_text = server.client.get("/server_info", headers=headers)
        assert "s3cret" not in as_object.text + as_text.text
        options = as_object.json()["vllm_config"]
        assert options["enable-sleep-mode"] is True
        assert options["api-key"] == ["***"]
        assert as_object.json()["engine"]["block_size"] == 16
        lines = as_text.json()["vllm_config"].splitlines()
        assert {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines} == options


def test_sleep_is_measured(live: ApiServer) -> None:
    def value(name: str) -> float:
        text = live.client.get("/metrics").text
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    live.on_loop(live.engine.sleep_gate.clear)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(httpx.post, live.url + "/sleep")
        live.wait_for(lambda: value("vllm:sleep_mode_operations_in_flight") == 1)
        live.on_loop(live.engine.sleep_gate.set)
        assert asking.result().status_code == 200
    assert value("vllm:sleep_mode_operations_in_flight") == 0
    assert value('vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}') == 1


def test_the_page_about_it_knows_every_route_mode_and_part() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/lifecycle.md").read_text()
    for route in (*SLEEP_ROUTES, *DEVELOPMENT_ROUTES):
        assert f"| `{route.methods} {route.path}" in page
    for word in (*get_args(SleepMode), *get_args(SleepPart)):
        assert f"`{word}`" in page
