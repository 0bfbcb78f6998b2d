"""CORS through a real server: preflights, and the headers on answers of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import ApiServer

PAGE = "https://app.example"
ORIGIN = {"origin": PAGE}
KEY = {"authorization": "Bearer a-key"}
COMPLETION: dict[str, Any] = {"prompt": "x"}


def preflight(server: ApiServer, origin: str = PAGE, method: str = "POST", headers: str | None = None) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": method}
    asked |= {} if headers is None else {"access-control-request-headers": headers}
    return server.client.options("/v1/chat/completions", headers=asked)


def allowed(answer: httpx.Response) -> tuple[str | None, bool]:
    """(the origin that may read the answer, whether caches are told that it depends on the origin)."""
    return answer.headers.get("access-control-allow-origin"), "origin" in answer.headers.get("vary", "").lower()


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    options = {"allowed_origins": [PAGE, "http://localhost:3000"], "allow_credentials": True}
    with ApiServer(cors=options, security={"api_key": ["a-key"]}) as made:
        yield made


def test_a_preflight_needs_no_key(server: ApiServer) -> None:
    answer = preflight(server, headers="authorization,content-type,x-mine")
    assert answer.status_code == 200
    assert allowed(answer) == (PAGE, True)
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-mine"
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")  # by name: with credentials * means nothing
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert server.client.options("/v1/chat/completions", headers=ORIGIN).status_code == 401  # no preflight


@pytest.mark.parametrize("stream", [False, True])
def test_answers_of_every_kind_can_be_read_by_the_page(server: ApiServer, stream: bool) -> None:
    answer = server.post("/v1/completions", COMPLETION | {"stream": stream}, headers=ORIGIN | KEY)
    assert answer.status_code == 200
    assert allowed(answer) == (PAGE, True)
    assert answer.headers["access-control-expose-headers"] == "X-Request-Id, Request-Id, Retry-After"
    for path, body, headers, status in (
        ("/v1/completions", COMPLETION, {}, 401),
        ("/v1/completions", {"promt": "x"}, KEY, 400),
        ("/nowhere", COMPLETION, KEY, 404),
    ):
        answer = server.post(path, body, headers=ORIGIN | headers)
        assert answer.status_code == status
        assert allowed(answer) == (PAGE, True)


def test_a_bug_can_be_read_too(server: ApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(server.app.state.headway.engine, "generate", lambda request: 1 // 0)
    answer = server.post("/v1/completions", COMPLETION, headers=ORIGIN | KEY | {"x-request-id": "mine"})
    assert answer.status_code == 500
    assert allowed(answer) == (PAGE, True)
    assert "request id mine" in answer.json()["error"]["message"]
    assert caplog.text.count("ZeroDivisionError: ") == 1


def test_other_origins_get_no_headers(server: ApiServer) -> None:
    answer = server.post("/v1/completions", COMPLETION, headers=KEY | {"origin": "https://evil.example"})
    assert answer.status_code == 200
    assert allowed(answer) == (None, True)
    assert allowed(server.post("/v1/completions", COMPLETION, headers=KEY)) == (None, True)
    for origin in (f"{PAGE}.evil.example", f"{PAGE}:444", "http://app.example", "null", f"{PAGE}/"):
        assert preflight(server, origin).status_code == 400


def test_a_refused_preflight_says_what_is_refused() -> None:
    with ApiServer(cors={"allowed_origins": [PAGE], "allowed_methods": ["GET"], "allowed_headers": ["X-Mine"]}) as server:
        answer = preflight(server, "https://evil.example", "DELETE", "content-type, x-other,X-Mine")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == (
            "CORS preflight refused: the origin https://evil.example is not in --allowed-origins; the method DELETE is not in "
            "--allowed-methods; the headers x-other are not in --allowed-headers."
        )
        assert allowed(answer) == (None, True)
        assert preflight(server, method="GET", headers="x-mine").status_code == 200


def test_without_origins_preflights_are_refused_and_answers_are_as_ever() -> None:
    with ApiServer(security={"api_key": ["a-key"]}) as server:
        answer = preflight(server)
        assert answer.status_code == 400
        assert "the origin https://app.example is not in --allowed-origins" in answer.json()["error"]["message"]
        assert allowed(server.post("/v1/completions", COMPLETION, headers=KEY | ORIGIN)) == (None, False)


def test_every_origin() -> None:
    with ApiServer(cors={"allowed_origins": ["*"]}) as server:
        assert allowed(preflight(server)) == ("*", True)
        assert allowed(server.post("/v1/completions", COMPLETION, headers=ORIGIN)) == ("*", True)
