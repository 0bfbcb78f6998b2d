"""Batch transform jobs with an unmodified boto3, its waiter too, over a container that is a script."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, WaiterError
from fastapi import FastAPI, Response
from local_runtime import Script, aws, eventually, json_protocol, serving

from headway.container.local.control.registry import refused
from headway.container.local.runtime.container import Container
from headway.container.local.storage import Storage, open_storage
from headway.container.local.transform import jobs
from headway.container.local.transform.jobs import TransformJobs
from headway.server.errors import HeadwayError

BUCKET = "transform"


@dataclass
class Copies:
    """Copies of the model "m", all of them the one script."""

    url: str
    problem: str | None = None
    started: list[tuple[Mapping[str, str], str, str]] = field(default_factory=list)
    num_running: int = 0

    def check_model(self, model_name: str) -> None:
        if model_name != "m":
            raise refused(f"Could not find model {model_name}.")

    @contextlib.asynccontextmanager
    async def running(self, model_name: str, environ: Mapping[str, str], place: str, instance_type: str) -> AsyncIterator[str]:
        if self.problem:
            raise HeadwayError(self.problem)
        self.started.append((environ, place, instance_type))
        self.num_running += 1
        try:
            yield self.url
        finally:
            self.num_running -= 1


@dataclass
class Rig:
    client: Any
    s3: Any
    script: Script
    copies: Copies

    def put(self, **files: bytes) -> None:
        for key, content in files.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"in/{key}", Body=content)

    def create(self, name: str = "job", model: str = "m", **changes: Any) -> None:
        merged: dict[str, Any] = {
            "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/"}}},
            "TransformOutput": {"S3OutputPath": f"s3://{BUCKET}/out"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        }
        for member, value in changes.items():
            merged[member] = {**merged[member], **value} if member in merged else value
        self.client.create_transform_job(TransformJobName=name, ModelName=model, **merged)

    def wait(self, name: str = "job") -> dict[str, Any]:
        with contextlib.suppress(WaiterError):
            waiter = self.client.get_waiter("transform_job_completed_or_stopped")
            waiter.wait(TransformJobName=name, WaiterConfig={"Delay": 0.02, "MaxAttempts": 2000})
        described: dict[str, Any] = self.client.describe_transform_job(TransformJobName=name)
        return described

    def run(self, **changes: Any) -> dict[str, Any]:
        self.create(**changes)
        return self.wait()

    def output(self) -> dict[str, bytes]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix="out/").get("Contents", [])
        return {item["Key"]: self.s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in listed}

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.script.requests]


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with open_storage({}) as storage:
        storage.s3.create_bucket(Bucket=BUCKET)
        yield storage


@pytest.fixture
def rig(storage: Storage) -> Iterator[Rig]:
    for item in storage.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        storage.s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    script = Script()
    with serving(script.app()) as copy:
        copies = Copies(copy)

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with Container() as container, TransformJobs("us-east-1", copies, storage.s3, container, retry_pause_s=0.0) as jobs:
                json_protocol(app, jobs.handle, "sagemaker")
                yield

        with serving(FastAPI(lifespan=lifespan)) as url, contextlib.closing(aws("sagemaker", url)) as client:
            yield Rig(client, storage.s3, script, copies)
            script.gate.set()


LINES = {"TransformInput": {"SplitType": "Line", "ContentType": "application/jsonlines"}, "TransformOutput": {"AssembleWith": "Line"}}


def with_source(**more: Any) -> dict[str, Any]:
    return {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/", **more}}}


def test_whole_objects(rig: Rig) -> None:
    rig.put(**{"a.json": b"one\ntwo", "sub/b.json": b"three"})
    job = rig.run(TransformOutput={"Accept": "application/json"}, Environment={"MINE": "1"})
    assert job["TransformJobStatus"] == "Completed"
    assert job["TransformEndTime"] >= job["TransformStartTime"] >= job["CreationTime"]
    assert rig.output() == {"out/a.json.out": b"ONE\nTWO", "out/sub/b.json.out": b"THREE"}
    assert rig.script.requests[0][0]["accept"] == "application/json"
    assert rig.copies.started == [({"MINE": "1", "SAGEMAKER_BATCH": "true"}, "transform-job-0", "ml.m5.large")]
    assert rig.copies.num_running == 0


def test_lines_together(rig: Rig) -> None:
    rig.put(lines=b"a\nb\r\n\nc\n")
    assert rig.run(**LINES)["TransformJobStatus"] == "Completed"
    assert rig.bodies() == [b"a\nb\nc"]
    assert rig.script.requests[0][0]["content-type"] == "application/jsonlines"
    assert rig.output() == {"out/lines.out": b"A\nB\nC\n"}


def test_lines_alone_in_order_side_by_side(rig: Rig) -> None:
    content = [b"%d" % number for number in range(20)]
    rig.put(lines=b"\n".join(content))
    rig.script.gate.clear()
    rig.create(**LINES, BatchStrategy="SingleRecord", MaxConcurrentTransforms=4, MaxPayloadInMB=2)
    eventually(lambda: rig.script.num_open == 4)
    rig.script.gate.set()
    assert rig.wait()["TransformJobStatus"] == "Completed"
    assert sorted(rig.bodies()) == sorted(content)
    assert rig.script.most_open == 4
    assert rig.output() == {"out/lines.out": b"\n".join(content) + b"\n"}
    assert rig.copies.started[0][0] == {
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "4",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "2",
    }


def test_what_the_container_says_of_itself(rig: Rig) -> None:
    rig.script.execution_parameters = {"MaxConcurrentTransforms": 3, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 1}
    rig.put(lines=b"a\nb\nc\nd")
    rig.script.gate.clear()
    rig.create(**LINES)
    eventually(lambda: rig.script.num_open == 3)
    rig.script.gate.set()
    assert rig.wait()["TransformJobStatus"] == "Completed"
    assert sorted(rig.bodies()) == [b"a", b"b", b"c", b"d"]


def test_execution_parameters_that_make_no_sense(rig: Rig) -> None:
    rig.script.execution_parameters = {"MaxConcurrentTransforms": "many"}
    rig.put(a=b"a")
    assert "MaxConcurrentTransforms is 'many'" in rig.run()["FailureReason"]


def test_gzip_input(rig: Rig) -> None:
    rig.put(**{"a.gz": gzip.compress(b"a\nb")})
    rig.run(TransformInput={"SplitType": "Line", "CompressionType": "Gzip"})
    assert rig.output() == {"out/a.gz.out": b"A\nB"}


def test_input_that_is_not_gzip(rig: Rig) -> None:
    rig.put(a=b"plain")
    assert "is not gzip" in rig.run(TransformInput={"CompressionType": "Gzip"})["FailureReason"]


def test_copies_share_the_objects(rig: Rig) -> None:
    rig.put(a=b"a", b=b"b", c=b"c")
    rig.run(TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 2})
    assert [place for _, place, _ in rig.copies.started] == ["transform-job-0", "transform-job-1"]
    assert len(rig.output()) == 3


def test_an_object_that_fails_spoils_no_other(rig: Rig) -> None:
    rig.script.answer = lambda body: Response(b"bad", 400) if body == b"no" else Response(body)
    rig.put(a=b"yes", b=b"no")
    rig.create()
    waiter = rig.client.get_waiter("transform_job_completed_or_stopped")
    with pytest.raises(WaiterError):
        waiter.wait(TransformJobName="job", WaiterConfig={"Delay": 0.02, "MaxAttempts": 2000})
    job = rig.wait()
    assert job["TransformJobStatus"] == "Failed"
    assert job["FailureReason"] == f'ClientError: s3://{BUCKET}/in/b: Received client error (400) from the container with message "bad".'
    assert rig.output() == {"out/a.out": b"yes"}
    assert rig.bodies().count(b"no") == 1


def test_retries(rig: Rig) -> None:
    num_left = iter([503, 500, 200])
    rig.script.answer = lambda body: Response(body, next(num_left))
    rig.put(a=b"a")
    assert rig.run(ModelClientConfig={"InvocationsMaxRetries": 2})["TransformJobStatus"] == "Completed"
    assert len(rig.script.requests) == 3


def test_retries_that_are_used_up(rig: Rig) -> None:
    rig.script.answer = lambda body: Response(b"full", 503)
    rig.put(a=b"a")
    job = rig.run(ModelClientConfig={"InvocationsMaxRetries": 1})
    assert job["FailureReason"].startswith("AlgorithmError: ")
    assert len(rig.script.requests) == 2


def test_a_time_out(rig: Rig) -> None:
    rig.script.gate.clear()
    rig.put(a=b"a")
    assert "timed out" in rig.run(ModelClientConfig={"InvocationsTimeoutInSeconds": 1, "InvocationsMaxRetries": 0})["FailureReason"]


def test_a_payload_that_is_too_long(rig: Rig) -> None:
    rig.put(a=b"x" * (1024 * 1024 + 1))
    assert "the object is longer than MaxPayloadInMB" in rig.run(MaxPayloadInMB=1)["FailureReason"]
    assert rig.script.requests == []


def test_no_input(rig: Rig) -> None:
    assert "No S3 objects found" in rig.run()["FailureReason"]


def test_a_container_that_does_not_start(rig: Rig) -> None:
    rig.copies.problem = "The container ended with status 1: no model"
    assert rig.run()["FailureReason"] == "The container ended with status 1: no model"


def test_stopping(rig: Rig) -> None:
    rig.script.gate.clear()
    rig.put(a=b"a")
    rig.create()
    eventually(lambda: rig.script.num_open == 1)
    rig.client.stop_transform_job(TransformJobName="job")
    assert rig.wait()["TransformJobStatus"] == "Stopped"
    assert rig.copies.num_running == 0
    rig.client.stop_transform_job(TransformJobName="job")
    assert rig.output() == {}


def test_listing(rig: Rig) -> None:
    rig.put(a=b"a")
    for name in ("one", "two"):
        rig.create(name)
        rig.wait(name)
    pages = rig.client.get_paginator("list_transform_jobs").paginate(SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 1})
    assert [job["TransformJobName"] for page in pages for job in page["TransformJobSummaries"]] == ["one", "two"]
    assert not rig.client.list_transform_jobs(StatusEquals="Failed")["TransformJobSummaries"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "Could not find model"),
        ({"DataProcessing": {"JoinSource": "Input"}}, "DataProcessing is not emulated"),
        ({"TransformInput": {"SplitType": "RecordIO"}}, "SplitType RecordIO"),
        ({"TransformInput": with_source(S3DataType="ManifestFile")}, "S3Prefix"),
        ({"BatchStrategy": "MultiRecord"}, "needs SplitType Line"),
        ({"MaxPayloadInMB": 101}, "at most 100"),
        ({"MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}, "at most 100"),
        ({"ModelClientConfig": {"InvocationsMaxRetries": 4}}, "less than or equal to 3"),
        ({"TransformResources": {"InstanceCount": 9}}, "at most 8"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str, rig: Rig) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        rig.create(**changes)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_names_are_taken_once(rig: Rig) -> None:
    rig.put(a=b"a")
    rig.run()
    with pytest.raises(rig.client.exceptions.ResourceInUse, match=r"a job with this name already exists \(arn:aws:sagemaker:.*/job\)"):
        rig.create()
    with pytest.raises(ClientError, match="Could not find requested job with name: none") as caught:
        rig.client.describe_transform_job(TransformJobName="none")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_job_that_meets_a_bug_fails_and_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "transform", full)
    rig.put(**{"a.txt": b"x"})
    described = rig.run()
    assert described["TransformJobStatus"] == "Failed"
    assert "No space left on device" in described["FailureReason"]
    assert rig.copies.num_running == 0
