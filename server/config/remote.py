"""Reads S3 objects, SSM parameters and Secrets Manager secrets through boto3: all at once, and never longer than a small budget."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from headway.server.config.references import Place, Reference, Unreadable

REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION", "SAGEMAKER_REGION")

_Answer = bytes | Unreadable
_ACTIONS = {Place.OBJECT: "s3:GetObject", Place.PARAMETER: "ssm:GetParameter", Place.SECRET: "secretsmanager:GetSecretValue"}
_DENIED = frozenset(("AccessDenied", "AccessDeniedException", "403", "Forbidden"))
_MISSING = frozenset(
    ("ParameterNotFound", "ParameterVersionNotFound", "ResourceNotFoundException", "NoSuchKey", "NoSuchBucket", "404", "NotFound")
)


def region_of(environ: Mapping[str, str]) -> str | None:
    """The region that the environment names. (boto3 alone knows AWS_DEFAULT_REGION only.)"""
    return next((text for name in REGION_VARIABLES if (text := environ.get(name, "").strip())), None)


class RemotePlaces:
    """Reads with the credentials, endpoints and proxies that boto3 finds for itself.

    ``region`` is for what names none. Answers longer than ``max_bytes`` come back one byte longer than that. The clock of
    ``budget_s`` starts at the first read, once boto3 is imported (0.3 s), and runs through all of them.
    """

    def __init__(self, region: str | None, max_bytes: int, budget_s: float) -> None:
        self._region = region
        self._max_bytes = max_bytes
        self._budget_s = budget_s
        self._deadline: float | None = None
        self._clients: dict[tuple[str, str | None], Any] = {}
        self._lock = threading.Lock()  # clients may be shared by threads, making them may not

    def read(self, references: Collection[Reference]) -> dict[Reference, _Answer]:
        """An answer for each."""
        import boto3  # noqa: F401 - not on the clock

        if self._deadline is None:
            self._deadline = time.monotonic() + self._budget_s
        answers: queue.SimpleQueue[tuple[Reference, _Answer | Exception]] = queue.SimpleQueue()
        for reference in references:
            # Daemons: a connection that hangs must not keep the process from ending.
            threading.Thread(target=self._answer, args=(reference, answers), daemon=True).start()
        found: dict[Reference, _Answer] = {}
        while len(found) < len(references):
            try:
                reference, answer = answers.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(answer, Exception) and not isinstance(answer, Unreadable):
                raise answer
            found[reference] = answer
        late = f"no answer within {self._budget_s:g} s; without a network (isolation), give the value itself or a _FILE"
        return {reference: found.get(reference, Unreadable(reference, late)) for reference in references}

    def _answer(self, reference: Reference, answers: queue.SimpleQueue[tuple[Reference, _Answer | Exception]]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answers.put((reference, self._content(reference)))
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: an endpoint that is no URL
            answers.put((reference, Unreadable(reference, _why(error, reference, reference.region or self._region))))
        except Exception as error:  # the edge of a thread: read() raises it
            answers.put((reference, error))

    def _content(self, reference: Reference) -> bytes:
        match reference.place:
            case Place.OBJECT:
                bucket, _, key = reference.name.removeprefix("s3://").partition("/")
                body: bytes = self._client("s3", None).get_object(Bucket=bucket, Key=key)["Body"].read(self._max_bytes + 1)
                return body
            case Place.PARAMETER:
                answer = self._client("ssm", reference.region).get_parameter(Name=reference.name, WithDecryption=True)
                return str(answer["Parameter"]["Value"]).encode()
            case _:
                versions = {"VersionStage": reference.version_stage, "VersionId": reference.version_id}
                given = {name: text for name, text in versions.items() if text}
                secret = self._client("secretsmanager", reference.region).get_secret_value(SecretId=reference.name, **given)
                return bytes(secret["SecretBinary"]) if "SecretBinary" in secret else str(secret["SecretString"]).encode()

    def _client(self, service: str, region: str | None) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        region = region or self._region
        with self._lock:
            if (service, region) not in self._clients:
                # The budget is shorter than one time-out of botocore's default; another try only helps where the first ended early.
                config = Config(connect_timeout=self._budget_s, read_timeout=self._budget_s, retries={"total_max_attempts": 2})
                self._clients[service, region] = Session().client(service, region_name=region, config=config)
            return self._clients[service, region]


def _why(error: Exception, reference: Reference, region: str | None) -> str:
    """Half a sentence. Nothing of the service's own message: it may quote what was sent."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in _DENIED:
            return f"access is denied; allow the role {_ACTIONS[reference.place]} on it, and kms:Decrypt if a key of your own encrypts it"
        # A bucket's name is the same in every region.
        where = f" in {region}" if region and reference.place is not Place.OBJECT else ""
        return f"it does not exist{where}" if code in _MISSING else f"AWS answers {code}"
    reasons: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (exceptions.NoRegionError, "no region is known; set AWS_REGION"),
        (
            (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError),
            "no AWS credentials were found; give the container a role, or the value as a _FILE",
        ),
        (
            (exceptions.ConnectionError, exceptions.HTTPClientError),
            "the service can't be reached; without a network (isolation), give the value itself or a _FILE",
        ),
    )
    return next((reason for kind, reason in reasons if isinstance(error, kind)), f"boto3 fails with {type(error).__name__}")
