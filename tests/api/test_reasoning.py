"""Reasoning told apart from the content, whole and streamed, and what requests say of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_server import TEMPLATE, ApiServer

THINKS = "{# <think></think> #}{% if enable_thinking is defined %}[{{ enable_thinking }},{{ reasoning_effort }}]{% endif %}" + TEMPLATE
ASK: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "weather"}}
ANSWER = "<think>\nIt is small.\n</think>\n\nhello world"


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer(max_model_len=2048, template=THINKS) as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    shared.engine.begin_anew(ANSWER)
    return shared


def ask(server: ApiServer, **fields: Any) -> Any:
    answer = server.post("/v1/chat/completions", {"messages": ASK, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(server: ApiServer, **options: Any) -> list[Any]:
    with server.openai() as client:
        return [choice for chunk in _chunks(client, options) for choice in chunk.choices]


def _chunks(client: Any, options: dict[str, Any]) -> list[Any]:
    return list(client.chat.completions.create(model="tiny", messages=ASK, stream=True, **options))


def num_tokens(server: ApiServer, text: str) -> int:
    return len(server.tokenizer.encode(text, add_special_tokens=False))


def test_reasoning_is_told_apart_and_counted(server: ApiServer) -> None:
    answer = ask(server)
    message = answer["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("It is small.", "hello world")
    assert "reasoning_content" not in message
    counted = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert counted == num_tokens(server, "<think>\nIt is small.\n</think>")


@pytest.mark.parametrize("tokens_per_delta", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    "text", [ANSWER, "hello", "<think>without an end", ANSWER + '<tool_call>{"name": "weather", "arguments": {}}</tool_call>']
)
def test_a_stream_adds_up_to_the_whole_however_it_is_cut(server: ApiServer, text: str, tokens_per_delta: int) -> None:
    server.engine.text = text
    message = ask(server, tools=[TOOL])["choices"][0]["message"]
    server.engine.tokens_per_delta = tokens_per_delta
    choices = streamed(server, tools=[TOOL])
    assert "".join(choice.delta.model_dump().get("reasoning") or "" for choice in choices) == (message["reasoning"] or "")
    assert "".join(choice.delta.content or "" for choice in choices) == (message["content"] or "")
    called = [call.function.name for choice in choices for call in choice.delta.tool_calls or [] if call.function.name]
    assert called == [call["function"]["name"] for call in message.get("tool_calls", [])]


def test_an_answer_of_reasoning_alone_has_no_content(server: ApiServer) -> None:
    server.engine.text = "<think>without an end"
    message = ask(server)["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("without an end", None)


@pytest.mark.parametrize("tokens_per_delta", [1, 2, 3, 1000])
def test_reasoning_can_be_left_out_with_its_tokens(server: ApiServer, tokens_per_delta: int) -> None:
    server.engine.tokens_per_delta = tokens_per_delta
    options = {"include_reasoning": False, "return_token_ids": True, "logprobs": True}
    answer = ask(server, **options)
    choice = answer["choices"][0]
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == (None, "hello world")
    told = server.tokenizer.encode("\n\nhello world", add_special_tokens=False)
    ids = choice["token_ids"]
    assert ids[: len(told)] == told
    assert len(choice["logprobs"]["content"]) == len(ids)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] + len(ids) == answer["usage"]["completion_tokens"]
    extra = {"include_reasoning": False, "return_token_ids": True}
    choices = streamed(server, logprobs=True, extra_body=extra)
    assert [token_id for one in choices for token_id in one.model_dump().get("token_ids") or []] == ids
    assert len([entry for one in choices if one.logprobs for entry in one.logprobs.content or []]) == len(ids)
    assert not any(one.delta.model_dump().get("reasoning") for one in choices)


def test_a_grammar_begins_behind_the_reasoning(server: ApiServer) -> None:
    end = tuple(server.tokenizer.encode("</think>", add_special_tokens=False))
    for fields in ({"tools": [TOOL], "tool_choice": "required"}, {"response_format": {"type": "json_object"}}):
        ask(server, **fields)
        grammar = server.engine.requests[-1].sampling.grammar
        assert grammar is not None
        assert grammar.starts_after == end
        ask(server, **fields, chat_template_kwargs={"enable_thinking": False})
        assert server.engine.requests[-1].sampling.grammar.starts_after == ()  # type: ignore[union-attr]


def test_a_forced_call_comes_behind_the_reasoning(server: ApiServer) -> None:
    server.engine.text = '<think>I call.</think>[{"name": "weather", "parameters": {}}]'
    choice = ask(server, tools=[TOOL], tool_choice="required")["choices"][0]
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("I call.", None)
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"reasoning_effort": "none"}, "[False,none]"),
        ({"reasoning_effort": "low"}, "[True,low]"),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}, "[False,low]"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "[True,]"),
        ({}, ""),
    ],
)
def test_the_effort_reaches_the_template(server: ApiServer, fields: dict[str, Any], shown: str) -> None:
    ask(server, **fields)
    assert server.tokenizer.decode(server.engine.requests[0].prompt_token_ids) == f"{shown}<user>hi|<assistant>"


def test_the_older_name_is_sent_too_where_the_operator_wants_it() -> None:
    with ApiServer(template=THINKS, chat={"send_reasoning_content": True}) as server:
        server.engine.text = ANSWER
        message = ask(server)["choices"][0]["message"]
        assert message["reasoning_content"] == message["reasoning"] == "It is small."
        deltas = [choice.delta.model_dump() for choice in streamed(server)]
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "It is small."


def test_reasoning_stays_in_the_content_where_no_parser_is_wanted_or_known() -> None:
    for template, chat in ((THINKS, {"reasoning_parser": "none"}), (TEMPLATE, {})):
        with ApiServer(template=template, chat=chat) as server:
            server.engine.text = ANSWER
            answer = ask(server)
            assert answer["choices"][0]["message"]["content"] == ANSWER
            assert "completion_tokens_details" not in answer["usage"]


def test_the_clients_own_event_parser_takes_a_stream_with_reasoning(server: ApiServer) -> None:
    with server.openai() as client, client.chat.completions.stream(model="tiny", messages=ASK) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "hello world"
    assert final.choices[0].message.model_dump()["reasoning"] == "It is small."
