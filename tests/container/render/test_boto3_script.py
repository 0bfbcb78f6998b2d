"""The script is run as it was written: every call goes through botocore's own validation, and is answered without a network."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws_shapes import shape_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from rendering import BASIC, CASES, ROLE, deployment

from headway.container.render.boto3_script import render

Calls = list[tuple[str, dict[str, Any]]]
_ANSWERS: dict[str, dict[str, Any]] = {
    "CreateRole": {"Role": {"Arn": ROLE}},
    "DescribeEndpoint": {"EndpointStatus": "InService"},
    "DescribeInferenceComponent": {"InferenceComponentStatus": "InService"},
}


class _Accepted:
    status_code = 200


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Calls]:
    """Runs a script's text, and returns (operation, parameters) of its calls."""
    made: Calls = []
    make = boto3.client

    def client(service: str, **options: Any) -> Any:
        found = make(service, aws_access_key_id="x", aws_secret_access_key="y", **options)

        def validate(params: dict[str, Any], model: Any, **_: Any) -> None:
            assert shape_problems(params, model.input_shape, model.name) == []
            made.append((model.name, params))

        found.meta.events.register("before-parameter-build", validate)
        found.meta.events.register("before-call", lambda model, **_: (_Accepted, _ANSWERS.get(model.name, {})))
        return found

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def run(text: str, *words: str) -> Calls:
        path = tmp_path / "deploy.py"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), {"__name__": "__main__"})
        return made

    return run


def named(calls: Calls, operation: str) -> dict[str, Any]:
    [parameters] = [parameters for name, parameters in calls if name == operation]
    return parameters


@pytest.mark.parametrize("case", CASES)
def test_script_makes_calls_that_aws_takes(case: str, run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*CASES[case])), ROLE)
    made = [name for name, _ in calls]
    assert [name for name in made if name in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint")] == [
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
    ]
    assert ("CreateRole" in made) == ("--role" not in CASES[case] and "--no-iam" not in CASES[case])
    assert named(calls, "CreateModel")["ExecutionRoleArn"] == ROLE


