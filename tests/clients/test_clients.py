"""Each client holds a conversation with a tool, gets a structured output, and reads a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Program = Callable[[str], dict[str, Any]]
LONDON = "The capital of England is London."


def check_person(person: dict[str, Any]) -> None:
    assert person.keys() == {"name", "age"}
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 120


def check(found: dict[str, Any], finish_reason: str) -> None:
    assert found["tool"] == "get_weather"
    assert found["arguments"]["city"] in ("Paris", "Rome")
    assert found["finish_reason"] == finish_reason
    assert found["told"].strip(), "an answer behind the tool's result"
    check_person(found["structured"])
    assert found["whole"] == found["streamed"] == LONDON
    assert found["usage"] == 8  # tokens of the sentence and the end
    assert found["streamed_call"] == found["called"], "the pieces of a call add up to the whole one"


@pytest.mark.parametrize("client", ["openai_client.py", "openai_npm.cjs"])
def test_openai(program: Program, client: str) -> None:
    found = program(client)
    check(found, "tool_calls")
    assert found["response"] == LONDON
    assert found["response_streamed"] == [LONDON, LONDON, "completed"]


@pytest.mark.parametrize("client", ["litellm_client.py", "langchain_client.py"])
def test_clients_of_the_openai_api(program: Program, client: str) -> None:
    check(program(client), "tool_calls")


def test_anthropic(program: Program) -> None:
    found = program("anthropic_client.py")
    check(found, "tool_use")
    assert found["counted"] == found["prompt"], "count_tokens tells what the request then costs"


def test_instructor(program: Program) -> None:
    found = program("instructor_client.py")
    assert found["tool"] == "GetWeather"
    assert found["arguments"]["city"] in ("Paris", "Rome")
    assert found["told"].strip()
    check_person(found["structured"])
    assert found["streamed"] == found["structured"]
    assert found["num_partials"] > 3
