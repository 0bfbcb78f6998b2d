"""A call's headers as the members of its operation, each held against botocore's own model of the runtime. Pure but for reading that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from headway.container.local.errors import validation_error
from headway.container.local.service_models import service_model

# How Java, in which the platform's patterns are written, calls some sets of characters.
_JAVA_SETS = {r"\p{ASCII}": r"[\x00-\x7f]", r"\p{Print}": r"\x20-\x7e", r"\A": "", r"\z": ""}
# Looser in the model than in its words: a field's value of visible characters, and spaces between them.
_VISIBLE = {"CustomAttributes": r"[\x20-\x7e]*"}

# Of the members that a caller gave, those that the container gets, and as what.
_PASSED = {
    "ContentType": "Content-Type",
    "Accept": "Accept",
    "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
    "SessionId": "X-Amzn-SageMaker-Session-Id",
}
_NUMBER = re.compile(r"-?\d{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Member:
    """The limits are of a text's length, or of a number."""

    name: str
    is_number: bool
    least: int
    most: int
    pattern: re.Pattern[str]
    told_pattern: str


def read_members(operation: str, headers: Mapping[str, str]) -> dict[str, str]:
    """By botocore's names, those that are there. ``headers`` has lower-case names. Raises PlatformError: ValidationError."""
    found = {}
    for header, member in _header_members(operation).items():
        value = headers.get(header)
        if value is not None:
            _check(member, value)
            found[member.name] = value
    return found


def container_headers(members: Mapping[str, str], adapter: str | None) -> dict[str, str]:
    """``adapter``: a Target's. All other headers of the call, Authorization among them, end at the platform."""
    found = {header: members[name] for name, header in _PASSED.items() if name in members}
    if adapter is not None:
        found["X-Amzn-SageMaker-Adapter-Identifier"] = adapter
    return found


def prepare() -> None:
    """Reads the models of the operations now: the first call would block all others for as long."""
    _endpoint_name()
    for operation in ("InvokeEndpoint", "InvokeEndpointWithResponseStream", "InvokeEndpointAsync"):
        _header_members(operation)


def check_endpoint_name(name: str) -> None:
    """Raises PlatformError: ValidationError."""
    _check(_endpoint_name(), name)


def _check(member: _Member, value: str) -> None:
    if member.is_number and not _NUMBER.fullmatch(value):
        problem = "Member must be a number"
    elif (size := int(value) if member.is_number else len(value)) < member.least:
        problem = f"Member must have {'value' if member.is_number else 'length'} greater than or equal to {member.least}"
    elif size > member.most:
        problem = f"Member must have {'value' if member.is_number else 'length'} less than or equal to {member.most}"
    elif not member.pattern.fullmatch(value):
        problem = f"Member must satisfy regular expression pattern: {member.told_pattern}"
    else:
        return
    place = member.name[0].lower() + member.name[1:]
    raise validation_error(f"1 validation error detected: Value '{value}' at '{place}' failed to satisfy constraint: {problem}")


@cache
def _header_members(operation: str) -> dict[str, _Member]:
    return {header: member for location, header, member in _members(operation) if location == "header"}


@cache
def _endpoint_name() -> _Member:
    return next(member for _, _, member in _members("InvokeEndpoint") if member.name == "EndpointName")


def _members(operation: str) -> list[tuple[str, str, _Member]]:
    """(where it stands, its header in lower case, what it may be)."""
    shapes = service_model("sagemaker-runtime").operation_model(operation).input_shape.members
    found = []
    for name, shape in shapes.items():
        if shape.type_name not in ("string", "integer"):
            continue
        limits, place = shape.metadata, shape.serialization
        told = limits.get("pattern", ".*")
        pattern = _VISIBLE.get(name, told)
        for java, python in _JAVA_SETS.items():
            pattern = pattern.replace(java, python)
        is_number = shape.type_name == "integer"
        member = _Member(name, is_number, limits.get("min", 0), limits["max"], re.compile(pattern), told)
        found.append((place["location"], place["name"].lower(), member))
    return found
