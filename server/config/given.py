"""A value somebody gave for an option, and where."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from headway.server.config.fields import Setting


class Origin(enum.StrEnum):
    COMMAND_LINE = "command line"
    YAML = "YAML"
    ENVIRONMENT = "environment"
    FALLBACK = "fallback"  # of whoever calls resolve(), stronger than the default only
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Source:
    """Where an effective value came from."""

    origin: Origin
    label: str = ""

    def __str__(self) -> str:
        prefix = f"{self.origin} " if self.origin in (Origin.YAML, Origin.ENVIRONMENT) else ""
        return prefix + self.label or str(self.origin)


@dataclass(frozen=True, slots=True)
class Given:
    setting: Setting
    value: Any
    source: Source


@dataclass(slots=True)
class Findings:
    """What one source holds: usable values, and a sentence for each thing that can't be used."""

    given: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config_file: str | None = None
