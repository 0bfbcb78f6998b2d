"""References to AWS, against a real server of its API on loopback."""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import aws_values
import boto3
import pytest
from aws_values import REGION, AwsValues

from headway.server.config import places
from headway.server.config import remote as remote_module
from headway.server.config.references import Place, Reference, Unreadable
from headway.server.config.remote import RemotePlaces, region_of
from headway.server.config.sources import Resolved, all_names, resolve
from headway.server.errors import ConfigError


@pytest.fixture(scope="module")
def values() -> Iterator[AwsValues]:
    with aws_values.serving() as served:
        yield served


@pytest.fixture
def aws(values: AwsValues, monkeypatch: pytest.MonkeyPatch) -> AwsValues:
    """boto3 reads the process' own environment. The time that it may take is not tested here, on a machine that others use too."""
    monkeypatch.setattr(places, "REMOTE_BUDGET_S", 60.0)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, text in values.environ.items():
        monkeypatch.setenv(name, text)
    return values


def resolved(environ: dict[str, str], *words: str) -> Resolved:
    return resolve(["demo", *words], {"AWS_REGION": REGION} | environ)


def problem_of(environ: dict[str, str], *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(environ, *words)
    (problem,) = caught.value.problems
    return problem


def test_each_kind_of_reference_to_a_secret(aws: AwsValues) -> None:
    keys = {
        f"ssm:{aws.parameter}": "s3cret-ssm",
        f"ssm:{aws.parameter_arn}": "s3cret-ssm",
        aws.parameter_arn: "s3cret-ssm",
        aws.secret_arn: "s3cret-plain",
        f"{aws.secret_arn}::AWSCURRENT:": "s3cret-plain",
        f"{aws.json_secret_arn}:key::": "s3cret-json",
        f"{aws.json_secret_arn}:key": "s3cret-json",
        aws.binary_secret_arn: "s3cret-binary",
        "literal": "literal",
    }
    assert resolved({"SM_VLLM_API_KEY": ",".join(keys)}).config.security.api_key == list(keys.values())
    assert resolved({}, "--api-key", *keys).config.security.api_key == list(keys.values())
    assert resolved({"HF_TOKEN": f"ssm:{aws.parameter}"}).config.model.hf_token == "s3cret-ssm"
    assert resolved({"HF_TOKEN_SECRET_ARN": aws.secret_arn}).config.model.hf_token == "s3cret-plain"
    found = resolved({"SM_VLLM_API_KEY_SECRET_ARN": f"{aws.json_secret_arn}:key"})
    assert found.config.security.api_key == ["s3cret-json"]
    assert str(found.source(all_names().setting("api_key"))) == "environment SM_VLLM_API_KEY_SECRET_ARN"


def test_objects_in_s3(aws: AwsValues) -> None:
    environ = {
        "SM_VLLM_CHAT_TEMPLATE": f"s3://{aws.bucket}/t.jinja",
        "SM_VLLM_API_KEY": f"s3://{aws.bucket}/keys.txt",
        "SM_VLLM_TOKENIZER": "s3://other/tokenizer/",
    }
    config = resolved(environ).config
    assert config.chat.chat_template == "{{ messages }}"
    assert config.security.api_key == ["s3cret-one", "s3cret-two"]
    assert config.model.tokenizer == "s3://other/tokenizer/"  # a location by itself, so left alone


def test_a_config_file_in_s3_may_refer_to_secrets(aws: AwsValues) -> None:
    config = resolved({"SM_CONFIG": f"s3://{aws.bucket}/c.yaml"}).config
    assert (config.network.port, config.security.api_key) == (9999, ["s3cret-ssm"])


def test_only_what_wins_is_fetched(aws: AwsValues) -> None:
    environ = {"SM_API_KEY": "k", "SM_VLLM_API_KEY": "ssm:/nowhere", "HF_TOKEN": "ssm:/nowhere"}
    assert resolved(environ, "--hf-token=t").config.security.api_key == ["k"]


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"HF_TOKEN": "ssm:/none"}, "environment HF_TOKEN: the SSM parameter /none can't be read: it does not exist in eu-west-1"),
        ({"HF_TOKEN": "ssm:/x", "AWS_REGION": ""},
         "environment HF_TOKEN: the SSM parameter /x can't be read: no region is known; set AWS_REGION"),
        ({"HF_TOKEN": "ssm:/prod/nested"},
         "environment HF_TOKEN: the SSM parameter /prod/nested can't be read: it refers to another place in turn, which is not followed"),
        ({"SM_CHAT_TEMPLATE": "s3://values/none"},
         "environment SM_CHAT_TEMPLATE: the S3 object s3://values/none can't be read: it does not exist"),
        ({"SM_CONFIG": "s3://nobucket/c.yaml"}, "--config: the S3 object s3://nobucket/c.yaml can't be read: it does not exist"),
    ],
)  # fmt: skip
def test_what_is_not_there(environ: dict[str, str], sentence: str, aws: AwsValues) -> None:
    assert problem_of(environ) == sentence


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "it is a JSON object; name the key to take from it behind the ARN, {arn}:KEY"),
        (":other", "it is no JSON object with a text under the key 'other'"),
        (":number", "it is no JSON object with a text under the key 'number'"),
    ],
)
def test_a_json_secret_needs_the_right_key(key: str, why: str, aws: AwsValues) -> None:
    arn = aws.json_secret_arn
    assert problem_of({"HF_TOKEN": arn + key}) == f"environment HF_TOKEN: the secret {arn} can't be read: {why.format(arn=arn)}"


