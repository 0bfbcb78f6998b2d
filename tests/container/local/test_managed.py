"""Asynchronous inference, batch transform and autoscaling over the real control plane and real processes, as boto3 sees them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from control_plane import PRETEND, ROLE, WAIT
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from local_runtime import aws, eventually, serving

from headway.container.local import managed as managed_module
from headway.container.local.app import Service
from headway.container.local.copies.process import ProcessStarter
from headway.container.local.faults import Faults
from headway.container.local.managed import Managed, managed
from headway.container.local.runtime.container import Container
from headway.container.local.storage import Storage, open_storage

BUCKET = "background"


def _app(storage: Storage) -> FastAPI:
    options = argparse.Namespace(gpus=None, process=True, image=None, endpoint_name="local", autoscaling_interval=0.05)
    made: list[Managed] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Container() as container, managed(options, None, Faults(), "us-east-1", storage, container, os.environ) as parts:
            made.append(parts)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/")
    async def operation(request: Request) -> Response:
        service, _, name = request.headers["x-amz-target"].partition(".")
        return _Answer(made[0].services[service], name)

    @app.post("/endpoints/{name}/async-invocations")
    async def invoke(name: str, request: Request) -> Response:
        accepted = made[0].submit(name, request.headers, await request.body())
        return JSONResponse(accepted.body, 202, dict(accepted.headers))

    return app


class _Answer(Response):
    """That of a service, which is ASGI."""

    def __init__(self, service: Service, operation: str) -> None:
        super().__init__()
        self._service, self._operation = service, operation

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._service(self._operation, scope, receive, send)


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with open_storage({}) as storage:
        storage.s3.create_bucket(Bucket=BUCKET)
        yield storage


@pytest.fixture(scope="module")
def url(storage: Storage) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # The container that is not Headway, for it starts at once.
        patch.setattr(managed_module, "_starter", lambda options, machine: ProcessStarter(machine, PRETEND))
        yield from _served(storage)


def _served(storage: Storage) -> Iterator[str]:
    with serving(_app(storage)) as url:
        client = aws("sagemaker", url)
        client.create_model(ModelName="m", PrimaryContainer={"Image": "i", "Environment": {"MINE": "1"}}, ExecutionRoleArn=ROLE)
        client.create_endpoint_config(
            EndpointConfigName="c",
            ProductionVariants=[{"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/answers"}},
        )
        client.create_endpoint(EndpointName="ep", EndpointConfigName="c")
        client.get_waiter("endpoint_in_service").wait(EndpointName="ep", WaiterConfig=WAIT)
        yield url


def test_an_asynchronous_answer(url: str, storage: Storage) -> None:
    answer = aws("sagemaker-runtime", url).invoke_endpoint_async(EndpointName="ep", Body=b"{}", ContentType="application/json")
    key = answer["OutputLocation"].removeprefix(f"s3://{BUCKET}/")
    storage.s3.get_waiter("object_exists").wait(Bucket=BUCKET, Key=key, WaiterConfig=WAIT)
    assert json.loads(storage.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["environ"]["MINE"] == "1"


def test_a_transform_job(url: str, storage: Storage) -> None:
    storage.s3.put_object(Bucket=BUCKET, Key="in/a", Body=b"{}")
    client = aws("sagemaker", url)
    client.create_transform_job(
        TransformJobName="job",
        ModelName="m",
        TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in/"}}},
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/out"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        MaxConcurrentTransforms=1,
        MaxPayloadInMB=6,
    )
    client.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName="job", WaiterConfig=WAIT)
    environ = json.loads(storage.s3.get_object(Bucket=BUCKET, Key="out/a.out")["Body"].read())["environ"]
    assert (environ["MINE"], environ["SAGEMAKER_BATCH"]) == ("1", "true")


def test_scaling(url: str) -> None:
    place: dict[str, Any] = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/ep/variant/v",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    client = aws("application-autoscaling", url)
    client.register_scalable_target(**place, MinCapacity=2, MaxCapacity=3)
    client.put_scaling_policy(
        **place,
        PolicyName="p",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 1.0,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        },
    )
    sagemaker = aws("sagemaker", url)
    eventually(lambda: sagemaker.describe_endpoint(EndpointName="ep")["ProductionVariants"][0]["CurrentInstanceCount"] == 2)


def test_operations_that_there_are_not(url: str) -> None:
    with pytest.raises(ClientError, match="is not emulated"):
        aws("application-autoscaling", url).describe_scheduled_actions(ServiceNamespace="sagemaker")
    with pytest.raises(ClientError, match="is not emulated"):
        aws("sagemaker", url).list_training_jobs()
