"""S3 on this machine: moto's server, which notes what it is asked and can be told to misbehave."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx
import pytest
from moto_server import KEYS, REGION, environment, running_moto

BUCKET = "models"


@dataclass
class S3:
    """`requests`: what was asked, as "GET /models/key bytes=0-9". `num_to_break`: so many of the next ranges end half-way.

    `refusal`: (status, code) of the answer to everything. `on_range` runs before each range is answered, `on_list` before each listing.
    """

    url: str
    client: Any
    requests: list[str] = field(default_factory=list)
    num_to_break: int = 0
    refusal: tuple[int, str] | None = None
    on_range: Callable[[], None] | None = None
    on_list: Callable[[], None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make boto3 ask here."""
        return environment("S3", self.url)

    @property
    def ranges(self) -> list[str]:
        return [request for request in self.requests if "bytes=" in request]

    def put(self, files: Mapping[str, bytes]) -> None:
        for key, content in files.items():
            self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        self.requests.clear()

    def takes_one_to_break(self) -> bool:
        """Whether this range shall end half-way. The server answers in several threads."""
        with self._lock:
            self.num_to_break -= 1
            return self.num_to_break >= 0

    def reset(self) -> None:
        """As it was when it began."""
        self.num_to_break, self.refusal, self.on_range, self.on_list = 0, None, None, None
        httpx.post(f"{self.url}/moto-api/reset")
        self.client.create_bucket(Bucket=BUCKET)
        self.requests.clear()

    def put_in_parts(self, key: str, parts: list[bytes]) -> None:
        upload = self.client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        where = {"Bucket": BUCKET, "Key": key, "UploadId": upload}
        etags = [self.client.upload_part(**where, PartNumber=i, Body=part)["ETag"] for i, part in enumerate(parts, 1)]
        self.client.complete_multipart_upload(
            **where, MultipartUpload={"Parts": [{"PartNumber": i, "ETag": etag} for i, etag in enumerate(etags, 1)]}
        )
        self.requests.clear()


@contextlib.contextmanager
def running_s3() -> Iterator[S3]:
    with running_moto() as (url, wsgi):
        s3 = S3(url, boto3.client("s3", endpoint_url=url, region_name=REGION, **KEYS))
        wsgi.app = _Listening(s3, wsgi.app)
        s3.reset()
        try:
            yield s3
        finally:
            s3.client.close()


@pytest.fixture(scope="module")
def shared_s3() -> Iterator[S3]:
    with running_s3() as s3:
        yield s3


@pytest.fixture
def s3(shared_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """What boto3 asks in a test: empty, and well."""
    for name, value in shared_s3.environment.items():
        monkeypatch.setenv(name, value)
    shared_s3.reset()
    return shared_s3


@dataclass
class _Listening:
    s3: S3
    app: Any

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        s3, wanted = self.s3, environ.get("HTTP_RANGE", "")
        s3.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {wanted}".strip())
        if s3.refusal and "/moto-api" not in environ["PATH_INFO"]:
            status, code = s3.refusal
            start_response(f"{status} Refused", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]
        if "list-type=2" in environ["QUERY_STRING"] and s3.on_list:
            s3.on_list()
        if wanted and s3.on_range:
            s3.on_range()
        body = self.app(environ, start_response)
        if wanted and s3.takes_one_to_break():
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]
        return body
