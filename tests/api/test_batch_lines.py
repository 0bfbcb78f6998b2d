"""JSON lines on /invocations, as batch transform sends them."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from api_server import ApiServer

from headway.server.api.sagemaker import batch
from headway.server.api.sagemaker.understand import Invocation, understand
from headway.server.types import GenerateRequest

JSON_LINES = {"content-type": "application/jsonlines"}


def send(server: ApiServer, body: bytes, headers: dict[str, str] = JSON_LINES, **options: Any) -> httpx.Response:
    return server.client.post("/invocations", content=body, headers=headers, **options)


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-length"] == str(len(response.content))
    assert response.content.endswith(b"\n")
    return [json.loads(line) for line in response.text.splitlines()]


def lines_of(*requests: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(request).encode() for request in requests)


def echo(server: ApiServer) -> None:
    """Lets the engine answer with the last character of the prompt, so that answers can be told apart."""

    def text(request: GenerateRequest) -> str:
        return server.tokenizer.decode(request.prompt_token_ids[-1:], skip_special_tokens=False) * 3

    server.engine.text = text


@pytest.mark.parametrize(
    "kind", ["application/jsonlines", "application/x-jsonlines", "application/x-ndjson", "application/jsonl; charset=utf-8"]
)
def test_each_line_is_answered_in_its_place(server: ApiServer, kind: str) -> None:
    echo(server)
    body = lines_of(*({"prompt": letter} for letter in "abcdefg"))
    response = send(server, body, {"content-type": kind})
    assert response.headers["content-type"] == kind.partition(";")[0]
    found = answers(response)
    assert [answer["choices"][0]["text"] for answer in found] == [letter * 3 for letter in "abcdefg"]
    assert len({answer["id"] for answer in found}) == 7


def test_shapes_may_differ_and_bad_lines_harm_no_other(server: ApiServer) -> None:
    body = b"\r\n".join(
        [
            b'\xef\xbb\xbf{"prompt": "x"}',
            b"",
            b"{broken",
            b'{"messages": [{"role": "user", "content": "x"}], "request_id": "mine"}',
            b'{"prompt": "x", "stream": true}',
            b"  ",
            b"[1]",
            b'{"prompt": "x", "model": "gpt-7"}',
            b'{"input": "x"}',
            b'{"tokens": [104, 105]}',
            b"\xff",
            b"",
        ]
    )
    found = answers(send(server, body))
    assert [answer.get("object") or answer.get("prompt") or answer["error"]["code"] for answer in found] == [
        "text_completion", 400, "chat.completion", 400, 400, 404, 400, "hi", 400,
    ]  # fmt: skip
    assert found[2]["id"] == "chatcmpl-mine"
    assert found[3]["error"]["param"] == "stream"
    assert server.engine.num_open_requests == 0


def test_a_line_that_breaks_in_the_engine_or_by_a_bug(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.engine.fail_after = 1
    assert [answer["error"]["message"] for answer in answers(send(server, lines_of({"prompt": "x"})))] == ["something broke"]
    server.engine.fail_after = None
    with monkeypatch.context() as patch:
        patch.setattr(server.tokenizer, "encode_batch", None)
        found = answers(send(server, lines_of({"prompt": "x"}, {"tokens": [104]})))
    assert found[0]["error"]["code"] == 500
    assert "NoneType" not in found[0]["error"]["message"]
    assert found[1]["prompt"] == "h"


def test_no_more_lines_at_a_time_than_the_engine_runs(server: ApiServer) -> None:
    server.engine.gate.clear()
    num_at_once = server.engine.info.max_num_seqs if server.engine.info else 0

    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(base_url=server.url) as client:
            body = lines_of(*[{"prompt": "x"}] * 200)
            asking = asyncio.create_task(client.post("/invocations", content=body, headers=JSON_LINES, timeout=None))
            while len(server.engine.requests) < num_at_once:
                await asyncio.sleep(0.002)
            assert (await client.get("/ping")).status_code == 200  # whatever else the loop had to do, it has done
            assert len(server.engine.requests) == num_at_once
            asking.cancel()

    asyncio.run(asyncio.wait_for(ask_and_leave(), 60))
    server.wait_for(lambda: server.engine.num_open_requests == 0)  # the client that left ended all of them
    assert len(server.engine.aborted_ids) == num_at_once


def test_a_full_queue_is_waited_out(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.engine.max_open = 0
    monkeypatch.setattr(batch, "MAX_QUEUE_WAIT_S", 0.0)
    assert answers(send(server, lines_of({"prompt": "x"})))[0]["error"]["code"] == 503
    monkeypatch.setattr(batch, "MAX_QUEUE_WAIT_S", 60.0)
    server.engine.max_open = 1
    server.engine.retry_after_s = 0
    assert [answer["object"] for answer in answers(send(server, lines_of(*[{"prompt": "x"}] * 5)))] == ["text_completion"] * 5


def test_a_server_that_goes_fails_the_request_as_a_whole(server: ApiServer) -> None:
    server.engine.is_endless = True
    body = lines_of(*[{"prompt": "x", "max_tokens": 100}] * 200)
    server.engine.on_admit = lambda: server.drain.begin() if len(server.engine.requests) == 100 else None
    response = send(server, body)
    assert response.status_code == 503
    assert "shutting down" in response.json()["error"]["message"]
    assert len(server.engine.requests) < 200
    server.wait_for(lambda: server.engine.num_open_requests == 0)


def test_an_engine_that_died_fails_it_too(server: ApiServer) -> None:
    server.engine.on_admit = lambda: server.engine.die("out of memory")
    response = send(server, lines_of(*[{"prompt": "x"}] * 3))
    assert response.status_code == 503
    assert "out of memory" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"), [(b"", "no line"), (b"\n \n", "no line"), (b"\n" * 10_001, "10002 lines"), (b"{}\n" * 10_002, "10003 lines")]
)
def test_bodies_that_are_no_batch(server: ApiServer, body: bytes, words: str) -> None:
    response = send(server, body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_as_many_lines_as_are_allowed_and_the_loop_goes_on(server: ApiServer) -> None:
    assert len(answers(send(server, b"{}\n" * batch.MAX_LINES))) == batch.MAX_LINES


def test_the_loop_has_a_turn_between_any_two_lines(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, turns_of_lines = [0], []

    def tick() -> None:
        turns[0] += 1
        if len(turns_of_lines) < 400:
            asyncio.get_running_loop().call_soon(tick)

    def watched(route: str | None, fields: dict[str, Any]) -> Invocation:
        turns_of_lines.append(turns[0])
        return understand(route, fields)

    monkeypatch.setattr(batch, "understand", watched)
    server.on_loop(tick)
    with ThreadPoolExecutor() as pool:
        for response in pool.map(lambda body: send(server, body), [b'{"x": 1}\n' * 200] * 2):
            assert len(answers(response)) == 200
    assert len(set(turns_of_lines)) == 400


def test_attributes_longer_than_any_are_refused_before_the_lines(server: ApiServer) -> None:
    response = send(server, b"{}\n" * 100, {**JSON_LINES, "x-amzn-sagemaker-custom-attributes": "a=b," * 300})
    assert response.status_code == 400
    assert "1200 characters" in response.json()["error"]["message"]


def test_answers_have_a_limit_in_all(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_ANSWER_BYTES", 1000)
    found = answers(send(server, lines_of(*[{"prompt": "x"}] * 200)))
    assert len(found) == 200
    assert "object" in found[0]
    assert "fewer lines" in found[-1]["error"]["message"]
    assert len(server.engine.requests) < 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("*/*", "application/jsonlines"), ("application/x-ndjson", "application/x-ndjson"), ("application/json", None), ("text/csv", None)],
)
def test_what_a_batch_accepts(server: ApiServer, accept: str, kind: str | None) -> None:
    response = send(server, lines_of({"prompt": "x"}), {**JSON_LINES, "accept": accept})
    assert response.status_code == (200 if kind else 406)
    assert response.headers["content-type"] == (kind or "application/json")
    assert (len(server.engine.requests) == 0) == (kind is None)


def test_attributes_hold_for_every_line(server: ApiServer) -> None:
    headers = {**JSON_LINES, "x-amzn-sagemaker-custom-attributes": "route=/tokenize"}
    response = send(server, lines_of({"prompt": "x"}, {"prompt": "y"}), headers)
    assert all("tokens" in answer for answer in answers(response))
    assert response.headers["x-amzn-sagemaker-custom-attributes"] == "route=/tokenize"


def test_responses_of_lines_are_kept_for_the_key_of_the_request() -> None:
    key = {"Authorization": "Bearer secret"}
    headers = {**JSON_LINES, **key, "X-Amzn-SageMaker-Custom-Attributes": "route=/v1/responses"}
    with ApiServer(security={"api_key": ["secret"]}) as server:
        (answer,) = answers(send(server, lines_of({"input": "Ada"}), headers))
        assert server.client.get(f"/v1/responses/{answer['id']}", headers=key).status_code == 200
