"""What is asked of S3, or a store that speaks its language: listings, heads, ranges; and each refusal as one sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headway.server.errors import ModelSourceError
from headway.server.source.weights import is_archive

SCHEME = "s3://"
# Also a folder's name in the cache.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
# A prefix of a training job may hold a hundred thousand objects; a model never does.
_MAX_OBJECTS = 20_000
_READ_BYTES = 1 << 20
_NO_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")


class S3Unreachable(ModelSourceError):
    """S3 could not be asked at all: no network, no credentials."""


class S3BrokenOff(S3Unreachable):
    """An answer ended before its end. botocore repeats requests that fail, but not this."""


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key, or a prefix, which is empty or ends in a slash."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> S3Location:
        """`s3://bucket/some/prefix` with or without a slash at its end, or `s3://bucket/key` for a .gguf file or an archive."""
        bucket, _, key = uri.removeprefix(SCHEME).partition("/")
        if not _BUCKET.fullmatch(bucket) or not key.isprintable():
            raise ModelSourceError(
                f"{uri!r} names no S3 bucket; write s3://BUCKET/PREFIX/, or s3://BUCKET/KEY of an archive or a .gguf file."
            )
        is_object = is_archive(key) or key.lower().endswith(".gguf")
        return cls(bucket, key if is_object or not key or key.endswith("/") else f"{key}/")

    @property
    def is_prefix(self) -> bool:
        return not self.key or self.key.endswith("/")

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


@dataclass(frozen=True)
class S3Object:
    """One object at one version. `name`: its key without the location's prefix."""

    name: str
    key: str
    size: int
    etag: str


class S3Bucket:
    """The objects at one location. Every method raises ModelSourceError. Safe to use from several threads.

    Credentials, region and endpoint (AWS_ENDPOINT_URL_S3) are boto3's to find. `is_urgent`: give up soon, for there is a copy.
    """

    def __init__(self, location: S3Location, num_connections: int, *, is_urgent: bool = False) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1 if is_urgent else 6},
            connect_timeout=3 if is_urgent else 10,
            read_timeout=10 if is_urgent else 60,
            max_pool_connections=num_connections,
            # Some stores send the whole object's checksum with a range, which botocore would hold the range against.
            response_checksum_validation="when_required",
        )
        self.location = location
        try:
            self._client: Any = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise ModelSourceError(f"{location.uri} cannot be asked for: {str(error).rstrip('.')}; check the AWS_* settings.") from error
        self.endpoint = str(self._client.meta.endpoint_url)

    def objects(self) -> list[S3Object]:
        """The location's objects, sorted by name, without the empty ones that stand for folders."""
        if not self.location.is_prefix:
            head = self.head(self.location.key)
            return [S3Object(self.location.key.rpartition("/")[2], self.location.key, int(head["ContentLength"]), str(head["ETag"]))]
        found = []
        with self._asking(self.location.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.location.bucket, Prefix=self.location.key)
            for item in (item for page in pages for item in page.get("Contents", [])):
                if not item["Key"].endswith("/"):
                    found.append(S3Object(item["Key"].removeprefix(self.location.key), item["Key"], int(item["Size"]), str(item["ETag"])))
                if len(found) > _MAX_OBJECTS:
                    raise ModelSourceError(f"{self.location.uri} holds more than {_MAX_OBJECTS} objects; give the model's own prefix.")
        if not found:
            raise ModelSourceError(f"{self.location.uri} holds no objects; check the prefix.")
        return sorted(found, key=lambda item: item.name)

    def head(self, key: str, **arguments: Any) -> dict[str, Any]:
        with self._asking(f"{SCHEME}{self.location.bucket}/{key}"):
            answer: dict[str, Any] = self._client.head_object(Bucket=self.location.bucket, Key=key, **arguments)
        return answer

    def read(self, item: S3Object, start: int, num_bytes: int) -> Iterator[bytes]:
        """The bytes of a part of an object, if the object is still the same."""
        last = start + num_bytes - 1
        with self._asking(f"{SCHEME}{self.location.bucket}/{item.key}"):
            answer = self._client.get_object(Bucket=self.location.bucket, Key=item.key, Range=f"bytes={start}-{last}", IfMatch=item.etag)
            if answer["ContentLength"] != num_bytes:
                raise ModelSourceError(
                    f"{self.endpoint} answered {answer['ContentLength']} bytes when asked for {num_bytes} of {item.key}."
                )
            yield from answer["Body"].iter_chunks(_READ_BYTES)

    @contextlib.contextmanager
    def _asking(self, uri: str) -> Iterator[None]:
        from botocore import exceptions as boto

        try:
            yield
        except boto.ClientError as error:
            raise ModelSourceError(_refusal(uri, self.location.bucket, self.endpoint, error.response)) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError) as error:
            raise S3Unreachable(
                f"There are no AWS credentials to read {uri} with ({error}); run with a role that may, or set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY."
            ) from error
        except boto.ParamValidationError as error:
            raise ModelSourceError(f"{uri} is no S3 address: {str(error).splitlines()[-1]}.") from error
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
            broke_off = isinstance(error, boto.ResponseStreamingError | boto.IncompleteReadError | boto.ReadTimeoutError)
            raise (S3BrokenOff if broke_off else S3Unreachable)(
                f"{uri} cannot be read: {self.endpoint} cannot be reached ({str(error).rstrip('.')}); check the network "
                f"(AWS_ENDPOINT_URL_S3 names another endpoint), or give a model that is on this machine."
            ) from error
        except boto.BotoCoreError as error:
            raise ModelSourceError(f"{uri} cannot be asked for: {str(error).rstrip('.')}; check the AWS_* settings.") from error


def _refusal(uri: str, bucket: str, endpoint: str, response: dict[str, Any]) -> str:
    error = response.get("Error", {})
    code = str(error.get("Code", "an error"))
    if code == "NoSuchBucket":
        return f"There is no S3 bucket {bucket} at {endpoint}; check the spelling of {uri}."
    if code in ("NoSuchKey", "404"):
        return f"There is no {uri}; check the spelling (a prefix ends in a slash)."
    if code in ("PreconditionFailed", "412"):
        return f"{uri} was changed while it was downloaded; start again to get the new one."
    if code in _NO_CREDENTIALS:
        return f"S3 does not take the AWS credentials in use for {uri} ({code}); renew or correct them."
    if code in ("AccessDenied", "403"):
        return (
            f"S3 refuses access to {uri} ({code}): the role or user in use needs s3:ListBucket on the bucket, s3:GetObject on its objects, "
            f"and kms:Decrypt where they are encrypted with a KMS key."
        )
    return f"S3 answered {code} when asked for {uri}: {str(error.get('Message', '')).rstrip('.')}; try again, or check {endpoint}."
