"""Chats with tools: what is forced, what is chosen, and calls whole and streamed, as the official client reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_server import TEMPLATE, ApiServer
from openai.types.chat import ChatCompletion

HERMES = "{% if tools %}{{ tools | tojson }}<tool_call></tool_call>|{% endif %}" + TEMPLATE
ASK: list[Any] = [{"role": "user", "content": "hi"}]


def tool(name: str, **members: Any) -> Any:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **members}}


TOOLS = [tool("weather"), tool("time")]
ONE_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TWO_CALLS = f'Let me see.\n{ONE_CALL}\n<tool_call>\n{{"name": "time", "arguments": {{"city": "Orléans 😀"}}}}\n</tool_call>'
FORCED = '[{"name": "weather", "parameters": {"city": "Paris"}}, {"name": "time", "parameters": {"city": "Rome"}}]'
NAMED: Any = {"type": "function", "function": {"name": "time"}}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer(max_model_len=2048, template=HERMES) as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    shared.engine.begin_anew(ONE_CALL)
    return shared


def ask(server: ApiServer, **options: Any) -> ChatCompletion:
    with server.openai() as client:
        answer: ChatCompletion = client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, **options)
    return answer


def streamed(server: ApiServer, **options: Any) -> list[Any]:
    with server.openai() as client:
        return list(client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, stream=True, **options))


def put_together(chunks: list[Any], index: int = 0) -> dict[str, Any]:
    """A stream's choice as a whole message; each call's first piece has all but the arguments."""
    content, calls, reasons = "", [], []
    for choice in (choice for chunk in chunks for choice in chunk.choices if choice.index == index):
        content += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for entry in choice.delta.tool_calls or []:
            if entry.index == len(calls):
                assert (entry.type, entry.function.arguments) == ("function", "")
                assert entry.id
                calls.append([entry.function.name, ""])
            else:
                assert (entry.index, entry.id, entry.function.name) == (len(calls) - 1, None, None)
                assert entry.function.arguments
                calls[-1][1] += entry.function.arguments
    assert len(reasons) == 1
    assert chunks[-1].choices[0].finish_reason == reasons[0]
    return {"content": content or None, "calls": calls, "finish_reason": reasons[0]}


def whole(answer: ChatCompletion, index: int = 0) -> dict[str, Any]:
    choice = answer.choices[index]
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]  # type: ignore[union-attr]
    return {"content": choice.message.content, "calls": calls, "finish_reason": choice.finish_reason}


def test_a_call_that_the_model_chose(server: ApiServer) -> None:
    answer = ask(server)
    assert whole(answer) == {"content": None, "calls": [["weather", '{"city": "Paris"}']], "finish_reason": "tool_calls"}
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert re.fullmatch(r"call_[0-9a-f]{24}", calls[0].id)
    assert server.engine.requests[0].sampling.grammar is None
    assert '"name": "weather"' in server.tokenizer.decode(server.engine.requests[0].prompt_token_ids)


def test_an_answer_without_a_call_is_content(server: ApiServer) -> None:
    server.engine.text = "It rains <tool_c"
    answer = ask(server)
    assert whole(answer) == {"content": "It rains <tool_c", "calls": [], "finish_reason": "stop"}
    assert "tool_calls" not in answer.choices[0].message.model_fields_set
    assert put_together(streamed(server)) == whole(answer)


@pytest.mark.parametrize("tokens_per_delta", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "options"),
    [
        (ONE_CALL, {}),
        (TWO_CALLS, {}),
        (TWO_CALLS, {"parallel_tool_calls": False}),
        (TWO_CALLS, {"max_tokens": 40}),
        (ONE_CALL.replace("}}", ""), {}),
        ("<tool_call>no call</tool_call>", {}),
        (FORCED, {"tool_choice": "required"}),
        ('{"city": "Lyon"}', {"tool_choice": NAMED}),
        (TWO_CALLS, {"tool_choice": "none"}),
    ],
)
def test_a_stream_adds_up_to_the_whole_however_it_is_cut(
    server: ApiServer, text: str, options: dict[str, Any], tokens_per_delta: int
) -> None:
    server.engine.text = text
    expected = whole(ask(server, **options))
    server.engine.tokens_per_delta = tokens_per_delta
    assert put_together(streamed(server, **options)) == expected
    assert whole(ask(server, **options)) == expected


@pytest.mark.parametrize("text", [ONE_CALL, TWO_CALLS, "no call"])
def test_the_clients_own_event_parser_takes_every_stream(server: ApiServer, text: str) -> None:
    server.engine.text = text
    expected = whole(ask(server))
    strict = [tool(name, strict=True) for name in ("weather", "time")]
    with server.openai() as client, client.chat.completions.stream(model="tiny", messages=ASK, tools=strict) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [[event.name, event.arguments] for event in done] == expected["calls"]
    assert [[call.function.name, call.function.arguments] for call in final.choices[0].message.tool_calls or []] == expected["calls"]
    assert final.choices[0].finish_reason == expected["finish_reason"]


def test_required_calls_are_held_to_the_tools(server: ApiServer) -> None:
    server.engine.text = FORCED
    answer = whole(ask(server, tool_choice="required"))
    assert answer["calls"] == [["weather", '{"city": "Paris"}'], ["time", '{"city": "Rome"}']]
    assert (answer["content"], answer["finish_reason"]) == (None, "tool_calls")
    grammar = server.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert '"weather"' in grammar.source


def test_a_named_function_is_called(server: ApiServer) -> None:
    server.engine.text = '{"city": "Lyon"}'
    assert whole(ask(server, tool_choice=NAMED)) == {"content": None, "calls": [["time", '{"city": "Lyon"}']], "finish_reason": "stop"}
    assert server.engine.requests[0].sampling.grammar is not None
    assert streamed(server, tool_choice=NAMED)[0].choices[0].delta.content is None


def test_no_call_is_read_where_none_is_wanted(server: ApiServer) -> None:
    assert whole(ask(server, tool_choice="none")) == {"content": ONE_CALL, "calls": [], "finish_reason": "stop"}
    assert "weather" in server.tokenizer.decode(server.engine.requests[0].prompt_token_ids)


def test_one_call_at_most(server: ApiServer) -> None:
    server.engine.text = TWO_CALLS
    assert [name for name, _ in whole(ask(server, parallel_tool_calls=False))["calls"]] == ["weather"]


def test_every_choice_has_its_own_calls(server: ApiServer) -> None:
    answer = ask(server, n=2)
    assert whole(answer, 0) == whole(answer, 1)
    ids = {call.id for choice in answer.choices for call in choice.message.tool_calls or []}
    assert len(ids) == 2
    chunks = [chunk for chunk in streamed(server, n=2) if chunk.choices]
    for index in (0, 1):
        assert put_together([chunk for chunk in chunks if chunk.choices[0].index == index], index) == whole(answer)


def test_logprobs_and_token_ids_come_once(server: ApiServer) -> None:
    options: dict[str, Any] = {"logprobs": True, "extra_body": {"return_token_ids": True}}
    answer = ask(server, **options)
    assert answer.choices[0].logprobs is not None
    expected = answer.choices[0].model_dump()["token_ids"]
    assert len(expected) == len(answer.choices[0].logprobs.content or []) > 0
    server.engine.tokens_per_delta = 5
    choices = [choice for chunk in streamed(server, **options) for choice in chunk.choices]
    assert [token_id for choice in choices for token_id in choice.model_dump().get("token_ids") or []] == expected
    logprobs = [entry.token for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert logprobs == [entry.token for entry in answer.choices[0].logprobs.content or []]


def test_a_constraint_leaves_no_room_for_calls(server: ApiServer) -> None:
    form: Any = {"type": "json_object"}
    for choice in ("auto", "required", NAMED):
        with pytest.raises(openai.BadRequestError, match="leaves no room for calls") as caught:
            ask(server, response_format=form, tool_choice=choice)
        assert caught.value.param == "response_format"
    server.engine.text = "{}"
    assert whole(ask(server, response_format=form, tool_choice="none"))["content"] == "{}"


def test_a_schema_that_can_not_be_enforced_names_the_tools(server: ApiServer) -> None:
    bad = tool("weather", parameters={"type": "object", "properties": {"city": {"$ref": "#/$defs/none"}}})
    body = {"messages": ASK, "tools": [bad], "tool_choice": "required"}
    refused = server.post("/v1/chat/completions", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    bad["function"]["strict"] = False
    assert server.post("/v1/chat/completions", body).status_code == 200


def test_tools_are_not_shown_where_none_is_wanted_if_the_operator_says_so() -> None:
    with ApiServer(max_model_len=2048, template=HERMES, chat={"exclude_tools_when_tool_choice_none": True}) as server:
        ask(server, tool_choice="none")
        assert "weather" not in server.tokenizer.decode(server.engine.requests[0].prompt_token_ids)
        ask(server)
        assert "weather" in server.tokenizer.decode(server.engine.requests[1].prompt_token_ids)


def test_the_operator_can_keep_the_choice_from_the_model() -> None:
    with ApiServer(max_model_len=2048, template=HERMES, chat={"enable_auto_tool_choice": False}) as server:
        with pytest.raises(openai.BadRequestError, match="--no-enable-auto-tool-choice"):
            ask(server)
        server.engine.text = '{"city": "Lyon"}'
        assert whole(ask(server, tool_choice=NAMED))["calls"]


def test_a_named_parser_goes_before_what_the_template_tells() -> None:
    with ApiServer(max_model_len=2048, template=HERMES, chat={"tool_call_parser": "json"}) as server:
        server.engine.text = '{"name": "weather", "arguments": {}}'
        assert whole(ask(server))["calls"] == [["weather", "{}"]]


def test_a_template_that_knows_no_tools_gets_them_as_text() -> None:
    with ApiServer(max_model_len=2048) as server:
        server.engine.text = '<tool_call>[{"name": "weather", "arguments": {"city": "Paris"}}]</tool_call>'
        body: dict[str, Any] = {"messages": ASK, "tools": [tool("w", parameters=None)]}
        answer = server.post("/v1/chat/completions", body).json()
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
        prompt = server.tokenizer.decode(server.engine.requests[0].prompt_token_ids)
        assert prompt.startswith("<system>You can call functions")
        assert '<tools>[{"name": "w", "parameters": null}]</tools>' in prompt
        tokens = server.post("/tokenize", body).json()["tokens"]
        assert tokens == server.engine.requests[0].prompt_token_ids
        server.post("/v1/chat/completions", {**body, "tool_choice": "none"})
        assert server.tokenizer.decode(server.engine.requests[1].prompt_token_ids) == "<user>hi|<assistant>"


def test_a_conversation_goes_on_behind_a_call(server: ApiServer) -> None:
    first = ask(server)
    message = first.choices[0].message
    assert message.tool_calls is not None
    server.engine.text = "It rains."
    history: list[Any] = [*ASK, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
    with server.openai() as client:
        second = client.chat.completions.create(model="tiny", messages=history, tools=TOOLS)
    assert whole(second) == {"content": "It rains.", "calls": [], "finish_reason": "stop"}


def test_calls_of_a_batch_line_and_an_invocation_are_the_same(server: ApiServer) -> None:
    answer = server.post("/invocations", {"messages": ASK, "tools": TOOLS}).json()
    assert json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
