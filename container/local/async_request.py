"""An InvokeEndpointAsync call: what it asks for, and where its answer will be. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from headway.container.local.errors import validation_error
from headway.container.local.runtime.members import read_members
from headway.container.local.s3_objects import S3Uri
from headway.container.local.targets import AsyncInference

_MAX_INLINE_BYTES = 128_000
_DEFAULT_TTL_S = 21_600
_DEFAULT_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class AsyncRequest:
    """``body`` is None where the input stands at ``input_uri``."""

    inference_id: str
    input_uri: S3Uri | None
    body: bytes | None
    output: S3Uri
    failure: S3Uri | None
    ttl_s: int
    timeout_s: int
    members: Mapping[str, str]  # of the call, by botocore's names

    @property
    def content_type(self) -> str | None:
        return self.members.get("ContentType")


def read_request(headers: Mapping[str, str], body: bytes, config: AsyncInference) -> AsyncRequest:
    """``headers`` has lower-case names. Raises PlatformError: ValidationError."""
    given = read_members("InvokeEndpointAsync", headers)
    location = given.get("InputLocation")
    if location and body:
        raise validation_error("Body and InputLocation are mutually exclusive: provide exactly one of them.")
    if not location and not body:
        raise validation_error("One of Body and InputLocation is required: provide exactly one of them.")
    if len(body) > _MAX_INLINE_BYTES:
        raise validation_error(
            f"Body has {len(body)} bytes, and at most {_MAX_INLINE_BYTES} are taken: put it into S3 and give InputLocation."
        )
    inference_id = given.get("InferenceId") or str(uuid.uuid4())
    name = given.get("Filename") or f"{_as_file_name(inference_id)}.out"
    output = S3Uri.of(config.output_uri, "S3OutputPath")
    extension = [part for part in given.get("S3OutputPathExtension", "").split("/") if part]
    failure = S3Uri.of(config.failure_uri, "S3FailurePath") if config.failure_uri else None
    stem, dot, suffix = name.rpartition(".")
    return AsyncRequest(
        inference_id=inference_id,
        input_uri=S3Uri.of(location, "InputLocation") if location else None,
        body=body or None,
        output=output.below(*extension, name),
        failure=failure.below(*extension, f"{stem or name}-error{dot}{suffix if dot else ''}") if failure else None,
        ttl_s=int(given.get("RequestTTLSeconds", _DEFAULT_TTL_S)),
        timeout_s=int(given.get("InvocationTimeoutSeconds", _DEFAULT_TIMEOUT_S)),
        members={**given, "InferenceId": inference_id},
    )


def _as_file_name(inference_id: str) -> str:
    """An id of the caller's may hold any printable character."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", inference_id)
