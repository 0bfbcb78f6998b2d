"""Custom handlers: a user's model.py answers /ping and /invocations and stands around the routes of a real server."""

from __future__ import annotations

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from custom_scripts import Scripts

ROOT = Path(__file__).resolve().parents[2]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
DECORATED = """
@sagemaker_standards.custom_ping_handler
async def ping(request: Request):
    return Response(status_code=201, content="decorated")

@sagemaker_standards.custom_invocation_handler
async def invoke(request):
    return {"by": "decorator", "got": await request.json()}
"""
NAMED = """
def custom_sagemaker_ping_handler():
    return {"by": "name"}

async def custom_sagemaker_invocation_handler(request):
    return {"by": "name"}
"""
REGISTERED = """
@sagemaker_standards.register_ping_handler
def default_ping():
    return {"by": "register"}

@sagemaker_standards.register_invocation_handler()
def default_invoke(request):
    return {"by": "register"}
"""
FOR_OPTIONS = """
class Handlers:
    @staticmethod
    def invoke(request):
        return {"by": "option"}

def pong():
    return {"by": "option"}
"""


def test_decorated_handlers_answer(scripts: Scripts) -> None:
    scripts.write(DECORATED)
    with scripts.server() as server:
        for method in ("GET", "POST"):
            answer = server.client.request(method, "/ping")
            assert (answer.status_code, answer.text) == (201, "decorated")
        assert server.client.head("/ping").status_code == 201
        assert server.post("/invocations", {"a": 1}).json() == {"by": "decorator", "got": {"a": 1}}
        assert server.post("/v1/chat/completions", CHAT).json()["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("text", "by"),
    [
        (REGISTERED, "register"),
        (REGISTERED + NAMED, "name"),
        (FOR_OPTIONS + REGISTERED + NAMED + DECORATED, "option"),
        (NAMED + DECORATED, "decorator"),
    ],
)
def test_options_win_over_decorators_and_these_over_names(scripts: Scripts, text: str, by: str) -> None:
    scripts.write(text)
    options = {"custom_ping_handler": "model:pong", "custom_invocation_handler": "model:Handlers.invoke"} if by == "option" else {}
    with scripts.server(options) as server:
        assert server.post("/invocations", {}).json()["by"] == by
        ping = server.client.get("/ping")
        assert ping.text == "decorated" if by == "decorator" else ping.json() == {"by": by}


def test_the_script_may_lie_in_code_under_another_name_and_import_its_neighbours(scripts: Scripts) -> None:
    scripts.write("import sys\nfrom neighbour import WORD\ndef custom_sagemaker_invocation_handler(request): return WORD", "code/mine.py")
    scripts.write("WORD = 'from beside'", "code/neighbour.py")
    with scripts.server({"custom_script": "mine.py"}) as server:
        assert server.post("/invocations", {}).json() == "from beside"
    assert not [entry for entry in sys.path if entry.startswith(str(scripts.directory))]


@pytest.mark.parametrize(
    "specification", ["handlers.py:answer", "{directory}/handlers.py:answer", "handlers:answer", "model:answer"], ids=str
)
def test_an_option_names_a_function_in_several_ways(scripts: Scripts, specification: str) -> None:
    scripts.write("def answer(): return 1", "handlers.py")
    scripts.write("from handlers import answer" if specification == "model:answer" else "")
    with scripts.server({"custom_invocation_handler": specification.format(directory=scripts.directory)}) as server:
        assert server.post("/invocations", {}).json() == 1


def test_an_option_may_name_a_route(scripts: Scripts) -> None:
    with scripts.server({"custom_ping_handler": "/version", "custom_invocation_handler": "/v1/completions"}) as server:
        assert "version" in server.client.get("/ping").json()
        assert server.post("/invocations", {"prompt": "x"}).json()["object"] == "text_completion"
        assert server.post("/invocations", CHAT).status_code == 400


