"""--middleware: what may be named, in which order it stands, and that it costs neither streams nor cancellation."""

from __future__ import annotations

from typing import Any

import pytest
import user_middleware
from api_server import ApiServer
from websockets.sync.client import connect

from headway.server.errors import ConfigError

LONG: dict[str, Any] = {"prompt": "x", "max_tokens": 200}


def serving(*names: str, **options: Any) -> ApiServer:
    return ApiServer(extension={"middleware": [f"user_middleware.{name}" for name in names]}, **options)


@pytest.mark.parametrize(("names", "order"), [(("first", "second"), "12"), (("second", "first"), "21")])
def test_the_last_one_given_is_outermost(names: tuple[str, ...], order: str) -> None:
    with serving(*names, "Named") as server:
        answer = server.client.get("/version")
        assert answer.headers["x-order"] == order
        assert answer.headers["x-named"] == "yes"


def test_it_stands_outside_of_the_key_and_inside_of_the_body_limit() -> None:
    with serving("first", security={"api_key": ["k"]}, overload={"max_request_body_bytes": 2000}) as server:
        refused = server.client.get("/v1/models")
        assert (refused.status_code, refused.headers["x-order"]) == (401, "1")
        large = server.client.post("/v1/completions", content=b"x" * 3000)
        assert large.status_code == 413
        assert "x-order" not in large.headers


def test_a_class_sees_websockets() -> None:
    with serving("Named", "first") as server:
        user_middleware.seen.clear()
        with connect(server.url.replace("http", "ws") + "/invocations-bidirectional-stream") as socket:
            socket.send('{"prompt": "x"}')
            assert "hello world" in str(socket.recv(timeout=60))
        assert user_middleware.seen == ["websocket"]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_go_through_a_function_that_reads_them(stream: bool) -> None:
    with serving("shouting") as server:
        server.engine.tokens_per_delta = 20
        answer = server.post("/v1/completions", {"prompt": "x", "stream": stream})
        assert answer.status_code == 200
        assert "HELLO" in answer.text


def test_a_stream_comes_through_piece_by_piece() -> None:
    with serving("first", "Named", "second") as server:
        server.on_loop(server.engine.gate.clear)
        with server.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as answer:
            assert answer.headers["x-order"] == "12"  # and nothing is generated yet
            server.on_loop(server.engine.gate.set)
            assert [line for line in answer.iter_lines() if line][-1] == "data: [DONE]"


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_a_stream_ends_the_work(n: int) -> None:
    with serving("first", "shouting", "second") as server:
        server.engine.is_endless = True
        with server.client.stream("POST", "/v1/completions", json=LONG | {"stream": True, "n": n}) as answer:
            next(answer.iter_raw())
        server.wait_for(lambda: len(server.engine.aborted_ids) == n)
        assert server.client.get("/load").json() == {"server_load": 0}


def test_a_client_that_leaves_before_its_answer_ends_the_work() -> None:
    with serving("first", "shouting", "second") as server:
        server.engine.gate.clear()
        server.leave("/v1/completions", LONG, lambda: server.engine.num_open_requests == 1)
        server.wait_for(lambda: len(server.engine.aborted_ids) == 1)
        assert server.engine.num_open_requests == 0


def test_what_it_refuses_has_our_form() -> None:
    with serving("refusing") as server:
        answer = server.client.get("/version")
        assert (answer.status_code, answer.json()["error"]["message"]) == (418, "no tea")


def test_a_bug_in_it_is_a_500_with_the_request_s_id(caplog: pytest.LogCaptureFixture) -> None:
    with serving("broken") as server:
        answer = server.client.get("/version", headers={"x-request-id": "mine"})
        assert answer.status_code == 500
        assert "request id mine" in answer.json()["error"]["message"]
        assert "inside" not in answer.text
        assert "ValueError: inside" in caplog.text


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nodots", "--middleware: expected package.module.name, got 'nodots'"),
        ("a.b:c", "--middleware: expected package.module.name, got 'a.b:c'"),
        ("../x.py", "--middleware: expected package.module.name, got '../x.py'"),
        ("no_such_package.x", "--middleware: there is no module no_such_package: install it, or put the folder"),
        ("user_middleware.missing", "--middleware: user_middleware has no missing"),
        ("user_middleware.NUMBER", "--middleware: user_middleware.NUMBER is no function but of type int"),
        ("user_middleware.not_async", "--middleware user_middleware.not_async: not_async must be an async function: it awaits call_next"),
        ("user_middleware.takes_one", "--middleware user_middleware.takes_one: takes_one must take (request, call_next), it takes "),
        ("user_middleware.NotAsgi", "--middleware user_middleware.NotAsgi: NotAsgi is no ASGI class, which takes (app) and has async "),
        (
            "user_middleware.TakesNothing",
            "--middleware user_middleware.TakesNothing: TakesNothing is no ASGI class, which takes (app) ",
        ),
        ("user_middleware.BreaksWhenMade", "--middleware user_middleware.BreaksWhenMade: it can't be made: KeyError: 'database'; the log "),
    ],
)
def test_what_can_not_be_used_ends_the_start(path: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiServer(extension={"middleware": [path]})
    (problem,) = caught.value.problems
    assert problem.startswith(sentence)
