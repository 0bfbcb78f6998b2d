"""InvokeEndpointAsync with an unmodified boto3: answers and failures in S3, notices in SNS, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from local_runtime import KEYS, FixedTargets, Script, aws, chunked, eventually, serving

from headway.container.local import async_inference
from headway.container.local.async_inference import AsyncInferences
from headway.container.local.errors import PlatformError
from headway.container.local.runtime.container import Container
from headway.container.local.storage import Storage, open_storage
from headway.container.local.targets import AsyncInference

BUCKET = "async"


@dataclass
class Rig:
    runtime: Any  # boto3's client
    s3: Any
    storage: Storage
    targets: FixedTargets
    script: Script
    config: AsyncInference
    queue: Any
    url: str

    def call(self, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.runtime.invoke_endpoint_async(EndpointName="ep", **arguments)
        return answer

    def refused(self, **arguments: Any) -> ClientError:
        with pytest.raises(ClientError) as caught:
            self.call(**arguments)
        return caught.value

    def object(self, uri: str) -> dict[str, Any]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")

        def look() -> dict[str, Any] | None:
            try:
                found = self.s3.get_object(Bucket=bucket, Key=key)
            except self.s3.exceptions.NoSuchKey:
                return None
            return {"body": found["Body"].read(), "type": found["ContentType"]}

        return eventually(look)

    def notice(self, inference_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            for message in self.queue.receive_messages(MaxNumberOfMessages=10):
                said: dict[str, Any] = json.loads(json.loads(message.body)["Message"])
                message.delete()
                if said["inferenceId"] == inference_id:
                    return said
            return None

        return eventually(look)


def _app(inferences: Callable[[Container], AsyncInferences]) -> FastAPI:
    made: list[AsyncInferences] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):  # type: ignore[no-untyped-def]
        async with Container() as container, inferences(container) as running:
            made.append(running)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/endpoints/{name}/async-invocations")
    async def invoke(name: str, request: Request) -> Response:
        try:
            accepted = made[0].submit(name, request.headers, await request.body())
        except PlatformError as error:
            return JSONResponse({"Message": str(error)}, error.status, {"x-amzn-ErrorType": error.code})
        return JSONResponse(accepted.body, 202, dict(accepted.headers))

    return app


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with open_storage({}) as storage:
        yield storage


@pytest.fixture
def rig(storage: Storage) -> Iterator[Rig]:
    s3 = aws("s3", storage.s3_url)
    s3.create_bucket(Bucket=BUCKET)
    topic = aws("sns", storage.sns_url).create_topic(Name="ended")["TopicArn"]
    queue = boto3.resource("sqs", endpoint_url=storage.sns_url, **KEYS).create_queue(QueueName="ended")
    aws("sns", storage.sns_url).subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.attributes["QueueArn"])
    config = AsyncInference(f"s3://{BUCKET}/out", f"s3://{BUCKET}/failed", topic, topic, 2, frozenset({"SUCCESS_NOTIFICATION_TOPIC"}))
    script = Script()
    with serving(script.app()) as copy:
        targets = FixedTargets("ep", [copy], config)
        with serving(_app(lambda container: AsyncInferences(targets, storage, container, max_waiting=3))) as url:
            yield Rig(aws("sagemaker-runtime", url), s3, storage, targets, script, config, queue, url)
            script.gate.set()


def test_an_answer_to_an_input_in_s3(rig: Rig) -> None:
    rig.s3.put_object(Bucket=BUCKET, Key="in.json", Body=b'{"a": 1}')
    answer = rig.call(
        InputLocation=f"s3://{BUCKET}/in.json", ContentType="application/json", Accept="text/x", CustomAttributes="c=1", InferenceId="id 1"
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "id 1"
    assert answer["OutputLocation"] == f"s3://{BUCKET}/out/id-1.out"
    assert answer["FailureLocation"] == f"s3://{BUCKET}/failed/id-1-error.out"
    assert rig.object(answer["OutputLocation"]) == {"body": b'{"A": 1}', "type": "application/json"}
    (headers, body), *_ = rig.script.requests
    assert body == b'{"a": 1}'
    assert headers["content-length"] == "8"
    assert {name: headers[name] for name in ("content-type", "accept", "x-amzn-sagemaker-custom-attributes")} == {
        "content-type": "application/json",
        "accept": "text/x",
        "x-amzn-sagemaker-custom-attributes": "c=1",
    }
    assert headers["x-amzn-sagemaker-inference-id"] == "id 1"
    assert "authorization" not in headers
    said = rig.notice("id 1")
    assert said["invocationStatus"] == "Completed"
    assert said["eventName"] == "InferenceResult"
    assert said["requestParameters"] == {
        "accept": "text/x",
        "contentType": "application/json",
        "endpointName": "ep",
        "inputLocation": f"s3://{BUCKET}/in.json",
    }
    assert said["responseParameters"] == {"contentType": "application/json", "outputLocation": answer["OutputLocation"]}
    assert base64.b64decode(said["responseBody"]["content"]) == b'{"A": 1}'


def test_an_inline_body_and_a_name_of_the_callers(rig: Rig) -> None:
    answer = rig.call(Body=b"x" * 128_000, Filename="mine.json", S3OutputPathExtension="a/b/")
    assert answer["OutputLocation"] == f"s3://{BUCKET}/out/a/b/mine.json"
    assert answer["FailureLocation"] == f"s3://{BUCKET}/failed/a/b/mine-error.json"
    assert rig.object(answer["OutputLocation"])["body"] == b"X" * 128_000


def test_a_long_input_is_sent_in_pieces(rig: Rig) -> None:
    content = bytes(range(97, 123)) * 150_000
    rig.s3.put_object(Bucket=BUCKET, Key="long", Body=content)
    answer = rig.call(InputLocation=f"s3://{BUCKET}/long")
    assert rig.object(answer["OutputLocation"])["body"] == content.upper()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "One of Body and InputLocation is required"),
        ({"Body": b"x", "InputLocation": f"s3://{BUCKET}/in"}, "mutually exclusive"),
        ({"Body": b"x" * 128_001}, "128001 bytes, and at most 128000"),
        ({"Body": b"x", "RequestTTLSeconds": 21_601}, "'requestTTLSeconds' failed.*less than or equal to 21600"),
        ({"Body": b"x", "InvocationTimeoutSeconds": 3601}, "'invocationTimeoutSeconds' failed.*3600"),
        ({"Body": b"x", "Filename": "a.b.c"}, "'filename' failed.*pattern"),
        ({"Body": b"x", "Filename": "../x"}, "'filename' failed.*pattern"),
        ({"Body": b"x", "S3OutputPathExtension": "s3://other"}, "'s3OutputPathExtension' failed.*pattern"),
        ({"InputLocation": "https://b.s3.amazonaws.com/k"}, "write s3://BUCKET/KEY"),
    ],
)
def test_what_is_refused(rig: Rig, arguments: dict[str, Any], message: str) -> None:
    error = rig.refused(**arguments)
    assert error.response["Error"]["Code"] == "ValidationError"
    assert re.search(message, str(error))
    assert not rig.script.requests


def test_an_endpoint_for_real_time_inference(rig: Rig) -> None:
    rig.targets.config = None
    assert "has no AsyncInferenceConfig" in str(rig.refused(Body=b"x"))


def test_a_failure_of_the_container(rig: Rig) -> None:
    rig.script.answer = lambda body: JSONResponse({"error": "no"}, 400)
    answer = rig.call(Body=b"x", InferenceId="bad")
    assert rig.object(answer["FailureLocation"]) == {"body": b'{"error":"no"}', "type": "application/json"}
    said = rig.notice("bad")
    assert said["invocationStatus"] == "Failed"
    assert said["failureReason"] == (
        "ClientError: Received client error (400) from model. See the SageMaker Endpoint logs in your account for more information."
    )
    assert "responseBody" not in said
    assert len(rig.script.requests) == 1


def test_a_chunked_reply_is_none(rig: Rig) -> None:
    rig.script.answer = chunked
    assert b"is chunked" in rig.object(rig.call(Body=b"x")["FailureLocation"])["body"]


def test_an_input_that_is_not_there(rig: Rig) -> None:
    answer = rig.call(InputLocation=f"s3://{BUCKET}/nothing")
    assert f"s3://{BUCKET}/nothing: NoSuchKey".encode() in rig.object(answer["FailureLocation"])["body"]


def test_an_input_that_is_too_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_inference, "_MAX_INPUT_BYTES", 3)
    rig.s3.put_object(Bucket=BUCKET, Key="four", Body=b"four")
    assert b"has 4 bytes" in rig.object(rig.call(InputLocation=f"s3://{BUCKET}/four")["FailureLocation"])["body"]


def test_an_invocation_that_takes_too_long(rig: Rig) -> None:
    rig.script.gate.clear()
    answer = rig.call(Body=b"x", InvocationTimeoutSeconds=1)
    assert b"timed out" in rig.object(answer["FailureLocation"])["body"]


def test_concurrency_and_the_queues_bound(rig: Rig) -> None:
    rig.script.gate.clear()
    answers = [rig.call(Body=b"%d" % number) for number in range(2)]
    eventually(lambda: rig.script.num_open == 2)
    answers += [rig.call(Body=b"%d" % number) for number in range(2, 5)]
    assert rig.refused(Body=b"one too many").response["Error"]["Code"] == "ServiceUnavailable"
    assert rig.script.num_open == 2
    rig.script.gate.set()
    assert [rig.object(answer["OutputLocation"])["body"] for answer in answers] == [b"0", b"1", b"2", b"3", b"4"]
    assert [body for _, body in rig.script.requests][2] == b"2"
    assert rig.script.most_open == 2


def test_requests_wait_for_a_copy(rig: Rig) -> None:
    url = rig.targets.urls.pop()
    answer = rig.call(Body=b"late")
    rig.targets.urls.append(url)
    assert rig.object(answer["OutputLocation"])["body"] == b"LATE"


def test_a_request_expires(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.targets.urls.clear()
    original = async_inference.read_request
    monkeypatch.setattr(async_inference, "read_request", lambda *given: replace(original(*given), ttl_s=0.1))
    answer = rig.call(Body=b"x", RequestTTLSeconds=60, InferenceId="old")
    assert b"expired" in rig.object(answer["FailureLocation"])["body"]
    assert rig.notice("old")["invocationStatus"] == "Failed"


def test_an_endpoint_that_is_deleted_meanwhile(rig: Rig) -> None:
    rig.targets.urls.clear()
    answer = rig.call(Body=b"x")
    rig.targets.name = "other"
    assert rig.object(answer["FailureLocation"])["body"] == b"Endpoint ep not found."
