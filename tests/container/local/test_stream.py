"""InvokeEndpointWithResponseStream through unmodified boto3: real frames, cut anywhere, and errors inside of a stream."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from data_plane import ENDPOINT, Local, Starter
from hypothesis import given
from hypothesis import strategies as st

from headway.container.local.eventstream import payload_part, stream_error
from headway.container.local.faults import read_faults
from headway.container.local.runtime.parts import PartForm
from headway.container.local.runtime.runtime import Limits

EVENTS = [f"data: {json.dumps({'n': n})}\n\n" for n in range(4)]


def stream(local: Local, wish: dict[str, Any], **parameters: str) -> Any:
    parameters = {"EndpointName": ENDPOINT, "Body": json.dumps(wish), **parameters}
    return local.client.invoke_endpoint_with_response_stream(**parameters)


def parts(answer: Any) -> list[bytes]:
    with contextlib.closing(answer["Body"]) as events:
        return [event["PayloadPart"]["Bytes"] for event in events]


def last_message(local: Local, wish: dict[str, Any]) -> Any:
    """botocore keeps an exception's ErrorCode to itself."""
    path = f"/endpoints/{ENDPOINT}/invocations-response-stream"
    buffer = EventStreamBuffer()
    buffer.add_data(httpx.post(local.url + path, json=wish, timeout=20).content)
    return json.loads(list(buffer)[-1].payload)


def test_parts_as_the_container_sends_them(runtime: Local) -> None:
    answer = stream(runtime, {"parts": EVENTS, "headers": {"x-amzn-sagemaker-custom-attributes": "own"}}, CustomAttributes="mine")
    assert answer["ContentType"] == "text/event-stream"
    assert answer["CustomAttributes"] == "own"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert b"".join(parts(answer)) == "".join(EVENTS).encode()
    assert runtime.container.arrived[-1].headers["x-amzn-sagemaker-custom-attributes"] == "mine"


def test_accept_reaches_the_container_under_its_own_name(runtime: Local) -> None:
    stream(runtime, {"parts": []}, Accept="text/event-stream")["Body"].close()
    headers = runtime.container.arrived[-1].headers
    assert headers["accept"] == "text/event-stream"
    assert "x-amzn-sagemaker-accept" not in headers
    assert "authorization" not in headers


def test_parts_of_a_size(start: Starter) -> None:
    found = parts(stream(start(parts=PartForm(split=3)), {"parts": EVENTS}))
    assert b"".join(found) == "".join(EVENTS).encode()
    assert {len(part) for part in found} <= {1, 2, 3}
    assert len(found) >= sum(map(len, EVENTS)) // 3


def test_parts_that_join(start: Starter) -> None:
    local = start(parts=PartForm(coalesce_s=2.0))
    assert parts(stream(local, {"parts": EVENTS, "pause_s": 0.001})) == ["".join(EVENTS).encode()]


def test_parts_cut_at_random(start: Starter) -> None:
    found = parts(stream(start(faults=read_faults("split=1")), {"parts": EVENTS}))
    assert b"".join(found) == "".join(EVENTS).encode()
    assert not set(found) & {event.encode() for event in EVENTS}


def test_an_error_before_the_stream(runtime: Local) -> None:
    with pytest.raises(ClientError) as caught:
        stream(runtime, {"status": 404, "text": "no such model"})
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == 404


def test_a_container_lost_inside_of_a_stream(runtime: Local) -> None:
    answer = stream(runtime, {"parts": EVENTS, "then": "abort"})
    with pytest.raises(EventStreamError, match=r"\(ModelStreamError\).*reset or closed"):
        parts(answer)
    assert last_message(runtime, {"parts": EVENTS, "then": "abort"})["ErrorCode"] == "StreamBroken"


def test_a_stream_that_takes_too_long(start: Starter) -> None:
    local = start(limits=Limits(stream_s=1.0))
    with pytest.raises(EventStreamError, match=r"\(ModelStreamError\).*within the time"):
        parts(stream(local, {"parts": EVENTS, "then": "hang"}))
    assert last_message(local, {"parts": EVENTS, "then": "hang"})["ErrorCode"] == "ModelInvocationTimeExceeded"


def test_a_stream_that_never_begins(start: Starter) -> None:
    with pytest.raises(ClientError, match="timed out while waiting") as caught:
        stream(start(limits=Limits(stream_s=0.05)), {"hang": "head"})
    assert caught.value.response["OriginalStatusCode"] == 0


def test_a_caller_that_goes_ends_the_containers_work(runtime: Local) -> None:
    runtime.container.gone.clear()
    answer = stream(runtime, {"parts": EVENTS, "then": "hang"})
    next(iter(answer["Body"]))
    answer["Body"].close()
    runtime.container.wait_for_gone("stream")


def test_no_session_begins_with_a_stream(runtime: Local) -> None:
    with pytest.raises(ClientError, match="'sessionId' failed to satisfy constraint"):
        stream(runtime, {"parts": []}, SessionId="NEW_SESSION")


@given(st.binary(max_size=300))
def test_botocore_reads_every_part(payload: bytes) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(payload_part(payload) + stream_error("InternalStreamFailure", "ü"))
    part, error = list(buffer)
    assert part.payload == payload
    assert part.headers == {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    assert error.headers[":exception-type"] == "InternalStreamFailure"
    assert json.loads(error.payload) == {"Message": "ü"}
