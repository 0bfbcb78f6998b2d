"""One repository of ECR, through boto3: whether it is there, what it holds, its login and what its scan found."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headway.container.push.engine import Login
from headway.server.config.remote import region_of
from headway.server.errors import ConfigError, HeadwayError
from headway.server.say import one_line
from headway.server.words import cut

SEVERITIES = ("UNDEFINED", "INFORMATIONAL", "LOW", "MEDIUM", "HIGH", "CRITICAL")  # ascending
_RUNNING = ("IN_PROGRESS", "PENDING")
_DONE = ("COMPLETE", "ACTIVE")  # ACTIVE: an enhanced scan has findings, and goes on as new ones become known
_BETWEEN_LOOKS_S = 3.0
_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_DENIED = ("AccessDeniedException", "AccessDenied")
_BAD_CREDENTIALS = (
    "ExpiredTokenException",
    "ExpiredToken",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "InvalidClientTokenId",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """How a repository is created."""

    kms_key: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Repository:
    """``uri`` is without a tag."""

    uri: str
    scans_on_push: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """``counts``: findings by severity; None if there are none to be had, and ``why`` says why."""

    counts: Mapping[str, int] | None
    why: str = ""

    def num_from(self, severity: str) -> int:
        """Findings of ``severity`` and above."""
        return sum((self.counts or {}).get(name, 0) for name in SEVERITIES[SEVERITIES.index(severity) :])


class Ecr:
    """Raises HeadwayError wherever AWS refuses or can't be reached."""

    def __init__(self, region: str | None, name: str, environ: Mapping[str, str]) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, NoRegionError

        config = Config(connect_timeout=10, read_timeout=30)
        try:
            self._client = boto3.session.Session().client("ecr", region_name=region or region_of(environ), config=config)
        except NoRegionError as error:
            raise ConfigError(["--region is needed: neither AWS_REGION nor the AWS profile names one"]) from error
        except (BotoCoreError, ValueError) as error:
            raise ConfigError([f"AWS can't be asked: {one_line(str(error))}"]) from error
        self.name = name

    def find(self) -> Repository | None:
        answer = self._ask("DescribeRepositories", None, ("RepositoryNotFoundException",), repositoryNames=[self.name])
        return _repository(answer["repositories"][0]) if answer else None

    def create(self, wish: Wish) -> Repository:
        encryption = {"encryptionType": "KMS", "kmsKey": wish.kms_key} if wish.kms_key else {"encryptionType": "AES256"}
        answer = self._ask(
            "CreateRepository",
            repositoryName=self.name,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration=encryption,
            tags=[{"Key": key, "Value": value} for key, value in wish.tags.items()],
        )
        return _repository(answer["repository"])

    def holds(self, tag: str) -> tuple[str, frozenset[str]] | None:
        """What ``tag`` names there, if it is taken: the digest to call it by, and all by which an engine may know the image."""
        answer = self._ask("BatchGetImage", repositoryName=self.name, imageIds=[{"imageTag": tag}], acceptedMediaTypes=list(_MANIFESTS))
        if not answer["images"]:
            return None
        image = answer["images"][0]
        digest = str(image["imageId"]["imageDigest"])
        config = json.loads(image["imageManifest"]).get("config") or {}
        return digest, frozenset((digest, str(config.get("digest", digest))))

    def login(self) -> Login:
        """Good for 12 hours, and for everything that whoever asks may do."""
        answer = self._ask("GetAuthorizationToken")
        try:
            text = base64.b64decode(answer["authorizationData"][0]["authorizationToken"], validate=True).decode()
        except (LookupError, binascii.Error, UnicodeDecodeError) as error:
            raise HeadwayError("ECR's answer to GetAuthorizationToken holds no login") from error
        user, _, password = text.partition(":")
        return Login(user, password)

    def scan(self, digest: str, scans_on_push: bool, limit_s: float, wait: Callable[[float], None] = time.sleep) -> Scan:
        """Waits for the findings, for ``limit_s`` at most."""
        deadline = time.monotonic() + limit_s
        while True:
            answer = self._ask(
                "DescribeImageScanFindings", None, ("ScanNotFoundException",), repositoryName=self.name, imageId={"imageDigest": digest}
            )
            if not answer and not scans_on_push:
                return Scan(None, f"{self.name} does not scan on push; `aws ecr put-image-scanning-configuration` changes that")
            status = answer["imageScanStatus"] if answer else {"status": "PENDING"}
            if status["status"] in _DONE:
                return Scan(answer.get("imageScanFindings", {}).get("findingSeverityCounts", {}))
            if status["status"] not in _RUNNING:
                return Scan(None, f"ECR has no findings: {status['status']} {one_line(status.get('description', ''))}".strip())
            if time.monotonic() + _BETWEEN_LOOKS_S > deadline:
                return Scan(None, f"ECR's scan has not ended within {limit_s:g} s; look again later, or raise --scan-timeout")
            wait(_BETWEEN_LOOKS_S)

    def _ask(self, operation: str, otherwise: Any = None, expected: tuple[str, ...] = (), **given: Any) -> Any:
        """The answer; ``otherwise`` for an ``expected`` refusal."""
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, xform_name(operation))(**given)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in expected:
                return otherwise
            raise HeadwayError(self._refusal(operation, code, error)) from error
        except BotoCoreError as error:
            raise HeadwayError(self._unreachable(error)) from error

    def _refusal(self, operation: str, code: str, error: Exception) -> str:
        if code in _DENIED:
            where = "*" if operation == "GetAuthorizationToken" else f"the repository {self.name}"
            return f"AWS denies {operation}: allow ecr:{operation} on {where} to these credentials"
        if code in _BAD_CREDENTIALS:
            return f"AWS does not take these credentials ({code}); renew them, as with `aws sso login`"
        return f"ECR answers {operation} with {code}: {cut(one_line(str(error)), 300)}"

    def _unreachable(self, error: Exception) -> str:
        from botocore import exceptions

        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.CredentialRetrievalError):
            return "no AWS credentials were found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws sso login`"
        if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError):
            return "the AWS login has expired; `aws sso login` renews it"
        return f"ECR in {self._client.meta.region_name} can't be asked: {cut(one_line(str(error)), 300)}"


def _repository(facts: Mapping[str, Any]) -> Repository:
    scanning = facts.get("imageScanningConfiguration") or {}
    return Repository(str(facts["repositoryUri"]), bool(scanning.get("scanOnPush")))
