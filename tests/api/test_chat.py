"""Chat completions: shapes that the official client reads, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from api_server import ApiServer

HELLO: list[Any] = [{"role": "user", "content": "hi"}]


def events(answer: httpx.Response) -> list[Any]:
    """The data events of a finished stream, without [DONE], which must be last."""
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_whole_answer_through_the_official_client(server: ApiServer) -> None:
    with server.openai() as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO)
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello world", "stop")
    assert answer.usage is not None
    num_output = len(server.tokenizer.encode("hello world", add_special_tokens=False)) + 1  # and the end-of-sequence token
    assert answer.usage.completion_tokens == num_output
    assert answer.usage.prompt_tokens == len(server.engine.requests[0].prompt_token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + num_output
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_the_prompt_is_the_rendered_template(server: ApiServer) -> None:
    server.post("/v1/chat/completions", {"messages": HELLO})
    assert server.tokenizer.decode(server.engine.requests[0].prompt_token_ids) == "<user>hi|<assistant>"
    server.post(
        "/v1/chat/completions",
        {"messages": [*HELLO, {"role": "assistant", "content": "he"}], "continue_final_message": True},
    )
    assert server.tokenizer.decode(server.engine.requests[1].prompt_token_ids) == "<user>hi|<assistant>he"


def test_null_fields_are_there(server: ApiServer) -> None:
    answer = server.post("/v1/chat/completions", {"messages": HELLO}).json()
    assert {"service_tier", "system_fingerprint", "prompt_logprobs", "usage"} <= set(answer)
    assert {"index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids"} == set(answer["choices"][0])
    assert {"refusal", "annotations", "audio", "function_call", "reasoning"} <= set(answer["choices"][0]["message"])


@pytest.mark.parametrize("tokens_per_delta", [1, 3])
def test_a_stream_adds_up_to_the_whole(server: ApiServer, tokens_per_delta: int) -> None:
    server.engine.tokens_per_delta = tokens_per_delta
    server.engine.text = "héllo wörld 😀"
    with server.openai() as client:
        chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "héllo wörld 😀"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == ["stop"]
    assert reasons[-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_headers_of_a_stream_go_out_before_the_first_token(server: ApiServer) -> None:
    server.engine.gate.clear()
    with server.client.stream("POST", "/v1/chat/completions", json={"messages": HELLO, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-cache"
        server.on_loop(server.engine.gate.set)
        assert "[DONE]" in answer.read().decode()


def test_usage_in_streams(server: ApiServer) -> None:
    def usages(**options: Any) -> list[Any]:
        answer = server.post("/v1/chat/completions", {"messages": HELLO, "stream": True, **options})
        return [event.get("usage") for event in events(answer)]

    assert not any(usages())
    with_usage = usages(stream_options={"include_usage": True})
    assert with_usage[-1]
    assert not any(with_usage[:-1])
    continuous = usages(stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert all(continuous)
    counts = [usage["completion_tokens"] for usage in continuous]
    assert counts == sorted(counts)


def test_usage_can_be_forced_by_the_operator() -> None:
    with ApiServer(http={"enable_force_include_usage": True, "enable_prompt_tokens_details": False}) as server:
        found = events(server.post("/v1/chat/completions", {"messages": HELLO, "stream": True}))
        assert all(event["usage"] for event in found)
        assert "prompt_tokens_details" not in found[-1]["usage"]


def test_logprobs(server: ApiServer) -> None:
    with server.openai() as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=3)
        chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, logprobs=True, max_tokens=3, stream=True))
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert [entry.token for entry in content] == ["hell", "o", " w"]
    assert content[0].bytes == list(b"hell")
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]
    streamed = [entry for chunk in chunks for entry in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])]
    assert [entry.token for entry in streamed] == ["hell", "o", " w"]
    assert streamed[0].top_logprobs == []


def test_n_choices_stream_interleaved_and_end_each(server: ApiServer) -> None:
    server.engine.text = lambda request: f"answer {request.sampling.seed}"
    with server.openai() as client:
        whole = client.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=5)
        chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=5, stream=True))
    assert [choice.message.content for choice in whole.choices] == ["answer 5", "answer 6", "answer 7"]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == sum(len(server.engine.output_of(request)) for request in server.engine.requests[:3])
    for index in range(3):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in own) == f"answer {5 + index}"
        assert [choice.finish_reason for choice in own][-1] == "stop"
        assert own[0].delta.role == "assistant"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_across_deltas_ends_and_aborts(server: ApiServer, stream: bool) -> None:
    server.engine.is_endless = True
    body = {"messages": HELLO, "stop": ["o wor"], "max_tokens": 100, "stream": stream}
    answer = server.post("/v1/chat/completions", body)
    if stream:
        choices = [event["choices"][0] for event in events(answer)]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        last = choices[-1]
    else:
        last = answer.json()["choices"][0]
        text = last["message"]["content"]
    assert text == "hell"
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "o wor")
    assert server.engine.aborted_ids == [server.engine.requests[0].request_id]


def test_echo_return_token_ids_and_request_id(server: ApiServer) -> None:
    body = {"messages": [*HELLO, {"role": "assistant", "content": "well, "}], "continue_final_message": True, "echo": True}
    answer = server.post(
        "/v1/chat/completions", {**body, "return_token_ids": True, "request_id": "mine"}, headers={"x-request-id": "from-header"}
    ).json()
    assert answer["id"] == "chatcmpl-from-header"
    assert answer["choices"][0]["message"]["content"] == "well, hello world"
    assert answer["prompt_token_ids"] == server.engine.requests[0].prompt_token_ids
    assert server.tokenizer.decode(answer["choices"][0]["token_ids"]) == "hello world"
    assert server.post("/v1/chat/completions", {**body, "request_id": "mine"}).json()["id"] == "chatcmpl-mine"


def test_one_request_id_at_the_same_time_twice(server: ApiServer) -> None:
    server.engine.gate.clear()

    async def two() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            asked = [client.post("/v1/chat/completions", json={"messages": HELLO}, headers={"x-request-id": "same"}) for _ in range(2)]
            tasks = [asyncio.create_task(ask) for ask in asked]
            while server.engine.num_open_requests < 2:
                await asyncio.sleep(0.001)
            server.on_loop(server.engine.gate.set)
            return await asyncio.gather(*tasks)

    assert [answer.status_code for answer in asyncio.run(two())] == [200, 200]


def test_the_async_client(server: ApiServer) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == "hello world"
