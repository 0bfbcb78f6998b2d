"""Bad input: each a 4xx in OpenAI's error shape with a sentence that names the field, and nothing reaches the engine."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from api_server import ApiServer

CHAT = {"messages": [{"role": "user", "content": "x"}]}
BOTH: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": 5e-324}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"seed": 2**70}, "seed"),
    ({"stop": ["s"] * 10_000}, "stop"),
    ({"stop": [""]}, "stop.0"),
    ({"stop": 3}, "stop"),
    ({"stop_token_ids": [10**6]}, "stop_token_ids"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"1000000": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"min_tokens": 20, "max_tokens": 10}, "min_tokens"),
    ({"min_tokens": 1000, "max_tokens": 1000}, "min_tokens"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"includeusage": True}}, "stream_options.includeusage"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"request_id": "two words"}, "request_id"),
    ({"max_tokenz": 5}, "max_tokenz"),
    ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params.a"),
    ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
    ({"kv_transfer_params": {"announce": True}}, "kv_transfer_params"),
    ({"guided_regex": "(a"}, "guided_regex"),
    ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
]


def tool(name: str, **members: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **members}}


TOOL = tool("f")
CASES: list[tuple[str, dict[str, Any], str]] = [
    *(("/v1/completions", {"prompt": "x", **body}, param) for body, param in BOTH),
    *(("/v1/chat/completions", {**CHAT, **body}, param) for body, param in BOTH),
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": ""}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, "prompt"),
    ("/v1/completions", {"prompt": ["a", 1]}, "prompt"),
    ("/v1/completions", {"prompt": [10**6]}, "prompt"),
    ("/v1/completions", {"prompt": [-1]}, "prompt"),
    ("/v1/completions", {"prompt": ["a", ""]}, "prompt.1"),
    ("/v1/completions", {"prompt": "x " * 300}, "prompt"),
    ("/v1/completions", {"prompt": "x" * 100_000}, "prompt"),
    ("/v1/completions", {"prompt": [1] * 256}, "prompt"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "logprobs": 21}, "logprobs"),
    ("/v1/completions", {"prompt": "x", "logprobs": -1}, "logprobs"),
    ("/v1/completions", {"prompt": "x", "best_of": 2, "n": 3}, "best_of"),
    ("/v1/completions", {"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
    ("/v1/completions", {"prompt": "x", "best_of": 129}, "best_of"),
    ("/v1/completions", {"prompt": ["x"] * 1000, "best_of": 2}, "best_of"),
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("/v1/completions", {"prompt": ["x"] * 1025}, "prompt"),
    ("/v1/completions", {"promt": "x"}, "promt"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": "x"}, "messages"),
    ("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages.0.role"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x " * 300}]}, "messages"),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, "max_tokens"),
    ("/v1/chat/completions", {**CHAT, "max_completion_tokens": -5}, "max_completion_tokens"),
    ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("/v1/chat/completions", {**CHAT, "top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function"}]}, "tools.0.function"),
    ("/v1/chat/completions", {**CHAT, "tools": [{"type": "web_search"}]}, "tools.0.type"),
    ("/v1/chat/completions", {**CHAT, "tools": [1]}, "tools.0"),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL, tool("a b")]}, "tools.1.function.name"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f\n")]}, "tools.0.function.name"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f" * 129)]}, "tools.0.function.name"),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL, TOOL]}, "tools.1.function.name"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f", parameters=[])]}, "tools.0.function.parameters"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f", parameters={"type": "string"})]}, "tools.0.function.parameters"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f", description=1)]}, "tools.0.function.description"),
    ("/v1/chat/completions", {**CHAT, "tools": [tool("f", strict="yes")]}, "tools.0.function.strict"),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": ["f"]}, "tool_choice"),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
    (
        "/v1/chat/completions",
        {**CHAT, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
    ),
    ("/v1/chat/completions", {**CHAT, "tools": [], "tool_choice": "required"}, "tool_choice"),
    ("/v1/chat/completions", {**CHAT, "functions": [{"name": "f"}]}, "functions"),
    ("/v1/chat/completions", {**CHAT, "function_call": {"name": "f"}}, "function_call"),
    ("/v1/chat/completions", {**CHAT, "verbosity": "high"}, "verbosity"),
    ("/v1/chat/completions", {**CHAT, "reasoning_effort": "much"}, "reasoning_effort"),
    ("/v1/chat/completions", {**CHAT, "documents": [{"title": "t", "text": "x"}]}, "documents"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x", "tool_call_id": 1}]}, "messages.0.tool_call_id"),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "reasoning": 1}]}, "messages.0.reasoning"),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages.0.function_call"),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages.0.tool_calls"),
    ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "messages.0.tool_calls.0.function.arguments",
    ),
    ("/tokenize", {**CHAT, "tools": [TOOL, TOOL]}, "tools.1.function.name"),
    ("/v1/chat/completions", {**CHAT, "tool_choice": "auto"}, "tool_choice"),
    ("/v1/chat/completions", {**CHAT, "add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ("/invocations", {}, "messages"),
    ("/invocations", {**CHAT, "prompt": "x"}, "messages"),
    ("/invocations", {"prompt": "x", "n": 0}, "n"),
    ("/detokenize", {"tokens": [-1]}, "tokens.0"),
]


@pytest.fixture(scope="module")
def server() -> Any:
    with ApiServer() as server:
        yield server


def check_error(answer: Any, status: int, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["param"] == param
    message: str = error["message"]
    assert len(message) < 400
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(("path", "body", "param"), CASES, ids=[f"{path}-{json.dumps(body)[:60]}" for path, body, _ in CASES])
def test_a_400_names_the_field(server: ApiServer, path: str, body: dict[str, Any], param: str) -> None:
    message = check_error(server.post(path, body), 400, param)
    assert param.split(".")[0] in message or "prompt" in message or "template" in message
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b'{"prompt": "x",', "not valid JSON"),
        (b'{"prompt": "x", "temperature": NaN}', "not valid JSON"),
        (b"[1, 2]", "a list"),
        (b'"x"', "a text"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_object(server: ApiServer, body: bytes, words: str) -> None:
    answer = server.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert words in check_error(answer, 400)


def test_content_types(server: ApiServer) -> None:
    body = b'{"prompt": "x"}'
    for kind, status in (("application/json; charset=utf-8", 200), ("application/x+json", 200), ("text/plain", 415)):
        assert server.client.post("/v1/completions", content=body, headers={"content-type": kind}).status_code == status
    assert server.client.post("/invocations", content=body).status_code == 200  # SageMaker may send none
    server.engine.requests.clear()


def test_an_unknown_model_lists_the_known(server: ApiServer) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", CHAT),
        ("/invocations", CHAT),
        ("/tokenize", {"prompt": "x"}),
    ):
        assert "'tiny'" in check_error(server.post(path, {**body, "model": "gpt-7"}), 404, "model")


def test_unknown_paths_and_methods(server: ApiServer) -> None:
    assert "/v1/nothing" in check_error(server.client.get("/v1/nothing"), 404)
    answer = server.client.get("/v1/completions")
    assert "POST" in check_error(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_bodies_above_the_limit() -> None:
    with ApiServer(overload={"max_request_body_bytes": 10_000}) as server:
        big = {"prompt": "x" * 20_000}
        assert "10000" in check_error(server.post("/v1/completions", big), 413)
        chunks = (b"x" * 1000 for _ in range(30))  # a generator goes chunked, without Content-Length
        answer = server.client.post("/v1/completions", content=chunks, headers={"content-type": "application/json"})
        check_error(answer, 413)
        assert server.post("/v1/completions", {"prompt": "x" * 100}).status_code == 200


def test_a_30_mb_body_with_the_default_limit(server: ApiServer) -> None:
    answer = server.client.post("/v1/completions", content=b'{"prompt": "' + b"x" * 30_000_000 + b'"}')
    check_error(answer, 413)
    assert server.client.get("/health").status_code == 200


def test_a_client_that_leaves_while_it_sends(server: ApiServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
    server.engine.requests.clear()


def test_a_bug_is_a_500_without_its_insides(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    original, server.tokenizer.encode_batch = server.tokenizer.encode_batch, None  # type: ignore[method-assign, assignment]
    try:
        answer = server.post("/v1/completions", {"prompt": "x"}, headers={"x-request-id": "find-me"})
    finally:
        server.tokenizer.encode_batch = original  # type: ignore[method-assign]
    message = check_error(answer, 500)
    assert "find-me" in message
    assert "NoneType" not in message
    record = next(record for record in caplog.records if "find-me" in record.getMessage())
    assert record.exc_info is not None
    assert vars(record)["request_id"] == "find-me"  # a field of its own in JSON logs
