"""InvokeEndpoint through unmodified boto3: what reaches the container, what comes back, and how its failures are told."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from data_plane import ENDPOINT, Local, Starter, boto
from polling import wait_until

from headway.container.local.errors import validation_error
from headway.container.local.one_endpoint import OneEndpoint
from headway.container.local.runtime.model_error import Place, model_error
from headway.container.local.runtime.runtime import Limits
from headway.container.local.targets import AsyncInference, Target, Wish


def call(local: Local, wish: object = "hello", **parameters: str) -> Any:
    body = wish if isinstance(wish, bytes) else json.dumps(wish)
    return local.client.invoke_endpoint(**{"EndpointName": ENDPOINT, "Body": body, **parameters})


def refused(local: Local, wish: object = "hello", **parameters: str) -> Any:
    with pytest.raises(ClientError) as caught:
        call(local, wish, **parameters)
    return caught.value.response


def test_a_call_and_its_answer(runtime: Local) -> None:
    answer = call(runtime, {"text": "fine", "headers": {"content-type": "text/plain"}})
    assert answer["Body"].read() == b"fine"
    assert answer["ContentType"] == "text/plain"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert "CustomAttributes" not in answer


def test_only_supported_headers_reach_the_container(runtime: Local) -> None:
    call(
        runtime,
        ContentType="application/json",
        Accept="text/plain",
        CustomAttributes="trace=7; note",
        InferenceId="one two",
        SessionId="abc",
        TargetVariant="AllTraffic",
        PrefixAwareId="p",
    )
    arrived = runtime.container.arrived[-1]
    assert arrived.path == "/invocations"
    assert arrived.headers.pop("host")
    assert arrived.headers == {
        "content-type": "application/json",
        "accept": "text/plain",
        "content-length": "7",
        "x-amzn-sagemaker-custom-attributes": "trace=7; note",
        "x-amzn-sagemaker-inference-id": "one two",
        "x-amzn-sagemaker-session-id": "abc",
    }


def test_what_the_caller_leaves_out_is_not_made_up(runtime: Local) -> None:
    headers = {"X-Api-Key": "k", "Cookie": "a=b", "Authorization": "Bearer t"}
    httpx.post(f"{runtime.url}/endpoints/{ENDPOINT}/invocations", content=b"x", headers={**headers, "Accept": "*/*"}).raise_for_status()
    arrived = runtime.container.arrived[-1]
    assert sorted(arrived.headers) == ["accept", "content-length", "host"]
    call(runtime, b"")
    assert runtime.container.arrived[-1].body == b""


def test_attributes_and_sessions_come_back_if_the_container_sets_them(runtime: Local) -> None:
    headers = {
        "x-amzn-sagemaker-custom-attributes": "own",
        "x-amzn-sagemaker-new-session-id": "s-1; Expires=2030-01-01T00:00:00Z",
        "x-amzn-sagemaker-closed-session-id": "s-0",
        "x-own": "stays inside",
    }
    answer = call(runtime, {"headers": headers}, SessionId="NEW_SESSION")
    assert runtime.container.arrived[-1].headers["x-amzn-sagemaker-session-id"] == "NEW_SESSION"
    assert answer["CustomAttributes"] == "own"
    assert answer["NewSessionId"] == "s-1; Expires=2030-01-01T00:00:00Z"
    assert answer["ClosedSessionId"] == "s-0"
    assert "x-own" not in answer["ResponseMetadata"]["HTTPHeaders"]


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (418, "client"), (500, "server"), (302, "server")])
def test_errors_of_the_container_are_model_errors(runtime: Local, status: int, side: str) -> None:
    response = refused(runtime, {"status": status, "text": '{"error": "why"}'})
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == status
    assert response["OriginalMessage"] == '{"error": "why"}'
    assert response["LogStreamArn"] == "arn:aws:logs:us-west-2:123456789012:log-group:/aws/sagemaker/Endpoints/chat"
    message = response["Error"]["Message"]
    assert message.startswith(f'Received {side} error ({status}) from primary with message "{{"error": "why"}}". See https://us-west-2.')
    assert message.endswith("/aws/sagemaker/Endpoints/chat in account 123456789012 for more information.")


def test_errors_of_an_inference_component_name_its_log_group() -> None:
    error = model_error(Place("us-west-2"), "chat", Target("http://127.0.0.1:1", "AllTraffic", "adapter", "base"), 500, b"")
    assert str(error.fields["LogStreamArn"]).endswith(":log-group:/aws/sagemaker/InferenceComponents/base")


def test_long_errors_are_cut(runtime: Local) -> None:
    response = refused(runtime, {"status": 500, "text": "x" * 5000})
    assert len(response["OriginalMessage"]) == len(response["Error"]["Message"]) == 2048


def test_a_container_that_breaks_off(runtime: Local) -> None:
    response = refused(runtime, {"abort": True})
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalStatusCode"] == 0
    assert "model process exited" in response["OriginalMessage"]


def test_a_container_that_is_not_there(start: Starter) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        local = start(targets=OneEndpoint(ENDPOINT, f"http://127.0.0.1:{unused.getsockname()[1]}"))
        assert refused(local)["OriginalStatusCode"] == 0


def test_a_container_that_takes_too_long(start: Starter) -> None:
    local = start(limits=Limits(answer_s=0.5))
    response = refused(local, {"hang": "late"})
    assert response["Error"]["Code"] == "ModelError"
    assert response["OriginalMessage"].startswith("Your invocation timed out while waiting for a response from container primary.")
    local.container.wait_for_gone("late")  # its connection was closed


def test_bodies_up_to_the_limit(runtime: Local) -> None:
    limit = Limits().body_bytes
    assert len(call(runtime, b"x" * limit)["Body"].read()) == limit
    num_arrived = len(runtime.container.arrived)
    too_much = refused(runtime, b"x" * (limit + 1))
    assert too_much["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert too_much["Error"] == {"Code": "413", "Message": f"HTTP content length exceeded {limit} bytes."}
    assert len(runtime.container.arrived) == num_arrived


def test_a_chunked_body_has_the_same_limit(start: Starter) -> None:
    local = start(limits=Limits(body_bytes=1000))
    url = f"{local.url}/endpoints/{ENDPOINT}/invocations"
    assert httpx.post(url, content=iter([b"x" * 600, b"x" * 400])).status_code == 200
    assert httpx.post(url, content=iter([b"x" * 600, b"x" * 401])).status_code == 413


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"EndpointName": "other"}, "Endpoint other of account 123456789012 not found. "),
        ({"TargetVariant": "blue"}, "Variant blue of endpoint chat not found"),
        ({"InferenceComponentName": "ic"}, "Inference Component Name header is not allowed for endpoints"),
        ({"TargetContainerHostname": "second"}, "Container second not found"),
        ({"TargetModel": "a.tar.gz"}, "is no multi-model endpoint"),
        ({"EnableExplanations": "true"}, "has no explainer"),
        (
            {"CustomAttributes": "x" * 1025},
            "'customAttributes' failed to satisfy constraint: Member must have length less",
        ),
        ({"SessionId": "-not-"}, "'sessionId' failed to satisfy constraint: Member must satisfy regular expression pattern"),
        ({"InferenceId": "x" * 65}, "less than or equal to 64"),
        ({"EndpointName": "x" * 64}, "'endpointName' failed to satisfy constraint"),
    ],
)
def test_validation(runtime: Local, parameters: dict[str, str], told: str) -> None:
    response = refused(runtime, **parameters)
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Code"] == "ValidationError"
    assert told in response["Error"]["Message"]


def test_attributes_are_visible_ascii(runtime: Local) -> None:
    url = f"{runtime.url}/endpoints/{ENDPOINT}/invocations"
    answer = httpx.post(url, content=b"x", headers={"X-Amzn-SageMaker-Custom-Attributes": "a\tb"})
    assert answer.status_code == 400
    assert answer.headers["x-amzn-errortype"] == "ValidationError"


class Recording:
    """Targets that note what is asked of them; the component `lora` is an adapter."""

    def __init__(self, url: str) -> None:
        self.url, self.wishes, self.sessions, self.num_busy = url, list[Wish](), dict[str, Target](), 0

    @contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        self.wishes.append(wish)
        if wish.component == "starting":
            raise validation_error("Inference component starting is not in service.")
        self.num_busy += 1
        try:
            yield Target(self.url, wish.variant or "blue", "the-adapter" if wish.component == "lora" else None)
        finally:
            self.num_busy -= 1

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        return None

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        self.sessions[session] = target

    def close_session(self, endpoint: str, session: str) -> None:
        del self.sessions[session]


@pytest.fixture(scope="module")
def recording(start: Starter) -> Recording:
    return Recording(start.container_url)


@pytest.fixture(scope="module")
def routed(start: Starter, recording: Recording) -> Local:
    return start(targets=recording)


def test_where_a_call_wants_to_go(routed: Local, recording: Recording) -> None:
    answer = call(routed, TargetVariant="green", TargetContainerHostname="second", SessionId="s1")
    assert recording.wishes[-1] == Wish("green", None, "second", "s1")
    assert answer["InvokedProductionVariant"] == "green"
    call(routed, SessionId="NEW_SESSION", InferenceComponentName="base")
    assert recording.wishes[-1] == Wish(component="base")
    wait_until(lambda: recording.num_busy == 0)  # a copy is free a moment after its answer is there


def test_an_adapters_component_names_the_adapter(routed: Local) -> None:
    call(routed, InferenceComponentName="lora")
    assert routed.container.arrived[-1].headers["x-amzn-sagemaker-adapter-identifier"] == "the-adapter"
    assert refused(routed, InferenceComponentName="starting")["Error"]["Code"] == "ValidationError"


def test_open_sessions_are_known_until_they_close(routed: Local, recording: Recording) -> None:
    opened = {"x-amzn-sagemaker-new-session-id": "s-7; Expires=2030-01-01T00:00:00Z"}
    call(routed, {"headers": opened}, SessionId="NEW_SESSION")
    assert recording.sessions == {"s-7": Target(recording.url, "blue")}
    call(routed, {"headers": {"x-amzn-sagemaker-closed-session-id": "s-7"}}, SessionId="s-7")
    assert recording.sessions == {}


def test_paths_and_services_that_are_none(runtime: Local) -> None:
    answer = httpx.post(f"{runtime.url}/endpoints/{ENDPOINT}/elsewhere")
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
    assert httpx.get(f"{runtime.url}/endpoints/{ENDPOINT}/invocations").status_code == 405
    assert httpx.get(f"{runtime.url}/").status_code == 404
    assert httpx.get(f"{runtime.url}/ping").status_code == 200
    sagemaker = boto(runtime.url, service="sagemaker")
    with pytest.raises(ClientError, match=r"SageMaker\.DescribeEndpoint is not emulated\. `headway local --url` has one end") as caught:
        sagemaker.describe_endpoint(EndpointName=ENDPOINT)
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"


def test_asynchronous_calls_need_an_endpoint_made_for_them(runtime: Local) -> None:
    with pytest.raises(ClientError, match="has no AsyncInferenceConfig"):
        runtime.client.invoke_endpoint_async(EndpointName=ENDPOINT, InputLocation="s3://bucket/key")


def test_a_line_of_log_for_each_call(runtime: Local, capfd: pytest.CaptureFixture[str]) -> None:
    call(runtime)
    refused(runtime, EndpointName="other")
    told = ""
    while told.count("\n") < 2:  # a line is written when its answer is on its way: the first may come after the second
        told += capfd.readouterr().err
    lines = told.splitlines()
    assert any(" POST /endpoints/chat/invocations 200 " in line and line.endswith("ms AllTraffic") for line in lines)
    assert any(" POST /endpoints/other/invocations 400 " in line for line in lines)


def test_a_header_beyond_latin_1_goes_out_as_it_came(runtime: Local) -> None:
    body = json.dumps({"text": "fine", "headers": {"content-type": "text/\u65e5"}})
    answer = httpx.post(f"{runtime.url}/endpoints/{ENDPOINT}/invocations", content=body)
    assert answer.status_code == 200
    assert {name.lower(): value for name, value in answer.headers.raw}[b"content-type"] == "text/\u65e5".encode()
