"""The execution role: who may take it, and the rights that this deployment needs and no others. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from headway.container.render.deployment import Deployment, Hosting
from headway.server.config.environment import read_environment, unquoted
from headway.server.config.references import Place, Reference, references_in
from headway.server.config.sources import all_names, all_settings

_PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
_LOG = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
_KEY = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
_S3 = "s3://"


def trust_policy(hosting: Hosting) -> dict[str, Any]:
    """SageMaker, for this account's sake alone: the service must not be talked into it by another account."""
    return _document(
        [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sagemaker.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"aws:SourceAccount": hosting.account}},
            }
        ]
    )


def permissions(deployment: Deployment) -> dict[str, Any]:
    hosting = deployment.on_sagemaker
    image = hosting.image
    repository = f"arn:{hosting.partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"
    groups = f"arn:{hosting.partition}:logs:{hosting.region}:{hosting.account}:log-group:/aws/sagemaker/*"
    return _document(
        [
            _allow("PullImage", _PULL, [repository]),
            _allow("LogInToRegistries", ["ecr:GetAuthorizationToken"], ["*"]),  # can't be given for one repository
            _allow("WriteLogs", _LOG, [groups]),
            {
                **_allow("PutMetrics", ["cloudwatch:PutMetricData"], ["*"]),
                "Condition": {"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]}},
            },
            *_storage(deployment),
            *_secrets(deployment),
            *_notices(hosting),
            *_key(hosting),
        ]
    )


def _storage(deployment: Deployment) -> list[dict[str, Any]]:
    hosting = deployment.on_sagemaker
    asynchronous = hosting.asynchronous
    reads = {*_model_places(deployment), *(adapter.artifact for adapter in deployment.adapters)}
    reads |= {place.name for place in _references(deployment) if place.place is Place.OBJECT}
    writes = {asynchronous.output_uri, asynchronous.failure_uri or asynchronous.output_uri} if asynchronous else set()
    if asynchronous and asynchronous.input_uri:
        reads.add(f"{asynchronous.input_uri.rstrip('/')}/")
    found = []
    if reads:
        found += [
            _allow("ReadObjects", ["s3:GetObject"], [_objects(uri, hosting) for uri in sorted(reads)]),
            *(_list(number, uri, hosting) for number, uri in enumerate(sorted(reads), 1)),
        ]
    if writes:
        folders = [_objects(f"{uri.rstrip('/')}/", hosting) for uri in sorted(writes)]
        found.append(_allow("WriteAnswers", ["s3:PutObject"], folders))
    return found


def _model_places(deployment: Deployment) -> Iterable[str]:
    """The model and all else that the server fetches from S3 by its own."""
    if deployment.model_data:
        yield deployment.model_data
    for setting in all_settings():
        value = getattr(getattr(deployment.config, setting.topic), setting.name)
        if setting.option.location and isinstance(value, str) and value.startswith(_S3):
            yield value if _is_object(value) else f"{value.rstrip('/')}/"


def _references(deployment: Deployment) -> list[Reference]:
    found = read_environment(deployment.environ, all_names())
    places = [place for given in found.given for place in references_in(given)]
    if found.config_file and found.config_file.startswith(_S3):
        places.append(Reference(Place.OBJECT, unquoted(found.config_file)))
    return places


def _secrets(deployment: Deployment) -> list[dict[str, Any]]:
    hosting = deployment.on_sagemaker
    places = _references(deployment)
    secrets = sorted({_secret_arn(place.name) for place in places if place.place is Place.SECRET})
    parameters = sorted({_parameter_arn(place.name, hosting) for place in places if place.place is Place.PARAMETER})
    found = []
    if secrets:
        found.append(_allow("ReadSecrets", ["secretsmanager:GetSecretValue"], secrets))
    if parameters:
        found.append(_allow("ReadParameters", ["ssm:GetParameter"], parameters))
    return found


def _secret_arn(arn: str) -> str:
    """An ARN may be given without the six characters that AWS puts behind a secret's name; IAM compares with them."""
    return _literal(arn) if re.search(r"-[A-Za-z0-9]{6}$", arn) else f"{_literal(arn)}-??????"


def _parameter_arn(name: str, hosting: Hosting) -> str:
    arn = (
        name if name.startswith("arn:") else f"arn:{hosting.partition}:ssm:{hosting.region}:{hosting.account}:parameter/{name.lstrip('/')}"
    )
    return _literal(arn)


def _notices(hosting: Hosting) -> list[dict[str, Any]]:
    asynchronous = hosting.asynchronous
    topics = {asynchronous.success_topic, asynchronous.error_topic} - {None} if asynchronous else set()
    return [_allow("TellTopics", ["sns:Publish"], sorted(filter(None, topics)))] if topics else []


def _key(hosting: Hosting) -> list[dict[str, Any]]:
    if hosting.kms_key is None:
        return []
    grant = _allow("GrantKeyToDisks", ["kms:CreateGrant"], [hosting.kms_key])
    return [_allow("UseKey", _KEY, [hosting.kms_key]), {**grant, "Condition": {"Bool": {"kms:GrantIsForAWSResource": "true"}}}]


def _is_object(uri: str) -> bool:
    return uri.lower().endswith((".gguf", ".tar.gz", ".tgz", ".tar", ".zip"))


def _objects(uri: str, hosting: Hosting) -> str:
    arn = f"arn:{hosting.partition}:s3:::{_literal(uri.removeprefix(_S3))}"
    return f"{arn}*" if uri.endswith("/") else arn


def _list(number: int, uri: str, hosting: Hosting) -> dict[str, Any]:
    """Of a bucket only what lies below the prefix may be listed."""
    bucket, _, key = uri.removeprefix(_S3).partition("/")
    prefix = f"{_literal(key)}*" if not key or key.endswith("/") else _literal(key)
    statement = _allow(f"ListObjects{number}", ["s3:ListBucket"], [f"arn:{hosting.partition}:s3:::{bucket}"])
    return {**statement, "Condition": {"StringLike": {"s3:prefix": [prefix]}}}


def _literal(text: str) -> str:
    """``text`` for a policy in which these characters would be wildcards or begin a variable."""
    return re.sub(r"[$*?]", lambda match: f"${{{match[0]}}}", text)


def _allow(name: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}
