"""How DescribeEndpoint shows what is deployed. Pure."""

from __future__ import annotations

from typing import Any

from headway.container.local.control.deployment import Deployment, Variant

_CONFIG_MEMBERS = ("AsyncInferenceConfig", "MetricsConfig")
_VARIANT_MEMBERS = ("ManagedInstanceScaling", "RoutingConfig", "CapacityReservationConfig")


def described(deployment: Deployment) -> dict[str, Any]:
    config = deployment.config
    return {
        "EndpointConfigName": config.name,
        "ProductionVariants": [_variant(variant) for variant in deployment.variants.values()],
        **{member: config.request[member] for member in _CONFIG_MEMBERS if member in config.request},
    }


def _variant(variant: Variant) -> dict[str, Any]:
    image = variant.model.container.get("Image") if variant.model else None
    return {
        "VariantName": variant.name,
        **({"DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image}]} if image else {}),
        "CurrentWeight": variant.weight,
        "DesiredWeight": variant.weight,
        "CurrentInstanceCount": variant.num_current,
        "DesiredInstanceCount": variant.num_instances,
        **{member: variant.settings[member] for member in _VARIANT_MEMBERS if member in variant.settings},
    }
