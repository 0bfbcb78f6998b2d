"""What the control plane refuses, in the platform's words, and lists and pages: no copy is started here."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Any, Self

import pytest
from aws_clients import client
from botocore.config import Config
from botocore.exceptions import ClientError
from control_plane import ROLE, LiveControlPlane

from headway.container.local.control import registry, unheeded
from headway.container.local.control.listing import page
from headway.container.local.control.registry import Record
from headway.container.local.service_models import service_model

VARIANT = {"VariantName": "AllTraffic", "ModelName": "m", "InstanceType": "ml.g6.xlarge", "InitialInstanceCount": 1}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveControlPlane]:
    with LiveControlPlane() as plane:
        plane.make_model("m")
        plane.make_config("c", "m")
        yield plane


@pytest.fixture(scope="module")
def unchecked(live: LiveControlPlane) -> Any:
    """A client that sends whatever it is given."""
    return client(
        "sagemaker",
        region_name="us-east-1",
        endpoint_url=live.client.meta.endpoint_url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(parameter_validation=False),
    )


@pytest.mark.parametrize(
    ("operation", "request_", "sentence"),
    [
        ("describe_model", {"ModelName": "none"}, 'Could not find model "arn:aws:sagemaker:us-east-1:123456789012:model/none".'),
        ("delete_model", {"ModelName": "none"}, "Could not find model"),
        ("describe_endpoint_config", {"EndpointConfigName": "none"}, "Could not find endpoint configuration"),
        ("create_endpoint", {"EndpointName": "e", "EndpointConfigName": "none"}, "Could not find endpoint configuration"),
        ("create_model", {"ModelName": "m", "PrimaryContainer": {"Image": "i"}}, "Cannot create already existing model"),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [VARIANT]},
            "Cannot create already existing endpoint conf",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "d", "ProductionVariants": [{**VARIANT, "ModelName": "none"}]},
            "Could not find model",
        ),
        ("create_endpoint_config", {"EndpointConfigName": "d", "ProductionVariants": [VARIANT, VARIANT]}, "must be unique"),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "d", "ProductionVariants": [{**VARIANT, "InstanceType": "ml.g6.huge"}]},
            "productionVariants.1.member.instanceType' failed to satisfy constraint: Member must satisfy enum value set",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "d", "ProductionVariants": [{**VARIANT, "ContainerStartupHealthCheckTimeoutInSeconds": 3601}]},
            "less than or equal to 3600",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "d", "ProductionVariants": [{"VariantName": "v", "ModelName": "m", "ServerlessConfig": {}}]},
            "Missing required parameter",
        ),
        ("create_model", {"ModelName": "no_underscore", "PrimaryContainer": {"Image": "i"}}, "satisfy regular expression pattern"),
        ("create_model", {"ModelName": "x" * 64, "PrimaryContainer": {"Image": "i"}}, "length less than or equal to 63"),
        ("create_model", {"ModelName": "x"}, "One of PrimaryContainer and Containers"),
        ("create_model", {"ModelName": "x", "Containers": [{"Image": "i"}, {"Image": "j"}]}, "one container a model"),
        ("create_model", {"ModelName": "x", "PrimaryContainer": {"Image": "i", "Mode": "MultiModel"}}, "not emulated"),
        ("create_model", {"ModelName": "x", "PrimaryContainer": {"Image": "i", "Environment": {"A": "s3cret" * 200}}}, "1024"),
        ("create_model", {"ModelName": "x", "PrimaryContainer": {"Image": "i", "Environment": {"A.B": "1"}}}, "regular expression"),
        (
            "create_model",
            {"ModelName": "x", "PrimaryContainer": {"Image": "i", "Environment": {f"A{n}": "1" for n in range(101)}}},
            "100",
        ),
        ("list_models", {"NextToken": "soon"}, "NextToken"),
        ("list_models", {"MaxResults": 101}, "less than or equal to 100"),
        ("list_tags", {"ResourceArn": "arn:aws:sagemaker:us-east-1:123456789012:model/none"}, "Could not find resource"),
    ],
)
def test_what_is_refused(unchecked: Any, operation: str, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClientError) as refused:
        getattr(unchecked, operation)(**request_)
    error = refused.value.response["Error"]
    assert error["Code"] == "ValidationException"
    assert sentence in error["Message"]
    assert "s3cret" not in error["Message"]
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_what_is_kept_without_an_effect_is_told(live: LiveControlPlane) -> None:
    vpc = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    container = {"Image": "i", "Environment": {"A": "1"}, "ImageConfig": {"RepositoryAccessMode": "Vpc"}}
    kept = {"VpcConfig": vpc, "EnableNetworkIsolation": True}
    live.client.create_model(ModelName="told", PrimaryContainer=container, ExecutionRoleArn=ROLE, **kept)
    assert live.said[-1].startswith("CreateModel: ")
    assert live.said[-1].endswith(": PrimaryContainer.ImageConfig, VpcConfig, EnableNetworkIsolation")
    dump = {"DestinationS3Uri": "s3://bucket/dumps"}
    scaling = {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 2}
    variants = [{**VARIANT, "VariantName": name, "CoreDumpConfig": dump, "ManagedInstanceScaling": scaling} for name in ("a", "b")]
    live.client.create_endpoint_config(EndpointConfigName="told", ProductionVariants=variants)
    assert live.said[-1].endswith(": ProductionVariants.CoreDumpConfig, ProductionVariants.ManagedInstanceScaling.MinInstanceCount")
    num_said = len(live.said)
    live.client.create_model(ModelName="untold", PrimaryContainer={"Image": "i"}, ExecutionRoleArn=ROLE, EnableNetworkIsolation=False)
    assert len(live.said) == num_said
    live.client.delete_endpoint_config(EndpointConfigName="told")


def test_what_is_said_to_be_heeded_is_in_the_api() -> None:
    for operation, paths in unheeded._HEEDED.items():
        for path in paths:
            shape: Any = service_model("sagemaker").operation_model(operation).input_shape
            for name in path.split("."):
                shape = (shape.member if shape.type_name == "list" else shape).members[name]


def test_an_operation_that_is_not_emulated_names_those_that_are(live: LiveControlPlane) -> None:
    with pytest.raises(ClientError, match=r"not emulated\. There are: AddTags, CreateEndpoint, "):
        live.client.list_training_jobs()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"MaxResults": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_object(live: LiveControlPlane, body: bytes) -> None:
    request = urllib.request.Request(live.client.meta.endpoint_url, body, {"X-Amz-Target": "SageMaker.ListModels"})
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=60):
        pass
    assert json.load(refused.value)["__type"] == "SerializationException"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"CreationTimeAfter": "2026-11-25"}, "seconds since 1970"), ({"MaxResult": 1}, "Unknown parameter"), ({"MaxResults": "1"}, "type")],
)
def test_what_no_client_sends(live: LiveControlPlane, fields: dict[str, Any], sentence: str) -> None:
    request = urllib.request.Request(live.client.meta.endpoint_url, json.dumps(fields).encode(), {"X-Amz-Target": "SageMaker.ListModels"})
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=60):
        pass
    assert sentence in json.load(refused.value)["message"]


def test_what_was_made_is_described_as_given(live: LiveControlPlane) -> None:
    container = {"Image": "i:1", "Environment": {"A": "1"}, "ModelDataUrl": "s3://bucket/model.tar.gz"}
    live.client.create_model(ModelName="shown", PrimaryContainer=container, ExecutionRoleArn=ROLE, Tags=[{"Key": "k", "Value": "v"}])
    shown = live.client.describe_model(ModelName="shown")
    assert (shown["PrimaryContainer"], shown["ExecutionRoleArn"], "Tags" in shown) == (container, ROLE, False)
    config = live.client.describe_endpoint_config(EndpointConfigName="c")
    assert config["ProductionVariants"][0]["InitialVariantWeight"] == 1.0
    arn = shown["ModelArn"]
    live.client.add_tags(ResourceArn=arn, Tags=[{"Key": "l", "Value": "w"}])
    live.client.delete_tags(ResourceArn=arn, TagKeys=["k"])
    assert live.client.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "l", "Value": "w"}]
    live.client.delete_model(ModelName="shown")


@pytest.mark.parametrize("microsecond", [0, 123_400, 123_600, 999_999])
def test_a_moment_that_was_told_is_not_after_itself(microsecond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 11, 25, 12, 0, 0, microsecond, tz)

    monkeypatch.setattr(registry, "datetime", Clock)
    records = [Record(name, name, {}, {}) for name in ("first", "second")]
    listed = page({}, records, "Models", lambda record: {"Name": record.name, "CreationTime": record.created})["Models"]
    assert [one["Name"] for one in listed] == ["second", "first"]
    told = round(listed[0]["CreationTime"].timestamp(), 3)
    assert page({"CreationTimeAfter": told}, records, "Models", lambda record: {})["Models"] == []


def test_paginators_see_each_once_and_in_order(live: LiveControlPlane) -> None:
    names = [f"paged-{number:02}" for number in range(25)]
    for name in names:
        live.make_model(name)
    pages = live.client.get_paginator("list_models").paginate(NameContains="paged", SortBy="Name", SortOrder="Ascending")
    found = [[model["ModelName"] for model in page["Models"]] for page in pages]
    assert [len(page) for page in found] == [10, 10, 5]
    assert [name for page in found for name in page] == names
    newest = live.client.list_models(NameContains="paged", MaxResults=1)["Models"][0]
    assert newest["ModelName"] == names[-1]
    assert not live.client.list_models(NameContains="paged", CreationTimeAfter=newest["CreationTime"])["Models"]
    assert live.client.list_endpoint_configs()["EndpointConfigs"][0]["EndpointConfigName"] == "c"
    assert live.client.list_endpoints(StatusEquals="InService")["Endpoints"] == []