@pytest.mark.parametrize("case", CASES)
def test_script_is_clean(case: str, tmp_path: Path) -> None:
    path = tmp_path / "deploy.py"
    path.write_text(render(deployment(*CASES[case])))
    for words in (("check", "--select", "E4,E7,E9,F,W,I,B"), ("format", "--check", "--line-length", "140")):
        done = subprocess.run([sys.executable, "-m", "ruff", *words, "--isolated", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_what_a_plain_deployment_says(run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*BASIC, "--startup-timeout", "900")))
    [variant] = named(calls, "CreateEndpointConfig")["ProductionVariants"]
    assert variant == {
        "VariantName": "all",
        "ModelName": "headway",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.g6.xlarge",
        "InferenceAmiVersion": "al2023-ami-sagemaker-inference-gpu-4-1",
        "ContainerStartupHealthCheckTimeoutInSeconds": 900,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    assert named(calls, "CreateEndpointConfig")["MetricsConfig"] == {"EnableDetailedObservability": True}
    assert named(calls, "CreateModel")["PrimaryContainer"]["Environment"] == {"SM_VLLM_MODEL": "demo"}
    assert json.loads(named(calls, "CreateRole")["AssumeRolePolicyDocument"])["Statement"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"}
    }


def test_model_data_scaling_and_tags(run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*CASES["model data, scaled"])))
    assert named(calls, "CreateModel")["PrimaryContainer"]["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": "s3://models/chat/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    assert named(calls, "CreateEndpointConfig")["ProductionVariants"][0]["ModelDataDownloadTimeoutInSeconds"] == 1800
    assert named(calls, "CreateEndpoint")["Tags"] == [{"Key": "team", "Value": "chat"}, {"Key": "cost", "Value": ""}]
    target = named(calls, "RegisterScalableTarget")
    assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == ("endpoint/headway/variant/all", 1, 4)
    policy = named(calls, "PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
    metric = policy["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert metric == "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    assert policy["TargetValue"] == 70.0  # of the 100 rows
    assert (policy["ScaleOutCooldown"], policy["ScaleInCooldown"]) == (300, 600)


def test_disk_and_key_where_the_instance_has_none_of_its_own(run_script: Callable[..., Calls]) -> None:
    config = named(run_script(render(deployment(*CASES["archive on a CPU"]))), "CreateEndpointConfig")
    assert config["KmsKeyId"].startswith("arn:aws:kms:")
    assert config["ProductionVariants"][0]["VolumeSizeInGB"] == 100
    assert "InferenceAmiVersion" not in config["ProductionVariants"][0]  # it is for GPUs


def test_adapters_are_components_of_a_base(run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*CASES["adapters"])))
    config = named(calls, "CreateEndpointConfig")
    assert config["ExecutionRoleArn"] == ROLE
    assert "ModelName" not in config["ProductionVariants"][0]
    assert config["ProductionVariants"][0]["ManagedInstanceScaling"] == {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 3}
    base, *adapters = [parameters for name, parameters in calls if name == "CreateInferenceComponent"]
    assert base["Specification"]["ComputeResourceRequirements"] == {"NumberOfAcceleratorDevicesRequired": 1, "MinMemoryRequiredInMb": 1024}
    assert base["Specification"]["ModelName"] == "headway"
    assert base["Specification"]["ComputeResourceRequirements"]["NumberOfAcceleratorDevicesRequired"] == 1
    assert [(adapter["InferenceComponentName"], adapter["Specification"]) for adapter in adapters] == [
        (f"headway-{name}", {"BaseInferenceComponentName": "headway", "Container": {"ArtifactUrl": f"s3://adapters/{name}.tar.gz"}})
        for name in ("sql", "fr")
    ]
    assert named(calls, "CreateModel")["PrimaryContainer"]["Environment"]["SM_VLLM_ENABLE_LORA"] == "true"
    assert named(calls, "RegisterScalableTarget")["ResourceId"] == "inference-component/headway"


def test_a_copy_has_a_gpu_for_each_engine(run_script: Callable[..., Calls]) -> None:
    words = ("--instance", "ml.g6.12xlarge", "-e", "SM_VLLM_DATA_PARALLEL_SIZE=2", "--min-copies", "4", "--max-copies", "5")
    calls = run_script(render(deployment(*CASES["adapters"], *words)))
    base = next(parameters for name, parameters in calls if name == "CreateInferenceComponent")
    assert base["Specification"]["ComputeResourceRequirements"]["NumberOfAcceleratorDevicesRequired"] == 2
    [variant] = named(calls, "CreateEndpointConfig")["ProductionVariants"]
    assert variant["ManagedInstanceScaling"] == {"Status": "ENABLED", "MinInstanceCount": 2, "MaxInstanceCount": 3}
    policy = named(calls, "PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
    assert policy["TargetValue"] == int(2 * 256 * 0.7)


def test_component_that_fails_ends_the_script(run_script: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"InferenceComponentStatus": "Failed", "FailureReason": "no room"}
    monkeypatch.setitem(_ANSWERS, "DescribeInferenceComponent", failed)
    with pytest.raises(SystemExit, match="headway: no room"):
        run_script(render(deployment(*CASES["adapters"])))


def test_asynchronous_endpoint(run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*CASES["asynchronous"])))
    config = named(calls, "CreateEndpointConfig")["AsyncInferenceConfig"]
    assert config["OutputConfig"]["S3OutputPath"] == "s3://answers/out"
    assert config["OutputConfig"]["S3FailurePath"] == "s3://answers/failed"
    assert config["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 256}
    assert "KmsKeyId" not in named(calls, "CreateEndpointConfig")  # the instance has a disk of its own, encrypted
    tracked = named(calls, "PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]["CustomizedMetricSpecification"]
    assert tracked["MetricName"] == "ApproximateBacklogSizePerInstance"


@pytest.mark.parametrize(
    ("cuda", "ami"),
    [
        ("12.1", "al2-ami-sagemaker-inference-gpu-2"),
        ("12.4", "al2-ami-sagemaker-inference-gpu-3-1"),
        ("13.2", "al2023-ami-sagemaker-inference-gpu-4-1"),
    ],
)
def test_host_has_a_driver_for_the_images_cuda(cuda: str, ami: str) -> None:
    assert deployment(*BASIC, "--cuda", cuda).on_sagemaker.ami == ami


def test_words_become_variables(run_script: Callable[..., Calls]) -> None:
    calls = run_script(render(deployment(*CASES["words"])))
    environ = named(calls, "CreateModel")["PrimaryContainer"]["Environment"]
    assert environ == {"SM_VLLM_MODEL": "demo", "SM_VLLM_MAX_MODEL_LEN": "4000"}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))))
def test_no_value_gets_out_of_its_literal(environ: dict[str, str]) -> None:
    tree = ast.parse(render(replace(PLAIN, environ=environ)))
    [call] = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "sagemaker.create_model"]
    [container] = [keyword.value for keyword in call.keywords if keyword.arg == "PrimaryContainer"]
    assert ast.literal_eval(container)["Environment"] == environ


PLAIN = deployment(*BASIC)
