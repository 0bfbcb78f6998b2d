"""Custom middleware and formatters from a user's script, around every route of a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from custom_scripts import Scripts

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
FORMATTERS = """
@sagemaker_standards.input_formatter
async def before(request):
    if request.url.path == "/invocations":
        body = await request.json()
        if "question" not in body:
            raise HTTPException(status_code=422, detail="no question")
        request._body = json.dumps({"prompt": body["question"], "stream": body.get("stream", False)}).encode()
    return request

@sagemaker_standards.output_formatter
def behind(response):
    response.headers["x-behind"] = "yes"
    if hasattr(response, "body") and response.status_code == 200 and response.headers["content-type"] == "application/json":
        response.body = json.dumps({"longer": "x" * 500, "whole": json.loads(response.body)}).encode()
"""
AROUND = """
@sagemaker_standards.custom_middleware("pre_post_process")
async def around(request, call_next):
    response = await call_next(request)
    response.headers["x-order"] = "inner"
    return response

@sagemaker_standards.custom_middleware("throttle")
class Throttle:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def named(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-throttle", str(message["headers"].count((b"x-order", b"inner"))).encode()))
            await send(message)
        await self.app(scope, receive, named)
"""


def test_formatters_change_bodies_both_ways(scripts: Scripts) -> None:
    scripts.write(FORMATTERS)
    with scripts.server() as server:
        answer = server.post("/invocations", {"question": "hello"})
        assert answer.json()["whole"]["choices"][0]["text"] == "hello world"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert answer.headers["x-behind"] == "yes"
        assert len(server.engine.requests) == 1
        refused = server.post("/invocations", {})
        assert refused.status_code == 422
        assert refused.json()["error"]["message"] == "no question"
        assert server.client.get("/nowhere").headers["x-behind"] == "yes"
        assert server.client.get("/ping").json()["whole"]["status"] == "ok"
        assert server.post("/v1/completions", {"promt": "x"}).json()["error"]["param"] == "promt"


def test_a_stream_goes_through_formatters_as_it_comes(scripts: Scripts) -> None:
    scripts.write(FORMATTERS)
    with scripts.server() as server:
        server.on_loop(server.engine.gate.clear)
        with server.client.stream("POST", "/invocations", json={"question": "hello", "stream": True}) as answer:
            assert answer.headers["x-behind"] == "yes"  # and nothing is generated yet
            server.on_loop(server.engine.gate.set)
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert events[-1] == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == "hello world"


def test_a_client_that_leaves_ends_the_work_behind_formatters(scripts: Scripts) -> None:
    scripts.write(FORMATTERS)
    with scripts.server() as server:
        server.engine.is_endless = True
        with server.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True, "max_tokens": 200}) as answer:
            next(answer.iter_lines())
        server.wait_for(lambda: len(server.engine.aborted_ids) == 1)


def test_a_function_and_a_class_stand_in_their_order(scripts: Scripts) -> None:
    scripts.write(AROUND)
    with scripts.server() as server:
        answer = server.post("/v1/completions", {"prompt": "x"})
        assert answer.headers["x-order"] == "inner"
        assert answer.headers["x-throttle"] == "1"  # outside of the other


def test_middleware_of_options_wins_over_decorators(scripts: Scripts) -> None:
    scripts.write(AROUND)
    scripts.write("def mark(response): response.headers['x-marked'] = 'yes'\nasync def pre(request): request.state.seen = True", "more.py")
    with scripts.server({"custom_post_process": "more.py:mark", "custom_pre_process": "more.py:pre"}) as server:
        answer = server.client.get("/ping")
        assert answer.headers["x-marked"] == "yes"
        assert "x-order" not in answer.headers
        assert "x-throttle" in answer.headers


def test_broken_middleware_is_a_500_with_the_cause_in_the_log(scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    scripts.write("@sagemaker_standards.input_formatter\nasync def before(request): raise ValueError('inside')")
    with scripts.server() as server:
        answer = server.post("/v1/chat/completions", CHAT)
        assert answer.status_code == 500
        assert "inside" not in answer.text
        server.wait_for(lambda: "ValueError: inside" in caplog.text)
