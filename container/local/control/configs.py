"""Endpoint configurations: which variants an endpoint has."""

from __future__ import annotations

from typing import Any

from headway.container.local.control.listing import page
from headway.container.local.control.models import Model
from headway.container.local.control.names import ENDPOINT_CONFIG
from headway.container.local.control.registry import Record, Registry, refused, tags_of

_NOT_EMULATED = ("DataCaptureConfig", "ExplainerConfig", "ShadowProductionVariants", "CrossRegionTrafficConfig")
_VARIANT_NOT_EMULATED = ("ServerlessConfig", "InstancePools", "AcceleratorType", "AcceleratorPartitionLayouts")


class Configs:
    def __init__(self, region: str, models: Registry[Model]) -> None:
        self.registry: Registry[Record] = Registry(region, ENDPOINT_CONFIG)
        self._models = models

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        _check_emulated(request, _NOT_EMULATED)
        names = [variant["VariantName"] for variant in request["ProductionVariants"]]
        if len(set(names)) < len(names):
            raise refused(f"VariantNames must be unique within a configuration: {', '.join(names)}.")
        for variant in request["ProductionVariants"]:
            self._check_variant(request, variant)
        if not sum(variant.get("InitialVariantWeight", 1.0) for variant in request["ProductionVariants"]):
            raise refused("At least one variant must have an InitialVariantWeight above 0.")
        name = request["EndpointConfigName"]
        self.registry.add(Record(name, self.registry.arn(name), request, tags_of(request)))
        return {"EndpointConfigArn": self.registry.arn(name)}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        config = self.registry.get(request["EndpointConfigName"])
        shown = {key: value for key, value in config.request.items() if key != "Tags"}
        variants = [{"InitialVariantWeight": 1.0, **variant} for variant in config.request["ProductionVariants"]]
        return {**shown, "ProductionVariants": variants, "EndpointConfigArn": config.arn, "CreationTime": config.created}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        self.registry.remove(self.registry.get(request["EndpointConfigName"]))
        return {}

    def list(self, request: dict[str, Any]) -> dict[str, Any]:
        return page(
            request,
            self.registry,
            "EndpointConfigs",
            lambda config: {"EndpointConfigName": config.name, "EndpointConfigArn": config.arn, "CreationTime": config.created},
        )

    def _check_variant(self, request: dict[str, Any], variant: dict[str, Any]) -> None:
        name = variant["VariantName"]
        _check_emulated(variant, _VARIANT_NOT_EMULATED)
        if "InstanceType" not in variant or "InitialInstanceCount" not in variant:
            raise refused(f"Variant {name} needs an InstanceType and an InitialInstanceCount.")
        if "ModelName" in variant:
            self._models.get(variant["ModelName"])
        elif "ExecutionRoleArn" not in request:
            raise refused("ExecutionRoleArn is required where a variant has no ModelName: its inference components run with that role.")
        elif "AsyncInferenceConfig" in request:
            raise refused("AsyncInferenceConfig can't be given for an endpoint of inference components.")


def _check_emulated(given: dict[str, Any], not_emulated: tuple[str, ...]) -> None:
    if found := [field for field in not_emulated if given.get(field)]:
        raise refused(f"{', '.join(found)} is not emulated by this runtime: leave it out where AWS_ENDPOINT_URL_SAGEMAKER is set.")
