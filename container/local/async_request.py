"""An InvokeEndpointAsync call: its headers, held against botocore's own model of the operation, and where its answer will be. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from headway.container.local.errors import validation_error
from headway.container.local.s3_objects import S3Uri
from headway.container.local.targets import AsyncInference

_MAX_INLINE_BYTES = 128_000
_DEFAULT_TTL_S = 21_600
_DEFAULT_TIMEOUT_S = 900
# How Java, in which the platform's patterns are written, calls some sets of characters.
_JAVA_SETS = {r"\p{ASCII}": r"[\x00-\x7f]", r"\p{Print}": r"\x20-\x7e", r"\z": r"\Z"}


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
    headers: Mapping[str, str]  # for the container

    @property
    def content_type(self) -> str | None:
        return self.headers.get("Content-Type")


def read_request(headers: Mapping[str, str], body: bytes, config: AsyncInference) -> AsyncRequest:
    """``headers`` has lower-case names. Raises PlatformError: ValidationError."""
    given = _members(headers)
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
        headers=_for_container(given, inference_id),
    )


def _as_file_name(inference_id: str) -> str:
    """An id of the caller's may hold any printable character."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", inference_id)


def _for_container(given: Mapping[str, str], inference_id: str) -> dict[str, str]:
    passed = {"ContentType": "Content-Type", "Accept": "Accept", "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes"}
    found = {name: given[member] for member, name in passed.items() if member in given}
    return {**found, "X-Amzn-SageMaker-Inference-Id": inference_id}


def _members(headers: Mapping[str, str]) -> dict[str, str]:
    """The call's members by botocore's names, each within its limits."""
    found = {}
    for member, shape in _header_members().items():
        value = headers.get(shape.serialization["name"].lower())
        if value is not None:
            if problem := _problem(shape, value):
                place = f"{member[0].lower()}{member[1:]}"
                raise validation_error(f"1 validation error detected: Value '{value}' at '{place}' failed to satisfy constraint: {problem}")
            found[member] = value
    return found


@cache
def _header_members() -> dict[str, Any]:
    import botocore.session

    operation = botocore.session.get_session().get_service_model("sagemaker-runtime").operation_model("InvokeEndpointAsync")
    return {name: shape for name, shape in operation.input_shape.members.items() if shape.serialization.get("location") == "header"}


def _problem(shape: Any, value: str) -> str | None:
    limits = shape.metadata
    if shape.type_name == "integer":
        if not re.fullmatch(r"-?\d{1,10}", value, re.ASCII):
            return "Member must be a number"
        size, kind = int(value), "value"
    else:
        size, kind = len(value), "length"
    if "min" in limits and size < limits["min"]:
        return f"Member must have {kind} greater than or equal to {limits['min']}"
    if "max" in limits and size > limits["max"]:
        return f"Member must have {kind} less than or equal to {limits['max']}"
    pattern = limits.get("pattern", "")
    for java, python in _JAVA_SETS.items():
        pattern = pattern.replace(java, python)
    if pattern and not re.fullmatch(pattern, value):
        return f"Member must satisfy regular expression pattern: {limits['pattern']}"
    return None
