"""langchain-openai: a conversation with a tool, a structured output, a stream."""

import json
import sys
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city"""
    return f"Sunny in {city}, 25 degrees"


class Person(BaseModel):
    """A person"""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def model(max_tokens: int) -> ChatOpenAI:
    settings = {"temperature": 0, "max_retries": 0, "stream_usage": True}
    return ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", model="demo", max_tokens=max_tokens, **settings)


messages = [HumanMessage("What is the weather in Paris?")]
required = model(80).bind_tools([get_weather], tool_choice="required", strict=True)  # nothing beside the city
asked = required.invoke(messages)
call = asked.tool_calls[0]
result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
told = model(30).bind_tools([get_weather]).invoke([*messages, asked, result])
structured = model(100).with_structured_output(Person, method="json_schema").invoke("Invent a person.")
streamed_call = None
for chunk in required.stream(messages):
    streamed_call = chunk if streamed_call is None else streamed_call + chunk
pieces = list(model(20).stream("What is the capital of England?"))

print(
    json.dumps(
        {
            "tool": call["name"],
            "arguments": call["args"],
            "finish_reason": asked.response_metadata["finish_reason"],
            "told": told.content,
            "structured": structured.model_dump(),
            "whole": model(20).invoke("What is the capital of England?").content,
            "streamed": "".join(piece.content for piece in pieces),
            "usage": next(piece.usage_metadata for piece in pieces if piece.usage_metadata)["output_tokens"],
            "streamed_call": [streamed_call.tool_calls[0]["name"], streamed_call.tool_calls[0]["args"]],
            "called": [call["name"], call["args"]],
        }
    )
)
