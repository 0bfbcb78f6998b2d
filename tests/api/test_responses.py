"""/v1/responses through the official client: whole, streamed, continued, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_server import ApiServer
from event_readers import READERS, standard
from openai.types.responses import Response, ResponseCompletedEvent, ResponseTextDeltaEvent

from headway.server.types import FinishReason

LOGPROBS = "message.output_text.logprobs"


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    """For tests that leave no trace in it but stored responses."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with server.openai() as made:
        yield made


def prompt_of(server: ApiServer, at: int = -1) -> str:
    return server.tokenizer.decode(server.engine.requests[at].prompt_token_ids)


def test_a_whole_answer(server: ApiServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    Response.model_validate(answer.to_dict(), strict=True)
    assert (answer.output_text, answer.status, answer.object) == ("hello world", "completed", "response")
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert answer.to_dict()["store"] is True
    assert answer.id.startswith("resp_")
    assert answer.completed_at is not None
    assert prompt_of(server) == "<system>Be brief.|<user>hi|<assistant>"
    num_output = len(server.tokenizer.encode("hello world", add_special_tokens=False)) + 1  # and the end-of-sequence token
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(server.engine.requests[0].prompt_token_ids)
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (num_output, answer.usage.input_tokens + num_output)
    assert answer.usage.input_tokens_details.cached_tokens == 4


@pytest.mark.parametrize("tokens_per_delta", [1, 3])
def test_a_stream_adds_up_to_the_whole(server: ApiServer, client: openai.OpenAI, tokens_per_delta: int) -> None:
    server.engine.text = "héllo wörld 😀"
    server.engine.tokens_per_delta = tokens_per_delta
    with client.responses.stream(model="tiny", input="hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == final.output_text == "héllo wörld 😀"
    assert isinstance(events[-1], ResponseCompletedEvent)


def test_the_frames_of_a_stream(shared: ApiServer) -> None:
    answer = shared.post("/v1/responses", {"input": "hi", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("event: response.") and '\ndata: {"type":"response.' in frame for frame in frames)
    assert "[DONE]" not in answer.text


def test_every_reader_reads_the_same_events(server: ApiServer) -> None:
    nasty = "“é😀”\u2028a\u2029b\x85c\x0b\x1c\r\n\r\rd\n\ndata: [DONE]\n\nevent: error\n: x\n\ufeff"
    server.engine.text = nasty
    text = server.post("/v1/responses", {"input": "hi", "stream": True}).content
    events = standard([text])
    told = [json.loads(data) for _, data in events]
    assert [name for name, _ in events] == [event["type"] for event in told]
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == nasty
    for name, read in READERS.items():
        assert read(text[at : at + 7] for at in range(0, len(text), 7)) == events, name


def test_an_answer_that_is_cut_off_is_incomplete(server: ApiServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"  # type: ignore[union-attr]
    last = list(client.responses.create(model="tiny", input="hi", max_output_tokens=2, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == answer.output_text


def test_an_answer_that_repeats_itself_is_incomplete(server: ApiServer, client: openai.OpenAI) -> None:
    """As JSON that ends in the middle is."""
    server.engine.ends_by = FinishReason.REPETITION
    answer = client.responses.create(model="tiny", input="hi")
    assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
    assert answer.to_dict()["incomplete_details"] == {"reason": "repetition"}
    last = list(client.responses.create(model="tiny", input="hi", stream=True))[-1]
    assert last.type == "response.incomplete"


def test_logprobs(server: ApiServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", include=[LOGPROBS], top_logprobs=2)
    Response.model_validate(answer.to_dict(), strict=True)
    content = answer.output[0].content[0]  # type: ignore[union-attr]
    assert content.logprobs is not None
    assert len(content.logprobs) == answer.usage.output_tokens  # type: ignore[union-attr]
    assert "".join(at.token for at in content.logprobs[:-1]) == "hello world"
    assert all(len(at.top_logprobs) == 2 for at in content.logprobs)
    events = list(client.responses.create(model="tiny", input="hi", include=[LOGPROBS], stream=True))
    told = [at.token for event in events if isinstance(event, ResponseTextDeltaEvent) for at in event.logprobs]
    assert told == [at.token for at in content.logprobs]


def test_a_conversation_goes_on(server: ApiServer, client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="one", instructions="Not carried over.")
    second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
    assert prompt_of(server) == "<user>one|<assistant>hello world|<user>two|<assistant>"
    client.responses.delete(first.id)
    third = client.responses.create(model="tiny", input="three", previous_response_id=second.id)
    assert prompt_of(server) == "<user>one|<assistant>hello world|<user>two|<assistant>hello world|<user>three|<assistant>"
    assert third.previous_response_id == second.id
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model="tiny", input="x", previous_response_id=first.id)
    assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")
    assert f"Previous response with id '{first.id}' not found." in str(gone.value)


def test_a_stream_can_be_continued_from_its_last_event_on(server: ApiServer, client: openai.OpenAI) -> None:
    for event in client.responses.create(model="tiny", input="one", stream=True):
        if event.type == "response.completed":
            client.responses.create(model="tiny", input="two", previous_response_id=event.response.id)
    assert prompt_of(server).startswith("<user>one|<assistant>hello world|<user>two")


def test_items_of_all_types(server: ApiServer, client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="one")
    items: list[Any] = [
        {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {"type": "item_reference", "id": first.output[0].id},
        {"type": "message", "role": "user", "content": "q"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    ]
    answer = client.responses.create(model="tiny", input=items)
    assert prompt_of(server).startswith("<system>d|<assistant>hello world|<user>q|<assistant>")
    assert '{"name": "f", "arguments": {}}' in prompt_of(server)  # as a template that knows no tools is given it
    assert "\n42\n" in prompt_of(server)
    listed = list(client.responses.input_items.list(answer.id, order="asc", limit=4))  # two pages
    assert [item.type for item in listed] == ["message", "message", "message", "reasoning", "function_call", "function_call_output"]
    assert listed[3].id == "rs_1"
    assert [item.id for item in client.responses.input_items.list(answer.id)] == [item.id for item in reversed(listed)]
    assert client.responses.input_tokens.count(model="tiny", input=items).input_tokens == answer.usage.input_tokens  # type: ignore[union-attr]


def test_what_does_not_fit_is_left_out_from_the_front(server: ApiServer, client: openai.OpenAI) -> None:
    turns: list[Any] = [{"role": role, "content": f"{role}{at} " + "x " * 10} for at in range(9) for role in ("user", "assistant")]
    items = [{"role": "system", "content": "stay"}, *turns, {"role": "user", "content": "last"}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input=items)
    assert refused.value.param == "input"
    client.responses.create(model="tiny", input=items, truncation="auto", max_output_tokens=16)
    prompt = prompt_of(server)
    assert prompt.startswith("<system>stay|<user>user")
    assert prompt.endswith("|<user>last|<assistant>")
    assert "user0" not in prompt
    length = len(server.engine.requests[-1].prompt_token_ids)
    assert 256 - 16 - 60 < length <= 256 - 16  # a turn has less than 60 tokens


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": [{"type": "computer_call"}]}, "input.0.type"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
    ({"input": [{"role": "user", "content": 3}]}, "input.0.content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": None}]}, "input.0.output"),
    ({"input": [{"type": "reasoning", "encrypted_content": "x", "summary": []}]}, "input.0.encrypted_content"),
    ({"input": [{"type": "reasoning", "content": [{"type": "text"}]}]}, "input.0.content.0.type"),
    ({"input": [{"role": "user", "content": "x", "id": 3}]}, "input.0.id"),
    ({"input": [{"role": "user", "content": "x", "status": "new"}]}, "input.0.status"),
    ({"input": "x " * 300}, "input"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"input": "x", "tools": [{"type": "function"}]}, "tools.0.name"),
    ({"input": "x", "tool_choice": {"type": "mcp"}}, "tool_choice"),
    ({"input": "x", "tool_choice": "required"}, "tool_choice"),
    ({"input": "x", "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [3]}}, "tool_choice.tools.0"),
    ({"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"input": "x", "text": {"format": {"type": "text", "strict": True}}}, "text.format.strict"),
    ({"input": "x", "text": {"verbosity": "high"}}, "text.verbosity"),
    ({"input": "x", "reasoning": {"effort": "wild"}}, "reasoning.effort"),
    ({"input": "x", "include": ["file_search_call.results"]}, "include.0"),
    ({"input": "x", "top_logprobs": 2}, "top_logprobs"),
    ({"input": "x", "top_logprobs": 21, "include": [LOGPROBS]}, "top_logprobs"),
    ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    ({"input": "x", "n": 2}, "n"),
    ({"input": "x", "conversation": "c"}, "conversation"),
    ({"input": "x", "response_format": {"type": "text"}}, "response_format"),
    ({"input": "x", "background": True, "store": False}, "store"),
    ({"input": "x", "stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"input": "x", "request_id": "a/b"}, "request_id"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_is_refused_names_the_field(shared: ApiServer, body: dict[str, Any], param: str) -> None:
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        if path.endswith("tokens") and param in ("store", "top_logprobs"):
            continue  # what only an answer could have
        answer = shared.post(path, body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param
        assert "messages" not in error["message"]


def test_what_changes_nothing_is_taken(shared: ApiServer) -> None:
    body = {
        "input": "x",
        "tools": [],
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "max_tool_calls": 3,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "auto",
        "top_k": 5,
        "cache_salt": "salt",
        "priority": 1,
        "request_id": "mine",
    }
    answer = shared.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["id"].startswith("resp_mine_")
    assert {name: told[name] for name in ("user", "safety_identifier", "prompt_cache_key", "max_tool_calls")} == {
        name: body[name] for name in ("user", "safety_identifier", "prompt_cache_key", "max_tool_calls")
    }
    assert told["reasoning"] == body["reasoning"]
    request = shared.engine.requests[-1]
    assert (request.sampling.top_k, request.cache_salt, request.priority) == (5, "salt", 1)


def test_a_stream_that_fails_says_so_in_its_last_event(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.fail_after = 2
    events = list(client.responses.create(model="tiny", input="hi", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.status, last.response.error.message) == ("failed", "something broke")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert client.responses.retrieve(last.response.id).status == "failed"
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="tiny", input="hi")
    failures = [line for line in server.client.get("/metrics").text.splitlines() if "/v1/responses" in line and 'status="5xx"' in line]
    assert failures


def test_a_client_that_leaves_ends_the_work(server: ApiServer) -> None:
    server.engine.gate.clear()
    with server.client.stream("POST", "/v1/responses", json={"input": "hi", "stream": True}) as answer:
        next(answer.iter_raw())
    server.wait_for(lambda: bool(server.engine.aborted_ids))
    assert not server.engine.open_ids
