"""Stateful sessions: which are open, and SageMaker's protocol for them on /invocations."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from api_server import ApiServer
from botocore.session import get_session

from headway.server.api.errors import SessionFailed
from headway.server.api.sagemaker.sessions import Sessions
from headway.server.errors import RequestError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
OPEN = {"requestType": "NEW_SESSION"}
CLOSE = {"requestType": "CLOSE"}
ID, NEW_ID, CLOSED_ID = "X-Amzn-SageMaker-Session-Id", "X-Amzn-SageMaker-New-Session-Id", "X-Amzn-SageMaker-Closed-Session-Id"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(sagemaker={"enable_stateful_sessions": True, "max_sessions": 3, "sessions_expiration": 60}) as server:
        yield server


def opened(server: ApiServer) -> str:
    answer = server.post("/invocations", OPEN)
    assert answer.status_code == 200, answer.text
    return answer.headers[NEW_ID].partition(";")[0]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == answer.status_code
    return error


def gauge(server: ApiServer) -> float:
    found = re.search(r"^headway:sagemaker_sessions_open (\S+)$", server.client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_session_ends_when_it_was_said_to() -> None:
    clock = Clock()
    sessions = Sessions(60, 10, clock)
    first = sessions.open()
    clock.now += 30
    second = sessions.open()
    assert sessions.num_open() == 2
    clock.now += 29.9
    assert sessions.find(first.id) is first  # a use does not lengthen it
    clock.now += 0.2
    with pytest.raises(RequestError, match="session not found"):
        sessions.find(first.id)
    with pytest.raises(RequestError, match="session not found"):
        sessions.close(first.id)
    assert sessions.find(second.id) is second
    assert sessions.num_open() == 1
    clock.now += 60
    assert sessions.num_open() == 0


def test_the_number_of_sessions_is_limited_and_expired_ones_make_room() -> None:
    clock = Clock()
    sessions = Sessions(60, 2, clock)
    first, _ = sessions.open(), sessions.open()
    with pytest.raises(SessionFailed, match="--max-sessions"):
        sessions.open()
    sessions.close(first.id)
    sessions.open()
    clock.now += 60
    sessions.open()
    assert sessions.num_open() == 1


def test_ids_differ_and_are_announced_as_sagemaker_wants_them() -> None:
    sessions = Sessions(60, 1000, Clock())
    ids = {sessions.open().id for _ in range(1000)}
    assert len(ids) == 1000
    shapes = get_session().get_service_model("sagemaker-runtime")._shape_resolver._shape_map
    assert all(re.fullmatch(shapes["SessionIdHeader"]["pattern"], session_id) for session_id in ids)


def test_open_use_close(server: ApiServer) -> None:
    before = datetime.now(UTC).timestamp()
    answer = server.post("/invocations", OPEN, headers={ID: "NEW_SESSION"})
    assert answer.status_code == 200
    shapes = get_session().get_service_model("sagemaker-runtime")._shape_resolver._shape_map
    assert re.fullmatch(shapes["NewSessionResponseHeader"]["pattern"], answer.headers[NEW_ID])
    session_id, _, expires = answer.headers[NEW_ID].partition("; Expires=")
    assert answer.json() == {"session_id": session_id, "expires": expires}
    until = datetime.fromisoformat(expires).timestamp()
    assert before + 59 <= until <= datetime.now(UTC).timestamp() + 60
    assert gauge(server) == 1
    for given in (session_id, answer.headers[NEW_ID]):
        chat = server.post("/invocations", CHAT, headers={ID: given})
        assert chat.json()["object"] == "chat.completion"
        assert NEW_ID not in chat.headers
    stream = server.post("/invocations", {**CHAT, "stream": True}, headers={ID: session_id})
    assert stream.text.endswith("data: [DONE]\n\n")
    closed = server.post("/invocations", CLOSE, headers={ID: session_id})
    assert closed.status_code == 200
    assert closed.headers[CLOSED_ID] == session_id
    assert closed.json()["num_requests"] == 3
    assert gauge(server) == 0
    assert server.post("/invocations", CHAT, headers={ID: session_id}).status_code == 400


def test_an_ordinary_request_opens_one_when_it_asks_for_one(server: ApiServer) -> None:
    for body in (CHAT, {**CHAT, "stream": True}):
        answer = server.post("/invocations", body, headers={ID: "NEW_SESSION"})
        assert answer.status_code == 200
        session_id = answer.headers[NEW_ID].partition(";")[0]
        assert server.post("/invocations", CHAT, headers={ID: session_id}).status_code == 200
    failed = server.post("/invocations", {"promt": "x"}, headers={ID: "NEW_SESSION"})
    assert failed.status_code == 400
    assert NEW_ID not in failed.headers
    assert gauge(server) == 2


@pytest.mark.parametrize("given", ["", "nonsense", "a" * 5000, "../../etc", "00000000-0000-4000-8000-000000000000"])
def test_an_unknown_id_is_refused(server: ApiServer, given: str) -> None:
    for body in (CHAT, CLOSE) if given else (CHAT,):
        answer = server.post("/invocations", body, headers={ID: given})
        assert answer.status_code == 400
        assert error_of(answer)["param"] == ID.lower()
        assert "nonsense" not in answer.text
    assert not server.engine.requests


@pytest.mark.parametrize("headers", [{}, {ID: ""}, {ID: "NEW_SESSION"}])
def test_closing_needs_an_id(server: ApiServer, headers: dict[str, str]) -> None:
    answer = server.post("/invocations", CLOSE, headers=headers)
    assert answer.status_code == 424
    assert error_of(answer)["type"] == "FailedDependencyError"


@pytest.mark.parametrize("body", [{"requestType": "new_session"}, {"requestType": 5}, {"requestType": None}, {**OPEN, "extra": 1}])
def test_a_malformed_session_request_is_refused(server: ApiServer, body: dict[str, Any]) -> None:
    answer = server.post("/invocations", body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] in ("requestType", "extra")
    assert gauge(server) == 0
    assert server.post("/invocations", {**CHAT, **OPEN}).status_code == 400


def test_too_many_sessions(server: ApiServer) -> None:
    for _ in range(3):
        last = opened(server)
    answer = server.post("/invocations", OPEN)
    assert answer.status_code == 424
    assert "--max-sessions" in error_of(answer)["message"]
    assert server.post("/invocations", CHAT, headers={ID: "NEW_SESSION"}).status_code == 424
    assert not server.engine.requests
    server.post("/invocations", CLOSE, headers={ID: last})
    opened(server)


def test_no_session_is_opened_by_a_server_that_takes_no_work(server: ApiServer) -> None:
    session_id = opened(server)
    server.drain.begin()
    assert server.post("/invocations", OPEN).status_code == 503
    assert server.post("/invocations", CLOSE, headers={ID: session_id}).status_code == 200


def test_words_of_the_protocol_in_a_text_are_only_words(server: ApiServer) -> None:
    assert server.post("/invocations", {"prompt": '"requestType": "CLOSE"'}).json()["object"] == "text_completion"


def test_the_log_tells_the_requests_of_a_session_but_not_its_id(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headway")
    session_id = opened(server)
    server.post("/invocations", CHAT, headers={ID: session_id, "x-request-id": "mine"})
    assert f"Request mine is number 1 of session {session_id[:8]}" in caplog.text
    assert session_id not in caplog.text


def test_without_the_option_a_session_is_refused_by_its_name() -> None:
    with ApiServer() as server:
        for body, headers in ((OPEN, {}), (CLOSE, {}), (CHAT, {ID: "NEW_SESSION"}), (CHAT, {ID: "some-id"})):
            answer = server.post("/invocations", body, headers=headers)
            assert answer.status_code == 400
            assert "--enable-stateful-sessions" in error_of(answer)["message"]
        assert server.post("/invocations", CHAT).status_code == 200
        assert "sessions_open" not in server.client.get("/metrics").text