def test_without_credentials(aws: AwsValues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert problem_of({"HF_TOKEN": "ssm:/x"}) == (
        "environment HF_TOKEN: the SSM parameter /x can't be read: no AWS credentials were found; give the container a role, "
        "or the value as a _FILE"
    )


def test_denied_by_the_role(aws: AwsValues, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto enforces policies when asked to: a user without any may read nothing."""
    with contextlib.closing(boto3.client("iam", region_name=REGION)) as iam:
        iam.create_user(UserName="u")
        made = iam.create_access_key(UserName="u")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr("moto.core.responses.ActionAuthenticatorMixin.request_count", 0)
    assert problem_of({"HF_TOKEN": f"ssm:{aws.parameter}"}) == (
        f"environment HF_TOKEN: the SSM parameter {aws.parameter} can't be read: access is denied; allow the role ssm:GetParameter on it, "
        "and kms:Decrypt if a key of your own encrypts it"
    )


def test_nobody_listens(aws: AwsValues, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "the service can't be reached" in problem_of({"HF_TOKEN": "ssm:/x"})


def test_an_endpoint_that_is_none(aws: AwsValues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert problem_of({"HF_TOKEN": "ssm:/x"}) == "environment HF_TOKEN: the SSM parameter /x can't be read: boto3 fails with ValueError"


def test_a_service_that_never_answers_costs_the_budget_once(aws: AwsValues, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still until somebody has asked the service, and then is at all but the end of the budget."""
    waits: list[float] = []

    class Answers(queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            assert timeout is not None
            waits.append(timeout)
            return super().get(block, timeout)

    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as asked:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        silent.settimeout(60)
        times = iter([0.0, 59.75, 60.5])

        def clock() -> float:
            now = next(times)
            if now == 59.75:
                asked.enter_context(silent.accept()[0])
            return now

        monkeypatch.setattr(remote_module, "time", SimpleNamespace(monotonic=clock))
        monkeypatch.setattr(remote_module, "queue", SimpleNamespace(SimpleQueue=Answers, Empty=queue.Empty))
        remote = RemotePlaces(REGION, 100, budget_s=60.0)
        references = {Reference(Place.PARAMETER, f"/{at}") for at in range(5)}
        for _ in range(2):
            answers = remote.read(references)
            assert answers.keys() == references
            for answer in answers.values():
                assert isinstance(answer, Unreadable)
                assert "no answer within 60 s" in str(answer)
        assert waits == [0.25, 0.0]


def test_too_much_is_not_read(aws: AwsValues) -> None:
    reference = Reference(Place.OBJECT, f"s3://{aws.bucket}/keys.txt")
    assert RemotePlaces(None, max_bytes=4, budget_s=60.0).read([reference]) == {reference: b"s3cre"}


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, None),
        ({"SAGEMAKER_REGION": "c"}, "c"),
        ({"SAGEMAKER_REGION": "c", "AWS_DEFAULT_REGION": "b"}, "b"),
        ({"AWS_DEFAULT_REGION": "b", "AWS_REGION": " a "}, "a"),
    ],
)
def test_region(environ: dict[str, str], region: str | None) -> None:
    assert region_of(environ) == region
