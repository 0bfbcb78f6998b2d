"""Tools with the demo model, whose chat template knows none: forced calls keep to their schemas, and conversations go on behind them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris, in celsius?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": WEATHER}},
    {
        "type": "function",
        "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    },
]
CHOICES: list[Any] = ["required", {"type": "function", "function": {"name": "get_weather"}}]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with LiveServer("demo", "--dtype", "float32", "--max-model-len", "2048") as live:
        live.wait_ready()
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as made:
            yield made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", CHOICES)
def test_forced_calls_keep_to_their_schemas(client: openai.OpenAI, choice: Any, seed: int) -> None:
    arguments: dict[str, Any] = {
        "model": "demo",
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1,
        "seed": seed,
        "max_tokens": 120,
    }
    whole = client.chat.completions.create(**arguments).choices[0]
    assert whole.finish_reason == ("tool_calls" if choice == "required" else "stop")
    assert whole.message.content is None
    assert whole.message.tool_calls is not None
    (call,) = whole.message.tool_calls
    given = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert set(given) == {"city", "unit"}
        assert len(given["city"]) <= 20
        assert given["unit"] in ("celsius", "fahrenheit")
    else:
        assert (call.function.name, given) == ("get_time", {})
    with client.chat.completions.stream(**arguments) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)


def test_a_conversation_goes_on_behind_a_call(client: openai.OpenAI) -> None:
    forced = client.chat.completions.create(model="demo", messages=ASK, tools=TOOLS, tool_choice=CHOICES[1], temperature=0, max_tokens=120)
    message = forced.choices[0].message
    assert message.tool_calls is not None
    answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"degrees": 21, "sky": "clear"}'}
    history: list[Any] = [*ASK, message, answer]
    last = client.chat.completions.create(model="demo", messages=history, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=60)
    assert last.choices[0].message.content
    assert last.choices[0].message.tool_calls is None


def test_a_parser_that_is_none_ends_the_start_with_near_names() -> None:
    command = [sys.executable, "-m", "headway.server.cli", "serve", "demo", "--tool-call-parser", "hermess"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "--tool-call-parser hermess: there is no such parser; did you mean hermes" in ended.stderr.splitlines()[-1]
