"""The execution role's rights: what the deployment needs, and nothing beside it."""

from __future__ import annotations

from typing import Any

from rendering import BASIC, CASES, KEY, TOPIC, deployment

from headway.container.render.iam import permissions, trust_policy

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hub"


def rights(*words: str) -> dict[str, dict[str, Any]]:
    return {statement["Sid"]: statement for statement in permissions(deployment(*words))["Statement"]}


def test_plain_deployment_pulls_one_repository_and_reads_nothing() -> None:
    found = rights(*BASIC)
    assert list(found) == ["PullImage", "LogInToRegistries", "WriteLogs", "PutMetrics"]
    assert found["PullImage"]["Resource"] == ["arn:aws:ecr:eu-west-1:123456789012:repository/team/headway"]
    assert found["WriteLogs"]["Resource"] == ["arn:aws:logs:eu-west-1:123456789012:log-group:/aws/sagemaker/*"]
    assert found["PutMetrics"]["Condition"]["StringLike"]["cloudwatch:namespace"] == ["/aws/sagemaker/*", "AWS/SageMaker"]
    assert all("*" not in action for statement in found.values() for action in statement["Action"])


def test_the_service_takes_the_role_for_its_own_account_alone() -> None:
    (statement,) = trust_policy(deployment(*BASIC).on_sagemaker)["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_only_the_prefix_is_read_and_listed() -> None:
    found = rights(*BASIC, "--model-data", "s3://models/chat/")
    assert found["ReadObjects"]["Resource"] == ["arn:aws:s3:::models/chat/*"]
    assert found["ListObjects1"]["Resource"] == ["arn:aws:s3:::models"]
    assert found["ListObjects1"]["Condition"] == {"StringLike": {"s3:prefix": ["chat/*"]}}


def test_what_the_server_fetches_by_itself_is_read() -> None:
    image = BASIC[:4]
    found = rights(*image, "-e", "SM_VLLM_MODEL=s3://models/own", "-e", "SM_VLLM_CHAT_TEMPLATE=s3://texts/chat.jinja")
    assert found["ReadObjects"]["Resource"] == ["arn:aws:s3:::models/own/*", "arn:aws:s3:::texts/chat.jinja"]


def test_adapters_are_read() -> None:
    found = rights(*CASES["adapters"])
    assert found["ReadObjects"]["Resource"] == ["arn:aws:s3:::adapters/fr.tar.gz", "arn:aws:s3:::adapters/sql.tar.gz"]


def test_secrets_that_the_environment_names() -> None:
    found = rights(*BASIC, "-e", "HF_TOKEN=ssm:/hub/token", "-e", f"SM_VLLM_API_KEY=ssm:plain,{SECRET}-AbCdEf:field")
    assert found["ReadParameters"]["Resource"] == [
        "arn:aws:ssm:eu-west-1:123456789012:parameter/hub/token",
        "arn:aws:ssm:eu-west-1:123456789012:parameter/plain",
    ]
    assert found["ReadSecrets"]["Resource"] == [f"{SECRET}-AbCdEf"]
    # AWS puts six characters behind a secret's name; an ARN may be written without them.
    assert rights(*BASIC, "-e", f"HF_TOKEN_SECRET_ARN={SECRET}")["ReadSecrets"]["Resource"] == [f"{SECRET}-??????"]


def test_asynchronous_inference_writes_tells_and_uses_its_key() -> None:
    found = rights(*CASES["asynchronous"])
    assert found["ReadObjects"]["Resource"] == ["arn:aws:s3:::requests/in/*"]
    assert found["WriteAnswers"]["Resource"] == ["arn:aws:s3:::answers/failed/*", "arn:aws:s3:::answers/out/*"]
    assert found["TellTopics"]["Resource"] == [TOPIC]
    assert found["UseKey"]["Resource"] == found["GrantKeyToDisks"]["Resource"] == [KEY]
    assert found["GrantKeyToDisks"]["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def test_characters_of_a_key_are_no_wildcards() -> None:
    found = rights(*BASIC, "--model-data", "s3://models/a*b?$c/")
    assert found["ReadObjects"]["Resource"] == ["arn:aws:s3:::models/a${*}b${?}${$}c/*"]
    assert found["ListObjects1"]["Condition"]["StringLike"]["s3:prefix"] == ["a${*}b${?}${$}c/*"]


def test_partition_is_the_regions() -> None:
    image = BASIC[1].replace("eu-west-1", "cn-north-1").replace(".com/", ".com.cn/")
    found = rights("--image", image, *BASIC[2:])
    assert found["PullImage"]["Resource"] == ["arn:aws-cn:ecr:cn-north-1:123456789012:repository/team/headway"]
