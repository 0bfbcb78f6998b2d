"""Objects in S3 as the local runtime reads and writes them: addresses, pieces, and each refusal as one sentence. Everything here blocks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from headway.container.local.errors import validation_error
from headway.server.errors import HeadwayError

_ADDRESS = re.compile(r"s3://([^/]+)/?(.*)", re.DOTALL)
# 1 MiB: a payload of 1 GB is a thousand turns of a thread, and a hundred requests at once hold 100 MiB.
READ_BYTES = 1 << 20


class StorageError(HeadwayError):
    """S3 or SNS refused, or could not be reached: one sentence that names the address."""


@dataclass(frozen=True, slots=True)
class S3Uri:
    """An object, or a prefix of keys."""

    bucket: str
    key: str

    @classmethod
    def of(cls, text: str, member: str) -> S3Uri:
        """``member`` is what the caller calls it: InputLocation. Raises PlatformError."""
        found = _ADDRESS.fullmatch(text)
        if not found:
            raise validation_error(f"{member} {text!r} is no S3 address that a local runtime reads: write s3://BUCKET/KEY.")
        return cls(found[1], found[2])

    def below(self, *names: str) -> S3Uri:
        """Further down, with one slash between the parts."""
        return S3Uri(self.bucket, "/".join(part for part in (self.key.rstrip("/"), *names) if part))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class S3Body:
    """An object that has begun to arrive."""

    size: int
    stream: IO[bytes]


def open_object(client: Any, uri: S3Uri) -> S3Body:
    with explained(uri):
        answer = client.get_object(Bucket=uri.bucket, Key=uri.key)
        return S3Body(int(answer["ContentLength"]), answer["Body"])


def read_piece(body: S3Body, uri: S3Uri) -> bytes:
    """The next piece; empty at the end."""
    with explained(uri):
        return body.stream.read(READ_BYTES)


def write_object(client: Any, uri: S3Uri, content: IO[bytes], content_type: str) -> None:
    """Whole or not at all; ``content`` is read from its beginning, and left open."""
    content.seek(0)
    with explained(uri):
        client.put_object(Bucket=uri.bucket, Key=uri.key, Body=content, ContentType=content_type)


def list_objects(client: Any, prefix: S3Uri) -> list[tuple[str, int]]:
    """Keys and sizes of everything that begins with a prefix, in the order of S3."""
    with explained(prefix):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
        return [(item["Key"], int(item["Size"])) for page in pages for item in page.get("Contents", [])]


@contextlib.contextmanager
def explained(uri: S3Uri | str) -> Iterator[None]:
    """Turns what boto3 raises into a StorageError about ``uri``."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        raise StorageError(f"{uri}: {answer.get('Code', 'Unknown')}: {str(answer.get('Message', '')).rstrip('.')}.") from error
    except (Boto3Error, BotoCoreError, OSError) as error:
        raise StorageError(f"{uri} can't be reached: {str(error).rstrip('.')}; check the address, and the AWS_* settings.") from error