def test_a_handler_calls_ours_with_a_changed_body(scripts: Scripts) -> None:
    scripts.write("""
import anyio
from model_hosting_container_standards.common.handler.registry import handler_registry

@sagemaker_standards.custom_invocation_handler
def invoke(request):
    body = anyio.from_thread.run(request.json)
    if "question" not in body:
        raise HTTPException(404, "There is no question.", headers={"x-why": "none"})
    request._body = json.dumps({"prompt": body["question"], "stream": body.get("stream", False)}).encode()
    answer = anyio.from_thread.run(handler_registry.get_framework_default("invoke"), request)
    answer.headers["x-through"] = "mine"
    return answer
""")
    with scripts.server() as server:
        answer = server.post("/invocations", {"question": "hello"})
        assert answer.json()["choices"][0]["text"] == "hello world"
        assert answer.headers["x-through"] == "mine"
        stream = server.post("/invocations", {"question": "hello", "stream": True})
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.text.endswith("data: [DONE]\n\n")
        assert len(server.engine.requests) == 2
        refused = server.post("/invocations", {})
        assert refused.status_code == 404
        assert refused.json()["error"]["message"] == "There is no question."
        assert refused.headers["x-why"] == "none"
        server.engine.max_open = 0
        assert server.post("/invocations", {"question": "hello"}).status_code == 503


def test_a_broken_handler_is_told_in_the_log_only(scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    scripts.write("async def custom_sagemaker_invocation_handler(request):\n    secret = 'hunter2'\n    raise KeyError(secret)")
    with scripts.server() as server:
        answer = server.post("/invocations", {}, headers={"x-request-id": "mine"})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "InternalServerError"
        assert "hunter2" not in answer.text
        assert "model.py" not in answer.text
        assert "mine" in answer.json()["error"]["message"]
        server.wait_for(lambda: "KeyError: 'hunter2'" in caplog.text)
        assert server.client.get("/ping").status_code == 200


def test_a_result_that_is_no_json_is_a_failure(scripts: Scripts) -> None:
    scripts.write("def custom_sagemaker_invocation_handler(request): return float('nan')")
    with scripts.server() as server:
        assert server.post("/invocations", {}).status_code == 500


def test_a_handler_that_blocks_stops_neither_ping_nor_others(scripts: Scripts) -> None:
    scripts.write("""
import re
import sys
import threading
GATE = threading.Event()
def custom_sagemaker_invocation_handler(request):
    assert GATE.wait(60)
    return "done"
def custom_sagemaker_ping_handler():
    return "here"
""")
    with scripts.server() as server, ThreadPoolExecutor(60) as pool:
        blocked = [pool.submit(server.post, "/invocations", {}) for _ in range(50)]  # more than there are threads for them
        gate = next(v.GATE for k, v in sys.modules.items() if k.startswith("headway_custom") and hasattr(v, "GATE"))
        try:
            server.wait_for(lambda: sum(t.name == "AnyIO worker thread" for t in threading.enumerate()) >= 40)
            assert server.client.get("/ping").json() == "here"
            assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
            server.wait_for(lambda: server.drain.num_held == 50)
        finally:
            gate.set()
        assert {answer.result().json() for answer in blocked} == {"done"}
        server.wait_for(lambda: server.drain.num_held == 0)


def test_a_custom_ping_does_not_hide_that_the_server_can_t_serve(scripts: Scripts) -> None:
    scripts.write("def custom_sagemaker_ping_handler(): return 'always well'")
    with scripts.server() as server:
        assert server.client.get("/ping").json() == "always well"
        server.drain.begin()
        assert server.client.get("/ping").status_code == 503
        assert server.client.get("/ping").json()["status"] == "draining"


def test_a_script_for_vllm_can_ask_for_the_engine_s_health(scripts: Scripts) -> None:
    scripts.write("""
async def custom_sagemaker_ping_handler(request):
    await request.app.state.engine_client.check_health()
    return "healthy"

async def custom_sagemaker_invocation_handler(request):
    try:
        await request.app.state.engine_client.check_health()
    except RuntimeError as error:
        return str(error)
    try:
        request.app.state.engine_client.generate
    except AttributeError as error:
        return str(error)
""")
    with scripts.server() as server:
        assert server.client.get("/ping").json() == "healthy"
        assert "get_framework_default('invoke')" in server.post("/invocations", {}).json()
        server.on_loop(lambda: server.engine.die("it broke"))
        server.wait_for(lambda: server.client.get("/ping").status_code == 503)
        assert "it broke" in server.post("/invocations", {}).json()


def test_the_key_and_the_body_limit_stand_before_the_users_code(scripts: Scripts) -> None:
    scripts.write("""
SEEN = []
@sagemaker_standards.custom_middleware("throttle")
async def throttle(request, call_next):
    SEEN.append(request.url.path)
    return await call_next(request)

async def custom_sagemaker_invocation_handler(request):
    return [len(await request.body()), SEEN]
""")
    with scripts.server(security={"api_key": ["a-key"]}, overload={"max_request_body_bytes": 2000}) as server:
        key = {"authorization": "Bearer a-key"}
        assert server.post("/invocations", {}).status_code == 401
        assert server.post("/invocations", {"a": "x" * 3000}, headers=key).status_code == 413
        chunked = server.client.post("/invocations", content=iter([b"x" * 1500] * 2), headers=key)
        assert chunked.status_code == 413
        assert server.post("/invocations", {}, headers=key).json() == [2, ["/invocations", "/invocations"]]


def test_sessions_work_with_a_custom_handler(scripts: Scripts) -> None:
    scripts.write("""
async def custom_sagemaker_invocation_handler(request):
    session = request.state.session
    if session is None:
        return None
    said = session.data.setdefault("said", [])
    said.append((await request.json())["say"])
    return said
""")
    with scripts.server({"enable_stateful_sessions": True}) as server:
        first = server.post("/invocations", {"say": "a"}, headers={"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"})
        session = {"X-Amzn-SageMaker-Session-Id": first.headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]}
        assert server.post("/invocations", {"say": "b"}, headers=session).json() == ["a", "b"]
        assert server.post("/invocations", {"say": "c"}).json() is None
        assert server.post("/invocations", {"requestType": "CLOSE"}, headers=session).status_code == 200
        assert server.post("/invocations", {"say": "d"}, headers=session).status_code == 400


