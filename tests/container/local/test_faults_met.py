"""Faults as boto3 and its retries meet them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from data_plane import ENDPOINT, Local, Starter, boto

from headway.container.local.faults import read_faults


def call(local: Local, attempts: int = 1) -> dict[str, Any]:
    with contextlib.closing(boto(local.url, attempts)) as client:  # at once: the collector may come before the end of the test
        answer: dict[str, Any] = client.invoke_endpoint(EndpointName=ENDPOINT, Body=b"x")
        answer["Body"].close()  # else its connection stays open
    return answer


def test_a_throttled_call_is_tried_again(start: Starter) -> None:
    with pytest.raises(ClientError) as caught:
        call(start(faults=read_faults("throttle=1")))
    response = caught.value.response
    assert (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]) == (400, "ThrottlingException")
    answer = call(start(faults=read_faults("throttle=0.5,seed=0")), attempts=2)  # the first of two
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1


def test_a_platform_that_fails(start: Starter) -> None:
    local = start(faults=read_faults("5xx=1"))
    codes = set()
    for _ in range(20):
        with pytest.raises(ClientError) as caught:
            call(local)
        codes.add((caught.value.response["ResponseMetadata"]["HTTPStatusCode"], caught.value.response["Error"]["Code"]))
    assert codes == {(500, "InternalFailure"), (503, "ServiceUnavailable")}


def test_a_dropped_connection(start: Starter) -> None:
    local = start(faults=read_faults("drop=1"))
    num_arrived = len(local.container.arrived)
    with pytest.raises(ConnectionClosedError):
        call(local)
    assert len(local.container.arrived) == num_arrived


def test_a_delay(start: Starter) -> None:
    local = start(faults=read_faults("delay=200ms"))
    before = time.monotonic()
    call(local)
    assert time.monotonic() - before >= 0.2
