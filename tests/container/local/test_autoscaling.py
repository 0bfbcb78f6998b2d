"""application-autoscaling with an unmodified boto3, over endpoints whose number of copies is a number, and metrics of a real /metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fastapi import FastAPI
from local_runtime import FixedTargets, Script, aws, eventually, json_protocol, serving

from headway.container.local.autoscaling.load import CountedTargets
from headway.container.local.autoscaling.loop import AutoscalingLoop
from headway.container.local.autoscaling.metrics import Metrics, sample
from headway.container.local.autoscaling.policies import Metric
from headway.container.local.autoscaling.resources import Resource
from headway.container.local.autoscaling.service import Autoscaling
from headway.container.local.control.registry import refused
from headway.container.local.runtime.container import Container
from headway.container.local.targets import Wish
from headway.server.errors import HeadwayError

VARIANT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/ep/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
COMPONENT = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "inference-component/ic",
    "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
}


@dataclass
class Copies:
    url: str = ""
    num: int = 1
    problem: Exception | None = None
    scaled: list[int] = field(default_factory=list)

    def num_desired(self, resource: Resource) -> int:
        if resource not in (Resource("ep", "AllTraffic"), Resource(component="ic")):
            raise refused(f"Could not find {resource.id}.")
        return self.num

    def urls(self, resource: Resource) -> Sequence[str]:
        return [self.url] * self.num

    async def scale(self, resource: Resource, num_copies: int) -> None:
        self.scaled.append(num_copies)
        if self.problem:
            raise self.problem
        self.num = num_copies


@dataclass
class Rig:
    client: Any
    copies: Copies
    script: Script
    load: CountedTargets
    waiting: dict[str, int]
    said: list[str]

    def register(self, least: int = 1, most: int = 4, place: dict[str, str] = VARIANT, **more: Any) -> Any:
        return self.client.register_scalable_target(**place, MinCapacity=least, MaxCapacity=most, **more)

    def put(self, name: str = "p", place: dict[str, str] = VARIANT, **config: Any) -> Any:
        whole = {"TargetValue": 10.0, "ScaleOutCooldown": 0, "ScaleInCooldown": 0, **config}
        return self.client.put_scaling_policy(
            PolicyName=name, **place, PolicyType="TargetTrackingScaling", TargetTrackingScalingPolicyConfiguration=whole
        )

    def activities(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.describe_scaling_activities(ServiceNamespace="sagemaker")["ScalingActivities"]
        return found


def customized(name: str, statistic: str = "Average", **dimensions: str) -> dict[str, Any]:
    listed = [{"Name": label, "Value": value} for label, value in dimensions.items()]
    return {"CustomizedMetricSpecification": {"MetricName": name, "Namespace": "N", "Statistic": statistic, "Dimensions": listed}}


def predefined(name: str) -> dict[str, Any]:
    return {"PredefinedMetricSpecification": {"PredefinedMetricType": name}}


@pytest.fixture
def rig() -> Iterator[Rig]:
    script, waiting, said = Script(), dict[str, int](), list[str]()
    with serving(script.app()) as copy:
        copies, load = Copies(copy), CountedTargets(FixedTargets("ep", [copy], None))

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            service = Autoscaling("us-east-1", copies)
            json_protocol(app, service.handle, "application-autoscaling")
            async with Container() as container:
                metrics = Metrics(load, lambda endpoint: waiting.get(endpoint, 0), container)
                async with AutoscalingLoop(service, copies, metrics, said.append, interval_s=0.02):
                    yield

        app = FastAPI(lifespan=lifespan)

        @app.post("/take")
        async def take(seconds: float) -> None:
            with load.lease("ep", Wish()):
                await asyncio.sleep(seconds)

        with serving(app) as url, contextlib.closing(aws("application-autoscaling", url)) as client:
            yield Rig(client, copies, script, load, waiting, said)


def test_targets(rig: Rig) -> None:
    arn = rig.register()["ScalableTargetARN"]
    rig.client.register_scalable_target(**VARIANT, MaxCapacity=9, SuspendedState={"DynamicScalingInSuspended": True})
    rig.register(place=COMPONENT)
    one, other = rig.client.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (one["MinCapacity"], one["MaxCapacity"], one["ScalableTargetARN"]) == (1, 9, arn)
    assert one["SuspendedState"]["DynamicScalingInSuspended"] is True
    assert other["ResourceId"] == "inference-component/ic"
    only = rig.client.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[COMPONENT["ResourceId"]])["ScalableTargets"]
    assert [target["ResourceId"] for target in only] == [COMPONENT["ResourceId"]]
    pages = rig.client.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="sagemaker", PaginationConfig={"PageSize": 1})
    assert [len(page["ScalableTargets"]) for page in pages] == [1, 1]
    rig.client.deregister_scalable_target(**VARIANT)
    with pytest.raises(rig.client.exceptions.ObjectNotFoundException, match="No scalable target found"):
        rig.client.deregister_scalable_target(**VARIANT)


def test_policies(rig: Rig) -> None:
    rig.register()
    config = customized("vllm:num_requests_waiting")
    arn = rig.put(**config)["PolicyARN"]
    assert rig.put(**config, DisableScaleIn=True)["PolicyARN"] == arn
    (policy,) = rig.client.describe_scaling_policies(ServiceNamespace="sagemaker", PolicyNames=["p"])["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["DisableScaleIn"] is True
    assert (policy["PolicyName"], policy["PolicyARN"], policy["PolicyType"]) == ("p", arn, "TargetTrackingScaling")
    rig.client.delete_scaling_policy(PolicyName="p", **VARIANT)
    assert not rig.client.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    with pytest.raises(rig.client.exceptions.ObjectNotFoundException):
        rig.client.delete_scaling_policy(PolicyName="p", **VARIANT)


@pytest.mark.parametrize(
    ("place", "config", "message"),
    [
        (VARIANT, predefined("SageMakerInferenceComponentInvocationsPerCopy"), "does not go with"),
        (VARIANT, {}, "Exactly one of"),
        (VARIANT, {**predefined("SageMakerVariantInvocationsPerInstance"), **customized("x")}, "Exactly one of"),
        (VARIANT, customized("x", "SampleCount"), "Statistic SampleCount"),
        (VARIANT, {"CustomizedMetricSpecification": {"Metrics": [{"Id": "a", "Expression": "b"}]}}, "metric math"),
        (VARIANT, {**customized("x"), "TargetValue": 0.0}, "above 0"),
        (COMPONENT, customized("x"), "No scalable target found"),
    ],
)
def test_policies_that_are_refused(place: dict[str, str], config: dict[str, Any], message: str, rig: Rig) -> None:
    rig.register()
    with pytest.raises(ClientError, match=message):
        rig.put(place=place, **config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ResourceId": "endpoint/other/variant/AllTraffic"}, "Could not find"),
        ({"ResourceId": "endpoint/ep"}, "does not fit"),
        ({"ScalableDimension": "sagemaker:variant:DesiredProvisionedConcurrency"}, "none that this runtime scales"),
        ({"ServiceNamespace": "ecs"}, "ServiceNamespace ecs"),
        ({"MinCapacity": 5}, "maximum not the smaller"),
    ],
)
def test_targets_that_are_refused(changes: dict[str, Any], message: str, rig: Rig) -> None:
    with pytest.raises(ClientError, match=message):
        rig.client.register_scalable_target(**{**VARIANT, "MinCapacity": 1, "MaxCapacity": 4, **changes})


def test_a_step_policy_is_refused(rig: Rig) -> None:
    rig.register()
    with pytest.raises(ClientError, match="PolicyType StepScaling is not emulated"):
        rig.client.put_scaling_policy(PolicyName="p", **VARIANT, PolicyType="StepScaling")


def test_a_gauge_of_the_copies(rig: Rig) -> None:
    rig.script.metrics = '# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name="m"} 25\n'
    rig.register()
    rig.put(**customized("vllm:num_requests_waiting", EndpointName="ep", model_name="m"))
    # Each copy says 25 for ever: 1 -> 3 -> 8, which the bounds make 4.
    eventually(lambda: rig.copies.scaled == [3, 4])
    last, first = eventually(
        lambda: [one for one in rig.activities() if one["StatusCode"] == "Successful"][:2] if len(rig.activities()) == 2 else []
    )
    assert (first["Description"], last["Description"]) == ("Setting desired instance count to 3.", "Setting desired instance count to 4.")
    assert first["Cause"] == "policy p: the metric vllm:num_requests_waiting was above its target"
    assert first["EndTime"] >= first["StartTime"]
    rig.script.metrics = rig.script.metrics.replace(" 25", " 4")
    eventually(lambda: rig.copies.num == 1)
    assert rig.copies.scaled[2:] == [2, 1]


def test_concurrent_requests(rig: Rig) -> None:
    import httpx

    rig.register()
    rig.put(**predefined("SageMakerVariantConcurrentRequestsPerModelHighResolution"), TargetValue=0.5)
    url = rig.client.meta.endpoint_url
    assert httpx.post(f"{url}/take", params={"seconds": 0.5}).status_code == 200
    assert rig.copies.scaled[0] == 2


def test_invocations_a_minute(rig: Rig) -> None:
    import httpx

    rig.register(most=2)
    rig.put(**predefined("SageMakerVariantInvocationsPerInstance"), TargetValue=1.0, DisableScaleIn=True)
    with httpx.Client() as client:
        eventually(lambda: client.post(f"{rig.client.meta.endpoint_url}/take", params={"seconds": 0}) and rig.copies.num == 2)


def test_from_no_copy_by_the_queue(rig: Rig) -> None:
    rig.copies.num, rig.waiting["ep"] = 0, 25
    rig.register(least=0)
    rig.put(**customized("ApproximateBacklogSizePerInstance"))
    eventually(lambda: rig.copies.scaled[:1] == [3])


def test_bounds_move_the_capacity(rig: Rig) -> None:
    rig.register(least=2)
    rig.put(**customized("none"))
    eventually(lambda: rig.copies.num == 2)


@pytest.mark.parametrize("how", ["suspended", "cool-down"])
def test_scaling_that_rests(how: str, rig: Rig) -> None:
    rig.script.metrics = "# TYPE busy gauge\nbusy 20\n"
    rests = {"SuspendedState": {"DynamicScalingOutSuspended": True}} if how == "suspended" else {}
    rig.register(most=100, **rests)
    rig.put(**customized("busy"), ScaleOutCooldown=300)
    if how == "cool-down":
        eventually(lambda: rig.copies.scaled == [2])
    # Another target of the same copies, for which the loop looks as often.
    rig.register(most=100, place=COMPONENT)
    rig.put(place=COMPONENT, **customized("busy"))
    eventually(lambda: rig.copies.num == 100)
    ids = [one["ResourceId"] for one in rig.activities()]
    assert ids.count(COMPONENT["ResourceId"]) >= 5
    assert ids.count(VARIANT["ResourceId"]) == (1 if how == "cool-down" else 0)


@pytest.mark.parametrize(
    ("problem", "told"), [(HeadwayError("no memory"), "no memory"), (KeyError("seat"), "KeyError: 'seat'")], ids=["refused", "bug"]
)
def test_scaling_that_fails(problem: Exception, told: str, rig: Rig) -> None:
    rig.copies.problem = problem
    rig.register(least=2)
    rig.put(**customized("none"), ScaleOutCooldown=300)
    failed = eventually(lambda: [one for one in rig.activities() if one["StatusCode"] == "Failed"])
    assert failed[0]["StatusMessage"].startswith(f"Failed to set the capacity to 2: {told}")


def test_a_bug_at_one_target_is_told_and_the_others_are_scaled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    look = rig.copies.num_desired

    def num_desired(resource: Resource) -> int:
        if resource.component:
            raise KeyError("lost")
        return look(resource)

    rig.register(place=COMPONENT)
    rig.put(place=COMPONENT, **customized("none"))
    monkeypatch.setattr(rig.copies, "num_desired", num_desired)
    assert eventually(lambda: any("KeyError: 'lost'" in text for text in rig.said))
    rig.register(least=3)
    rig.put(name="other", **customized("none"))
    assert eventually(lambda: rig.copies.num == 3)


def test_samples() -> None:
    text = '# TYPE g gauge\ng{a="1",b="2"} 3\ng{a="2"} 4\n# TYPE c_total counter\nc_total 9\n'
    assert sample(text, Metric("g")) == 7
    assert sample(text, Metric("g", labels=(("a", "1"),))) == 3
    assert sample(text, Metric("c_total")) is None
    assert sample("no metrics {", Metric("g")) is None
