"""What has been made, by name: models, endpoint configurations, endpoints, inference components. Refusals are in the platform's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from headway.container.local.control.names import Kind, arn
from headway.container.local.errors import PlatformError

MAX_RECORDS = 1000  # of a kind


def refused(message: str) -> PlatformError:
    """How the control plane says that a call can't be done as it stands."""
    return PlatformError(400, "ValidationException", message)


@dataclass(slots=True, eq=False)
class Record:
    """``request`` is what it was made of, as it was validated."""

    name: str
    arn: str
    request: dict[str, Any]
    tags: dict[str, str]
    created: datetime = field(default_factory=lambda: _now(), init=False)
    modified: datetime = field(default_factory=lambda: _now(), init=False)

    def touch(self) -> None:
        self.modified = _now()


R = TypeVar("R", bound=Record)


class Registry(Generic[R]):
    def __init__(self, region: str, kind: Kind) -> None:
        self.kind = kind
        self._region = region
        self._records: dict[str, R] = {}

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._records.values()))

    def arn(self, name: str) -> str:
        return arn(self._region, self.kind, name)

    def check_free(self, name: str) -> None:
        if name in self._records:
            raise refused(f'Cannot create already existing {self.kind.noun} "{self.arn(name)}".')
        if len(self._records) >= MAX_RECORDS:
            raise PlatformError(
                400,
                "ResourceLimitExceeded",
                f"This runtime holds {MAX_RECORDS} of a kind: delete {self.kind.noun}s that you no longer need.",
            )

    def add(self, record: R) -> None:
        self.check_free(record.name)
        self._records[record.name] = record

    def find(self, name: str) -> R | None:
        return self._records.get(name)

    def get(self, name: str) -> R:
        record = self._records.get(name)
        if record is None:
            raise refused(f'Could not find {self.kind.noun} "{self.arn(name)}".')
        return record

    def remove(self, record: R) -> None:
        del self._records[record.name]


def _now() -> datetime:
    """In milliseconds, as answers tell it: who asks for what came after a moment that he was told must not get that again."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def tags_of(request: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in request.get("Tags", ())}
