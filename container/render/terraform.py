"""`headway render terraform`: resources of the provider hashicorp/aws, as `terraform fmt` would have them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.iam import permissions, trust_policy
from headway.container.render.quoting import quoted
from headway.container.render.requests import ROLE, Call, Link, calls

_TYPES = {
    "CreateModel": "aws_sagemaker_model",
    "CreateEndpointConfig": "aws_sagemaker_endpoint_configuration",
    "CreateEndpoint": "aws_sagemaker_endpoint",
    "CreateInferenceComponent": "aws_sagemaker_inference_component",
    "RegisterScalableTarget": "aws_appautoscaling_target",
    "PutScalingPolicy": "aws_appautoscaling_policy",
}
_LABELLED = {"model": "CreateModel", "endpoint_config": "CreateEndpointConfig", "endpoint": "CreateEndpoint"}
_LABELLED |= {"base": "CreateInferenceComponent", "target": "RegisterScalableTarget"}
# (operation, parameter) -> argument of the resource, where it is not the parameter's name in small letters; None: it has none.
_ARGUMENTS: dict[tuple[str, str], str | None] = {
    ("CreateModel", "ModelName"): None,  # made up by the provider, for a change replaces the model
    ("CreateEndpointConfig", "EndpointConfigName"): "name_prefix",
    ("CreateEndpointConfig", "KmsKeyId"): "kms_key_arn",
    ("CreateEndpointConfig", "MetricsConfig"): None,  # the provider has none; detailed observability is on without it
    ("CreateEndpoint", "EndpointName"): "name",
    ("CreateInferenceComponent", "InferenceComponentName"): "name",
    ("PutScalingPolicy", "PolicyName"): "name",
}
_REPLACED = ("CreateModel", "CreateEndpointConfig")  # a new one is there before the endpoint lets go of the old
_MAPS = ("environment", "tags")
_PROVIDER = {"source": "hashicorp/aws", "version": ">= 6.0"}
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Body = list[tuple[str, Any]]  # arguments and blocks, in order


class Expression(str):
    """HCL that is no text."""

    __slots__ = ()


def render(deployment: Deployment) -> str:
    hosting = deployment.on_sagemaker
    head = _block("terraform", [("required_providers", [("aws", Expression(_object(_PROVIDER, 2)))])])
    parts = [
        f"# {deployment.name} on SageMaker, as `headway render terraform` wrote it.\n{head}",
        _block('provider "aws"', [("region", hosting.region)]),
    ]
    if hosting.makes_role:
        parts += _role(deployment)
    elif hosting.role is None:
        parts.append(_block('variable "execution_role_arn"', [("type", Expression("string")), ("description", "The execution role")]))
    parts += [_resource(call, deployment) for call in calls(deployment)]
    return "\n".join(parts)


def _role(deployment: Deployment) -> Iterator[str]:
    trust = Expression(f"jsonencode({_object(trust_policy(deployment.on_sagemaker), 1)})")
    role: Body = [("name", f"{deployment.name}-execution"), *_tags(deployment), ("assume_role_policy", trust)]
    yield _block('resource "aws_iam_role" "execution"', role)
    policy = Expression(f"jsonencode({_object(permissions(deployment), 1)})")
    body: Body = [("name", "execution"), ("role", Expression("aws_iam_role.execution.id")), ("policy", policy)]
    yield _block('resource "aws_iam_role_policy" "execution"', body)


def _tags(deployment: Deployment) -> Body:
    return [("tags", Expression(_object(dict(deployment.tags), 1)))] if deployment.tags else []


def _resource(call: Call, deployment: Deployment) -> str:
    body: Body = []
    for name, value in call.parameters.items():
        argument = _ARGUMENTS.get((call.operation, name), _snake(name))
        if argument is not None:
            body += _arguments(argument, f"{value}-" if argument == "name_prefix" else value, deployment)
    after = [f"{_TYPES[_LABELLED[label]]}.{label}" for label in call.after]
    if call.operation == "CreateModel" and deployment.on_sagemaker.makes_role:
        after.append("aws_iam_role_policy.execution")
    if after:
        body.append(("depends_on", Expression(f"[{', '.join(after)}]")))
    if call.operation in _REPLACED:
        body.append(("lifecycle", [("create_before_destroy", True)]))
    why = "".join(f"# {line}\n" for line in call.why)
    return why + _block(f'resource "{_TYPES[call.operation]}" "{call.label}"', body)


def _arguments(name: str, value: Any, deployment: Deployment) -> Body:
    """A parameter as what the provider makes of it: a structure is a block, a list of structures several."""
    if name == "tags":
        return _tags(deployment)
    if name in _MAPS:
        return [(name, Expression(_object(value, 2)))]
    if isinstance(value, Link):
        return [(name, _reference(value, deployment))]
    if isinstance(value, dict):
        return [(name, [item for key, inner in value.items() for item in _arguments(_snake(key), inner, deployment)])]
    if isinstance(value, list):
        return [item for inner in value for item in _arguments(name, inner, deployment)]
    return [(name, value)]


def _reference(link: Link, deployment: Deployment) -> str:
    if link != ROLE:
        return Expression(f"{_TYPES[_LABELLED[link.label]]}.{link.label}.name")
    hosting = deployment.on_sagemaker
    if hosting.makes_role:
        return Expression("aws_iam_role.execution.arn")
    return hosting.role or Expression("var.execution_role_arn")


def _block(head: str, body: Body, depth: int = 0) -> str:
    outer, inner = "  " * depth, "  " * (depth + 1)
    plain = [(name, _literal(value)) for name, value in body if not isinstance(value, list)]
    parts = ["".join(f"{inner}{line}\n" for line in _aligned([item for item in plain if "\n" not in item[1]]))]
    parts += [f"{inner}{name} = {text}\n" for name, text in plain if "\n" in text]
    parts += [_block(name, value, depth + 1) for name, value in body if isinstance(value, list)]
    return f"{outer}{head} {{\n" + "\n".join(filter(None, parts)) + f"{outer}}}\n"


def _aligned(items: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in items), default=0)
    return [f"{name.ljust(width)} = {text}" for name, text in items]


def _object(value: Any, depth: int) -> str:
    """An expression of objects, lists and texts, one item a line."""
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, list):
        return "[\n" + "".join(f"{inner}{_object(item, depth + 1)},\n" for item in value) + f"{outer}]"
    if not isinstance(value, dict):
        return _literal(value)
    items = [(_literal(key), _object(item, depth + 1)) for key, item in value.items()]
    runs = groupby(items, key=lambda item: "\n" in item[1])
    lines = [line for is_long, run in runs for line in ([f"{name} = {text}" for name, text in run] if is_long else _aligned(list(run)))]
    return "{\n" + "".join(f"{inner}{line}\n" for line in lines) + f"{outer}}}"


def _literal(value: Any) -> str:
    if isinstance(value, Expression):
        return value
    if isinstance(value, str):
        # Not $${ and %%{, of which python-hcl2 and its kin don't understand every combination.
        return quoted(value).replace("${", "\\u0024{").replace("%{", "\\u0025{")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _snake(name: str) -> str:
    return _WORD.sub("_", name).lower()
