"""openai: a conversation with a tool, a structured output, a stream, through its helpers and its two APIs."""

import json
import sys

import openai
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
settings = {"model": "demo", "temperature": 0}

asked = client.chat.completions.create(messages=messages, tools=[weather], tool_choice="required", max_tokens=80, **settings)
call = asked.choices[0].message.tool_calls[0]
result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 25 degrees"}
told = client.chat.completions.create(
    messages=[*messages, asked.choices[0].message.model_dump(exclude_none=True), result], tools=[weather], max_tokens=30, **settings
)


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


parsed = client.chat.completions.parse(
    messages=[{"role": "user", "content": "Invent a person."}], response_format=Person, max_tokens=100, **settings
)

question = {"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 20, **settings}
with client.chat.completions.stream(**question, stream_options={"include_usage": True}) as stream:
    pieces = [event.delta for event in stream if event.type == "content.delta"]
    final = stream.get_final_completion()
with client.chat.completions.stream(messages=messages, tools=[weather], tool_choice="required", max_tokens=80, **settings) as stream:
    streamed_call = stream.get_final_completion().choices[0].message.tool_calls[0]

response = client.responses.create(input="What is the capital of England?", max_output_tokens=20, store=False, **settings)
with client.responses.stream(input="What is the capital of England?", max_output_tokens=20, store=False, **settings) as stream:
    response_pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    final_response = stream.get_final_response()

print(
    json.dumps(
        {
            "tool": call.function.name,
            "arguments": json.loads(call.function.arguments),
            "finish_reason": asked.choices[0].finish_reason,
            "told": told.choices[0].message.content,
            "structured": parsed.choices[0].message.parsed.model_dump(),
            "whole": client.chat.completions.create(**question).choices[0].message.content,
            "streamed": "".join(pieces),
            "usage": final.usage.completion_tokens,
            "streamed_call": [streamed_call.function.name, streamed_call.function.arguments],
            "called": [call.function.name, call.function.arguments],
            "response": response.output_text,
            "response_streamed": ["".join(response_pieces), final_response.output_text, final_response.status],
        }
    )
)
