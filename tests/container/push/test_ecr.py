from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from ecr_server import EcrServer

from headway.container.push.ecr import Ecr, Scan, Wish
from headway.server.errors import ConfigError, HeadwayError

CONFIG_DIGEST = "sha256:" + "c" * 64


def asking(ecr: EcrServer) -> Ecr:
    return Ecr(None, "team/headway", ecr.environment)


def put(ecr: EcrServer, tag: str) -> str:
    """An image of the repository, by its manifest alone. Returns its digest."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": CONFIG_DIGEST},
        "layers": [],
    }
    answer = ecr.client.put_image(repositoryName="team/headway", imageManifest=json.dumps(manifest), imageTag=tag)
    return str(answer["image"]["imageId"]["imageDigest"])


def test_a_repository_is_created_once_scanning_immutable_encrypted_and_tagged(ecr: EcrServer) -> None:
    asked = asking(ecr)
    assert asked.find() is None
    made = asked.create(Wish(None, {"team": "models"}))
    assert (made.uri, made.scans_on_push) == ("123456789012.dkr.ecr.us-east-1.amazonaws.com/team/headway", True)
    assert asked.find() == made
    facts = ecr.client.describe_repositories()["repositories"][0]
    assert facts["imageTagMutability"] == "IMMUTABLE"
    assert facts["encryptionConfiguration"]["encryptionType"] == "AES256"
    tags = ecr.client.list_tags_for_resource(resourceArn=facts["repositoryArn"])["tags"]
    assert tags == [{"Key": "team", "Value": "models"}]


def test_a_key_of_ones_own_encrypts(ecr: EcrServer) -> None:
    asking(ecr).create(Wish("alias/mine", {}))
    sent = dict(ecr.requests)["CreateRepository"]
    assert sent["encryptionConfiguration"] == {"encryptionType": "KMS", "kmsKey": "alias/mine"}


def test_a_tag_is_told_by_its_digest_and_its_configuration(ecr: EcrServer) -> None:
    asking(ecr).create(Wish(None, {}))
    digest = put(ecr, "1.0")
    assert asking(ecr).holds("1.0") == (digest, frozenset((digest, CONFIG_DIGEST)))
    assert asking(ecr).holds("2.0") is None


def test_the_password_is_in_no_text_of_the_login(ecr: EcrServer) -> None:
    login = asking(ecr).login()
    assert (login.user, login.password) == ("AWS", "123456789012-auth-token")
    assert "auth-token" not in repr(login) + str(login)


@pytest.mark.parametrize("token", ["%%%", "/w=="])
def test_a_login_that_is_none_is_one_sentence(ecr: EcrServer, token: str) -> None:
    ecr.answers["GetAuthorizationToken"] = [(200, {"authorizationData": [{"authorizationToken": token}]})]
    with pytest.raises(HeadwayError, match="holds no login"):
        asking(ecr).login()


def status(name: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"imageScanStatus": {"status": name, "description": "because"}, **more}


def counts(**severities: int) -> dict[str, Any]:
    return {"imageScanFindings": {"findingSeverityCounts": severities}}


NOT_YET = (400, {"__type": "ScanNotFoundException", "message": "no scan"})


@pytest.mark.parametrize("end", ["COMPLETE", "ACTIVE"])
def test_findings_are_waited_for(ecr: EcrServer, end: str) -> None:
    ecr.answers["DescribeImageScanFindings"] = [NOT_YET, status("PENDING"), status("IN_PROGRESS"), status(end, **counts(HIGH=2, LOW=1))]
    waits: list[float] = []
    found = asking(ecr).scan("sha256:" + "a" * 64, True, 60, waits.append)
    assert found == Scan({"HIGH": 2, "LOW": 1})
    assert len(waits) == 3


def test_a_clean_image_has_no_findings_rather_than_unknown_ones(ecr: EcrServer) -> None:
    ecr.answers["DescribeImageScanFindings"] = [status("COMPLETE")]
    assert asking(ecr).scan("sha256:" + "a" * 64, True, 60) == Scan({})


@pytest.mark.parametrize(
    ("answers", "scans_on_push", "why"),
    [
        ([status("IN_PROGRESS")], True, "has not ended within 0 s"),
        ([NOT_YET], True, "has not ended within 0 s"),
        ([NOT_YET], False, "does not scan on push"),
        ([status("FAILED")], True, "no findings: FAILED because"),
        ([status("UNSUPPORTED_IMAGE")], True, "no findings: UNSUPPORTED_IMAGE because"),
    ],
)
def test_why_there_are_no_findings_is_said(ecr: EcrServer, answers: list[Any], scans_on_push: bool, why: str) -> None:
    ecr.answers["DescribeImageScanFindings"] = answers
    found = asking(ecr).scan("sha256:" + "a" * 64, scans_on_push, 0)
    assert found.counts is None
    assert why in found.why


def test_severities_count_upwards() -> None:
    scan = Scan({"CRITICAL": 1, "HIGH": 2, "MEDIUM": 4, "UNDEFINED": 8})
    assert [scan.num_from(name) for name in ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNDEFINED")] == [1, 3, 7, 7, 15]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDeniedException", "allow ecr:DescribeRepositories on the repository team/headway"),
        ("ExpiredTokenException", "does not take these credentials (ExpiredTokenException)"),
        ("UnrecognizedClientException", "does not take these credentials"),
        ("LimitExceededException", "ECR answers DescribeRepositories with LimitExceededException"),
    ],
)
def test_refusals_are_one_sentence_each(ecr: EcrServer, code: str, sentence: str) -> None:
    ecr.refuse("DescribeRepositories", code)
    with pytest.raises(HeadwayError) as raised:
        asking(ecr).find()
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_credentials(ecr: EcrServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(HeadwayError, match="no AWS credentials were found; set AWS_PROFILE"):
        asking(ecr).find()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        asking(ecr)


def test_without_a_region(ecr: EcrServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="--region is needed"):
        Ecr(None, "team/headway", {})
    assert Ecr("eu-west-1", "team/headway", {}).find() is None


def test_an_ecr_that_nobody_answers_for(ecr: EcrServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(HeadwayError, match="ECR in us-east-1 can't be asked"):
            asking(ecr).find()
