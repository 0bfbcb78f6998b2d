"""instructor: structured outputs by tool and by schema, a conversation behind a tool call, a stream of partial objects."""

import json
import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, ConfigDict, Field


class GetWeather(BaseModel):
    """The weather in a city"""

    city: Literal["Paris", "Rome"]


class Person(BaseModel):
    """A person"""

    model_config = ConfigDict(extra="forbid")  # a small model would go on inventing

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


plain = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
by_tool = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
by_schema = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
settings = {"model": "demo", "temperature": 0, "max_retries": 0}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
invent = [{"role": "user", "content": "Invent a person."}]

call, asked = by_tool.chat.completions.create_with_completion(response_model=GetWeather, messages=messages, max_tokens=80, **settings)
made = asked.choices[0].message.tool_calls[0]
told = plain.chat.completions.create(
    messages=[
        *messages,
        asked.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": made.id, "content": "Sunny, 25 degrees"},
    ],
    model="demo",
    temperature=0,
    max_tokens=30,
)
structured = by_schema.chat.completions.create(response_model=Person, messages=invent, max_tokens=100, **settings)
partials = list(by_schema.chat.completions.create_partial(response_model=Person, messages=invent, max_tokens=100, **settings))

print(
    json.dumps(
        {
            "tool": made.function.name,
            "arguments": call.model_dump(),
            "told": told.choices[0].message.content,
            "structured": structured.model_dump(),
            "streamed": partials[-1].model_dump(),
            "num_partials": len(partials),
        }
    )
)
