"""`headway render cloudformation`: a template, in YAML."""

from __future__ import annotations

from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.iam import permissions, trust_policy
from headway.container.render.requests import ROLE, Call, Link, calls, tags
from headway.server.errors import ConfigError
from headway.server.words import first_few

_TYPES = {
    "CreateModel": "AWS::SageMaker::Model",
    "CreateEndpointConfig": "AWS::SageMaker::EndpointConfig",
    "CreateEndpoint": "AWS::SageMaker::Endpoint",
    "CreateInferenceComponent": "AWS::SageMaker::InferenceComponent",
    "RegisterScalableTarget": "AWS::ApplicationAutoScaling::ScalableTarget",
    "PutScalingPolicy": "AWS::ApplicationAutoScaling::ScalingPolicy",
}
# A change of these replaces them, which a name of one's own would forbid: CloudFormation makes one up.
_UNNAMED = {"CreateModel": "ModelName", "CreateEndpointConfig": "EndpointConfigName"}
_ATTRIBUTES = {
    "model": "ModelName",
    "endpoint_config": "EndpointConfigName",
    "endpoint": "EndpointName",
}
_DYNAMIC = "{{resolve:"


def render(deployment: Deployment) -> str:
    """Raises ConfigError for a value that CloudFormation would take for a reference of its own."""
    if found := [name for name, text in deployment.environ.items() if _DYNAMIC in text]:
        raise ConfigError([f"environment {first_few(found)}: CloudFormation would put in plain text what {_DYNAMIC} names: leave it out"])
    import yaml

    hosting = deployment.on_sagemaker
    template: dict[str, Any] = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{deployment.name} on SageMaker, as headway render cloudformation wrote it",
    }
    if hosting.role is None and not hosting.makes_role:
        template["Parameters"] = {"ExecutionRoleArn": {"Type": "String", "Description": "The execution role, which exists"}}
    resources = _role(deployment) if hosting.makes_role else {}
    notes = {}
    for call in calls(deployment):
        resources[_logical(call.label)] = _resource(call, deployment)
        notes[_logical(call.label)] = call.why
    template["Resources"] = resources
    template["Outputs"] = {"EndpointName": {"Value": deployment.name}}
    return _commented(yaml.safe_dump(template, sort_keys=False, width=120), notes)


def _role(deployment: Deployment) -> dict[str, Any]:
    policy = {"PolicyName": "execution", "PolicyDocument": permissions(deployment)}
    properties = {"AssumeRolePolicyDocument": trust_policy(deployment.on_sagemaker), "Policies": [policy], **tags(deployment)}
    return {"Role": {"Type": "AWS::IAM::Role", "Properties": properties}}


def _resource(call: Call, deployment: Deployment) -> dict[str, Any]:
    unnamed = _UNNAMED.get(call.operation)
    properties = {name: _value(value, deployment) for name, value in call.parameters.items() if name != unnamed}
    found: dict[str, Any] = {"Type": _TYPES[call.operation]}
    if after := [*call.after, *_named_only(call.parameters)]:
        found["DependsOn"] = [_logical(label) for label in after]
    return {**found, "Properties": properties}


def _named_only(value: Any) -> list[str]:
    """Labels of what is referred to by its own name, because CloudFormation has no attribute for that."""
    match value:
        case Link():
            return [value.label] if value != ROLE and value.label not in _ATTRIBUTES else []
        case dict():
            return [label for item in value.values() for label in _named_only(item)]
        case list():
            return [label for item in value for label in _named_only(item)]
    return []


def _value(value: Any, deployment: Deployment) -> Any:
    match value:
        case Link() if value == ROLE:
            hosting = deployment.on_sagemaker
            return {"Fn::GetAtt": ["Role", "Arn"]} if hosting.makes_role else hosting.role or {"Ref": "ExecutionRoleArn"}
        case Link() if value.label not in _ATTRIBUTES:
            return value.name
        case Link():
            return {"Fn::GetAtt": [_logical(value.label), _ATTRIBUTES[value.label]]}
        case dict():
            return {name: _value(item, deployment) for name, item in value.items()}
        case list():
            return [_value(item, deployment) for item in value]
        case _:
            return value


def _logical(label: str) -> str:
    """endpoint_config -> EndpointConfig."""
    return "".join(word.capitalize() for word in label.split("_"))


def _commented(text: str, notes: dict[str, tuple[str, ...]]) -> str:
    """``text`` with comments above the resources: their names are at an indentation where no value's text can be."""
    lines = []
    for line in text.splitlines(keepends=True):
        if line.startswith("  ") and not line.startswith("   ") and (why := notes.get(line.strip().removesuffix(":"))):
            lines += [f"  # {note}\n" for note in why]
        lines.append(line)
    return "".join(lines)
