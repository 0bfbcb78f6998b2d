"""application-autoscaling: scalable targets, their policies, and what has been done for them. No measuring, no scaling."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headway.container.local.autoscaling.policies import Tracking, read_tracking
from headway.container.local.autoscaling.resources import Resource, Scalables
from headway.container.local.autoscaling.tracking import Bounds
from headway.container.local.control.names import ACCOUNT
from headway.container.local.control.registry import refused
from headway.container.local.errors import PlatformError

_NAMESPACE = "sagemaker"
_PAGE = 50
_MAX_ACTIVITIES = 1000
_MAX_POLICIES = 50  # a target; application-autoscaling's own quota
_ROLE = (
    f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
    "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
)


@dataclass(slots=True, eq=False)
class Policy:
    name: str
    arn: str
    tracking: Tracking
    shown: Mapping[str, Any]  # its configuration, as it was given
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True, eq=False)
class ScalableTarget:
    resource: Resource
    arn: str
    bounds: Bounds
    role: str
    suspended: dict[str, bool]
    policies: dict[str, Policy] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


class Autoscaling:
    """``handle`` takes calls whose input has been validated; the loop reads ``targets``, and adds to ``activities``."""

    def __init__(self, region: str, scalables: Scalables) -> None:
        self._region = region
        self._scalables = scalables
        self.targets: dict[Resource, ScalableTarget] = {}
        self.activities: deque[dict[str, Any]] = deque(maxlen=_MAX_ACTIVITIES)  # the newest first
        self.operations: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "RegisterScalableTarget": self._register,
            "DescribeScalableTargets": self._describe_targets,
            "DeregisterScalableTarget": self._deregister,
            "PutScalingPolicy": self._put_policy,
            "DescribeScalingPolicies": self._describe_policies,
            "DeleteScalingPolicy": self._delete_policy,
            "DescribeScalingActivities": self._describe_activities,
        }

    async def handle(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """An operation of ``operations``. Raises PlatformError."""
        if body["ServiceNamespace"] != _NAMESPACE:
            raise refused(f"ServiceNamespace {body['ServiceNamespace']} is none of this runtime's: it scales {_NAMESPACE} only.")
        return await self.operations[operation](body)

    async def _register(self, request: dict[str, Any]) -> dict[str, Any]:
        resource = _resource(request)
        known = self.targets.get(resource)
        if known is None and not {"MinCapacity", "MaxCapacity"} <= request.keys():
            raise refused("MinCapacity and MaxCapacity are required to register a new scalable target.")
        self._scalables.num_desired(resource)
        least = request.get("MinCapacity", known.bounds.least if known else 0)
        most = request.get("MaxCapacity", known.bounds.most if known else 0)
        if not 0 <= least <= most:
            raise refused(
                f"MinCapacity {least} and MaxCapacity {most} must be whole numbers from 0 on, and the maximum not the smaller one."
            )
        if known is None:
            known = self.targets[resource] = ScalableTarget(resource, self._arn("scalable-target"), Bounds(least, most), _ROLE, {})
        known.bounds, known.role = Bounds(least, most), request.get("RoleARN", known.role)
        known.suspended |= request.get("SuspendedState", {})
        return {"ScalableTargetARN": known.arn}

    async def _deregister(self, request: dict[str, Any]) -> dict[str, Any]:
        del self.targets[self._target(request).resource]
        return {}

    async def _put_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        target, tracking, name = self._target(request), read_tracking(request), request["PolicyName"]
        known = target.policies.get(name)
        if known is None and len(target.policies) >= _MAX_POLICIES:
            raise PlatformError(400, "LimitExceededException", f"A scalable target has at most {_MAX_POLICIES} policies: delete one.")
        arn = known.arn if known else f"{self._arn('scalingPolicy')}:resource/{_NAMESPACE}/{target.resource.id}:policyName/{name}"
        target.policies[name] = Policy(name, arn, tracking, request["TargetTrackingScalingPolicyConfiguration"])
        return {"PolicyARN": arn, "Alarms": []}

    async def _delete_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        target, name = self._target(request), request["PolicyName"]
        if target.policies.pop(name, None) is None:
            raise _not_found(
                f"No scaling policy found for service namespace: {_NAMESPACE}, resource ID: {target.resource.id}, name: {name}"
            )
        return {}

    async def _describe_targets(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [target for target in self.targets.values() if _is_wanted(request, target.resource, request.get("ResourceIds"))]
        return _page(request, "ScalableTargets", (_shown_target(target) for target in found))

    async def _describe_policies(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [
            _shown_policy(target.resource, policy)
            for target in self.targets.values()
            if _is_wanted(request, target.resource, _one(request))
            for policy in target.policies.values()
            if policy.name in request.get("PolicyNames", [policy.name])
        ]
        return _page(request, "ScalingPolicies", found)

    async def _describe_activities(self, request: dict[str, Any]) -> dict[str, Any]:
        found = [
            item
            for item in self.activities
            if _is_wanted(request, Resource.of(item["ResourceId"], item["ScalableDimension"]), _one(request))
        ]
        return _page(request, "ScalingActivities", found)

    def _target(self, request: Mapping[str, Any]) -> ScalableTarget:
        resource = _resource(request)
        if resource not in self.targets:
            raise _not_found(
                f"No scalable target found for service namespace: {_NAMESPACE}, resource ID: {resource.id}, "
                f"scalable dimension: {resource.dimension}"
            )
        return self.targets[resource]

    def _arn(self, kind: str) -> str:
        service = "application-autoscaling" if kind == "scalable-target" else "autoscaling"
        return f"arn:aws:{service}:{self._region}:{ACCOUNT}:{kind}{'/' if kind == 'scalable-target' else ':'}{uuid.uuid4()}"


def _resource(request: Mapping[str, Any]) -> Resource:
    return Resource.of(request["ResourceId"], request["ScalableDimension"])


def _not_found(message: str) -> PlatformError:
    return PlatformError(400, "ObjectNotFoundException", message)


def _one(request: Mapping[str, Any]) -> list[str] | None:
    return [request["ResourceId"]] if "ResourceId" in request else None


def _is_wanted(request: Mapping[str, Any], resource: Resource, ids: list[str] | None) -> bool:
    return (ids is None or resource.id in ids) and request.get("ScalableDimension", resource.dimension) == resource.dimension


def _page(request: Mapping[str, Any], member: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    listed, token = list(items), request.get("NextToken", "0")
    if not (token.isascii() and token.isdigit() and len(token) <= 9):
        raise PlatformError(400, "InvalidNextTokenException", "NextToken is not one that a call before this one returned.")
    size = request.get("MaxResults", _PAGE)
    if not 1 <= size <= _PAGE:
        raise refused(f"MaxResults must be from 1 to {_PAGE}, not {size}.")
    end = int(token) + size
    return {member: listed[int(token) : end]} | ({"NextToken": str(end)} if end < len(listed) else {})


def _place(resource: Resource) -> dict[str, Any]:
    return {"ServiceNamespace": _NAMESPACE, "ResourceId": resource.id, "ScalableDimension": resource.dimension}


def _shown_target(target: ScalableTarget) -> dict[str, Any]:
    kinds = ("DynamicScalingInSuspended", "DynamicScalingOutSuspended", "ScheduledScalingSuspended")
    return _place(target.resource) | {
        "MinCapacity": target.bounds.least,
        "MaxCapacity": target.bounds.most,
        "RoleARN": target.role,
        "CreationTime": target.created,
        "SuspendedState": {kind: target.suspended.get(kind, False) for kind in kinds},
        "ScalableTargetARN": target.arn,
    }


def _shown_policy(resource: Resource, policy: Policy) -> dict[str, Any]:
    return _place(resource) | {
        "PolicyARN": policy.arn,
        "PolicyName": policy.name,
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": policy.shown,
        "Alarms": [],
        "CreationTime": policy.created,
    }


def new_activity(resource: Resource, num_copies: int, cause: str) -> dict[str, Any]:
    """One that has begun; whoever adds it to ``activities`` ends it with ``end_activity``."""
    noun = "copy count" if resource.component else "instance count"
    return _place(resource) | {
        "ActivityId": str(uuid.uuid4()),
        "Description": f"Setting desired {noun} to {num_copies}.",
        "Cause": cause,
        "StartTime": datetime.now(UTC),
        "StatusCode": "InProgress",
    }


def end_activity(activity: dict[str, Any], status: str, message: str) -> None:
    activity |= {"StatusCode": status, "StatusMessage": message, "EndTime": datetime.now(UTC)}
