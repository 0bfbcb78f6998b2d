"""Parameters, secrets and objects on a real AWS-like server on loopback (moto's), and the environment that leads boto3 there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import boto3
from moto_server import running_moto

REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class AwsValues:
    environ: dict[str, str]
    parameter: str  # name of an SSM parameter, a SecureString, that holds s3cret-ssm
    parameter_arn: str
    secret_arn: str  # of a secret s3cret-plain
    json_secret_arn: str  # of a secret {"key": "s3cret-json", "number": 1}
    binary_secret_arn: str  # of a secret of the bytes s3cret-binary
    bucket: str  # with keys.txt (s3cret-one, s3cret-two), t.jinja, c.yaml (port: 9999; api-key: the parameter)


@contextmanager
def serving() -> Iterator[AwsValues]:
    # Every server in a test run shows the same state: what is made here must bear being made twice.
    with running_moto() as (url, _):
        port = url.rpartition(":")[2]
        environ = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        session = boto3.session.Session("a", "b", region_name=REGION)

        def client(service: str, region: str = REGION):  # type: ignore[no-untyped-def]
            return session.client(service, region_name=region, endpoint_url=environ["AWS_ENDPOINT_URL"])

        ssm, secrets, s3 = client("ssm"), client("secretsmanager"), client("s3", "us-east-1")
        ssm.put_parameter(Name="/prod/key", Value="s3cret-ssm", Type="SecureString", Overwrite=True)
        ssm.put_parameter(Name="/prod/nested", Value="ssm:/prod/key", Type="SecureString", Overwrite=True)
        s3.create_bucket(Bucket="values")
        for key, body in {
            "keys.txt": "s3cret-one\ns3cret-two\n",
            "t.jinja": "{{ messages }}\n",
            "c.yaml": "port: 9999\napi-key: ssm:/prod/key\n",
        }.items():
            s3.put_object(Bucket="values", Key=key, Body=body.encode())
        yield AwsValues(
            environ,
            "/prod/key",
            ssm.get_parameter(Name="/prod/key")["Parameter"]["ARN"],
            secrets.create_secret(Name=f"plain-{port}", SecretString="s3cret-plain")["ARN"],
            secrets.create_secret(Name=f"json-{port}", SecretString=json.dumps({"key": "s3cret-json", "number": 1}))["ARN"],
            secrets.create_secret(Name=f"binary-{port}", SecretBinary=b"s3cret-binary")["ARN"],
            "values",
        )
