"""Responses with reasoning, calls of tools and structured texts, as the official client reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_server import TEMPLATE, ApiServer
from openai.types.responses import Response
from pydantic import BaseModel

THINKING_CALLER = "{# <think></think> #}{% if tools %}{{ tools | tojson }}<tool_call></tool_call>|{% endif %}" + TEMPLATE
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "name": "weather", "description": "d", "parameters": PARAMETERS, "strict": False}
TIME: Any = {"type": "function", "name": "time", "parameters": PARAMETERS, "strict": True}
CALLS = "".join(
    f'\n<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
    for name, city in (("weather", "Paris"), ("time", "Rome 😀"))
)
ANSWER = f"<think>\nIt is small.\n</think>\n\nLet me see.{CALLS}"
FORCED = '[{"name": "weather", "parameters": {"city": "Paris"}}]'


class City(BaseModel):
    city: str


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer(max_model_len=2048, template=THINKING_CALLER) as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    shared.engine.begin_anew(ANSWER)
    return shared


@pytest.fixture
def client(server: ApiServer) -> Iterator[openai.OpenAI]:
    with server.openai() as made:
        yield made


def told(response: Any) -> list[Any]:
    """What the items say, without their ids."""
    said = []
    for item in response.output:
        match item.type:
            case "function_call":
                said.append((item.name, item.arguments))
            case _:
                said.append((item.type, item.content[0].text))
    return said


WHOLE = [
    ("reasoning", "It is small."),
    ("message", "Let me see."),
    ("weather", '{"city": "Paris"}'),
    ("time", '{"city": "Rome 😀"}'),
]


@pytest.mark.parametrize("tokens_per_delta", [1, 2, 5, 1000])
def test_reasoning_text_and_calls_whole_and_streamed(server: ApiServer, client: openai.OpenAI, tokens_per_delta: int) -> None:
    server.engine.tokens_per_delta = tokens_per_delta
    whole = client.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME])
    Response.model_validate(whole.to_dict(), strict=True)
    with client.responses.stream(model="tiny", input="hi", tools=[WEATHER, TIME]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [(name, text.strip()) for name, text in told(whole)] == WHOLE
    assert told(final) == told(whole)
    assert final.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "It is small."
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert arguments == '{"city": "Paris"}{"city": "Rome 😀"}'
    assert final.tools[0].to_dict() == WEATHER


def test_a_conversation_with_a_tool(server: ApiServer, client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME])
    calls = [item for item in first.output if item.type == "function_call"]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": f"result {at}"} for at, call in enumerate(calls)]
    server.engine.text = "Sunny."
    by_id = client.responses.create(model="tiny", input=results, tools=[WEATHER, TIME], previous_response_id=first.id)
    whole: Any = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output), *results]
    by_items = client.responses.create(model="tiny", input=whole, tools=[WEATHER, TIME], store=False)
    assert by_id.output_text == by_items.output_text == "Sunny."
    prompts = [request.prompt_token_ids for request in server.engine.requests[1:]]
    assert prompts[0] == prompts[1]
    assert server.tokenizer.decode(prompts[0]).endswith("|<tool>result 0|<tool>result 1|<assistant>")


def test_tool_choice(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.text = f"<think>hm</think>{FORCED}"
    for choice in ("required", {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}):
        answer = client.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME], tool_choice=choice)  # type: ignore[arg-type]
        assert told(answer)[-1] == ("weather", '{"city": "Paris"}')
        grammar = server.engine.requests[-1].sampling.grammar
        assert grammar is not None
        assert ("time" in grammar.source) == (choice == "required")
    server.engine.text = '<think>hm</think>{"city": "Rome"}'
    answer = client.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME], tool_choice={"type": "function", "name": "time"})
    assert told(answer)[-1] == ("time", '{"city": "Rome"}')
    assert answer.tool_choice.to_dict() == {"type": "function", "name": "time"}  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError) as unknown:
        client.responses.create(model="tiny", input="hi", tools=[WEATHER], tool_choice={"type": "function", "name": "time"})
    assert unknown.value.param == "tool_choice.name"


def test_one_call_at_most(server: ApiServer, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tiny", input="hi", tools=[WEATHER, TIME], parallel_tool_calls=False)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    assert answer.parallel_tool_calls is False


def test_a_structured_text_is_parsed(server: ApiServer, client: openai.OpenAI) -> None:
    server.engine.text = '<think>hm</think>{"city": "Paris"}'
    answer = client.responses.parse(model="tiny", input="hi", text_format=City)
    assert answer.output_parsed == City(city="Paris")
    grammar = server.engine.requests[-1].sampling.grammar
    assert grammar is not None
    assert '"city"' in grammar.source
    with client.responses.stream(model="tiny", input="hi", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(city="Paris")
    server.engine.text = ANSWER
    called = client.responses.parse(
        model="tiny", input="hi", tools=[openai.pydantic_function_tool(City, name="weather")["function"] | {"type": "function"}]
    )  # type: ignore[list-item]
    assert called.output[-2].type == "function_call"


@pytest.mark.parametrize(
    ("schema", "param"),
    [({"type": "object", "properties": {"a": {"type": "nothing"}}}, "text.format.schema"), ({"$ref": "#/nowhere"}, "text.format.schema")],
)
def test_a_schema_that_cannot_be_done_names_the_field(server: ApiServer, schema: dict[str, Any], param: str) -> None:
    body = {"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}
    answer = server.post("/v1/responses", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param, answer.text
