"""Keep a conversation on one instance, whose cache has its beginning. Needs the endpoint of deploy.py."""

import json
import os
from typing import Any

import boto3

NAME = os.environ.get("NAME", "headway-example")

runtime = boto3.client("sagemaker-runtime")


def invoke(body: dict[str, Any], session_id: str) -> dict[str, Any]:
    return runtime.invoke_endpoint(EndpointName=NAME, ContentType="application/json", SessionId=session_id, Body=json.dumps(body))


opened = invoke({"requestType": "NEW_SESSION"}, "NEW_SESSION")
session_id, _, expires = opened["NewSessionId"].partition("; ")
print(f"a session is open, {expires}")

messages = [{"role": "system", "content": "You answer in one short sentence. " * 20}]
for question in ("What is a lighthouse?", "Who works there?", "Is it still needed?"):
    messages.append({"role": "user", "content": question})
    answer = json.load(invoke({"messages": messages, "max_tokens": 30, "temperature": 0}, session_id)["Body"])
    messages.append(answer["choices"][0]["message"])
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    print(f"{question} {messages[-1]['content']!r} ({cached} of {usage['prompt_tokens']} tokens of the prompt were cached)")

closed = invoke({"requestType": "CLOSE"}, session_id)
print("closed" if closed["ClosedSessionId"] == session_id else closed)
