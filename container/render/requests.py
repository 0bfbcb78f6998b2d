"""The API calls that make a deployment, in their order. Each target on SageMaker writes the same ones in its language. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headway.container.render.deployment import Adapter, AsyncOutput, Deployment

VARIANT = "all"
# A copy that starts takes minutes until it serves: a policy that asked again before would start too many. One that ended is as long
# in coming back, so that a pause of the load must last before any is taken away.
SCALE_OUT_COOLDOWN_S = 300
SCALE_IN_COOLDOWN_S = 600
# The platform can place far less than an instance's memory: on ml.g5.xlarge, 16 GiB, it takes 1024 MB and refuses 4096 (measured by the
# authors of huggingface/skills, hf-cloud-sagemaker-production-defaults, 2026).
_LITTLE_MEMORY_MB = 1024


@dataclass(frozen=True, slots=True)
class Link:
    """A value that another call's result is: its label, and the name that was given to it ("" for the role's ARN)."""

    label: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """``label`` is unique; ``why`` is for a comment; ``after`` are the labels of what must be there and is not named in parameters."""

    label: str
    operation: str
    parameters: dict[str, Any]
    why: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


ROLE = Link("role")


def calls(deployment: Deployment) -> list[Call]:
    made = [_model(deployment), _endpoint_config(deployment), _endpoint(deployment)]
    if deployment.adapters:
        made.append(_base_component(deployment))
        made += [_adapter_component(deployment, adapter, number) for number, adapter in enumerate(deployment.adapters, 1)]
    if deployment.scale.is_automatic:
        made += _scaling(deployment)
    return made


def tags(deployment: Deployment) -> dict[str, Any]:
    """The parameter Tags, where there are any."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in deployment.tags.items()]} if deployment.tags else {}


def _model(deployment: Deployment) -> Call:
    container: dict[str, Any] = {"Image": deployment.image, "Environment": dict(deployment.environ)}
    if deployment.model_data:
        is_prefix = deployment.model_data.endswith("/")
        source = {"S3Uri": deployment.model_data, "S3DataType": "S3Prefix" if is_prefix else "S3Object"}
        container["ModelDataSource"] = {"S3DataSource": {**source, "CompressionType": "None" if is_prefix else "Gzip"}}
    parameters = {"ModelName": deployment.name, "ExecutionRoleArn": ROLE, "PrimaryContainer": container, **tags(deployment)}
    return Call("model", "CreateModel", parameters)


def _endpoint_config(deployment: Deployment) -> Call:
    hosting = deployment.on_sagemaker
    variant: dict[str, Any] = {"VariantName": VARIANT, **_capacity(deployment), "InstanceType": hosting.instance.name}
    why = []
    if hosting.ami:
        variant["InferenceAmiVersion"] = hosting.ami
        why.append("InferenceAmiVersion: the driver that the image's CUDA needs; with an older one a container ends before its first line.")
    variant["ContainerStartupHealthCheckTimeoutInSeconds"] = deployment.startup_timeout_s
    why.append("ContainerStartupHealthCheckTimeoutInSeconds: 8 minutes otherwise, the container's own downloads included.")
    if deployment.model_data:
        variant["ModelDataDownloadTimeoutInSeconds"] = hosting.download_timeout_s
    if hosting.volume_gb:
        variant["VolumeSizeInGB"] = hosting.volume_gb
    variant["RoutingConfig"] = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    why.append("LEAST_OUTSTANDING_REQUESTS: answers differ in length, so that copies chosen at random would be loaded unevenly.")
    parameters: dict[str, Any] = {"EndpointConfigName": deployment.name, "ProductionVariants": [variant]}
    if deployment.adapters:
        parameters["ExecutionRoleArn"] = ROLE
    if hosting.asynchronous:
        parameters["AsyncInferenceConfig"] = _asynchronous(hosting.asynchronous, hosting.kms_key)
    if hosting.kms_key and not hosting.has_own_disk:
        parameters["KmsKeyId"] = hosting.kms_key
    parameters["MetricsConfig"] = {"EnableDetailedObservability": True}
    why.append("EnableDetailedObservability (on where it is not named, too): SageMaker reads the server's /metrics into CloudWatch.")
    return Call("endpoint_config", "CreateEndpointConfig", {**parameters, **tags(deployment)}, tuple(why))


