"""ORCA: the load on the answers of those that ask for it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from api_server import ApiServer

from headway.server.types import EngineStats

ASK, TOLD = "endpoint-load-metrics-format", "endpoint-load-metrics"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
TEXT = "TEXT named_metrics.kv_cache_usage_perc=0.25, named_metrics.num_requests_waiting=3.0"
JSON = 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.25, "num_requests_waiting": 3.0}}'


@pytest.fixture
def loaded(server: ApiServer) -> ApiServer:
    server.engine.stats = EngineStats(num_waiting=3, num_blocks_used=256, num_blocks_total=1024)
    return server


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/invocations", CHAT),
        ("/invocations", {"prompt": "x"}),
    ],
)
def test_generated_answers_carry_the_load(loaded: ApiServer, path: str, body: dict[str, Any]) -> None:
    for asked, told in (("TEXT", TEXT), ("text", TEXT), ("JSON", JSON), ("Json", JSON)):
        for stream in (False, True):
            answer = loaded.post(path, {**body, "stream": stream}, headers={ASK: asked})
            assert (answer.status_code, answer.headers[TOLD]) == (200, told)


def test_a_batch_carries_it_too(loaded: ApiServer) -> None:
    line = json.dumps({"prompt": "x"})
    answer = loaded.client.post("/invocations", content=line, headers={"content-type": "application/jsonlines", ASK: "TEXT"})
    assert (answer.status_code, answer.headers[TOLD]) == (200, TEXT)


def test_a_stream_tells_it_as_it_is_at_its_start(loaded: ApiServer) -> None:
    loaded.on_loop(loaded.engine.gate.clear)
    with loaded.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}, headers={ASK: "TEXT"}) as answer:
        assert answer.headers[TOLD] == TEXT  # nothing is generated yet
        loaded.engine.stats = EngineStats()
        loaded.on_loop(loaded.engine.gate.set)
        answer.read()


def test_other_answers_do_not(loaded: ApiServer) -> None:
    def asked_on(method: str, path: str, **options: Any) -> Any:
        return loaded.client.request(method, path, headers={ASK: "TEXT"}, **options)

    answers = [
        asked_on("GET", "/v1/models"),
        asked_on("POST", "/tokenize", json={"prompt": "x"}),
        asked_on("POST", "/v1/completions", json={"promt": "x"}),
        asked_on("GET", "/v1/completions"),
        loaded.post("/v1/completions", {"prompt": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 405, 200]
    assert not any(TOLD in answer.headers for answer in answers)


def test_an_unknown_format_is_warned_about_once(loaded: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    for asked in ("BIN", "PROTO" * 1000, "", "TEXT, JSON"):
        answer = loaded.post("/v1/completions", {"prompt": "x"}, headers={ASK: asked})
        assert (answer.status_code, TOLD in answer.headers) == (200, False)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["A client asks for its load report as 'BIN', which is neither TEXT nor JSON; it gets none"]