def test_without_sessions_a_custom_handler_gets_every_request(scripts: Scripts) -> None:
    scripts.write("async def custom_sagemaker_invocation_handler(request): return await request.json()")
    with scripts.server() as server:
        body = {"requestType": "NEW_SESSION"}
        assert server.post("/invocations", body, headers={"X-Amzn-SageMaker-Session-Id": "mine"}).json() == body


def test_the_documented_scripts_work(scripts: Scripts) -> None:
    documented = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "handlers.md").read_text(), re.DOTALL)
    asking, remembering = (text for text in documented if "handler_registry.get_framework_default" in text)
    scripts.write(asking)
    with scripts.server() as server:
        assert server.post("/invocations", {"question": "x"}).json() == {"answer": "hello world"}
    scripts.write(asking.partition("@")[0] + remembering)
    with scripts.server({"enable_stateful_sessions": True}) as server:
        first = server.post("/invocations", {"say": "x"}, headers={"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"})
        session = {"X-Amzn-SageMaker-Session-Id": first.headers["X-Amzn-SageMaker-New-Session-Id"]}
        assert server.post("/invocations", {"say": "y"}, headers=session).status_code == 200
        prompt = server.tokenizer.decode(server.engine.requests[-1].prompt_token_ids, skip_special_tokens=False)
        assert prompt == "<user>x|<assistant>hello world|<user>y|<assistant>"
