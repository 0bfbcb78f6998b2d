"""Which members of a call this runtime keeps and does nothing with. Pure.

What is heeded is listed, and not what isn't: a member that a later botocore knows is told of too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Roles are not told of: every deployment names one, and nobody expects a local runtime to assume it. Refused members aren't here either.
_S3_SOURCE = ("S3DataSource.S3Uri", "S3DataSource.S3DataType", "S3DataSource.CompressionType", "S3DataSource.ModelAccessConfig")
_CONTAINER = (
    *("ContainerHostname", "Image", "Environment", "Mode", "ModelDataUrl", "AdditionalModelDataSources.ChannelName"),
    *(f"{member}.{path}" for member in ("ModelDataSource", "AdditionalModelDataSources") for path in _S3_SOURCE),
)
_VARIANT = (
    *("VariantName", "ModelName", "InstanceType", "InitialInstanceCount", "InitialVariantWeight", "RoutingConfig.RoutingStrategy"),
    *("ModelDataDownloadTimeoutInSeconds", "ContainerStartupHealthCheckTimeoutInSeconds"),
    *("ManagedInstanceScaling.Status", "ManagedInstanceScaling.MaxInstanceCount"),
)
_SPECIFICATION = (
    *("ModelName", "Container.Image", "Container.ArtifactUrl", "Container.Environment", "BaseInferenceComponentName", "StartupParameters"),
    *("ComputeResourceRequirements.NumberOfCpuCoresRequired", "ComputeResourceRequirements.NumberOfAcceleratorDevicesRequired"),
    "ComputeResourceRequirements.MinMemoryRequiredInMb",
)
_ASYNC = ("ClientConfig", "OutputConfig.S3OutputPath", "OutputConfig.S3FailurePath", "OutputConfig.NotificationConfig")
_COMPONENT = (
    *("InferenceComponentName", "RuntimeConfig"),
    *(f"{member}.{path}" for member in ("Specification", "Specifications") for path in _SPECIFICATION),
)
_HEEDED = {
    "CreateModel": (
        *("ModelName", "ExecutionRoleArn", "Tags"),
        *(f"{member}.{path}" for member in ("PrimaryContainer", "Containers") for path in _CONTAINER),
    ),
    "CreateEndpointConfig": (
        *("EndpointConfigName", "ExecutionRoleArn", "Tags"),
        *(f"ProductionVariants.{path}" for path in _VARIANT),
        *(f"AsyncInferenceConfig.{path}" for path in _ASYNC),
    ),
    "CreateEndpoint": ("EndpointName", "EndpointConfigName", "Tags"),
    "UpdateEndpoint": ("EndpointName", "EndpointConfigName", "RetainAllVariantProperties", "ExcludeRetainedVariantProperties"),
    "UpdateEndpointWeightsAndCapacities": (
        *("EndpointName", "DesiredWeightsAndCapacities.VariantName", "DesiredWeightsAndCapacities.DesiredWeight"),
        "DesiredWeightsAndCapacities.DesiredInstanceCount",
    ),
    "CreateInferenceComponent": ("EndpointName", "VariantName", "Tags", *_COMPONENT),
    "UpdateInferenceComponent": _COMPONENT,
}


def unheeded(operation: str, body: dict[str, Any]) -> list[str]:
    """Each path that was given and changes nothing: "ProductionVariants.CoreDumpConfig". What is false or empty asks for nothing."""
    heeded = _HEEDED.get(operation)
    return list(dict.fromkeys(_unheeded(body, "", heeded))) if heeded else []


def _unheeded(value: Any, path: str, heeded: tuple[str, ...]) -> Iterator[str]:
    if not value or path in heeded:
        return
    if path and not any(known.startswith(f"{path}.") for known in heeded):
        yield path
        return
    for item in value if isinstance(value, list) else [value]:
        for name, member in item.items():
            yield from _unheeded(member, f"{path}.{name}".lstrip("."), heeded)
