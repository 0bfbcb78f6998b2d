"""Print an answer as it is made. Needs the endpoint of deploy.py."""

import json
import os
from collections.abc import Iterable, Iterator

import boto3
from botocore.exceptions import EventStreamError

NAME = os.environ.get("NAME", "headway-example")

runtime = boto3.client("sagemaker-runtime")


def lines(events: Iterable[dict]) -> Iterator[bytes]:
    """Whole lines: a PayloadPart ends anywhere, within a character too."""
    rest = b""
    for event in events:
        *whole, rest = (rest + event["PayloadPart"]["Bytes"]).split(b"\n")
        yield from whole
    yield rest


answer = runtime.invoke_endpoint_with_response_stream(
    EndpointName=NAME,
    ContentType="application/json",
    Body=json.dumps(
        {
            "messages": [{"role": "user", "content": "Tell me a short story about a lighthouse."}],
            "max_tokens": 80,
            "temperature": 0,
            "stream": True,  # the container isn't told which API was called: without this the answer comes in one piece
            "stream_options": {"include_usage": True},
        }
    ),
)
try:
    for line in lines(answer["Body"]):
        if not line.startswith(b"data: ") or line == b"data: [DONE]":
            continue
        chunk = json.loads(line.removeprefix(b"data: "))
        if "error" in chunk:  # the answer had begun: there is no status any more
            raise SystemExit(f"\nthe answer broke off: {chunk['error']['message']}")
        for choice in chunk["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
        if chunk.get("usage"):
            print("\n", chunk["usage"], sep="")
except EventStreamError as error:  # the container died, or took more than 8 minutes
    raise SystemExit(f"\nthe stream broke off: {error}") from error
