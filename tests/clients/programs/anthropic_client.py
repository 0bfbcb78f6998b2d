"""anthropic: a conversation with a tool, a structured output by a forced tool, a stream."""

import json
import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)
weather = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]},
}
person = {
    "name": "person",
    "description": "Tells a person",
    "input_schema": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
settings = {"model": "demo", "extra_body": {"temperature": 0}}  # the newest client knows no temperature

asked = client.messages.create(messages=messages, tools=[weather], tool_choice={"type": "any"}, max_tokens=80, **settings)
call = next(block for block in asked.content if block.type == "tool_use")
result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 25 degrees"}
told = client.messages.create(
    messages=[*messages, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}],
    tools=[weather],
    max_tokens=30,
    **settings,
)
forced = client.messages.create(
    messages=[{"role": "user", "content": "Invent a person."}],
    tools=[person],
    tool_choice={"type": "tool", "name": "person"},
    max_tokens=100,
    **settings,
)
question = {"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 20, **settings}
with client.messages.stream(**question) as stream:
    pieces = list(stream.text_stream)
    final = stream.get_final_message()
with client.messages.stream(messages=messages, tools=[weather], tool_choice={"type": "any"}, max_tokens=80, **settings) as stream:
    streamed_call = next(block for block in stream.get_final_message().content if block.type == "tool_use")

print(
    json.dumps(
        {
            "tool": call.name,
            "arguments": call.input,
            "finish_reason": asked.stop_reason,
            "told": "".join(block.text for block in told.content if block.type == "text"),
            "structured": next(block.input for block in forced.content if block.type == "tool_use"),
            "whole": client.messages.create(**question).content[0].text,
            "streamed": "".join(pieces),
            "usage": final.usage.output_tokens,
            "streamed_call": [streamed_call.name, streamed_call.input],
            "called": [call.name, call.input],
            "counted": client.messages.count_tokens(messages=question["messages"], model="demo").input_tokens,
            "prompt": final.usage.input_tokens + final.usage.cache_read_input_tokens,
        }
    )
)
