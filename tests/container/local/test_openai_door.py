"""OpenAI's own client against `/endpoints/NAME/openai/v1`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from data_plane import ENDPOINT, Local, Starter

from headway.container.local.runtime.runtime import Limits

COMPLETION = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunks(*words: str) -> list[str]:
    choices = [[{"index": 0, "delta": {"content": word}, "finish_reason": None}] for word in words]
    return [*(f"data: {json.dumps({**CHUNK, 'choices': choice})}\n\n" for choice in choices), "data: [DONE]\n\n"]


def chat(local: Local, wish: dict[str, Any], path: str = "", **options: Any) -> Any:
    url = f"{local.url}/endpoints/{ENDPOINT}{path}/openai/v1"
    with openai.OpenAI(base_url=url, api_key="sagemaker-api-key-dGVzdA==", max_retries=0) as client:
        answer = client.chat.completions.create(model="", messages=[{"role": "user", "content": "hi"}], extra_body=wish, **options)
        return list(answer) if options.get("stream") else answer


def test_a_whole_answer(runtime: Local) -> None:
    answer = chat(runtime, {"text": json.dumps(COMPLETION), "headers": {"content-type": "application/json"}})
    assert answer.id == "c"
    arrived = runtime.container.arrived[-1]
    assert arrived.path == "/v1/chat/completions"
    assert sorted(arrived.headers) == ["accept", "content-length", "content-type", "host"]
    assert json.loads(arrived.body)["model"] == ""


def test_a_stream(runtime: Local) -> None:
    found = chat(runtime, {"parts": chunks("a", "b")}, stream=True)
    assert [chunk.choices[0].delta.content for chunk in found] == ["a", "b"]


def test_a_stream_may_take_longer_than_an_answer(start: Starter) -> None:
    local = start(limits=Limits(answer_s=0.2, stream_s=20))
    assert len(chat(local, {"parts": chunks(*"abcde"), "pause_s": 0.1}, stream=True)) == 5


def test_a_container_that_breaks_off(runtime: Local) -> None:
    with pytest.raises(openai.APIError):
        chat(runtime, {"parts": chunks("a", "b")[:-1], "then": "abort"}, stream=True)
    with pytest.raises(openai.APIStatusError) as caught:
        chat(runtime, {"abort": True})
    assert caught.value.status_code == 424


def test_errors_of_the_container(runtime: Local) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        chat(runtime, {"status": 400, "text": "why"})
    assert caught.value.status_code == 424
    assert caught.value.type == "server_error"
    assert caught.value.code == "model_error"
    assert 'Received client error (400) from primary with message "why"' in caught.value.message


def test_refusals(runtime: Local) -> None:
    with pytest.raises(openai.BadRequestError, match="Inference Component Name header is not allowed") as caught:
        chat(runtime, {}, "/inference-components/ic")
    assert (caught.value.type, caught.value.code) == ("invalid_request_error", "validation_error")
    with pytest.raises(openai.BadRequestError, match="stands in the path here"):
        chat(runtime, {}, extra_headers={"X-Amzn-SageMaker-Inference-Component": "ic"})
    path = f"{runtime.url}/endpoints/{ENDPOINT}/openai/v1"
    assert httpx.post(f"{path}/chat/completions", json={}).status_code == 401
    assert httpx.post(f"{path}/completions", json={}, headers={"Authorization": "Bearer t"}).status_code == 404
