"""litellm: a conversation with a tool, a structured output, a stream."""

import json
import sys

import litellm

litellm.telemetry = False
settings = {"model": "openai/demo", "api_base": f"{sys.argv[1]}/v1", "api_key": "unused", "temperature": 0, "num_retries": 0}
weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}
person = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]

asked = litellm.completion(messages=messages, tools=[weather], tool_choice="required", max_tokens=80, **settings)
call = asked.choices[0].message.tool_calls[0]
result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees"}
told = litellm.completion(messages=[*messages, asked.choices[0].message.model_dump(), result], tools=[weather], max_tokens=30, **settings)
structured = litellm.completion(
    messages=[{"role": "user", "content": "Invent a person."}],
    response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": person, "strict": True}},
    max_tokens=100,
    **settings,
)
question = {"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 20, **settings}
chunks = list(litellm.completion(**question, stream=True, stream_options={"include_usage": True}))
whole = litellm.stream_chunk_builder(chunks)
stream = litellm.completion(messages=messages, tools=[weather], tool_choice="required", max_tokens=80, stream=True, **settings)
streamed_call = litellm.stream_chunk_builder(list(stream)).choices[0].message.tool_calls[0].function

print(
    json.dumps(
        {
            "tool": call.function.name,
            "arguments": json.loads(call.function.arguments),
            "finish_reason": asked.choices[0].finish_reason,
            "told": told.choices[0].message.content,
            "structured": json.loads(structured.choices[0].message.content),
            "whole": litellm.completion(**question).choices[0].message.content,
            "streamed": whole.choices[0].message.content,
            "usage": whole.usage.completion_tokens,
            "streamed_call": [streamed_call.name, streamed_call.arguments],
            "called": [call.function.name, call.function.arguments],
        }
    )
)