def _capacity(deployment: Deployment) -> dict[str, Any]:
    """Of the variant: a model on each instance, or instances as many as the inference components need."""
    scale = deployment.scale
    if not deployment.adapters:
        return {"ModelName": Link("model", deployment.name), "InitialInstanceCount": scale.minimum}
    copies = max(1, deployment.on_sagemaker.instance.num_gpus // deployment.gpus_a_copy)
    least, most = -(-scale.minimum // copies), -(-scale.maximum // copies)
    managed = {"Status": "ENABLED", "MinInstanceCount": least, "MaxInstanceCount": most}
    return {"InitialInstanceCount": least, "ManagedInstanceScaling": managed}


def _asynchronous(asynchronous: AsyncOutput, kms_key: str | None) -> dict[str, Any]:
    output = {"S3OutputPath": asynchronous.output_uri, "S3FailurePath": asynchronous.failure_uri, "KmsKeyId": kms_key}
    topics = {"SuccessTopic": asynchronous.success_topic, "ErrorTopic": asynchronous.error_topic}
    output_config: dict[str, Any] = {name: value for name, value in output.items() if value}
    if told := {name: topic for name, topic in topics.items() if topic}:
        output_config["NotificationConfig"] = told
    return {"OutputConfig": output_config, "ClientConfig": {"MaxConcurrentInvocationsPerInstance": asynchronous.max_concurrent}}


def _endpoint(deployment: Deployment) -> Call:
    config = Link("endpoint_config", deployment.name)
    parameters = {"EndpointName": deployment.name, "EndpointConfigName": config, **tags(deployment)}
    return Call("endpoint", "CreateEndpoint", parameters)


def _base_component(deployment: Deployment) -> Call:
    hosting = deployment.on_sagemaker
    startup = {"ContainerStartupHealthCheckTimeoutInSeconds": deployment.startup_timeout_s}
    if deployment.model_data:
        startup["ModelDataDownloadTimeoutInSeconds"] = hosting.download_timeout_s
    specification = {
        "ModelName": Link("model", deployment.name),
        "StartupParameters": startup,
        "ComputeResourceRequirements": _resources(deployment),
    }
    parameters = {
        "InferenceComponentName": deployment.name,
        "EndpointName": Link("endpoint", deployment.name),
        "VariantName": VARIANT,
        "Specification": specification,
        "RuntimeConfig": {"CopyCount": deployment.scale.minimum},
        **tags(deployment),
    }
    of = "one GPU: the server is one engine of one rank" if deployment.gpus_a_copy == 1 else "a GPU for each rank of each engine"
    why = (f"A copy has {of}.",) if hosting.instance.num_gpus else ()
    return Call("base", "CreateInferenceComponent", parameters, why)


def _resources(deployment: Deployment) -> dict[str, int]:
    """What is demanded only decides where a copy is put, and is no limit. The GPUs decide enough."""
    hosting = deployment.on_sagemaker
    if hosting.instance.num_gpus:
        return {"NumberOfAcceleratorDevicesRequired": deployment.gpus_a_copy, "MinMemoryRequiredInMb": _LITTLE_MEMORY_MB}
    return {"MinMemoryRequiredInMb": hosting.instance.memory_bytes // 2 // 1024**2}


def _adapter_component(deployment: Deployment, adapter: Adapter, number: int) -> Call:
    parameters = {
        "InferenceComponentName": f"{deployment.name}-{adapter.name}",
        "EndpointName": Link("endpoint", deployment.name),
        "Specification": {
            "BaseInferenceComponentName": Link("base", deployment.name),
            "Container": {"ArtifactUrl": adapter.artifact},
        },
        **tags(deployment),
    }
    return Call(f"adapter_{number}", "CreateInferenceComponent", parameters)


def _scaling(deployment: Deployment) -> list[Call]:
    scale = deployment.scale
    if deployment.adapters:
        resource, unit, owner = f"inference-component/{deployment.name}", "inference-component:DesiredCopyCount", "base"
    else:
        resource, unit, owner = f"endpoint/{deployment.name}/variant/{VARIANT}", "variant:DesiredInstanceCount", "endpoint"
    target = {"ServiceNamespace": "sagemaker", "ResourceId": resource, "ScalableDimension": f"sagemaker:{unit}"}
    tracking = {
        "TargetValue": float(scale.concurrency),
        **_metric(deployment),
        "ScaleOutCooldown": SCALE_OUT_COOLDOWN_S,
        "ScaleInCooldown": SCALE_IN_COOLDOWN_S,
    }
    policy = {"PolicyName": f"{deployment.name}-load", "PolicyType": "TargetTrackingScaling"}
    return [
        Call(
            "target",
            "RegisterScalableTarget",
            {**target, "MinCapacity": scale.minimum, "MaxCapacity": scale.maximum},
            after=(owner,),
        ),
        Call(
            "policy",
            "PutScalingPolicy",
            {**policy, **target, "TargetTrackingScalingPolicyConfiguration": tracking},
            tuple(_why_scaling(deployment)),
            after=("target",),
        ),
    ]


def _metric(deployment: Deployment) -> dict[str, Any]:
    if deployment.on_sagemaker.asynchronous:
        backlog = {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": deployment.name}],
            "Statistic": "Average",
        }
        return {"CustomizedMetricSpecification": backlog}
    kind = "InferenceComponentConcurrentRequestsPerCopy" if deployment.adapters else "VariantConcurrentRequestsPerModel"
    return {"PredefinedMetricSpecification": {"PredefinedMetricType": f"SageMaker{kind}HighResolution"}}


def _why_scaling(deployment: Deployment) -> Iterator[str]:
    if deployment.on_sagemaker.asynchronous:
        yield "The backlog a copy, since what waits in S3 is no open request of the server."
    else:
        yield "Open requests a copy, every 10 s: the load that fills the server's rows (vllm:num_requests_running + _waiting), whatever"
        yield "the length of the answers; invocations a minute say little of it."
    yield f"Cool-downs: a copy that starts takes no load for minutes ({SCALE_OUT_COOLDOWN_S} s), and one that was taken away too early"
    yield f"is as long in coming back ({SCALE_IN_COOLDOWN_S} s)."
