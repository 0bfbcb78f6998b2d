"""`headway render boto3`: a script that makes the deployment, step by step."""

from __future__ import annotations

from typing import Any

from headway.container.render.deployment import Deployment
from headway.container.render.iam import permissions, trust_policy
from headway.container.render.quoting import quoted
from headway.container.render.requests import ROLE, Call, Link, calls, tags

_WAITS = {
    "endpoint": (
        'sagemaker.get_waiter("endpoint_in_service").wait(EndpointName={name}, WaiterConfig={{"Delay": 30, "MaxAttempts": {attempts}}})'
    ),
    "component": "wait_for_component({name})",
}
_WAIT_FOR_COMPONENT = """

def wait_for_component(name):
    while (component := sagemaker.describe_inference_component(InferenceComponentName=name))["InferenceComponentStatus"] != "InService":
        if component["InferenceComponentStatus"] == "Failed":
            raise SystemExit(f"{name}: {component.get('FailureReason')}")
        time.sleep(15)

"""
_SNAKE = {
    "CreateModel": "sagemaker.create_model",
    "CreateEndpointConfig": "sagemaker.create_endpoint_config",
    "CreateEndpoint": "sagemaker.create_endpoint",
    "CreateInferenceComponent": "sagemaker.create_inference_component",
    "RegisterScalableTarget": "scaling.register_scalable_target",
    "PutScalingPolicy": "scaling.put_scaling_policy",
}
_WAIT_STEP_S = 30
_MARGIN_S = 1800  # for the instance itself, which no time-out of ours covers


def render(deployment: Deployment) -> str:
    parts = [_head(deployment), _role(deployment)]
    for call in calls(deployment):
        parts += [_statement(call), _wait(call, deployment)]
    name = quoted(deployment.name)
    return "".join([*parts, f'print({name}, sagemaker.describe_endpoint(EndpointName={name})["EndpointStatus"])\n'])


def _head(deployment: Deployment) -> str:
    hosting = deployment.on_sagemaker
    modules = [
        *(["json"] if hosting.makes_role else []),
        *(["sys"] if hosting.role is None and not hosting.makes_role else []),
        *(["time"] if hosting.makes_role or deployment.adapters else []),
    ]
    clients = [
        *([("iam", "iam")] if hosting.makes_role else []),
        ("sagemaker", "sagemaker"),
        *([("scaling", "application-autoscaling")] if deployment.scale.is_automatic else []),
    ]
    region = quoted(hosting.region)
    lines = [
        f"# Deploys {deployment.name} on SageMaker, as `headway render boto3` wrote it. Run it once; needs boto3 1.44 or newer.",
        *(f"import {module}" for module in modules),
        *([""] if modules else []),
        "import boto3",
        "",
        *(f'{variable} = boto3.client("{service}", region_name={region})' for variable, service in clients),
        "",
    ]
    return "\n".join(lines) + (_WAIT_FOR_COMPONENT if deployment.adapters else "") + "\n"


def _role(deployment: Deployment) -> str:
    hosting = deployment.on_sagemaker
    if hosting.role is not None:
        return f"role = {quoted(hosting.role)}\n\n"
    if not hosting.makes_role:
        return "role = sys.argv[1]  # the execution role's ARN\n\n"
    name = quoted(f"{deployment.name}-execution")
    created: dict[str, Any] = {"RoleName": f"{deployment.name}-execution", **tags(deployment)}
    lines = [
        f"trust = {_literal(trust_policy(hosting), 0)}",
        f"permissions = {_literal(permissions(deployment), 0)}",
        f"created = {_call('iam.create_role', created, 'AssumeRolePolicyDocument=json.dumps(trust)')}",
        'role = created["Role"]["Arn"]',
        f"iam.put_role_policy(RoleName={name}, PolicyName={name}, PolicyDocument=json.dumps(permissions))",
        "time.sleep(15)  # a role is not known everywhere at once",
    ]
    return "\n".join(lines) + "\n\n"


def _statement(call: Call) -> str:
    why = "".join(f"# {line}\n" for line in call.why)
    return f"{why}{_call(_SNAKE[call.operation], call.parameters)}\n"


def _call(function: str, parameters: dict[str, Any], *more: str) -> str:
    lines = [*(f"    {name}={_literal(value, 1)},\n" for name, value in parameters.items()), *(f"    {text},\n" for text in more)]
    return f"{function}(\n{''.join(lines)})"


def _wait(call: Call, deployment: Deployment) -> str:
    name = quoted(str(call.parameters.get("EndpointName" if call.label == "endpoint" else "InferenceComponentName", "")))
    if call.operation == "CreateEndpoint":
        hosting = deployment.on_sagemaker
        attempts = (deployment.startup_timeout_s + hosting.download_timeout_s + _MARGIN_S) // _WAIT_STEP_S
        return _WAITS["endpoint"].format(name=name, attempts=attempts) + "\n\n"
    if call.operation == "CreateInferenceComponent":
        return _WAITS["component"].format(name=name) + "\n\n"
    return "\n"


def _literal(value: Any, depth: int) -> str:
    """A Python expression, one item a line."""
    inner, outer = "    " * (depth + 1), "    " * depth
    match value:
        case Link():
            return "role" if value == ROLE else quoted(value.name)
        case dict():
            items = [f"{inner}{quoted(key)}: {_literal(item, depth + 1)},\n" for key, item in value.items()]
            return "{\n" + "".join(items) + outer + "}" if items else "{}"
        case list():
            items = [f"{inner}{_literal(item, depth + 1)},\n" for item in value]
            return "[\n" + "".join(items) + outer + "]"
        case str():
            return quoted(value)
        case _:
            return repr(value)
