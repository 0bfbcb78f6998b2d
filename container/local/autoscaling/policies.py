"""Scaling policies: what of application-autoscaling's target tracking is done here, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headway.container.local.autoscaling.resources import COMPONENT, VARIANT
from headway.container.local.control.registry import refused

INVOCATIONS = {"SageMakerVariantInvocationsPerInstance": VARIANT, "SageMakerInferenceComponentInvocationsPerCopy": COMPONENT}
CONCURRENCY = {
    "SageMakerVariantConcurrentRequestsPerModelHighResolution": VARIANT,
    "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution": COMPONENT,
}
BACKLOG, BACKLOG_PER_COPY = "ApproximateBacklogSize", "ApproximateBacklogSizePerInstance"
_STATISTICS = ("Average", "Minimum", "Maximum", "Sum")
_DEFAULT_COOLDOWN_S = 300
# Dimensions that CloudWatch adds to say where a metric comes from; here that is the resource itself.
_PLACES = ("EndpointName", "VariantName", "InferenceComponentName", "InstanceId", "ContainerId")
_PERIOD_S = 60.0
_HIGH_RESOLUTION_PERIOD_S = 10.0


@dataclass(frozen=True, slots=True)
class Metric:
    """Predefined, or a name of CloudWatch's or of the copies' /metrics; ``labels`` are those that a sample must have there."""

    name: str
    statistic: str = "Average"
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def period_s(self) -> float:
        return _HIGH_RESOLUTION_PERIOD_S if self.name in CONCURRENCY else _PERIOD_S


@dataclass(frozen=True, slots=True)
class Tracking:
    target: float
    metric: Metric
    out_cooldown_s: int
    in_cooldown_s: int
    may_scale_in: bool


def read_tracking(request: Mapping[str, Any]) -> Tracking:
    """Of a validated PutScalingPolicy. Raises PlatformError: ValidationException."""
    kind = request.get("PolicyType", "StepScaling")
    config = request.get("TargetTrackingScalingPolicyConfiguration")
    if kind != "TargetTrackingScaling" or config is None:
        raise refused(
            f"PolicyType {kind} is not emulated by this runtime, which has no alarms: use TargetTrackingScaling with its configuration."
        )
    if not 0 < config["TargetValue"] < float("inf"):
        raise refused("TargetValue must be above 0.")
    return Tracking(
        config["TargetValue"],
        _metric(config, request["ScalableDimension"]),
        config.get("ScaleOutCooldown", _DEFAULT_COOLDOWN_S),
        config.get("ScaleInCooldown", _DEFAULT_COOLDOWN_S),
        not config.get("DisableScaleIn", False),
    )


def _metric(config: Mapping[str, Any], dimension: str) -> Metric:
    predefined, customized = config.get("PredefinedMetricSpecification"), config.get("CustomizedMetricSpecification")
    if predefined is not None and customized is None:
        name = predefined["PredefinedMetricType"]
        if (INVOCATIONS | CONCURRENCY).get(name) != dimension:
            raise refused(f"PredefinedMetricType {name} does not go with ScalableDimension {dimension}.")
        return Metric(name)
    if customized is None or predefined is not None:
        raise refused("Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification must be given.")
    if customized.get("Metrics") or "MetricName" not in customized:
        raise refused("CustomizedMetricSpecification needs a MetricName: metric math is not emulated by this runtime.")
    statistic = customized.get("Statistic", "Average")
    if statistic not in _STATISTICS:
        raise refused(f"Statistic {statistic} is not emulated by this runtime: use one of {', '.join(_STATISTICS)}.")
    labels = tuple((item["Name"], item["Value"]) for item in customized.get("Dimensions", ()) if item["Name"] not in _PLACES)
    return Metric(customized["MetricName"], statistic, labels)
