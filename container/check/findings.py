"""What `headway check` has to say: an error keeps the container from serving, a warning does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
Area = Literal["options", "platform", "model", "fit"]


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    area: Area
    message: str


def errors(area: Area, sentences: Iterable[str]) -> list[Finding]:
    return [Finding("error", area, sentence) for sentence in sentences]


def warnings(area: Area, sentences: Iterable[str]) -> list[Finding]:
    return [Finding("warning", area, sentence) for sentence in sentences]
