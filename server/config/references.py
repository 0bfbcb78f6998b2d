"""Values that stand elsewhere: what a text refers to, and the option's value out of what was found there. Pure."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from headway.server.config.fields import Kind, Setting
from headway.server.config.given import Given
from headway.server.config.values import BadValue, expected, parse_text


class Place(enum.StrEnum):
    """Where a value can stand; as it is called in sentences."""

    FILE = "the file"
    OBJECT = "the S3 object"
    PARAMETER = "the SSM parameter"
    SECRET = "the secret"  # noqa: S105 - the name of a place


@dataclass(frozen=True, slots=True)
class Reference:
    """One place. ``name`` is a path, s3://bucket/key, a parameter's name or ARN, or a secret's ARN; the rest belongs to a secret."""

    place: Place
    name: str
    json_key: str = ""
    version_stage: str = ""
    version_id: str = ""

    @property
    def region(self) -> str | None:
        """The region in an ARN."""
        return self.name.split(":")[3] if self.name.startswith("arn:") else None

    def __str__(self) -> str:
        return f"{self.place} {self.name}"


class Unreadable(BadValue):
    """What a reference names can't be had; ``str()`` says what and why."""

    def __init__(self, reference: Reference, why: str) -> None:
        super().__init__(f"{reference} can't be read: {why}")


Contents = Mapping[Reference, str | Unreadable]

_SECRET_ARN = re.compile(
    r"(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[^:\s]+)"
    r"(?::([^:]*))?(?::([^:]*))?(?::([^:]*))?",  # JSON key, version stage, version id: as in ECS task definitions
    re.ASCII,
)
_PARAMETER_ARN = re.compile(r"arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter/\S+", re.ASCII)


def location(text: str) -> Reference | None:
    """The place that a file:// or s3:// address names; None for any other text. Raises BadValue for a broken address."""
    if text.startswith("file://"):
        path = text.removeprefix("file://")
        if not path.startswith("/"):
            raise BadValue(f"{text}: an absolute path must follow file://, as in file:///run/secrets/key")
        return Reference(Place.FILE, unquote(path))
    if text.startswith("s3://"):
        bucket, _, key = text.removeprefix("s3://").partition("/")
        if not bucket or not key or key.endswith("/"):
            raise BadValue(f"{text}: must name one object, as s3://bucket/key")
        return Reference(Place.OBJECT, text)
    return None


def secret_place(text: str) -> Reference | None:
    """Where a secret stands that was given as ``text``; None if ``text`` is the secret. Raises BadValue for a broken address."""
    if text.startswith("ssm:"):
        name = text.removeprefix("ssm:")
        if not name or (name.startswith("arn:") and not _PARAMETER_ARN.fullmatch(name)):
            raise BadValue("a name or an ARN of a parameter must follow ssm:, as in ssm:/prod/api-key")
        return Reference(Place.PARAMETER, name)
    if text.startswith("arn:"):
        if _PARAMETER_ARN.fullmatch(text):
            return Reference(Place.PARAMETER, text)
        if not (match := _SECRET_ARN.fullmatch(text)):
            raise BadValue("this ARN is none of a Secrets Manager secret (arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME[:JSON-KEY])")
        name, *details = match.groups("")
        return Reference(Place.SECRET, name, *details)
    return location(text)


def references_in(given: Given) -> list[Reference]:
    """The places to read before ``given`` is a value. Raises BadValue for a broken address."""
    if isinstance(given.value, Reference):
        return [given.value]
    if not given.setting.option.secret:
        return []
    return [place for text in _texts(given.value) if (place := secret_place(text))]


def followed(given: Given, contents: Contents) -> Given:
    """``given`` with the value that its references lead to. Raises BadValue, Unreadable too."""
    setting = given.setting
    if isinstance(given.value, Reference):
        return replace(given, value=_content(setting, given.value, contents))
    found: list[Any] = []
    for text in _texts(given.value):
        place = secret_place(text)
        value = _content(setting, place, contents) if place else text
        found += value if isinstance(value, list) else [value]
    return replace(given, value=found if setting.kind is Kind.LIST else found[0])


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if isinstance(text, str)]


def _content(setting: Setting, reference: Reference, contents: Contents) -> Any:
    """The option's value out of what stands at ``reference``: a list has an item a line there."""
    text = contents[reference]
    if isinstance(text, Unreadable):
        raise text
    # The line break that every editor and `echo` put at the end is no part of the value.
    text = _picked(reference, text).removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise Unreadable(reference, "it is empty")
    if setting.kind is Kind.LIST and not text.lstrip().startswith("["):
        text = ",".join(text.splitlines())
    try:
        value = parse_text(setting, text.strip() if setting.option.secret else text)
    except BadValue as error:
        if setting.option.secret:
            raise  # tells nothing of the text
        # A wrong name, a key's for one: what stands there must not get into a log.
        raise BadValue(f"{reference} must hold {expected(setting)}; what it holds is not shown") from error
    if setting.option.secret and any(_is_reference(item) for item in _texts(value)):
        raise Unreadable(reference, "it refers to another place in turn, which is not followed")
    return value


def _is_reference(text: str) -> bool:
    try:
        return secret_place(text) is not None
    except BadValue:
        return True


def _picked(reference: Reference, text: str) -> str:
    """A secret's text, or the one value of its JSON object that the reference asks for."""
    if reference.place is not Place.SECRET:
        return text
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = None
    if not reference.json_key:
        if isinstance(tree, dict):
            raise Unreadable(reference, f"it is a JSON object; name the key to take from it behind the ARN, {reference.name}:KEY")
        return text
    if not isinstance(tree, dict) or not isinstance(tree.get(reference.json_key), str):
        raise Unreadable(reference, f"it is no JSON object with a text under the key {reference.json_key!r}")
    return str(tree[reference.json_key])
